"""An architecture as JSON and back, so that a plan carries its declaration and needs no registry to be executed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from growformer.architecture.arrows import Arrow
from growformer.architecture.declaration import Architecture
from growformer.architecture.facts import Add, Alibi, Attention, Coupling, LayerKind, Multiple, Packed, Rotary
from growformer.architecture.language import parse_arrow, parse_term

_FACTS: dict[str, type[Any]] = {
    "attention": Attention, "adds": Add, "rotary": Rotary, "alibi": Alibi, "coupled": Coupling, "multiples": Multiple,
    "kinds": LayerKind,
}  # fmt: skip


def architecture_to_json(architecture: Architecture) -> dict[str, Any]:
    """Return plain data that ``architecture_from_json`` reads back to an equal architecture."""
    data: dict[str, Any] = {}
    for item in fields(Architecture):
        value = getattr(architecture, item.name)
        if item.name == "arrows":
            data["arrows"] = {name: _arrow_to_json(arrow) for name, arrow in value.items()}
        elif item.name in _FACTS:
            data[item.name] = [_fact_to_json(entry) for entry in value]
        elif item.name == "packed":
            data["packed"] = {name: _fact_to_json(entry) for name, entry in value.items()}
        else:
            data[item.name] = _plain(value)
    return data


def architecture_from_json(data: dict[str, Any]) -> Architecture:
    """Read what ``architecture_to_json`` wrote.

    Raises:
        TypeError, KeyError, ArchitectureError: the data is not an architecture.
    """
    data = dict(data)
    data["arrows"] = {name: _arrow_from_json(arrow) for name, arrow in data["arrows"].items()}
    for name, kind in _FACTS.items():
        data[name] = tuple(_fact_from_json(kind, entry) for entry in data[name])
    data["packed"] = {name: _fact_from_json(Packed, entry) for name, entry in data["packed"].items()}
    for name in ("model_types", "layer_lists", "heads", "inferred", "activated", "nested"):
        data[name] = tuple(data[name])
    data["renames"] = tuple((a, b) for a, b in data["renames"])
    for name in ("constants", "beyond"):
        data[name] = {key: (value, reason) for key, (value, reason) in data[name].items()}
    return Architecture(**data)


def _fact_to_json(fact: Any) -> dict[str, Any]:
    return {f.name: _plain(getattr(fact, f.name)) for f in fields(fact) if getattr(fact, f.name) != f.default}


def _fact_from_json(kind: type[Any], data: dict[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _arrow_to_json(arrow: Arrow) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": arrow.kind, "arrow": str(arrow)}
    for item in fields(Arrow):
        value = getattr(arrow, item.name)
        if item.name in ("kind", "source", "target") or value == item.default:
            continue
        data[item.name] = str(value) if item.name in ("over", "otherwise") else _plain(value)
    return data


def _arrow_from_json(data: dict[str, Any]) -> Arrow:
    data = dict(data)
    source, target = parse_arrow(data.pop("arrow"))
    for name in ("over", "otherwise"):
        if data.get(name) is not None:
            data[name] = parse_term(data[name])
    data["kernel"] = tuple(data.get("kernel", ()))
    return Arrow(source=source, target=target, **data)
