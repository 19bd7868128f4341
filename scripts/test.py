"""``python3 scripts/test.py``: run the tests in an environment that has what they need.

Sets up the virtual environment by itself. Options are passed on to pytest: ``-k plan``, ``-m slow``, ``-x``.
"""

import sys

import environment


def main() -> int:
    """Run pytest, and return its exit code."""
    python = environment.ensure("dev")
    return environment.run(python, "-m", "pytest", *sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
