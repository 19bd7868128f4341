"""``python3 scripts/example_report.py``: grow SmolLM2-135M, check it in all ways, and write docs/reports/smollm2.html.

Sets up the virtual environment by itself. Takes some minutes, 2.5 GB of disk, and no GPU.
"""

from __future__ import annotations

import shutil
import sys

import environment

SOURCE, GROWN = "weights/smollm2-135m-instruct", "grown/smollm2-269m"
PAGE = "docs/reports/smollm2.html"
GROWTH = (
    "--hidden-size 768 --intermediate-size 2112 --num-attention-heads 12 --num-key-value-heads 4 --num-hidden-layers 36"
)


def main() -> int:
    """Run the commands one after the other, and return the first exit code that is not 0."""
    python = environment.ensure("examples")
    growformer = ("-m", "growformer")
    shutil.rmtree(environment.ROOT / GROWN, ignore_errors=True)
    (environment.ROOT / GROWN).parent.mkdir(exist_ok=True)
    (environment.ROOT / PAGE).parent.mkdir(exist_ok=True)
    for command in (
        ("examples/weights.py", "smollm2"),
        (*growformer, "grow", SOURCE, GROWN, *GROWTH.split()),
        (*growformer, "verify", SOURCE, GROWN),
        (*growformer, "report", SOURCE, GROWN, "-o", PAGE, "--force"),
    ):
        code = environment.run(python, *command)
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
