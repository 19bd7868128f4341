"""``python3 scripts/check.py``: everything but the tests that a change must pass.

Lint, format, types, the documentation's snippets, and the wheel: built, installed where nothing else is, imported,
and asked for help. Every check runs; the exit code is 1 if any of them failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import environment


def main() -> int:
    """Run every check, print a line for each, and return 1 if any failed."""
    python = environment.ensure("dev")
    checks: dict[str, Callable[[], bool]] = {
        "lint": lambda: _passes(python, "-m", "ruff", "check"),
        "format": lambda: _passes(python, "-m", "ruff", "format", "--check"),
        "types": lambda: _passes(python, "-m", "mypy"),
        "snippets": lambda: _passes(python, "-m", "pytest", "-q", "tests/docs/test_snippets.py"),
        "wheel": lambda: wheel_works(python),
    }
    failed = []
    for name, check in checks.items():
        print(f"--- {name}", flush=True)
        start = time.perf_counter()
        if not check():
            failed.append(name)
        print(f"--- {name}: {'FAILED' if name in failed else 'ok'}, {time.perf_counter() - start:.1f} s\n", flush=True)
    print(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def wheel_works(python: Path) -> bool:
    """Return whether the built wheel imports and answers ``growformer --help`` on its own.

    The wheel is built through the source distribution, so that both are complete. It goes into a new environment
    that sees the dependencies of the first one *behind* its own packages, which costs seconds instead of gigabytes.
    """
    with tempfile.TemporaryDirectory(prefix="growformer-wheel-") as name:
        folder = Path(name)
        if not _passes(python, "-m", "build", "--no-isolation", "--outdir", str(folder)):
            return False
        wheels = list(folder.glob("*.whl"))
        if not _passes(python, "-m", "venv", str(folder / "venv")):
            return False
        programs = folder / "venv" / python.parent.name
        fresh = programs / python.name
        installed = _passes(fresh, "-m", "pip", "-qq", "install", "--no-deps", "--no-index", *map(str, wheels))
        if not installed:
            return False
        _site_packages(fresh).joinpath("dependencies.pth").write_text(f"{_site_packages(python)}\n", encoding="utf-8")
        where = _output(fresh, "-c", "import growformer; print(growformer.__file__)")
        if not Path(where).is_relative_to(folder.resolve()):
            print(f"growformer was imported from {where or 'nowhere'}, not from the wheel")
            return False
        return subprocess.call([str(programs / "growformer"), "--help"], cwd=name, stdout=subprocess.DEVNULL) == 0


def _passes(python: Path, *arguments: str) -> bool:
    return environment.run(python, *arguments) == 0


def _output(python: Path, *arguments: str) -> str:
    """Return what ``python`` prints, away from the checkout so that its ``src`` cannot be what is imported."""
    done = subprocess.run([str(python), *arguments], stdout=subprocess.PIPE, text=True, cwd=python.parent, check=False)
    return done.stdout.strip()


def _site_packages(python: Path) -> Path:
    return Path(_output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))


if __name__ == "__main__":
    sys.exit(main())
