"""``growformer pad``: the smallest sizes that a consumer can split, and the checkpoint that has them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growformer.cli.options import DTYPES, NEW, RESULT, Json, Model, Revision, one_of, whole_number
from growformer.cli.writing import KeepCode, Threads

if TYPE_CHECKING:
    from growformer.cli.request import Wanted
    from growformer.execute.checkpoint import GrownCheckpoint
    from growformer.sizing.shares import Share
    from growformer.verification.verification import Verification

CONSUMERS = ("transformers", "vllm", "sglang")
FITS = "What must fit"


def pad(
    model: Model,
    out: Annotated[
        str | None,
        typer.Argument(metavar="OUT", help="A folder that does not exist yet; none with --dry-run."),
    ] = None,
    tensor_parallel: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole_number,
            rich_help_panel=FITS,
            help="Ranks that share every layer: heads, kv heads and MLP width will divide by it.",
        ),
    ] = 1,
    multiple_of: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole_number,
            rich_help_panel=FITS,
            help="Group size of a quantisation: each rank's share will divide by it.",
        ),
    ] = 1,
    consumer: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="NAME",
            parser=one_of(*CONSUMERS),
            autocompletion=lambda: list(CONSUMERS),
            rich_help_panel=FITS,
            help="Whose rules hold: transformers, vllm or sglang.",
        ),
    ] = "transformers",
    keep_class: Annotated[
        bool,
        typer.Option(
            "--keep-class",
            rich_help_panel=FITS,
            help="Do not write Qwen2 as Llama, even if that is the cheaper way.",
        ),
    ] = False,
    pad_hidden: Annotated[
        bool,
        typer.Option("--pad-hidden", rich_help_panel=FITS, help="Make the hidden size a multiple of N as well."),
    ] = False,
    trainable: Annotated[
        bool,
        typer.Option(
            "--trainable",
            rich_help_panel=NEW,
            help="Fill what no output depends on as for training. Default: zeros, which never learn.",
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", parser=whole_number, rich_help_panel=NEW, help="Of values with --trainable.")
    ] = 0,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            parser=one_of(*DTYPES),
            rich_help_panel=RESULT,
            help="bfloat16, float16, float32 or float64. Default: each tensor keeps its own.",
        ),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", rich_help_panel=RESULT, help="Largest shard: 500MB, 2GiB.")
    ] = "5GB",
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Skip the check of the constraints afterwards.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and write nothing.")] = False,
    threads: Threads = None,
    keep_code: KeepCode = False,
    revision: Revision = None,
    json: Json = False,
) -> None:
    """Pad heads, kv heads and MLP width until tensor parallelism and quantisation groups divide them; outputs stay.

    Chooses the smallest sizes that fit and spreads new query heads over their groups. Where the model's class cannot
    say the sizes to a consumer, Qwen2 is written as Llama, or the hidden size grows as well: whichever is smaller.

        $ growformer pad Qwen2-7B Qwen2-7B-tp8 --tensor-parallel 8 --for vllm
        $ growformer pad Qwen2-72B --tensor-parallel 8 --multiple-of 128 --for vllm --dry-run
    """
    from growformer.api_sizing import plan_padding
    from growformer.cli import render
    from growformer.cli.request import Wanted, check_with_class, open_source, parse_bytes
    from growformer.cli.training import Training, companion
    from growformer.cli.writing import write
    from growformer.errors import RequestError
    from growformer.execute.ranks import from_environment

    ranks = from_environment()
    if out is None and not dry_run:
        raise RequestError("name the folder to write, as in growformer pad MODEL OUT, or add --dry-run")
    folder = open_source(model, revision, with_weights=not dry_run)
    if folder is None and not dry_run:
        raise RequestError(f"{model}: a config alone has no weights to pad; pass the model's folder, or add --dry-run")
    made = plan_padding(
        folder if folder is not None else model,
        tensor_parallel=tensor_parallel,
        multiple_of=multiple_of,
        consumer=consumer,
        trainable=trainable,
        keep_class=keep_class,
        pad_hidden=pad_hidden,
        seed=seed,
    )
    wanted = Wanted(folder=folder, plan=made, dtype=dtype, max_shard_bytes=parse_bytes(max_shard_size), notes=())
    fit = {"tensor_parallel": tensor_parallel, "multiple_of": multiple_of, "consumer": consumer}
    if dry_run or out is None or folder is None:
        check_with_class(made)
        if json:
            render.print_json(_as_json(model, wanted, fit))
        else:
            _show_plan(model, wanted, fit)
            print()
            render.paragraph("Nothing was written.")
        return
    _refuse_standstill(model, wanted, fit)
    grown, checked = write(
        wanted, out, ranks=ranks, checking=None, threads=threads, keep_code=keep_code, check=not no_verify,
        shown=not json, companion=companion(wanted, Training()),
    )  # fmt: skip
    if not ranks.first:
        return
    if json:
        render.print_json(_as_json(model, wanted, fit, grown, checked))
    else:
        _show_plan(model, wanted, fit)
        _show_written(model, grown, checked)
    if checked is not None and not checked.ok:
        raise typer.Exit(1)


def _changes(wanted: Wanted) -> bool:
    from growformer.planning.explain import changes

    return bool(changes(wanted.plan))


def _refuse_standstill(model: str, wanted: Wanted, fit: dict[str, Any]) -> None:
    from growformer.errors import RequestError

    if not _changes(wanted):
        raise RequestError(
            f"nothing to pad: {model} fits tensor_parallel = {fit['tensor_parallel']} and multiple_of = "
            f"{fit['multiple_of']} for {fit['consumer']} already; use it as it is"
        )


def _ranks(wanted: Wanted, fit: dict[str, Any]) -> list[Share]:
    from growformer.sizing.consumers import consumer_of
    from growformer.sizing.shares import shares

    return shares(wanted.plan, fit["tensor_parallel"], consumer_of(fit["consumer"]))


def _show_plan(model: str, wanted: Wanted, fit: dict[str, Any]) -> None:
    from growformer.cli import render
    from growformer.cli.plan_command import show

    show(model, wanted)
    ranks = _ranks(wanted, fit)
    if len(ranks) > 1:
        render.heading("What each rank holds of a layer (of it, from the source)")
        rows = [
            (str(s.rank), *("–" if part is None else f"{part[0]} ({part[1]})" for part in (s.heads, s.kv_heads, s.mlp)))
            for s in ranks
        ]
        titles = ("rank", "query heads", "kv heads", "MLP units")
        render.table(titles, rows, numbers=titles)
    if not _changes(wanted):
        print()
        render.paragraph("The model fits as it is; there is nothing to pad.")


def _show_written(model: str, grown: GrownCheckpoint, checked: Verification | None) -> None:
    from growformer.cli import render
    from growformer.cli.writing import resumed_notes

    parts = Counter(grown.tensors.values())
    text = (
        f"{grown.path} holds {render.num_bytes(grown.num_bytes)}: {parts['grown']} tensors padded, "
        f"{parts['carried']} carried bit by bit, {parts['new']} zero throughout."
    )
    if checked is None:
        text += " Nothing was checked."
    elif checked.ok:
        text += " Every block was compared with the source: all constraints hold, so it computes the same."
    print()
    render.paragraph(text)
    for note in [*resumed_notes(grown), *grown.notes]:
        render.paragraph(note)
    if grown.dropped:
        render.heading("Left behind")
        render.lines([f"{name}: {why}" for name, why in grown.dropped.items()])
    if checked is not None and not checked.ok:
        print()
        render.lines([str(checked), f"Do not use {grown.path}; it stays for inspection."], indent=0)
        return
    render.heading("Compare what both compute")
    render.say(f"  growformer verify {model} {grown.path}")


def _as_json(
    model: str,
    wanted: Wanted,
    fit: dict[str, Any],
    grown: GrownCheckpoint | None = None,
    checked: Verification | None = None,
) -> dict[str, Any]:
    from growformer.cli.plan_command import as_json
    from growformer.cli.writing import left_as_json
    from growformer.sizing.consumers import consumer_of

    source = wanted.plan.source
    own = source.config if source.original is None else source.original
    return {
        "fit": {**fit, "version": consumer_of(fit["consumer"]).version},
        "pads": _changes(wanted),
        "classes": {
            "source": own.get("architectures") or [],
            "target": wanted.plan.target_config.get("architectures") or [],
        },
        "ranks": [share.to_json() for share in _ranks(wanted, fit)],
        "plan": as_json(model, wanted),
        **({"path": None, "bytes": None, "files": {}, "dropped": {}} if grown is None else left_as_json(grown)),
        "verification": None if checked is None else checked.to_json(),
    }
