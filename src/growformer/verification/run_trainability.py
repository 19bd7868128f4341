"""The trainability check of a grown model, where there is memory for it: what it needs, what there is, what to say."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.verification.recorded import Recorded
from growformer.verification.trainability import TrainabilityReport, check_trainability, steps_to_learn
from growformer.verification.training_steps import memory_needed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from growformer.planning.plan import Plan


def run_trainability(
    grown: nn.Module,
    grew: Plan | Recorded,
    inputs: Mapping[str, torch.Tensor],
    *,
    seed: int = 0,
    steps: int | None = None,
    in_place: bool = False,
) -> TrainabilityReport:
    """Check which new parameters of a grown model learn, and when; see ``check_trainability``.

    Args:
        grown: the model.
        grew: how it was grown: a plan, or what is recorded or inferred.
        inputs: keyword arguments of the model.
        seed: of the loss.
        steps: how many; by default as many as everything new needs to learn.
        in_place: train the model itself, which takes less memory.
    """
    record = grew if isinstance(grew, Recorded) else Recorded.read(json.loads(grew.to_json()))
    return check_trainability(grown, inputs, record=record, seed=seed, steps=steps, in_place=in_place)


def why_not(grown: Any, grew: Plan | Recorded, num_tokens: int, *, in_place: bool = False) -> str | None:
    """Return why the check is not run by default, in a sentence for the notes; None where there is memory for it.

    Args:
        grown: a model folder, of which only headers are read, or a live model.
        grew: how it was grown.
        num_tokens: positions in the inputs, over all sequences.
        in_place: whether the model would be trained itself.
    """
    if isinstance(grown, (str, Path)):
        from growformer.storage.folder import open_folder

        shapes = [entry.shape for entry in open_folder(grown).entries.values()]
    else:
        shapes = [tuple(p.shape) for p in grown.parameters()]
    record = grew if isinstance(grew, Recorded) else Recorded.read(json.loads(grew.to_json()))
    needed = memory_needed(shapes, num_tokens, steps=steps_to_learn(record), in_place=in_place)
    available = memory_available()
    if available is None or needed <= available:
        return None
    return (
        f"trainability was not checked: it would take about {needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB are "
        "free. Ask for it by name (checks: trainability) on a machine with more"
    )


def memory_available() -> int | None:
    """Return how many bytes can still be allocated, as far as the system tells: of the machine, and of a container."""
    found: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        try:
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (OSError, ValueError):
            return None
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # "max": there is no limit
            continue
    return min(found, default=None)


__all__ = ["memory_available", "memory_needed", "run_trainability", "why_not"]
