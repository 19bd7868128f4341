"""Finds every declared family: those in ``families/``, and those of other packages through an entry point.

Nothing is registered by hand. A package adds its own with, in its pyproject.toml,

    [project.entry-points."growformer.architectures"]
    my_model = "my_package.architectures"

where the module (or object) holds ``Architecture`` values.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.abc import InspectLoader
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


def _own(mentioning: str | None = None) -> Iterator[Architecture]:
    """Yield the families of this package; only of files that mention a model type, where one is given."""
    for module in pkgutil.iter_modules(families.__path__):
        name = f"{families.__name__}.{module.name}"
        text = _source_of(name) if mentioning is not None else None
        if text is not None and f'"{mentioning}"' not in text and f"'{mentioning}'" not in text:
            continue
        yield from _in(importlib.import_module(name))


def _source_of(module: str) -> str | None:
    """Return a module's text without running it: to read a hundred files is fast, to import them is not."""
    spec = importlib.util.find_spec(module)
    loader = spec.loader if spec is not None else None
    return loader.get_source(module) if isinstance(loader, InspectLoader) else None


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
    return _claims(architectures().values())


@lru_cache(maxsize=256)
def _claiming(model_type: str) -> list[Architecture]:
    """Return the declarations of one model type, without loading those of all others."""
    unique = {id(a): a for a in (*_own(mentioning=model_type), *_from_entry_points())}
    return _claims(unique.values()).get(model_type, [])


def _claims(declared: Iterable[Architecture]) -> dict[str, list[Architecture]]:
    found: dict[str, list[Architecture]] = {}
    for architecture in declared:
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
    if not isinstance(model_type, str):
        raise UnknownArchitectureError(
            f"the config names no model_type (found {model_type!r}); pass architecture=..., see docs/architectures.md"
        )
    found = _claiming(model_type)
    if not found:
        known = _by_model_type()
        raise UnknownArchitectureError(
            f"no architecture describes model_type {model_type!r}{did_you_mean(model_type, known) or ';'} "
            f"{len(known)} model types are described (docs/guarantees.md lists them). To bring your own, declare its "
            "tensors as in docs/architectures.md and pass architecture=... to growformer.grow_checkpoint"
        )
    if len(found) == 1:
        return found[0]
    for architecture in found:
        if compute(str(architecture.variant), architecture.resolve_config(config)):
            return architecture
    raise UnknownArchitectureError(
        f"no architecture describes this config of model_type {model_type!r}; those that are described: "
        + "; ".join(f"{a.name} ({a.variant})" for a in found)
    )
