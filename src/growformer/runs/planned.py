"""A schedule against a model: every stage planned from the one before, without weights, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from growformer.api import Inspection, Source, describe_source, plan
from growformer.architecture.declaration import Architecture
from growformer.architecture.source import SourceInfo, TensorInfo, spelled
from growformer.errors import GrowformerError, RequestError
from growformer.planning.plan import Plan
from growformer.training.schedule import GrowthSchedule


def plan_schedule(
    schedule: GrowthSchedule,
    source: Source,
    *,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    first: int = 0,
    ask_class: bool = True,
) -> list[Plan]:
    """Plan every stage of a schedule, each from what the one before it makes; no weights are read.

    Args:
        schedule: the schedule.
        source: what the first stage grows: a model folder or hub id, a config, or a live model.
        architecture: the declaration of an own model.
        config: the config of a live model that has none.
        revision: of a hub model.
        first: the number of stages that the source has been grown to already.
        ask_class: whether the model's class is asked if it takes every config.

    Returns:
        The plans of the stages from ``first`` on.

    Raises:
        GrowformerError: as ``growformer.plan``, of the first stage that cannot be met; the message names it.
    """
    found, info = describe_source(source, architecture, config, revision)
    plans: list[Plan] = []
    for number in range(first, len(schedule.stages)):
        stage = schedule.stages[number]
        try:
            made = plan(Inspection(info, found, {}, 0), **stage.request)
            check_growth(made)
            if ask_class:
                _ask_class(made)
        except GrowformerError as error:
            raise type(error)(f"{schedule.title(number)}: {error}") from None
        plans.append(made)
        found, info = made.architecture, described_target(made)
    return plans


def described_target(made: Plan) -> SourceInfo:
    """Return the target of a plan as the source of a next one."""
    source = made.source
    tensors = {}
    for spec, index in made.specs():
        shape = tuple(made.term_size(dim.term, index) for dim in spec.dims)
        stored = spelled(made.architecture, source, spec.template, index)
        tensors[spec.name(index)] = TensorInfo(stored, shape, made.source_dtype(spec, index))
    return SourceInfo(
        config=made.target_config,
        tensors=tensors,
        templates=source.templates,
        prefix=source.prefix,
        spelling=source.spelling,
        tied=source.tied,
        location=source.location,
        inferred=source.inferred,
    )


def check_growth(made: Plan) -> None:
    """Refuse a plan that a run cannot go on with.

    Raises:
        RequestError: it makes nothing larger, or a model of another class.
    """
    if made.source.original is not None:
        raise RequestError("it would write the model as another class, which a run cannot go on with")
    fields = [name for name in made.architecture.size_fields() if name in made.target_sizes]
    if all(made.source_sizes.get(name) == made.target_sizes[name] for name in fields):
        sizes = ", ".join(f"{name} = {made.target_sizes[name]}" for name in made.requested)
        raise RequestError(
            f"it repeats the sizes that the model has then ({sizes}). If the model has been grown by this schedule "
            "already, resume the run with its state; otherwise ask for larger sizes"
        )


def _ask_class(made: Plan) -> None:
    if "model_type" in made.target_config:
        from growformer.execute.class_check import check_with_class

        check_with_class(made, dict(made.target_config))


__all__ = ["check_growth", "described_target", "plan_schedule"]
