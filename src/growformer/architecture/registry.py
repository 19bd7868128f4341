"""Finds every declared family: those in ``families/``, and those of other packages through an entry point.

Nothing is registered by hand. A package adds its own with, in its pyproject.toml,

    [project.entry-points."growformer.architectures"]
    my_model = "my_package.architectures"

where the module (or object) holds ``Architecture`` values.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from growformer.architecture import families
from growformer.architecture.declaration import Architecture
from growformer.architecture.exact import compute
from growformer.errors import ArchitectureError, UnknownArchitectureError, did_you_mean

GROUP = "growformer.architectures"


@lru_cache(maxsize=1)
def architectures() -> dict[str, Architecture]:
    """Return every declared family by name, in alphabetical order.

    Raises:
        ArchitectureError: two have the same name, or another package declares something that is none.
    """
    found: dict[str, Architecture] = {}
    for value in (*_own(), *_from_entry_points()):
        if found.setdefault(value.name, value) is not value:
            raise ArchitectureError(f"two families are called {value.name!r}")
    return dict(sorted(found.items()))


def _own() -> Iterator[Architecture]:
    for module in pkgutil.iter_modules(families.__path__):
        yield from _in(importlib.import_module(f"{families.__name__}.{module.name}"))


def _from_entry_points() -> Iterator[Architecture]:
    """Yield what other packages declare.

    Raises:
        ArchitectureError: an entry point cannot be loaded, or holds no declaration.
    """
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
        except Exception as error:  # it is another package's code
            raise ArchitectureError(f"the entry point {entry.name} = {entry.value!r} of {GROUP}: {error}") from error
        declared = [loaded] if isinstance(loaded, Architecture) else list(_in(loaded))
        if not declared:
            raise ArchitectureError(
                f"the entry point {entry.name} = {entry.value!r} of {GROUP} holds no Architecture; expected one, or a "
                "module with some"
            )
        yield from declared


def _in(module: object) -> Iterator[Architecture]:
    for value in vars(module).values():
        if isinstance(value, Architecture):
            yield value


@lru_cache(maxsize=1)
def _by_model_type() -> dict[str, list[Architecture]]:
    found: dict[str, list[Architecture]] = {}
    for architecture in architectures().values():
        for model_type in architecture.model_types:
            others = found.setdefault(model_type, [])
            if others and (architecture.variant is None or others[0].variant is None):
                raise ArchitectureError(
                    f"both {others[0].name} and {architecture.name} claim {model_type!r}, and one of them does not say "
                    "which configs it describes (variant)"
                )
            others.append(architecture)
    return found


def for_config(config: dict[str, Any]) -> Architecture:
    """Return the family of a config by its ``model_type``.

    Raises:
        UnknownArchitectureError: no family describes it.
    """
    model_type = config.get("model_type")
    known = _by_model_type()
    if not isinstance(model_type, str):
        raise UnknownArchitectureError(
            f"the config names no model_type (found {model_type!r}); pass architecture=..., see docs/architectures.md"
        )
    if model_type not in known:
        raise UnknownArchitectureError(
            f"no architecture describes model_type {model_type!r}{did_you_mean(model_type, known) or ';'} "
            f"{len(known)} model types are described (docs/guarantees.md lists them). To bring your own, declare its "
            "tensors as in docs/architectures.md and pass architecture=... to growformer.grow_checkpoint"
        )
    found = known[model_type]
    if len(found) == 1:
        return found[0]
    for architecture in found:
        if compute(str(architecture.variant), architecture.resolve_config(config)):
            return architecture
    raise UnknownArchitectureError(
        f"no architecture describes this config of model_type {model_type!r}; those that are described: "
        + "; ".join(f"{a.name} ({a.variant})" for a in found)
    )
