"""A source or a grown model as the constraints check sees it: a folder, of which rows are read, or a live model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import for_config
from growformer.architecture.source import SourceInfo, canonical_names, specialised, without_absent_heads
from growformer.errors import SourceError
from growformer.verification.tensors import Tensors, Whole

if TYPE_CHECKING:
    from growformer.storage.folder import ModelFolder
    from growformer.storage.weights import Weights


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison.

    Attributes:
        config: as config.json holds it; None of a live model without one.
        tensors: what is compared.
        names: stored names of all tensors; None of a live model, where it cannot be told what is a parameter.
        folder, weights: of a folder, open for reading.
        model: a live model.
    """

    config: Mapping[str, Any] | None
    tensors: Tensors
    names: frozenset[str] | None = None
    folder: ModelFolder | None = None
    weights: Weights | None = None
    model: Any = None


def open_side(model: Any, stack: ExitStack) -> Side:
    """Open a model folder (or hub id), or take a live model as it is.

    Args:
        model: either.
        stack: closes what was opened.

    Raises:
        SourceError: the folder cannot be read, or the model is neither.
    """
    if isinstance(model, (str, Path)):
        from growformer.storage.folder import open_folder
        from growformer.storage.weights import Weights
        from growformer.verification.folder_tensors import FolderTensors

        folder = open_folder(model)
        weights = stack.enter_context(Weights(folder.entries))
        return Side(folder.config, FolderTensors(weights), frozenset(folder.entries), folder, weights)
    if not hasattr(model, "state_dict"):
        raise SourceError(f"expected a model folder or a live model, got {type(model).__name__}")
    from growformer.execute.data_parallel import unwrapped
    from growformer.execute.module import config_of

    own = unwrapped(model)
    config = config_of(own) if hasattr(getattr(own, "config", None), "to_dict") else None
    return Side(config, Whole(own.state_dict().__getitem__), model=own)


def describe_side(side: Side, architecture: Architecture | None = None) -> tuple[Architecture, SourceInfo]:
    """Return the declaration of a source, as it holds for it, and its description.

    Raises:
        SourceError: its tensors do not fit its config.
        UnknownArchitectureError: no declaration describes the model.
    """
    if side.folder is not None:
        from growformer.execute.checkpoint import describe_folder

        found = specialised(architecture or for_config(side.folder.config), side.folder.shapes())
        described = describe_folder(found, side.folder)
    else:
        from growformer.execute.module import config_of, describe_module, tensors_of

        found = architecture or for_config(dict(side.config) if side.config is not None else config_of(side.model))
        found = specialised(found, {name: (tuple(t.shape), "") for name, t in tensors_of(side.model).items()})
        described = describe_module(found, side.model, side.config)
    return without_absent_heads(found, described), described


def stored_twice(side: Side, architecture: Architecture) -> dict[str, str]:
    """Return the heads that a folder stores though they have the bytes of the table that they are tied to."""
    if side.folder is None:
        return {}
    names = canonical_names(architecture, side.folder.entries)
    pairs = {names[head]: names[table] for head, table in architecture.ties.items() if {head, table} <= set(names)}
    return side.folder.equal(pairs) if pairs else {}


__all__ = ["Side", "describe_side", "open_side", "stored_twice"]
