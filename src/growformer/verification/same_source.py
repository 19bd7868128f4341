"""Whether a folder is the source that a record is about: the same tensors, and a config that computes the same.

A source that another version of ``transformers`` has written again is still the source: fields that no output depends
on may differ, and are named. What differs otherwise is said field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from growformer.architecture.registry import for_config
from growformer.errors import PlanError, SourceError
from growformer.verification.config_conditions import NOT_COMPUTED, is_rate
from growformer.verification.unread_fields import unread

if TYPE_CHECKING:
    from growformer.architecture.source import SourceInfo
    from growformer.storage.folder import ModelFolder
    from growformer.verification.growth import Growth

_MOST = 6


def check_source(grew: Growth, folder: ModelFolder) -> tuple[str, ...]:
    """Refuse a folder that is not the source that a model was grown from, by its record.

    Returns:
        Notes: in which fields its config differs from the recorded one all the same.

    Raises:
        PlanError: it is another one; the message says in what, and what can be done.
    """
    from growformer.execute.checkpoint import describe_folder

    assert grew.plan is not None
    planned = grew.plan.source
    own = planned.config if planned.original is None else planned.original
    kinds = own.get("model_type"), folder.config.get("model_type")
    if kinds[0] != kinds[1]:
        raise PlanError(f"{folder.path}: a model of type {kinds[1]!r}; the plan was made for one of type {kinds[0]!r}")
    architecture = grew.plan.architecture if planned.original is None else for_config(dict(own))
    try:
        found = describe_folder(architecture, folder)
    except SourceError as error:
        raise PlanError(f"the plan does not fit this source: {error}") from None
    if found.digest == planned.digest:
        return ()
    other = found.config if found.original is None else found.original
    fields = sorted(n for n in {*own, *other} if own.get(n) != other.get(n))
    full = [architecture.resolve_config(config) for config in (own, other)]
    passed = {n for n in fields if n in NOT_COMPUTED or is_rate(n, own.get(n), other.get(n))}
    passed |= {
        n for n in fields if n in full[0] and n in full[1] and full[0][n] == full[1][n]
    }  # a default, spelled out
    passed |= set(unread([n for n in fields if n not in passed], own, other))
    wrong = [f"{n} {_short(own.get(n))} there, {_short(other.get(n))} here" for n in fields if n not in passed]
    wrong += _tensors(planned, found)
    if wrong:
        more = f", and {len(wrong) - _MOST} more" if len(wrong) > _MOST else ""
        raise PlanError(
            f"{folder.path}: not the source that {grew.said_by} is about ({planned.location}): "
            f"{'; '.join(wrong[:_MOST])}{more}. After several growths verify each step by itself; or --record inferred "
            "asks the two checkpoints alone"
        )
    return (f"the source's config differs from the recorded one in fields that change nothing: {', '.join(fields)}",)


def _tensors(planned: SourceInfo, found: SourceInfo) -> list[str]:
    """Say which tensors are others."""
    before, after = ({t.stored: (list(t.shape), t.dtype) for t in info.tensors.values()} for info in (planned, found))
    wrong = [f"{name} is missing here" for name in before if name not in after]
    wrong += [f"{name} is not there" for name in after if name not in before]
    wrong += [
        f"{name} has {_said(before[name])} there, {_said(after[name])} here"
        for name in before
        if name in after and before[name] != after[name]
    ]
    return wrong


def _said(tensor: tuple[list[int], str]) -> str:
    return f"the shape {tensor[0]} in {tensor[1]}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else "a mapping" if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


__all__ = ["check_source"]
