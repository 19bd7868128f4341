"""Writes a declaration as Python that a person would write, with remarks beside the lines that need a look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from growformer.architecture.arrows import Arrow
from growformer.architecture.declaration import Architecture


def arrow_code(arrow: Arrow) -> str:
    """Return the call that makes an arrow."""
    function = arrow.kind
    given: list[str] = [repr(str(arrow))]
    defaults: dict[str, Any] = {"bias": False}
    if arrow.kind == "norm":
        function = "layer_norm" if arrow.centred else "rms_norm"  # type: ignore[assignment]
        defaults["bias"] = arrow.centred
    elif arrow.kind == "scale":
        function = "layer_scale"  # type: ignore[assignment]
    elif arrow.kind == "convolution":
        defaults["bias"] = True
    for item in fields(Arrow):
        value = getattr(arrow, item.name)
        skip = ("kind", "source", "target", "centred", *(("bare",) if arrow.kind in ("parameter", "scale") else ()))
        if item.name in skip or value == defaults.get(item.name, item.default):
            continue
        given.append(f"{item.name}={str(value)!r}" if item.name in ("over", "otherwise") else f"{item.name}={value!r}")
    return f"{function}({', '.join(given)})".replace("'", '"')


def extension_code(
    name: str, base: Architecture, changes: Mapping[str, Any], remarks: Mapping[str, str], head: str
) -> str:
    """Return a module that declares a family as an extension of another.

    Args:
        name: of the family.
        base: the family that it extends.
        changes: arguments of ``extend``.
        remarks: arrow -> what is not sure about it.
        head: the first lines, without quotes.
    """
    arrows: Mapping[str, Arrow | None] = changes.get("arrows", {})
    functions = sorted({arrow_code(a).partition("(")[0] for a in arrows.values() if a is not None})
    lines = [f'"""{head}"""', ""]
    if functions:
        lines.append(f"from growformer.architecture import {', '.join(functions)}")
    lines += ["from growformer.architecture.registry import architectures", ""]
    lines += [f"{name.upper().replace('-', '_')} = architectures()[{base.name!r}].extend(".replace("'", '"')]
    lines.append(f'    "{name}",')
    for field, value in changes.items():
        if field == "arrows":
            lines.append("    arrows={")
            for arrow, made in arrows.items():
                remark = f"  # unsure: {remarks[arrow]}" if arrow in remarks else ""
                lines.append(f'        "{arrow}": {arrow_code(made) if made is not None else None},{remark}')
            lines.append("    },")
        elif isinstance(value, Mapping):
            lines.append(f"    {field}={{")
            lines += [f'        "{key}": {_literal(entry)},' for key, entry in value.items()]
            lines.append("    },")
        else:
            lines.append(f"    {field}={_literal(value)},")
    return "\n".join([*lines, ")", ""])


def _literal(value: Any) -> str:
    return repr(value).replace("'", '"')


__all__ = ["arrow_code", "extension_code"]
