"""``growformer schedule``: when to grow, and from what, by published rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growformer.cli.options import Json, one_of, whole_number

if TYPE_CHECKING:
    from growformer.runs.proposal import Proposal

RULES = ("early", "late")


def schedule(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="What to start from: a model folder, hub id or config.json. Default: the target with fewer layers.",
        ),
    ] = None,
    like: Annotated[str, typer.Option(metavar="PATH", help="The target: a config.json, or a folder with one.")] = ...,  # type: ignore[assignment]
    tokens: Annotated[
        str, typer.Option(metavar="COUNT", help="Tokens of the whole run, before and after the growth: 300B.")
    ] = ...,  # type: ignore[assignment]
    rule: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            parser=one_of(*RULES),
            autocompletion=lambda: list(RULES),
            help="early: after the tokens that arXiv:2405.15319 fitted. late: after 80% of the tokens "
            "(arXiv:2511.04981).",
        ),
    ] = "early",
    growth_factor: Annotated[
        float | None,
        typer.Option(
            metavar="G",
            help="Without MODEL: the target's layers over those to start from. Default: 4 (early), or as many as the "
            "target has (late).",
        ),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            metavar="N", parser=whole_number, help="For attention's FLOPs. Default: the target's longest, at most 4096."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write the schedule to a new YAML file."),
    ] = None,
    source_out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the config to start from to a new JSON file.")
    ] = None,
    json: Json = False,
) -> None:
    """Propose when to grow to a target, what to start from, and what that saves, with the sources.

    Reads configs only, and writes nothing without -o or --source-out. A schedule is for growformer.ScheduledGrowth and
    growformer.train_in_stages.

        $ growformer schedule --like target/config.json --tokens 300B -o schedule.yaml
        $ growformer schedule SmolLM2-135M --like target --tokens 20B --rule late
    """
    from growformer.cli import render
    from growformer.cli.plan_command import refuse_existing, write_new
    from growformer.runs.proposal import propose_schedule
    from growformer.sizing.suggest import parse_count

    for path in (out, source_out):
        if path is not None:
            refuse_existing(Path(path))
    target = Path(like) / "config.json" if Path(like).is_dir() else Path(like)
    found = propose_schedule(
        target,
        parse_count(tokens, "tokens", "tokens"),
        source=model,
        rule=rule,
        growth_factor=growth_factor,
        sequence_length=sequence_length,
    )
    if out is not None:
        write_new(Path(out), _comment(found, str(target)) + found.schedule.to_yaml())
    if source_out is not None:
        from json import dumps

        write_new(Path(source_out), dumps(dict(found.source_config), indent=2) + "\n")
    if json:
        render.print_json({**as_json(found), "written": out, "source_written": source_out})
        return
    show(found, str(target), model)
    print()
    if out is None:
        render.paragraph("Nothing was written. -o FILE keeps the schedule.")
    else:
        render.paragraph(f"The schedule is in {out}.")


def show(found: Proposal, target: str, model: str | None) -> None:
    """Print a proposal: sizes and costs of both stages, what is saved, and what to know."""
    from growformer.cli import render
    from growformer.planning.explain import changes

    own = "the target with fewer layers" if model is None else model
    render.paragraph(f"From {own} to {target}, by the rule {found.rule.name!r} of {found.rule.source}")
    print()
    first, second = found.staged.stages
    rows = [(c.field, render.value(c.before), render.value(c.after), c.why) for c in changes(found.plan)]
    length = found.sequence_length
    spent = [stage.training(length) or 0 for stage in (first, second)]
    cost, grown_cost = (render.count(n // stage.tokens) for n, stage in zip(spent, (first, second), strict=True))
    rows += [
        ("parameters", render.count(first.parameters), render.count(second.parameters), ""),
        (
            "tokens",
            render.count(first.tokens),
            render.count(second.tokens),
            f"{found.at_tokens / found.tokens:.1%} before",
        ),
        ("FLOPs per token", cost, grown_cost, f"forward and backward, sequences of {length:,}"),
        ("FLOPs", f"{spent[0]:.3g}", f"{spent[1]:.3g}", ""),
    ]
    render.table(("", "first stage", "second stage", ""), rows, numbers=("first stage", "second stage"))
    print()
    render.lines(
        [
            f"From scratch on {render.count(found.tokens)} tokens: {found.scratch:.3g} FLOPs.",
            f"In two stages: {found.staged.total or 0:.3g} FLOPs, {found.saving:.1%} less on the same tokens.",
            f"Ceiling: {found.ceiling:.1%}, f (1 - 1/g) for growth by g = {found.growth_factor:.3g} after a fraction "
            f"f = {found.at_tokens / found.tokens:.3g}.",
        ]
    )
    render.heading("What to know")
    render.lines([f"{r.text} {r.source}".rstrip() for r in found.remarks])
    render.heading("Schedule")
    for line in found.schedule.to_yaml().splitlines():
        render.say(f"  {line}")


def as_json(found: Proposal) -> dict[str, Any]:
    """Return a proposal as plain data."""
    first, second = found.staged.stages
    return {
        "rule": found.rule.name,
        "rule_source": found.rule.source,
        "schedule": found.schedule.to_dict(),
        "source_config": dict(found.source_config),
        "target_config": dict(found.plan.target_config),
        "parameters": {"source": first.parameters, "target": second.parameters},
        "tokens": found.tokens,
        "at_tokens": found.at_tokens,
        "sequence_length": found.sequence_length,
        "flops": {"scratch": found.scratch, "staged": found.staged.total},
        "saving": found.saving,
        "ceiling": found.ceiling,
        "growth_factor": found.growth_factor,
        "remarks": [{"text": r.text, "source": r.source} for r in found.remarks],
    }


def _comment(found: Proposal, target: str) -> str:
    lines = [
        f"growformer schedule --like {target} --tokens {found.tokens} --rule {found.rule.name}",
        f"rule: {found.rule.source}; FLOPs: {found.saving:.1%} less than from scratch on the same tokens",
    ]
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)
