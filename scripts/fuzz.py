"""``python3 scripts/fuzz.py header --runs 10000``: coverage-guided fuzzing of what reads a checkpoint.

Targets: ``header`` (safetensors files), ``index`` (of shards), ``config``. Each input must end in success or in one
GrowformerError, within a minute and 4 GB, and without a file that changes; the first that does not ends the run, and
its bytes are kept. Inputs that reached new code are kept in ``.fuzz`` in the checkout, where the next run goes on.

Installs atheris into the environment first, which has wheels for Python 3.11 and newer on Linux x86-64 only. Mutations
that know the structure need none: ``python3 scripts/test.py tests/hostile -m fuzz``.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys

import environment

FOLDER = environment.ROOT / ".fuzz"
TARGETS = ("header", "index", "config")


def main() -> int:
    """Fuzz one target, or all, and return 1 if an input was found that does what none may."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--runs", type=int, default=10_000, help="inputs to try")
    options = parser.parse_args()
    reason = unsupported(platform.system(), platform.machine(), sys.version_info[:2])
    if reason is not None:
        raise SystemExit(f"error: {reason}")
    python = environment.ensure("fuzz")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = []
    for target in TARGETS if options.target == "all" else (options.target,):
        found = FOLDER / "found" / target
        found.mkdir(parents=True, exist_ok=True)
        code = environment.run(
            python, "tests/hostile/coverage_guided.py", target, str(FOLDER / target), f"-runs={options.runs}",
            "-timeout=60", "-rss_limit_mb=4096", "-max_len=6000", "-print_final_stats=1", f"-artifact_prefix={found}/",
        )  # fmt: skip
        print(f"--- {target}: {f'FAILED; the input is in {found}' if code else f'{options.runs} runs, ok'}", flush=True)
        failed += [target] if code else []
    return 1 if failed else 0


def unsupported(system: str, machine: str, version: tuple[int, ...]) -> str | None:
    """Return why atheris cannot be installed, or None if it can."""
    if (system, machine) == ("Linux", "x86_64") and version >= (3, 11):
        return None
    return (
        f"atheris has no wheel for Python {'.'.join(map(str, version))} on {system} {machine}; expected Python 3.11 or "
        "newer on Linux x86_64. Run it there, or mutations without it: python3 scripts/test.py tests/hostile -m fuzz"
    )


if __name__ == "__main__":
    sys.exit(main())
