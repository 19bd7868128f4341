"""What ``growformer plan MODEL`` answers when no size is asked for: three targets in the source's proportions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from growformer import Plan


def show_suggestions(model: str, revision: str | None, json: bool) -> None:
    """Print plans to 1.5, 2 and 4 times the parameters, those that the model's class takes.

    Raises:
        GrowformerError: the source cannot be read.
    """
    from growformer.api import inspect
    from growformer.api_sizing import suggest
    from growformer.cli import render
    from growformer.cli.request import check_with_class, open_source
    from growformer.errors import RequestError

    folder = open_source(model, revision, with_weights=False)
    source = folder if folder is not None else model
    found = inspect(source)
    plans = suggest(source)
    for factor, made in plans.items():
        if isinstance(made, str):
            continue
        try:
            check_with_class(made)
        except RequestError as error:
            plans[factor] = str(error)
    if json:
        suggestions = [_as_json(model, factor, made) for factor, made in plans.items()]
        render.print_json(
            {
                "source": {"model": model, "digest": found.source.digest},
                "architecture": found.architecture.name,
                "parameters": found.num_parameters,
                "suggestions": suggestions,
            }
        )
        return
    render.paragraph(render.model_title(model, found.architecture.name, found.source.config))
    print()
    render.paragraph("No size is asked for. Sizes for 1.5, 2 and 4 times the parameters, in the model's proportions:")
    print()
    fields = [name for name in found.sizes if any(name in _sizes(p) for p in plans.values())]
    titles = ("", "source", *(f"× {factor:g}" for factor in plans))
    rows = [
        (name, render.value(found.sizes[name][0]), *(render.value(_size(p, name)) for p in plans.values()))
        for name in fields
    ]
    counts = [_parameters(p) for p in plans.values()]
    rows.append(
        ("parameters", render.count(found.num_parameters), *("–" if c is None else render.count(c) for c in counts))
    )
    render.table(titles, rows, numbers=titles[1:])
    render.heading("Carry one out")
    for made in plans.values():
        if not isinstance(made, str):
            render.say(f"  {_command(model, made)}")
    notes = [
        f"× {factor:g}: {note}"
        for factor, made in plans.items()
        for note in ([made] if isinstance(made, str) else made.notes[:1])
    ]
    render.heading("Notes")
    render.lines([*notes, "--to-parameters COUNT takes any other number, --shape deeper or wider another proportion"])


def _sizes(made: Plan | str) -> dict[str, Any]:
    """Return the sizes of a plan's target."""
    if isinstance(made, str):
        return {}
    return {name: made.target_sizes[name] for name in made.requested}


def _size(made: Plan | str, name: str) -> Any:
    return None if isinstance(made, str) else made.target_sizes[name]


def _parameters(made: Plan | str) -> int | None:
    return None if isinstance(made, str) else made.num_parameters()[1]


def _command(model: str, made: Plan) -> str:
    """Return the command that grows to a plan's sizes."""
    from growformer.cli.request import SIZES

    options = []
    names = {made.architecture.aliases.get(name, name): name for name in SIZES}
    for name, value in _sizes(made).items():
        common = names.get(name)
        options.append(f"--{common.replace('_', '-')} {value}" if common else f"--set {name}={value}")
    weights = "MODEL" if model.endswith(".json") else model
    return f"growformer grow {weights} OUT {' '.join(options)}"


def _as_json(model: str, factor: float, made: Plan | str) -> dict[str, Any]:
    if isinstance(made, str):
        return {"factor": factor, "because": made}
    return {
        "factor": factor,
        "sizes": _sizes(made),
        "parameters": _parameters(made),
        "command": _command(model, made),
        "notes": list(made.notes),
    }
