"""``growformer verify``: whether a grown checkpoint computes what its source computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

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
        str,
        typer.Option(
            metavar="LIST",
            help="constraints: the weights, block by block, without running a model. outputs: both models on the same "
            "tokens, with and without a KV cache. trainability: which new weights learn in two steps.",
        ),
    ] = "constraints,outputs",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Compare outputs in these: float32, bfloat16, float16. Default: float32, or OUT's own where "
            "--dtype of grow has changed it.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Compare outputs on this text. Default: random tokens.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", parser=whole_number, help="Of the random tokens.")] = 0,
    certificate: certificates.Checked = None,
    certificate_to: certificates.To = None,
    no_certificate: certificates.No = False,
    json: Json = False,
) -> None:
    """Check that OUT, grown from MODEL, computes what MODEL computes. Exits with 1 if it does not.

    Outputs are judged against the rounding that the source has itself, compared with float64.

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

    wanted = _names(checks, "check", CHECKS)
    dtypes = [_changed_dtype(model, out) or "float32"] if dtype is None else _names(dtype, "dtype", DTYPES)
    writer = certificates.Writer(model, out, certificate_to, wanted=not no_certificate, shown=not json)
    if set(wanted) - {"constraints"}:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # one bar per model loaded says less than the line above the verdict
    with render.status(f"Checking {' and '.join(wanted)}", not json):
        found = run(model, out, checks=wanted, dtypes=dtypes, prompt=prompt, seed=seed)
    options = {"checks": wanted, "dtypes": dtypes, "prompt": prompt, "seed": seed}
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


def _changed_dtype(model: str, out: str) -> str | None:
    """Return the dtype of the grown weights if it is not the source's: in any other, the two would be rounded apart."""
    from growformer.storage.folder import open_folder

    before, after = ({entry.dtype for entry in open_folder(m).entries.values()} & set(DTYPES) for m in (model, out))
    return next(iter(after)) if len(after) == 1 and after != before else None


def _show(found: Verification, certificate: str | None) -> None:
    from growformer.cli import render

    render.say(str(found.verdict))
    print()
    rows = [(check, "ok" if ok else "FAILED", what, result) for check, what, result, ok in found.rows()]
    render.table(("check", "", "what", "result"), rows)
    notes = getattr(found, "notes", ())
    if notes:
        render.heading("Notes")
        render.lines(notes)
    if certificate is not None:
        print()
        render.say(certificate)
