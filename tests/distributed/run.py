"""Runs scenarios on one rank: ``python -m tests.distributed.run FOLDER RANK SIZE SCENARIO…``.

All ranks run the same scenarios in the same order; each writes what became of them to FOLDER.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from tests.distributed import scenarios


def main() -> int:
    folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    warnings.filterwarnings("error", module="growformer")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder.absolute()}/rendezvous-{size}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    outcome: dict[str, str] = {}
    for name in sys.argv[4:]:
        try:
            getattr(scenarios, name)(folder)
            outcome[name] = ""
        except BaseException:
            outcome[name] = traceback.format_exc()
        (folder / f"outcome-{size}-{rank}.json").write_text(json.dumps(outcome))
        if outcome[name]:
            break  # the other ranks may wait somewhere else now
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
