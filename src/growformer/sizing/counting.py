"""Parameters of a model from its config alone, and where its heads and its MLP stand in the declaration."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from growformer.architecture.declaration import Architecture, TensorSpec
from growformer.architecture.exact import mentions
from growformer.architecture.source import SourceInfo
from growformer.errors import RequestError


def count_parameters(architecture: Architecture, source: SourceInfo, sizes: Mapping[str, Any]) -> int:
    """Return how many parameters a source would have at other sizes.

    Args:
        architecture: the declaration.
        source: says which tensors there are.
        sizes: config fields -> values, over the source's own.

    Raises:
        ArchitectureError: a size would not be a whole number.
    """
    return sum(count_entries(architecture, source, sizes_over(architecture, source, sizes)).values())


def sizes_over(architecture: Architecture, source: SourceInfo, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source's resolved config at other sizes; layers that come after its own are like its last one."""
    config = {**architecture.resolve_config(source.sizes), **sizes}
    for name in architecture.layer_lists:
        values = config.get(name)
        if isinstance(values, list) and values and name not in sizes:
            most = max(architecture.size(a, config) for a in architecture.index_axes if not architecture.size_index(a))
            config[name] = [*values, *values[-1:] * max(most - len(values), 0)]
    return config


def count_entries(architecture: Architecture, source: SourceInfo, config: Mapping[str, Any]) -> dict[str, int]:
    """Return template -> entries of all its instances together, under a resolved config.

    Raises:
        ArchitectureError: a size would not be a whole number.
    """
    varying = {axis for axis in architecture.sizes if architecture.size_index(axis)}
    axes = {axis for space in architecture.spaces.values() for axis in space.axes} & varying
    found: dict[str, int] = {}
    for template, spec in architecture.tensors.items():
        if template not in source.templates:
            continue
        if axes or any(index in varying for index in spec.index):
            shapes = (architecture.shape(spec, config, i) for i in architecture.instances_of(spec, config))
            found[template] = sum(map(prod, shapes))
        else:
            shape = architecture.shape(spec, config, dict.fromkeys(spec.index, 0))
            found[template] = _instances(architecture, spec, config) * prod(shape)
    return found


def _instances(architecture: Architecture, spec: TensorSpec, config: Mapping[str, Any]) -> int:
    """Return how many instances of a tensor there are; conditions are asked once for the axes that they mention."""
    arrow = architecture.arrows[spec.owner]
    conditions = [c for c in (arrow.when, arrow.bias) if isinstance(c, str)]
    asked = tuple(axis for axis in spec.index if any(mentions(c, axis) for c in conditions))
    found = sum(architecture.exists(spec, config, index) for index in architecture.instances(asked, config))
    return found * prod(architecture.size(axis, config) for axis in spec.index if axis not in asked)


def whole(architecture: Architecture, config: Mapping[str, Any], role: str) -> int | None:
    """Return the size of a role, or None where the family has none of its own.

    Raises:
        RequestError: the size differs from layer to layer.
    """
    name = architecture.roles.get(role)
    value = config.get(name) if name is not None else None
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, int):
        raise RequestError(
            f"{architecture.name}: {name} is not one number ({value!r}); sizes that differ per layer cannot be chosen "
            "here, ask for them by name"
        )
    return value


def head_size(architecture: Architecture, config: Mapping[str, Any]) -> int | None:
    """Return how many coordinates of attention's output one head writes, or None where nothing says so."""
    own = whole(architecture, config, "value") or whole(architecture, config, "key")
    if own is not None:
        return own
    axis = next((c.keeps for c in architecture.coupled if c.field == architecture.roles.get("heads")), None)
    return architecture.size(axis, config) if axis is not None else None


def is_coupled(architecture: Architecture) -> bool:
    """Tell whether heads × head size is the hidden size by the class's own rule."""
    return any(c.field == architecture.roles.get("heads") for c in architecture.coupled)


def to_ask(architecture: Architecture, source: SourceInfo, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes that differ from the source's, and kv heads with heads, which they would follow otherwise."""
    present = architecture.resolve_config(source.sizes)
    asked = {name: value for name, value in sizes.items() if present.get(name) != value}
    heads, kv_heads = architecture.roles.get("heads"), architecture.roles.get("kv_heads")
    if heads in asked and kv_heads in sizes:
        asked[str(kv_heads)] = sizes[str(kv_heads)]
    return asked
