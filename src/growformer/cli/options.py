"""What commands share: the options that describe a growth, as one dataclass, and how help texts are laid out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

from growformer.errors import did_you_mean

SIZES, NEW, RESULT, SOURCE = "Sizes", "New layers and weights", "Result", "Source"

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or a hub id: owner/name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Revision = Annotated[
    str | None, typer.Option(metavar="REVISION", rich_help_panel=SOURCE, help="Branch, tag or commit of a hub model.")
]


INITS = ("normal", "copy", "orthogonal")
NEW_LAYERS = ("copy", "random")
SHAPES = ("balanced", "deeper", "wider")
DTYPES = ("bfloat16", "float16", "float32", "float64")


def whole_number(text: str) -> int:
    """Return a number that stands on the command line."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"expected a whole number, found {text!r}") from None


def one_of(*names: str) -> Callable[[str], str]:
    """Return a parser that takes one of a few names."""

    def parse(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"expected one of {', '.join(names)}, found {text!r}{did_you_mean(text, names)}")
        return text

    return parse


def _size(help: str) -> Any:
    return typer.Option(metavar="N", parser=whole_number, rich_help_panel=SIZES, help=help)


def _named(panel: str, metavar: str, names: tuple[str, ...], help: str) -> Any:
    return typer.Option(
        metavar=metavar, parser=one_of(*names), autocompletion=lambda: list(names), rich_help_panel=panel, help=help
    )


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
            help="A YAML file with options of these groups by name: hidden_size: 720. "
            "Options on the command line override it.",
        ),
    ] = None
    to_parameters: Annotated[
        str | None,
        typer.Option(
            metavar="COUNT",
            rich_help_panel=SIZES,
            help="Choose sizes for this many parameters, instead of naming them: 1.2B, 350M.",
        ),
    ] = None
    shape: Annotated[
        str | None,
        _named(
            SIZES,
            "SHAPE",
            SHAPES,
            "With --to-parameters. balanced: width and depth as the source has them; deeper: layers only; wider: none. "
            "Default: balanced.",
        ),
    ] = None
    new_layers_at: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            rich_help_panel=NEW,
            help="end, interleave, or their numbers in the target, as in 3,7,11. Default: interleave.",
        ),
    ] = None
    new_layers: Annotated[
        str | None,
        _named(
            NEW, "START", NEW_LAYERS, "copy: start from the layer before, random: from fresh values. Default: copy."
        ),
    ] = None
    init: Annotated[
        str | None,
        _named(
            NEW,
            "HOW",
            INITS,
            "Fill free blocks, which no output depends on: normal, copy or orthogonal. Default: normal.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", parser=whole_number, rich_help_panel=NEW, help="Of all fresh values. Default: 0."),
    ] = None
    dtype: Annotated[
        str | None,
        _named(RESULT, "DTYPE", DTYPES, "bfloat16, float16, float32 or float64. Default: each tensor keeps its own."),
    ] = None
    max_shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", rich_help_panel=RESULT, help="Largest shard: 500MB, 2GiB. Default: 5GB."),
    ] = None
    revision: Revision = None

    def given(self) -> dict[str, Any]:
        """Return what stands on the command line, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != []}


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
    """Return a docstring for the terminal: one line per paragraph, to be wrapped at any width; examples as they are."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").replace("[", r"\[").split("\n\n")
    return "\n\n".join(
        "\n".join(f"[cyan]{line.strip()}[/cyan]" for line in p.splitlines())
        if p.startswith(" ")
        else p.replace("\n", " ")
        for p in paragraphs
    )
