"""``growformer grow`` of a distributed checkpoint: another one of torch.distributed.checkpoint, with its optimizer."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING

from growformer.errors import RequestError

if TYPE_CHECKING:
    from growformer.cli.options import Growth
    from growformer.cli.training import Training


def grow_distributed(
    model: str,
    out: str,
    growth: Growth,
    training: Training,
    *,
    plan: str | None,
    config: str | None,
    threads: int | None,
    keep_code: bool,
    json: bool,
) -> None:
    """Write the grown checkpoint, and say what it has.

    Raises:
        RequestError: an option that means nothing here.
        GrowformerError: as ``growformer.grow_checkpoint``.
    """
    from growformer.cli import render
    from growformer.cli.grow_command import refuse_standstill
    from growformer.cli.request import check_with_class, read, read_plan
    from growformer.cli.writing import left_as_json
    from growformer.execute.dcp import grow_dcp
    from growformer.execute.slots import check_policy
    from growformer.storage.dcp import open_dcp

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError(f"{model}: a distributed checkpoint is grown by one process; run this without torchrun")
    options = {"dtype": "--dtype", "max_shard_size": "--max-shard-size", "revision": "--revision"}
    asked = [option for name, option in options.items() if name in growth.given()]
    asked += [option for option, value in (("--threads", threads), ("--keep-code", keep_code)) if value]
    if asked:
        raise RequestError(f"{model}: a distributed checkpoint is grown without {', '.join(asked)}; leave it out")
    rules = [f.name for f in fields(training) if f.name != "optimizer_state" and getattr(training, f.name) is not None]
    if rules:
        raise RequestError(
            f"{model}: --{rules[0].replace('_', '-')} is for checkpoints of Trainer; of a distributed checkpoint, give "
            "such rules to growformer.training.continuation.scale_updates when the grown one has been loaded"
        )
    state = training.optimizer_state or "carry"
    check_policy(state)
    wanted = read_plan(model, plan, growth) if plan else read(model, growth, with_weights=True, config=config)
    refuse_standstill(wanted)
    check_with_class(wanted.plan)
    with render.status("Writing, tensor by tensor", not json):
        grown = grow_dcp(wanted.plan, open_dcp(model), out, state=state)
    if json:
        render.print_json({**left_as_json(grown), "tensors": grown.tensors})
        return
    before, after = grown.plan.num_parameters()
    parts = Counter(grown.tensors.values())
    render.paragraph(
        f"{grown.path} has {render.count(after)} parameters, {after / before:.2f} times those of {model}, in "
        f"{render.num_bytes(grown.num_bytes)} with what else the checkpoint holds: {parts['grown']} tensors grown, "
        f"{parts['carried']} carried bit by bit, {parts['new']} in new layers. Optimizer state follows the same plan."
    )
    if grown.dropped:
        render.heading("Left behind")
        render.lines([f"{name}: {why}" for name, why in grown.dropped.items()])
    notes = [*grown.plan.notes, *wanted.notes]
    if notes:
        render.heading("Notes")
        render.lines(notes)
    render.heading("Load it")
    render.say(f"  torch.distributed.checkpoint.load(state, checkpoint_id={str(grown.path)!r})")


__all__ = ["grow_distributed"]
