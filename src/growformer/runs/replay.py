"""Replay: the growths of a log, done again on another model of the first size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.api import describe_source, grow
from growformer.architecture.serialise import architecture_from_json
from growformer.errors import PlanError, RequestError
from growformer.planning.plan import Plan
from growformer.runs.loop import refuse_other_sizes
from growformer.training.growth_log import GrowthEvent, GrowthLog

if TYPE_CHECKING:
    from torch import nn

    from growformer.execute.module import Build


def replay(
    log: GrowthLog | str | Path,
    model: nn.Module,
    *,
    growths: int | None = None,
    config: Mapping[str, Any] | None = None,
    build: Build | None = None,
) -> nn.Module:
    """Return a model grown by every plan of a log; from the weights that a growth had, bit for bit what it made.

    The plans are those of the log: nothing is planned again, and so no later version can decide otherwise.

    Args:
        log: a growth log, or where it is.
        model: of the sizes that the first growth had. It is not changed.
        growths: how many growths to do; by default all.
        config: the config of a model that has none.
        build: makes a model from a config dictionary; by default the model's own class.

    Raises:
        SourceError: the log cannot be read.
        RequestError: it has fewer growths, or the model has other sizes.
        PlanError: a plan of the log would change what the model computes.
    """
    log = log if isinstance(log, GrowthLog) else GrowthLog.load(log)
    count = len(log.events) if growths is None else growths
    if not 0 <= count <= len(log.events):
        raise RequestError(f"growths = {count}: the log has {len(log.events)}")
    for event in log.events[:count]:
        made = plan_of(event, model, config)
        model = grow(model, plan=made, build=build)
        config = dict(made.target_config) if config is not None else None
    return model


def plan_of(event: GrowthEvent, model: nn.Module, config: Mapping[str, Any] | None = None) -> Plan:
    """Return the plan of a growth, for a model of the sizes that it had.

    Raises:
        RequestError: the model has other sizes.
        PlanError: the log holds no plan.
    """
    missing = {"architecture", "source_config", "target_config"} - event.plan.keys()
    if missing:
        raise PlanError(f"growth {event.stage} of the log holds no plan: {', '.join(sorted(missing))} is missing")
    architecture = architecture_from_json(event.plan["architecture"])
    found, info = describe_source(model, architecture, config)
    refuse_other_sizes(found.resolve_config(info.sizes), event.sizes_before, f"growth {event.stage} of the log had")
    target = with_changes(info.config, event.plan["source_config"], event.plan["target_config"])
    return Plan.from_json(json.dumps({**event.plan, "source": info.to_json(), "target_config": target}))


def with_changes(config: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with what differs between two others; a live model's has fields that a file leaves out."""
    found = dict(config)
    for name in {**before, **after}:
        first, second = before.get(name), after.get(name)
        if first == second:
            continue
        inside = found.get(name)
        if all(isinstance(value, Mapping) for value in (inside, first, second)):
            found[name] = with_changes(inside or {}, first or {}, second or {})
        elif name in after:
            found[name] = second
        else:
            found.pop(name, None)
    return found


__all__ = ["plan_of", "replay", "with_changes"]
