"""``growformer verify``: whether a grown checkpoint computes what its source computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growformer.cli import certificate as certificates
from growformer.cli.options import Json, whole_number
from growformer.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from growformer.verification.file_digests import DigestsReport
    from growformer.verification.verification import Verification

CHECKS = ("constraints", "outputs", "trainability")
DTYPES = ("float32", "bfloat16", "float16")


def verify(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="A model folder, or a hub id.")] = None,
    out: Annotated[
        str | None, typer.Argument(metavar="OUT", help="The grown checkpoint. With --digests, it may be the only one.")
    ] = None,
    digests: Annotated[
        bool,
        typer.Option(
            "--digests", help="Read all shards and compare them with the digests in growformer.json, before all else."
        ),
    ] = False,
    checks: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="constraints: the weights, block by block, without running a model. outputs: both models on the same "
            "inputs, by position, by layer, and with a KV cache. trainability: which new weights learn in two steps. "
            "Default: all three, as far as memory allows.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Compare outputs in these: float32, bfloat16, float16. Default: float32 and the checkpoint's own, or "
            "only OUT's where --dtype of grow has changed it.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Compare outputs on these as well: .txt, .json or .jsonl with input_ids or text, .npz or .safetensors "
            "with arrays by the names of the model's arguments, .png or .jpg, or a folder of images. May be repeated.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Compare outputs on this text as well as on random tokens.")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Constraints: equal bits wherever mathematics gives them, no rounding but one."),
    ] = False,
    record: Annotated[
        str | None,
        typer.Option(
            metavar="inferred|FILE",
            help="How it is known what became of what. Default: OUT's growformer.json, or inferred where it has none.",
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="How many random tokens: numbers, or max for the model's longest. Default: 64, and as many as are "
            "affordable where rotary frequencies or positions changed.",
        ),
    ] = None,
    from_disk: Annotated[
        bool | None,
        typer.Option(
            "--from-disk/--in-memory",
            help="Run the models layer by layer from disk, or load them whole. Default: from disk where they do not "
            "fit in memory.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", parser=whole_number, help="Of the random inputs.")] = 0,
    certificate: certificates.Checked = None,
    certificate_to: certificates.To = None,
    no_certificate: certificates.No = False,
    json: Json = False,
) -> None:
    """Check that OUT, grown from MODEL, computes what MODEL computes. Exits with 1 if it does not.

    Outputs are judged against the rounding that the source has itself, compared with float64: over everything, at
    every position, after every layer, and when decoding with a KV cache.

        $ growformer verify SmolLM2-135M SmolLM2-168M --dtype float32,bfloat16
        $ growformer verify SmolLM2-168M --digests
        $ growformer verify --certificate SmolLM2-168M/growformer.verify.json
    """
    if certificate is not None:
        certificates.check(certificate, model, out, json=json)
        return
    if model is None or (out is None and not digests):
        raise RequestError("name the grown checkpoint too, as in growformer verify MODEL OUT; --digests needs OUT only")
    read = _check_digests(out or model, shown=not json) if digests else None
    if out is None or (read is not None and not read.ok):
        _end_with(read, json)
        return
    from growformer.api import verify as run
    from growformer.cli import render

    wanted = None if checks is None else _names(checks, "check", CHECKS)
    dtypes = None if dtype is None else _names(dtype, "dtype", DTYPES)
    asked = None if lengths is None else _lengths(lengths)
    writer = certificates.Writer(model, out, certificate_to, wanted=not no_certificate, shown=not json)
    if wanted is None or set(wanted) - {"constraints"}:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # one bar per model loaded says less than the line above the verdict
    options: dict[str, Any] = {
        "checks": wanted, "dtypes": dtypes, "prompt": prompt, "seed": seed, "input_files": inputs or [],
        "lengths": asked, "from_disk": from_disk, "strict": strict, "record": record,
    }  # fmt: skip
    with render.status(f"Checking {' and '.join(wanted or CHECKS)}", not json) as tell:
        found = run(model, out, **options, progress=tell)
    written = writer.write(found, options)
    if json:
        more = {"digests": read and read.to_json(), "certificate": written}
        render.print_json({**found.to_json(), **{name: value for name, value in more.items() if value is not None}})
    else:
        if read is not None:
            print(f"Digests: {read}\n")
        _show(found, certificates.told(written))
    if not found.ok:
        raise typer.Exit(1)


def _check_digests(out: str, *, shown: bool) -> DigestsReport:
    from growformer.cli import render
    from growformer.verification.file_digests import check_digests

    with render.status("Reading all shards", shown):
        return check_digests(out)


def _end_with(read: DigestsReport | None, json: bool) -> None:
    from growformer.cli import render

    assert read is not None
    if json:
        render.print_json({"digests": read.to_json()})
    else:
        render.table(("shard", "digest"), list(read.files.items()))
    if not read.ok:
        raise typer.Exit(1)


def _names(text: str, what: str, known: Sequence[str]) -> list[str]:
    """Return the names in a list with commas, checked before anything heavy is loaded."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        hint = did_you_mean(unknown, known)
        raise RequestError(f"unknown {what} {unknown!r}: expected {', '.join(known)}{hint}")
    if not names:
        raise RequestError(f"no {what} is named: expected {', '.join(known)}")
    return names


def _lengths(text: str) -> list[int | str]:
    """Return the lengths in a list with commas."""
    found: list[int | str] = []
    for part in (part.strip() for part in text.split(",")):
        if part != "max" and not part.isdecimal():
            raise RequestError(f"--lengths {text}: expected whole numbers from 1, or max, found {part!r}")
        found.append(part if part == "max" else int(part))
    return found


def _show(found: Verification, certificate: str | None) -> None:
    from growformer.cli import render

    render.say(str(found.verdict))
    print()
    rows = [(check, "ok" if ok else "FAILED", what, result) for check, what, result, ok in found.rows()]
    render.table(("check", "", "what", "result"), rows)
    notes = found.all_notes()
    if notes:
        render.heading("Notes")
        render.lines(notes)
    if certificate is not None:
        print()
        render.say(certificate)
