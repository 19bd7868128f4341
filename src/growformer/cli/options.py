"""What commands share: the options that describe a growth, as one dataclass, and how help texts are laid out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import Annotated, Any, get_type_hints

import typer

SIZES, NEW, RESULT, SOURCE = "Sizes", "New layers and weights", "Result", "Source"

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or a hub id: owner/name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Revision = Annotated[
    str | None, typer.Option(metavar="REVISION", rich_help_panel=SOURCE, help="Branch, tag or commit of a hub model.")
]


class Init(str, Enum):
    """How free blocks are filled."""

    NORMAL = "normal"
    COPY = "copy"
    ORTHOGONAL = "orthogonal"


class NewLayers(str, Enum):
    """What new layers start from."""

    COPY = "copy"
    RANDOM = "random"


class Dtype(str, Enum):
    """Of the grown checkpoint."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


def _size(help: str) -> Any:
    return typer.Option(metavar="N", rich_help_panel=SIZES, help=help)


def _new(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, rich_help_panel=NEW, help=help)


def _result(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, rich_help_panel=RESULT, help=help)


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What ``plan`` and ``grow`` are asked for. None: not on the command line, so that a recipe may say it."""

    hidden_size: Annotated[int | None, _size("Width of the residual stream.")] = None
    intermediate_size: Annotated[int | None, _size("Width of the MLPs.")] = None
    num_attention_heads: Annotated[int | None, _size("Query heads per layer.")] = None
    num_key_value_heads: Annotated[int | None, _size("Key-value heads per layer.")] = None
    head_dim: Annotated[int | None, _size("Size of a head.")] = None
    num_hidden_layers: Annotated[int | None, _size("Layers.")] = None
    set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            rich_help_panel=SIZES,
            help="A size by the family's own name (n_inner=4096), or another config field. VALUE is JSON, or else "
            "text. Repeatable.",
        ),
    ] = None
    like: Annotated[
        str | None,
        typer.Option(metavar="PATH", rich_help_panel=SIZES, help="Take all sizes from this config.json or folder."),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=SIZES,
            help="A YAML file with options of these groups by name: hidden_size: 768. "
            "Options on the command line override it.",
        ),
    ] = None
    new_layers_at: Annotated[
        str | None,
        _new("WHERE", "end, interleave, or their numbers in the target, as in 3,7,11. Default: interleave."),
    ] = None
    new_layers: Annotated[
        NewLayers | None,
        _new("START", "copy: start from the layer before, random: from fresh values. Default: copy."),
    ] = None
    init: Annotated[
        Init | None,
        _new("HOW", "Fill free blocks, which no output depends on: normal, copy or orthogonal. Default: normal."),
    ] = None
    seed: Annotated[int | None, _new("N", "Of all fresh values. Default: 0.")] = None
    dtype: Annotated[
        Dtype | None,
        _result("DTYPE", "bfloat16, float16, float32 or float64. Default: each tensor keeps its own."),
    ] = None
    max_shard_size: Annotated[str | None, _result("SIZE", "Largest shard: 500MB, 2GiB. Default: 5GB.")] = None
    revision: Revision = None

    def given(self) -> dict[str, Any]:
        """Return what stands on the command line, by name, in plain types."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: value.value if isinstance(value, Enum) else value
            for name, value in values.items()
            if value is not None and value != []
        }


def takes(options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a dataclass as options, and the dataclass to the parameter of its type."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own_hints = get_type_hints(command, include_extras=True)
        hints = get_type_hints(options, include_extras=True)
        parameters = []
        for parameter in inspect.signature(command).parameters.values():
            if own_hints[parameter.name] is options:
                receiver = parameter.name
            else:
                parameters.append(parameter.replace(annotation=own_hints[parameter.name]))
        for f in fields(options):
            default = inspect.Parameter.empty if f.default is MISSING else f.default
            parameters.append(
                inspect.Parameter(
                    f.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=hints[f.name]
                )
            )

        @functools.wraps(command)
        def run(**values: Any) -> None:
            taken = {f.name: values.pop(f.name) for f in fields(options)}
            command(**values, **{receiver: options(**taken)})

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def help_text(command: Callable[..., None]) -> str:
    """Return a docstring for the terminal: each paragraph on one line, to be wrapped at any width; examples line by line."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").replace("[", r"\[").split("\n\n")
    return "\n\n".join(
        "\n".join(f"[cyan]{line.strip()}[/cyan]" for line in p.splitlines()) if p.startswith(" ") else p.replace("\n", " ")
        for p in paragraphs
    )
