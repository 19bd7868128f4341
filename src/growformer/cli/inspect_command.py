"""``growformer inspect``: what a model is, and what of it can grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growformer.cli.options import Json, Model, Revision
from growformer.errors import RequestError

if TYPE_CHECKING:
    from growformer import Inspection


@dataclass(frozen=True)
class Size:
    """One size of a model.

    Attributes:
        field: its config field.
        value: its value.
        axes: the axes that it sets.
        example: a larger value that it can grow to with all else as it is; None where it cannot grow alone.
        limits: why not every larger value is possible; empty where every one is.
    """

    field: str
    value: Any
    axes: tuple[str, ...]
    example: int | None
    limits: str


DraftArchitecture = Annotated[
    bool,
    typer.Option(
        "--draft-architecture",
        help="Print a declaration to start from, for a model that is not known yet. Builds its class, small.",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="With --draft-architecture: run the code of a checkpoint's class.")
]


def inspect(
    model: Model,
    revision: Revision = None,
    json: Json = False,
    draft_architecture: DraftArchitecture = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show sizes, parameters and dtypes of a model, what can grow, and what cannot and why.

    MODEL may also be a config.json without any weights. Reads config and headers only.

        $ growformer inspect SmolLM2-135M
    """
    if draft_architecture:
        _draft(model, revision, json, trust_remote_code)
        return
    if trust_remote_code:
        raise RequestError("--trust-remote-code goes with --draft-architecture; nothing else runs a checkpoint's code")
    from growformer.api import inspect as inspect_model
    from growformer.cli import render
    from growformer.cli.request import open_source

    folder = open_source(model, revision, with_weights=False)
    source = folder if folder is not None else model
    found = inspect_model(source)
    sizes = list(_sizes(source, found))
    fixed = dict(_fixed(found))
    if json:
        render.print_json(_as_json(model, found, sizes, fixed))
        return
    info = found.source
    render.paragraph(render.model_title(model, found.architecture.name, info.config))
    print()
    rows = [("parameters", f"{render.count(found.num_parameters)} ({found.num_parameters:,})")]
    if folder is not None:
        rows.append(("tensors", f"{len(info.tensors)}: {_dtypes(found)}"))
    if info.tied:
        ties = found.architecture.ties.items()
        rows += [("tied", f"{a} = {b}") for a, b in ties if any(t == b for t in info.templates)]
    render.table(("", ""), rows, header=False)
    print()
    render.table(
        ("size", "value", "can grow"),
        [(s.field, render.value(s.value), _in_words(s)) for s in sizes]
        + [(name, render.value(value), f"no: {why}") for name, (value, why) in fixed.items()],
        numbers=("value",),
    )
    if info.dropped:
        render.heading("Left behind by growth")
        render.lines([f"{name}: {why}" for name, why in info.dropped.items()])


def _sizes(source: Any, found: Inspection) -> Iterator[Size]:
    """Yield every size that can grow, tried out by planning, and by asking the model's class."""
    from growformer.api import plan
    from growformer.cli.request import check_with_class
    from growformer.errors import GrowformerError, NotPreservableError

    resolved = found.architecture.resolve_config(found.source.sizes)
    values = [v for v, _ in found.sizes.values() if isinstance(v, int)]
    values += [
        found.architecture.size(a, resolved) for a in found.architecture.sizes if not found.architecture.size_index(a)
    ]
    for name, (value, axes) in found.sizes.items():
        if not isinstance(value, int):
            yield Size(name, value, axes, None, "")
            continue
        limits: GrowformerError | None = None
        steps = sorted({1, 2, 4, 8, 16, 32, 64, 128, value, *(v for v in values if 0 < v <= value)})
        for step in steps:
            size: dict[str, Any] = {name: value + step}
            try:
                check_with_class(plan(source, **size))
            except GrowformerError as error:
                if isinstance(error, NotPreservableError) or not isinstance(limits, NotPreservableError):
                    limits = error
                continue
            yield Size(name, value, axes, value + step, _reason(limits))
            break
        else:
            yield Size(name, value, axes, None, _reason(limits))


def _reason(error: Exception | None) -> str:
    return "" if error is None else str(error).split(": ", 1)[-1]


def _in_words(size: Size) -> str:
    if not isinstance(size.value, int):
        return "yes; one value per layer"
    if size.example is None:
        return f"not alone: {size.limits}"
    return f"to {size.example}, but not to every value: {size.limits}" if size.limits else "to any larger value"


def _fixed(found: Inspection) -> Iterator[tuple[str, tuple[Any, str]]]:
    from growformer.architecture.exact import names_in

    resolved = found.architecture.resolve_config(found.source.sizes)
    for axis, why in found.fixed.items():
        for name in names_in(found.architecture.sizes[axis]):
            if name not in found.architecture.inferred or name in found.source.inferred:
                yield name, (resolved.get(name), why)


def _dtypes(found: Inspection) -> str:
    from growformer.cli import render
    from growformer.storage.header import DTYPES

    width = dict(DTYPES.values())
    total: Counter[str] = Counter()
    for tensor in found.source.tensors.values():
        total[tensor.dtype] += prod(tensor.shape) * width[tensor.dtype]
    return ", ".join(f"{render.num_bytes(num)} of {dtype}" for dtype, num in total.most_common())


def _draft(model: str, revision: str | None, json: bool, trust_remote_code: bool) -> None:
    from growformer.api import draft_architecture
    from growformer.cli import render

    found = draft_architecture(model, trust_remote_code=trust_remote_code, revision=revision)
    if json:
        render.print_json(
            {
                "name": found.name, "base": found.base, "share": found.share, "unsure": dict(found.unsure),
                "problems": list(found.problems), "text": found.text,
            }
        )  # fmt: skip
        return
    print(render.escaped(found.text), end="")


def _as_json(model: str, found: Inspection, sizes: list[Size], fixed: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    info = found.source
    return {
        "model": model,
        "architecture": found.architecture.name,
        "classes": info.config.get("architectures") or [],
        "parameters": found.num_parameters,
        "tensors": len(info.tensors),
        "dtypes": dict(Counter(t.dtype for t in info.tensors.values())),
        "tied": info.tied,
        "sizes": [asdict(size) for size in sizes],
        "fixed": [{"field": name, "value": value, "because": why} for name, (value, why) in fixed.items()],
        "dropped": dict(info.dropped),
        "digest": info.digest,
    }
