"""``growformer grow``: write the grown checkpoint, and check it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growformer.cli.options import Growth, Json, Model, takes
from growformer.cli.training import Training
from growformer.cli.writing import KeepCode, Threads
from growformer.errors import RequestError

if TYPE_CHECKING:
    from growformer.cli.request import Wanted
    from growformer.execute.checkpoint import GrownCheckpoint
    from growformer.verification.verification import Verification


@takes(Training)
@takes(Growth)
def grow(
    model: Model,
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
    growth: Growth,
    training: Training,
    plan: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Carry out this plan of growformer plan -o, instead of a request."),
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Skip the check of the constraints afterwards.")
    ] = False,
    threads: Threads = None,
    keep_code: KeepCode = False,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The config of a distributed checkpoint that has no config.json in it."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a larger checkpoint that computes the same, and check its weights against the source's, block by block.

    OUT is a stock checkpoint: from_pretrained loads it. It appears whole or not at all, and keeps the tokenizer and all
    other files of the source. growformer.json in it says what every parameter was made from. A run that was stopped is
    continued by the same command. Under torchrun, all ranks share the work. A training checkpoint that
    torch.distributed.checkpoint (DCP) wrote becomes another one, with its optimizer.

    Of a checkpoint of Trainer, the optimizer's state grows as well, so that Trainer.train(resume_from_checkpoint=OUT)
    goes on with the same step, order of data and learning rate.

        $ growformer grow SmolLM2-135M SmolLM2-168M --hidden-size 720
        $ growformer grow SmolLM2-135M deeper --num-hidden-layers 36 --new-layers-at end
        $ growformer grow SmolLM2-135M SmolLM2-168M --plan plan.json
        $ growformer grow out/checkpoint-5000 deeper --num-hidden-layers 36 --optimizer-state carry
        $ torchrun --nproc-per-node 4 -m growformer grow SmolLM2-135M SmolLM2-168M --hidden-size 720
    """
    from growformer.cli import render
    from growformer.cli.request import read, read_plan
    from growformer.cli.training import companion
    from growformer.cli.writing import early_check, write
    from growformer.execute.ranks import from_environment
    from growformer.storage.dcp import is_dcp

    if is_dcp(model):
        from growformer.cli.dcp_growth import grow_distributed

        grow_distributed(
            model, out, growth, training, plan=plan, config=config, threads=threads, keep_code=keep_code, json=json
        )
        return
    if config is not None:
        raise RequestError("--config goes with a distributed checkpoint; a model folder has its config.json")
    ranks = from_environment()
    with early_check(model, ranks) as checking:
        wanted = read_plan(model, plan, growth) if plan is not None else read(model, growth, with_weights=True)
        _refuse_without_weights(model, wanted)
        refuse_standstill(wanted)
        grown, checked = write(
            wanted, out, ranks=ranks, checking=checking, threads=threads, keep_code=keep_code,
            check=not no_verify, shown=not json, companion=companion(wanted, training),
        )  # fmt: skip
    if not ranks.first:
        return
    if json:
        render.print_json(_as_json(model, grown, wanted, checked))
    else:
        _show(model, grown, wanted, checked)
    if checked is not None and not checked.ok:
        raise typer.Exit(1)


def _refuse_without_weights(model: str, wanted: Wanted) -> None:
    from growformer.errors import SourceError

    if wanted.folder is None:
        raise SourceError(f"{model}: a config alone has no weights to grow; pass the model's folder")


def refuse_standstill(wanted: Wanted) -> None:
    """Refuse a request for sizes that the source has already.

    Raises:
        RequestError: nothing grows.
    """
    from growformer.planning.explain import changes

    if not changes(wanted.plan):
        raise RequestError(
            "nothing grows: no size is asked for, or the source has them all. Name a larger one, as in --hidden-size "
            f"{2 * _hidden(wanted)}; growformer inspect lists them"
        )


def _hidden(wanted: Wanted) -> int:
    name = wanted.plan.architecture.roles.get("hidden", "hidden_size")
    return int(wanted.plan.source_sizes.get(name) or 512)


def _show(model: str, grown: GrownCheckpoint, wanted: Wanted, checked: Verification | None) -> None:
    from growformer.cli import render
    from growformer.cli.writing import resumed_notes

    before, after = grown.plan.num_parameters()
    parts = Counter(grown.tensors.values())
    text = (
        f"{grown.path} has {render.count(after)} parameters, {after / before:.2f} times those of {model}, in "
        f"{render.num_bytes(grown.num_bytes)}: {_number(parts['grown'], 'tensor')} grown, "
        f"{parts['carried']} carried bit by bit, {parts['new']} in new layers. "
        f"{_number(len(grown.files), 'other file')} came along."
    )
    if checked is None:
        text += " Nothing was checked."
    elif checked.ok:
        rounding = f", up to its rounding to {wanted.dtype}" if wanted.dtype else ""
        text += f" Every block was compared with the source: all constraints hold, so it computes the same{rounding}."
    render.paragraph(text)
    if grown.dropped:
        render.heading("Left behind")
        render.lines([f"{name}: {why}" for name, why in grown.dropped.items()])
    notes = [*resumed_notes(grown), *grown.notes, *grown.plan.notes, *wanted.notes]
    if notes:
        render.heading("Notes")
        render.lines(notes)
    if checked is not None and not checked.ok:
        print()
        render.lines([str(checked), f"Do not train on {grown.path}; it stays for inspection."], indent=0)
        return
    render.heading("Load it")
    render.say(f"  {_loading(grown)}")
    render.heading("Compare what both compute")
    render.say(f"  growformer verify {model} {grown.path}")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _loading(grown: GrownCheckpoint) -> str:
    """Return the Python that loads a grown checkpoint with the class that its config names."""
    path = str(grown.path)
    if Path(path, "modules.json").is_file():
        return f"sentence_transformers.SentenceTransformer({path!r})"
    name = (grown.plan.target_config.get("architectures") or ["AutoModel"])[0]
    return f"transformers.{name}.from_pretrained({path!r})"


def _as_json(model: str, grown: GrownCheckpoint, wanted: Wanted, checked: Verification | None) -> dict[str, Any]:
    from growformer.cli.plan_command import as_json
    from growformer.cli.writing import left_as_json

    return {
        **left_as_json(grown),
        "plan": as_json(model, wanted),
        "verification": None if checked is None else checked.to_json(),
    }
