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
    from growformer.architecture.source import SourceInfo, TensorInfo
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
    one, two = (architecture.resolve_config(config) for config in (own, other))  # with defaults spelled out
    passed = {n for n in fields if n in NOT_COMPUTED or is_rate(n, own.get(n), other.get(n))}
    passed |= {n for n in fields if n in one and n in two and one[n] == two[n]}
    passed |= set(unread([n for n in fields if n not in passed], own, other))
    wrong = [f"{n} {_short(own.get(n))} there, {_short(other.get(n))} here" for n in fields if n not in passed]
    wrong += _tensors(planned, found)
    if wrong or not fields:
        said = "; ".join(wrong[:_MOST]) or "it records another digest"
        more = f", and {len(wrong) - _MOST} more" if len(wrong) > _MOST else ""
        raise PlanError(
            f"{folder.path}: not the source that {grew.said_by} is about ({planned.location}): {said}{more}. After "
            "several growths verify each step by itself; or --record inferred asks the two checkpoints alone"
        )
    return (f"the source's config differs from the recorded one in fields that change nothing: {', '.join(fields)}",)


def _tensors(planned: SourceInfo, found: SourceInfo) -> list[str]:
    """Say which declared tensors are others, or lie elsewhere in what is stored."""
    before, after = planned.tensors, found.tensors
    wrong = [f"{before[name].stored} is missing here" for name in before if name not in after]
    wrong += [f"{after[name].stored} is not there" for name in after if name not in before]
    both = [(before[name], after[name]) for name in before if name in after]
    wrong += [f"{_said(one)} there, {_said(other)} here" for one, other in both if one != other]
    return wrong


def _said(tensor: TensorInfo) -> str:
    part = "" if tensor.piece is None else f" as a part of {tensor.stored} ({tensor.piece})"
    return f"{tensor.stored} has the shape {list(tensor.shape)} in {tensor.dtype}{part}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else "a mapping" if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


__all__ = ["check_source"]
