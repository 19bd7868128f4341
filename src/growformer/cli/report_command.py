"""``growformer report``: one page about a growth, to read and to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from growformer.cli.options import Model, Revision

Force = Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")]


def report(
    model: Model,
    out: Annotated[str, typer.Argument(metavar="OUT", help="The grown checkpoint.")],
    file: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="Where to write the page. Default: OUT.html.")
    ] = None,
    verification: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Show what this says, as a claim: a certificate, or what growformer verify --json printed. Default: "
            "constraints are checked now, and the rest is shown as the certificate beside OUT claims it, if its "
            "digests agree.",
        ),
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Check nothing, and say so on the page.")] = False,
    force: Force = False,
    revision: Revision = None,
) -> None:
    """Write one self-contained page about a growth: what changed, every weight's blocks, and what was verified.

    The page works offline, on a phone and on paper. Exits with 1 if what was verified does not hold.

        $ growformer report SmolLM2-135M SmolLM2-269M -o report.html
        $ growformer verify SmolLM2-135M SmolLM2-269M --json > checks.json
        $ growformer report SmolLM2-135M SmolLM2-269M -o report.html --verification checks.json
    """
    from growformer.api_report import report as make
    from growformer.cli import render
    from growformer.errors import RequestError
    from growformer.reporting.report import check_writable

    if verification is not None and no_verify:
        raise RequestError("--verification and --no-verify exclude each other; leave one out")
    where = Path(file) if file is not None else Path(f"{out.rstrip('/')}.html")
    check_writable(where, force=force)
    with render.status("Looking at every block", True):
        made = make(model, out, verification=verification, verify=not no_verify, revision=revision)
    made.save(where, force=force)
    render.say(f"{where}: {render.num_bytes(len(made.html.encode()))}")
    render.lines(made.notes)
    if not made.ok:
        raise typer.Exit(1)
