"""A plan made for a folder, under the names that the model's parameters have in memory.

A folder may store other tensors than a model holds: experts one by one where the class has them in one tensor, names of
older versions. What belongs to a model in memory, such as an optimizer's state, goes by the latter. They are found by
building the class, without storage, from the source's config and from the target's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import for_config
from growformer.architecture.source import SourceInfo, describe, specialised
from growformer.errors import ArchitectureError, RequestError, SourceError
from growformer.execute.class_shapes import build_model
from growformer.execute.module import towards_declared
from growformer.execute.stored import StoredTensor, stored_tensors
from growformer.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class LiveParameter:
    """A parameter.

    Attributes:
        name: in ``named_parameters()``; of those that share storage, the first one.
        stored: the name that the plan has for it: of those that share storage, the one that is declared.
        shape: its shape.
        decays: whether Trainer's rule gives it weight decay.
        frozen: whether the class itself says that it is not trained; ``from_pretrained`` may forget that.
    """

    name: str
    stored: str
    shape: tuple[int, ...]
    decays: bool
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class LivePlan:
    """What becomes of the parameters of a model in memory.

    Attributes:
        plan: the plan; its stored names are those of parameters in memory.
        source: the source's parameters, in the order of ``named_parameters()``.
        target: the target's.
        tensors: stored name -> the target's tensor, of all that are parameters.
    """

    plan: Plan
    source: tuple[LiveParameter, ...]
    target: tuple[LiveParameter, ...]
    tensors: Mapping[str, StoredTensor]


def live_plan(plan: Plan) -> LivePlan:
    """Return a plan under the names of the parameters in memory.

    Raises:
        RequestError: transformers has no class for the model, or it builds other tensors than those of the folder.
    """
    own = dict(plan.source.config if plan.source.original is None else plan.source.original)
    source, info = _live(plan, own)
    view = replace(plan, source=info)
    target, _ = _live(plan, {n: v for n, v in plan.target_config.items() if n != "auto_map"}, describes=False)
    planned = {stored.name: stored for stored in stored_tensors(view)}
    # Tables that the class computes and freezes are in no checkpoint.
    source = tuple(p for p in source if not p.frozen or p.stored in {t.stored for t in info.tensors.values()})
    target = tuple(p for p in target if not p.frozen or p.stored in planned)
    for parameter in target:
        stored = planned.get(parameter.stored)
        if stored is None or stored.shape != parameter.shape:
            found = "no such tensor" if stored is None else f"shape {list(stored.shape)}"
            raise RequestError(
                f"the class of {plan.target_config.get('model_type')} builds a parameter {parameter.name} of shape "
                f"{list(parameter.shape)} from the target config, and the plan has {found}: what the optimizer keeps "
                "of it cannot be grown. Leave the optimizer state behind (state='omit', --optimizer-state omit)"
            )
    return LivePlan(view, source, target, {p.stored: planned[p.stored] for p in target})


def _live(
    plan: Plan, config: dict[str, Any], *, describes: bool = True
) -> tuple[tuple[LiveParameter, ...], SourceInfo]:
    """Return the parameters of a config's class, and the source as that class has it."""
    kind = config.get("model_type")
    model, refusal = build_model(config)
    if model is None:
        raise RequestError(
            f"the class of {kind} {'refuses the config: ' + refusal if refusal else 'is not one of transformers'}; "
            "without it there is no order of parameters, by which an optimizer's state is stored. Leave the state "
            "behind (state='omit', --optimizer-state omit)"
        )
    from transformers.trainer import Trainer

    decaying = set(Trainer.get_decay_parameter_names(None, model))
    tensors = model.state_dict(keep_vars=True)
    owners: dict[int, str] = {}
    aliases = {name: owner for name, t in tensors.items() if (owner := owners.setdefault(id(t), name)) != name}
    aliases = towards_declared(plan.architecture, aliases)
    if not plan.source.tied:  # a stored head that differs from the table is a parameter of its own
        aliases = {n: o for n, o in aliases.items() if not any(n.endswith(head) for head in plan.architecture.ties)}
    parameters: dict[str, LiveParameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        stored = aliases.get(name, name)
        if stored not in parameters:
            shape, frozen = tuple(parameter.shape), not parameter.requires_grad
            parameters[stored] = LiveParameter(name, stored, shape, name in decaying, frozen)
    found = tuple(parameters.values())
    if not describes:
        return found, plan.source
    shapes = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    return found, _described(plan, config, shapes, aliases)


def _described(
    plan: Plan,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[tuple[int, ...], str]],
    aliases: Mapping[str, str],
) -> SourceInfo:
    architecture: Architecture = plan.architecture
    where = f"{plan.source.location}: the class of {config.get('model_type')}"
    try:
        if plan.source.original is not None:
            architecture = specialised(for_config(dict(config)), shapes)
        info = describe(architecture, {**config, **plan.source.inferred}, shapes, aliases=aliases)
    except (SourceError, ArchitectureError) as error:
        raise RequestError(
            f"{where} builds other tensors than are stored: {error}. Leave the optimizer state behind (state='omit', "
            "--optimizer-state omit)"
        ) from None
    here, there = set(info.tensors), set(plan.source.tensors)
    wrong = next((n for n in sorted(here & there) if info.tensors[n].shape != plan.source.tensors[n].shape), None)
    if here != there or wrong is not None:
        name = wrong or min(here ^ there)
        raise RequestError(
            f"{where} and the folder differ in {name}: {_shape(info, name)} in the class, "
            f"{_shape(plan.source, name)} in the folder; expected the checkpoint of the class that "
            f"config.json names, {(config.get('architectures') or ['none'])[0]}. Leave the optimizer state behind "
            "(state='omit', --optimizer-state omit)"
        )
    own = plan.source
    return replace(
        info,
        config=own.config,
        templates=info.templates | own.zeros,
        location=own.location,
        inferred=own.inferred,
        zeros=own.zeros,
        original=own.original,
    )


def _shape(info: SourceInfo, name: str) -> str:
    return str(list(info.tensors[name].shape)) if name in info.tensors else "none"


__all__ = ["LiveParameter", "LivePlan", "live_plan"]
