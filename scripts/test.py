"""``python3 scripts/test.py``: run the tests in an environment that has what they need.

Sets up the virtual environment by itself. Options are passed on to pytest: ``-k plan``, ``-m slow``, ``-x``. With
``-m consumers``, other programs run grown checkpoints, and what they need is installed first.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import consumer_tools
import environment


def main() -> int:
    """Run pytest, and return its exit code."""
    python = environment.ensure("dev")
    if asks_for("consumers", sys.argv[1:]):
        python = environment.ensure("consumers")
        reason = consumer_tools.ensure(python)
        if reason:
            print(f"consumers: llama.cpp will be skipped: {reason}", flush=True)
    return environment.run(python, "-m", "pytest", *sys.argv[1:])


def asks_for(marker: str, options: Sequence[str]) -> bool:
    """Return whether pytest's ``options`` select the tests with a ``marker``, in the last -m as pytest has it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", nargs="?", default="", const="")
    expression = re.sub(rf"\bnot\s+{marker}\b", "", parser.parse_known_args(options)[0].m)
    return re.search(rf"\b{marker}\b", expression) is not None


if __name__ == "__main__":
    sys.exit(main())
