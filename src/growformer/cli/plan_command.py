"""``growformer plan``: what a growth would do, without doing it."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growformer.cli.options import Growth, Json, Model, takes
from growformer.errors import RequestError

if TYPE_CHECKING:
    from growformer.cli.request import Wanted
    from growformer.execute.class_check import ClassCheck
    from growformer.reporting.terminal import Sketch


@takes(Growth)
def plan(
    model: Model,
    growth: Growth,
    out: Annotated[
        str | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Write the plan to a new file, for growformer grow --plan FILE."
        ),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write the page of growformer report to a new file, before anything is grown."
        ),
    ] = None,
    show_: Annotated[
        list[str] | None,
        typer.Option(
            "--show",
            metavar="TENSOR",
            help="Draw the blocks of one kind of tensor here: q_proj, mlp.*, or a whole name. Repeatable.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what a growth would do: sizes, parameters, disk, FLOPs, and what becomes of every weight.

    Writes nothing without -o or --report, and reads config and headers only. MODEL may also be a config.json without
    any weights.

    Without any option that asks for something, suggests sizes for 1.5, 2 and 4 times the parameters.

        $ growformer plan SmolLM2-135M
        $ growformer plan SmolLM2-135M --to-parameters 270M --shape deeper
        $ growformer plan SmolLM2-135M --hidden-size 720 -o plan.json
        $ growformer plan SmolLM2-135M --hidden-size 720 --report plan.html --show q_proj
    """
    from growformer.cli import render
    from growformer.cli.request import read
    from growformer.cli.writing import early_check
    from growformer.execute.ranks import Ranks

    if out is None and report is None and not show_ and not set(growth.given()) - {"revision"}:
        from growformer.cli.suggestions import show_suggestions

        show_suggestions(model, growth.revision, json)
        return
    for file in (out, report):
        if file is not None:
            refuse_existing(Path(file))
    if json and show_:
        raise RequestError("--json and --show exclude each other: a picture is no JSON; leave one out")
    with early_check(model, Ranks()) as early:
        wanted = read(model, growth, with_weights=False)
        _check(wanted, early)
    sketches = _sketches(wanted, show_ or [])
    if out is not None:
        write_new(Path(out), wanted.plan.to_json(indent=1) + "\n")
    if report is not None:
        from growformer.reporting.report import report_on_plan

        report_on_plan(wanted.plan, source=model, dtype=wanted.dtype, notes=wanted.notes).save(report)
    if json:
        written = {"written": out} if report is None else {"written": out, "report": report}
        render.print_json({**as_json(model, wanted), **written})
        return
    if sketches:
        render.blocks(sketches)
    else:
        show(model, wanted)
    print()
    if report is not None:
        render.paragraph(f"The page is in {report}: what would change, and a picture of every weight's blocks.")
    if out is None and report is None:
        render.paragraph(
            "Nothing was written. growformer grow MODEL OUT takes the same options; -o FILE keeps the plan."
        )
    if out is not None:
        dtype = f" --dtype {wanted.dtype}" if wanted.dtype else ""
        render.paragraph(f"The plan is in {out}. Carry it out with")
        render.say(f"\n  growformer grow {model} OUT --plan {out}{dtype}")


def _sketches(wanted: Wanted, patterns: list[str]) -> list[Sketch]:
    """Return the pictures that are asked for.

    Raises:
        RequestError: no tensor has such a name.
    """
    if not patterns:
        return []
    from growformer.cli.render import console
    from growformer.reporting.subject import Subject
    from growformer.reporting.terminal import WIDTH, matching, sketch

    subject = Subject.of_plan(wanted.plan)
    width = min(console().width - 4, WIDTH)
    templates = dict.fromkeys(t for pattern in patterns for t in matching(subject.variants, pattern))
    return [sketch(subject.rec, v, width) for t in templates for v in subject.variants[t]]


