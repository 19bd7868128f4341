"""An architecture as JSON and back, so that a plan carries its declaration and needs no registry to be executed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from growformer.architecture.declaration import Architecture, Arrow, Attention, Coupling, LayerRule, Multiple, Rotary
from growformer.architecture.language import parse_arrow, parse_term


def architecture_to_json(architecture: Architecture) -> dict[str, Any]:
    """Return plain data that ``architecture_from_json`` reads back to an equal architecture."""
    data: dict[str, Any] = {}
    for item in fields(Architecture):
        value = getattr(architecture, item.name)
        if item.name == "arrows":
            data["arrows"] = {name: _arrow_to_json(arrow) for name, arrow in value.items()}
        elif item.name in ("attention", "rotary", "coupled", "multiples"):
            data[item.name] = [{f.name: _plain(getattr(entry, f.name)) for f in fields(entry)} for entry in value]
        elif item.name == "layer_rules":
            data["layer_rules"] = {
                name: {f.name: _plain(getattr(rule, f.name)) for f in fields(rule)} for name, rule in value.items()
            }
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
    data["attention"] = tuple(Attention(**{**e, "over": tuple(e["over"])}) for e in data["attention"])
    data["rotary"] = tuple(Rotary(**e) for e in data["rotary"])
    data["multiples"] = tuple(Multiple(**e) for e in data["multiples"])
    data["layer_rules"] = {
        name: LayerRule(when=tuple(rule["when"]), first=rule["first"], kinds=tuple(rule["kinds"]))
        for name, rule in data["layer_rules"].items()
    }
    data["coupled"] = tuple(Coupling(**e) for e in data["coupled"])
    for name in ("model_types", "layer_lists", "heads", "inferred", "activated"):
        data[name] = tuple(data[name])
    for name in ("adds", "renames"):
        data[name] = tuple((a, b) for a, b in data[name])
    data["constants"] = {name: (value, reason) for name, (value, reason) in data["constants"].items()}
    return Architecture(**data)


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
        data[item.name] = str(value) if item.name == "over" else value
    return data


def _arrow_from_json(data: dict[str, Any]) -> Arrow:
    data = dict(data)
    source, target = parse_arrow(data.pop("arrow"))
    if data.get("over") is not None:
        data["over"] = parse_term(data["over"])
    return Arrow(source=source, target=target, **data)
