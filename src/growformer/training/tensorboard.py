"""Growth in TensorBoard: the number of parameters, a mark per growth, the loss on either side of it.

Nothing is imported for it: any object with ``add_scalar`` and ``add_text`` will do, such as
``torch.utils.tensorboard.SummaryWriter``.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from growformer.training.growth_log import GrowthEvent


class Writer(Protocol):
    """What is used of a ``SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> Any:
        """Add a point to a curve."""

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> Any:
        """Add a text."""


def write_event(writer: Writer, event: GrowthEvent) -> None:
    """Write one growth: scalars ``growth/…`` at its step, and what grew as a text.

    Parameters get a point before and one after, so that their curve is a step.
    """
    step = event.step
    writer.add_scalar("growth/parameters", event.parameters_before, step)
    writer.add_scalar("growth/parameters", event.parameters_after, step + 1)
    writer.add_scalar("growth/stage", event.stage, step)
    for name in ("loss_before", "loss_after", "flops"):
        value = getattr(event, name)
        if value is not None:
            writer.add_scalar(f"growth/{name}", value, step)
    changed = {
        name: (event.sizes_before.get(name), size)
        for name, size in event.sizes_after.items()
        if event.sizes_before.get(name) != size
    }
    rows = [f"| {name} | {json.dumps(before)} | {json.dumps(after)} |" for name, (before, after) in changed.items()]
    title = f"Growth {event.stage} at step {step}, {event.trigger}: {event.parameters_before:,} parameters become "
    table = "\n".join(["| size | before | after |", "|---|---|---|", *rows])
    writer.add_text("growth", f"{title}{event.parameters_after:,}.\n\n{table}", step)


__all__ = ["Writer", "write_event"]