def _check(wanted: Wanted, early: ClassCheck | None) -> None:
    """Ask the model's class about the target config, and count costs meanwhile."""
    from growformer.execute.class_check import ClassCheck

    with nullcontext(early) if early else ClassCheck(str(wanted.plan.target_config.get("model_type"))) as checking:
        checking.submit(wanted.plan, dict(wanted.plan.target_config))
        _ = wanted.costs
        checking.wait()


def show(model: str, wanted: Wanted) -> None:
    """Print a plan: a table of sizes and costs, then what becomes of the weights."""
    from growformer.cli import render
    from growformer.planning.explain import changes, steps

    plan = wanted.plan
    own = plan.source.config if plan.source.original is None else plan.source.original
    kind = plan.architecture.name if plan.source.original is None else str(own.get("model_type"))
    render.paragraph(render.model_title(model, kind, own))
    print()
    rows = [(c.field, render.value(c.before), render.value(c.after), c.why) for c in changes(plan)]
    if not rows:
        print("Nothing grows: the target is a copy of the source.")
    before, after = wanted.costs
    ratio = f"× {after.parameters / before.parameters:.2f}"
    rows.append(("parameters", render.count(before.parameters), render.count(after.parameters), ratio))
    dtype = f"in {wanted.dtype}" if wanted.dtype else ""
    rows.append(("weights on disk", render.num_bytes(before.weight_bytes), render.num_bytes(after.weight_bytes), dtype))
    if before.flops is not None and after.flops is not None:
        rows.append(
            (
                "FLOPs per token",
                render.count(before.flops),
                render.count(after.flops),
                "forward pass, without attention",
            )
        )
    if before.context_flops and after.context_flops:
        rows.append(
            (
                "  attention",
                render.count(before.context_flops),
                render.count(after.context_flops),
                "per token of context",
            )
        )
    rows.append(
        (
            "training memory",
            render.num_bytes(before.training_bytes),
            render.num_bytes(after.training_bytes),
            "AdamW in mixed precision, without activations",
        )
    )
    render.table(("", "source", "target", ""), rows, numbers=("source", "target"))
    notes = [*plan.notes, *wanted.notes]
    if notes:
        render.heading("Notes")
        render.lines(notes)
    becomes = list(steps(plan))
    if becomes:
        render.heading("What becomes of the weights: blocks of the target, [rows × columns]")
        render.lines(becomes)
        init = plan.init
        print()
        render.paragraph(
            "All else is carried as it is. Free blocks do not change what the model computes; they are filled by "
            f"{init.name!r} with seed {init.seed} and standard deviation {init.std:g}."
        )


def as_json(model: str, wanted: Wanted) -> dict[str, Any]:
    """Return a plan's summary as plain data."""
    from growformer.planning.explain import changes, steps

    plan = wanted.plan
    before, after = wanted.costs
    figures = ("parameters", "weight_bytes", "flops", "context_flops", "training_bytes")
    return {
        "source": {"model": model, "digest": plan.source.digest},
        "architecture": plan.architecture.name,
        "changes": [{"field": c.field, "source": c.before, "target": c.after, "why": c.why} for c in changes(plan)],
        **{name: {"source": getattr(before, name), "target": getattr(after, name)} for name in figures},
        "tensors": dict(Counter(plan.status(tensor) for tensor in plan.tensors())),
        "steps": list(steps(plan)),
        "notes": [*plan.notes, *wanted.notes],
        "init": plan.init.to_json(),
        "dtype": wanted.dtype,
    }


def refuse_existing(path: Path) -> None:
    """Refuse to write a file that exists, or into a folder that does not.

    Raises:
        OutputError: so it is.
    """
    from growformer.errors import OutputError

    if path.exists():
        raise OutputError(f"{path}: exists already, and is never overwritten. Choose another name, or remove it first")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: its parent folder {path.parent} does not exist; create it first")


def write_new(path: Path, text: str) -> None:
    """Write a file that does not exist yet.

    Raises:
        OutputError: it cannot be written.
    """
    from growformer.errors import OutputError

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
