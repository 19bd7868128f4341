"""``python3 scripts/test.py``: run the tests in an environment that has what they need.

Sets up the virtual environment by itself, and uses all cores. Options are passed on to pytest: ``-k plan``,
``-m slow``, ``-x``, ``-n 1``. With
``-m consumers``, other programs run grown checkpoints, and what they need is installed first; with ``-m distributed``,
models grow on 2 and 4 processes; with ``-m mergekit``, what that tool makes, in an environment of its own, is verified;
with ``-m browser``, the report is opened in Chromium (Debian: ``apt-get install chromium``; elsewhere ``python -m
playwright install chromium``).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

import consumer_tools
import environment
import peer_tools


def main() -> int:
    """Run pytest, and return its exit code."""
    python = environment.ensure("dev")
    if asks_for("consumers", sys.argv[1:]):
        python = environment.ensure("consumers")
        reason = consumer_tools.ensure(python)
        if reason:
            print(f"consumers: llama.cpp will be skipped: {reason}", flush=True)
    if asks_for("mergekit", sys.argv[1:]):
        reason = peer_tools.ensure_mergekit()
        if reason:
            print(f"mergekit: its tests will be skipped: {reason}", flush=True)
    if asks_for("browser", sys.argv[1:]):
        python = environment.ensure("browser")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and processes do better than threads
    return environment.run(python, "-m", "pytest", *_in_parallel(sys.argv[1:]), *sys.argv[1:])


def _in_parallel(options: Sequence[str]) -> list[str]:
    """Return options that run tests on all cores, unless ``options`` say how many or stop in a debugger."""
    said = any(option.startswith(("-n", "--numprocesses", "--pdb", "--collect-only", "--co")) for option in options)
    return [] if said else ["-n", "auto", "--dist", "worksteal"]


def asks_for(marker: str, options: Sequence[str]) -> bool:
    """Return whether pytest's ``options`` select the tests with a ``marker``, in the last -m as pytest has it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", nargs="?", default="", const="")
    expression = re.sub(rf"\bnot\s+{marker}\b", "", parser.parse_known_args(options)[0].m)
    return re.search(rf"\b{marker}\b", expression) is not None


if __name__ == "__main__":
    sys.exit(main())
