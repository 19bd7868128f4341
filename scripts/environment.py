"""Makes the virtual environment in which everything else in this folder runs.

Standard library only, and readable by any Python 3.7: an old Python gets a sentence rather than a syntax error.
Nothing is done twice: a stamp in the environment records what was installed into it, and from what.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)

#: Installed before anything else, because an unpinned torch may bring gigabytes of GPU libraries.
TORCH = "torch==2.13.0"

_STAMP = "growformer-environment.json"
_BIN = "Scripts" if os.name == "nt" else "bin"


def folder() -> Path:
    """Return the environment's folder: ``$GROWFORMER_VENV``, or ``.venv`` in the checkout."""
    return Path(os.environ.get("GROWFORMER_VENV") or ROOT / ".venv").expanduser().absolute()


def ensure(extra: str) -> Path:
    """Return the Python of an environment that has growformer (editable) with ``extra`` installed.

    Creates the environment if there is none, repairs one that was left half-made, and returns in milliseconds if
    nothing has changed since the last call. Another torch that is installed there already is left alone.

    Args:
        extra: the name of a set of optional dependencies in ``pyproject.toml``.

    Raises:
        SystemExit: with one sentence, if this Python is too old, the folder is something else than a virtual
            environment, or an installation fails.
    """
    _require_python()
    environment = folder()
    python = environment / _BIN / ("python.exe" if os.name == "nt" else "python")
    if python.exists() and _installed(environment).get(extra) == _digest(environment):
        return python
    _create(environment, python)
    _drop_half_installed(environment)
    if not any(_site_packages(environment).glob("torch-*.dist-info")):
        _install(python, TORCH)
    _install(python, "--editable", f"{ROOT}[{extra}]")
    _remember(environment, extra)
    return python


def run(python: Path, *arguments: str) -> int:
    """Run ``python`` with ``arguments`` in the checkout's root, and return its exit code."""
    try:
        return subprocess.call([str(python), *arguments], cwd=str(ROOT))
    except KeyboardInterrupt:
        return 130


def _require_python() -> None:
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return
    wanted = ".".join(map(str, OLDEST_PYTHON))
    newer = [name for name in (f"python3.{minor}" for minor in range(14, 9, -1)) if shutil.which(name)]
    hint = f"run it with {newer[0]}, which is installed here" if newer else f"install Python {wanted} or newer"
    _stop(f"growformer needs Python {wanted} or newer, and {sys.executable} is {sys.version.split()[0]}: {hint}")


def _create(environment: Path, python: Path) -> None:
    """Leave a working virtual environment with pip in ``environment``, whatever was there."""
    if environment.is_dir() and any(environment.iterdir()) and not (environment / "pyvenv.cfg").exists():
        _stop(f"{environment} is not a virtual environment: remove it, or set GROWFORMER_VENV to another folder")
    for options in ([], ["--clear"]):
        if _succeeds(python, "-m", "pip", "--version"):
            return
        _say(f"{'making' if not options else 'making afresh'} the virtual environment {environment}")
        _succeeds(Path(sys.executable), "-m", "venv", *options, str(environment))
    if not _succeeds(python, "-m", "pip", "--version"):
        _stop(
            f"{sys.executable} -m venv {environment} failed: run that command to see why"
            " (Debian and Ubuntu have venv in a package of its own, python3-venv)"
        )


def _drop_half_installed(environment: Path) -> None:
    """Forget packages whose installation was cut short, so that pip installs them anew.

    pip writes a package's INSTALLER file after all its other files; without it pip would still take the package for
    installed.
    """
    for metadata in _site_packages(environment).glob("*.dist-info"):
        if not (metadata / "INSTALLER").exists():
            _say(f"{metadata.name} is only half installed; installing it again")
            shutil.rmtree(metadata)


def _install(python: Path, *requirements: str) -> None:
    _say(f"installing {requirements[-1]} (the first time takes some minutes)")
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    command = ["-m", "pip", "--disable-pip-version-check", "install", *quiet, *requirements]
    if run(python, *command) != 0:
        _stop(f"pip could not install {requirements[-1]}; what it said stands above. The same command continues")


def _digest(environment: Path) -> str:
    """Return a digest of all that decides what belongs in the environment."""
    parts = [
        (ROOT / "pyproject.toml").read_bytes(),
        (environment / "pyvenv.cfg").read_bytes(),
        TORCH.encode(),
        str(ROOT).encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _installed(environment: Path) -> dict[str, str]:
    """Return what the stamp says: extra → digest of what it was installed from."""
    try:
        stamp = json.loads((environment / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _remember(environment: Path, extra: str) -> None:
    stamp = {**_installed(environment), extra: _digest(environment)}
    unfinished = environment / f"{_STAMP}.{os.getpid()}"
    unfinished.write_text(json.dumps(stamp, indent=2), encoding="utf-8")
    unfinished.replace(environment / _STAMP)


def _site_packages(environment: Path) -> Path:
    if os.name == "nt":
        return environment / "Lib" / "site-packages"
    return next(environment.glob("lib/python3.*/site-packages"), environment / "lib")


def _succeeds(python: Path, *arguments: str) -> bool:
    try:
        return subprocess.call([str(python), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def _say(message: str) -> None:
    print(f"environment: {message}", flush=True)


def _stop(message: str) -> NoReturn:
    raise SystemExit(f"error: {message}")
