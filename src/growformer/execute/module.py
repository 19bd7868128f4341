"""The module executor: a live model in, a new model of the same class out. The source is not changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from growformer.architecture.declaration import Architecture
from growformer.architecture.source import SourceInfo, describe, tied_to
from growformer.errors import PlanError, RequestError, SourceError
from growformer.execute.placement import is_sharded
from growformer.execute.state_dict import grow_state_dict
from growformer.execute.stored import stored_tensors
from growformer.planning.plan import Plan

Build = Callable[[dict[str, Any]], nn.Module]
"""Makes an ungrown model of the right sizes from a config dictionary; its values are overwritten."""


def describe_module(
    architecture: Architecture, model: nn.Module, config: Mapping[str, Any] | None = None
) -> SourceInfo:
    """Describe a live model: its config, and its parameters; tied ones count once.

    Raises:
        SourceError: the model has no config, lies on the meta device, is quantised, or does not fit the declaration.
    """
    config = config_of(model) if config is None else dict(config)
    owners: dict[tuple[int, int], str] = {}
    tensors: dict[str, tuple[tuple[int, ...], str]] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors_of(model).items():
        if tensor.device.type == "meta":
            raise SourceError(f"{name} lies on the meta device: the model has no weights to grow")
        tensors[name] = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        # Of a sharded parameter some ranks may hold nothing; one that is tied is the same object under both names.
        key = (id(tensor), 0) if is_sharded(tensor) else (tensor.data_ptr(), tensor.numel())
        owner = owners.setdefault(key, name) if tensor.numel() else name
        if owner != name:
            aliases[name] = owner
    aliases = towards_declared(architecture, aliases)
    return describe(architecture, config, tensors, aliases=aliases, location=class_of(model).__name__)


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a live model's parameters and persistent buffers by name, not copied, those of FSDP2 as its shards.

    Wrappers of activation checkpointing and of compilation leave no trace in the names.
    """
    return {plain_name(name): tensor for name, tensor in model.state_dict(keep_vars=True).items()}


def plain_name(name: str) -> str:
    """Return the name that a parameter has without wrappers around the modules that it is in."""
    for wrapper in ("_checkpoint_wrapped_module.", "_orig_mod."):
        name = name.replace(wrapper, "")
    return name


def class_of(model: nn.Module) -> type[nn.Module]:
    """Return a model's own class: ``fully_shard`` puts another one in front of it."""
    found = type(model)
    while len(found.__bases__) == 2 and found.__bases__[0].__module__.startswith("torch.distributed."):
        found = found.__bases__[1]
    return found


def config_of(model: nn.Module) -> dict[str, Any]:
    """Return a live model's config as a dictionary, with ``architectures`` naming its class.

    Raises:
        SourceError: the model has no ``config`` with ``to_dict``.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        raise SourceError(
            f"{type(model).__name__} has no config with to_dict(); pass config=... (a dictionary of its sizes)"
        )
    assert config is not None
    found = dict(config.to_dict())
    if hasattr(model, "base_model_prefix"):
        found["architectures"] = [class_of(model).__name__]
    return found


def grow_module(plan: Plan, model: nn.Module, build: Build | None = None) -> nn.Module:
    """Return a grown model of the same class, with the source's dtype, device, mode and ties.

    Args:
        plan: made for this model.
        model: the source; not changed, no storage is shared.
        build: makes a model from the target config; by default the model's own class does.

    Raises:
        PlanError: the grown tensors do not fit the class.
        RequestError: the class refuses the target config.
    """
    grown = build_ungrown(plan, model, build)
    state = grow_state_dict(plan, tensors_of(model))
    try:
        result = grown.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        raise PlanError(f"the grown tensors do not fit {type(grown).__name__}: {error}") from None
    left = set(result.missing_keys) - set(plan.source.dropped)
    if left or result.unexpected_keys:
        raise PlanError(
            f"{type(grown).__name__} built from the target config has other tensors: missing {sorted(left)[:3]}, "
            f"unexpected {sorted(result.unexpected_keys)[:3]}"
        )
    restore_ties(plan, grown)
    match(plan, model, grown)
    return grown


def build_ungrown(plan: Plan, model: nn.Module, build: Build | None = None) -> nn.Module:
    """Return a module of the target's class and sizes, with the parts that the source has; its values mean nothing.

    Raises:
        RequestError: the class refuses the target config.
    """
    own = _own_class if plan.source.original is None else _other_class
    grown = (build or own(model))(dict(plan.target_config))
    for path, part in list(grown.named_modules()):
        for name in [n for n, _ in part.named_children()]:
            counterpart = _at(model, path)
            if counterpart is not None and getattr(counterpart, name, part) is None:
                setattr(part, name, None)  # such as BertModel(add_pooling_layer=False)
    return grown


def _at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def towards_declared(architecture: Architecture, aliases: Mapping[str, str]) -> dict[str, str]:
    """Keep the owner of a tie (the embedding) and drop the other name (the head), whichever came first."""
    found: dict[str, str] = {}
    for name, owner in aliases.items():
        turned = any(owner.endswith(head) for head in architecture.ties)
        found[owner if turned else name] = name if turned else owner
    return found


def _own_class(model: nn.Module) -> Build:
    config = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        raise RequestError(
            f"{type(model).__name__} has no config to make a larger one from; pass build=, a function from a config "
            "dictionary to an ungrown model"
        )

    def build(target: dict[str, Any]) -> nn.Module:
        try:
            values = {k: v for k, v in target.items() if k not in ("model_type", "transformers_version")}
            if hasattr(model, "base_model_prefix"):
                from transformers.initialization import no_init_weights

                made = type(config)(**values)  # type: ignore[misc]
                for how in ("_attn_implementation", "_experts_implementation"):
                    if hasattr(config, how):
                        setattr(made, how, getattr(config, how))
                with no_init_weights():
                    grown = class_of(model)(made)
            else:
                made = type(config).from_dict(target)  # type: ignore[union-attr]
                grown = class_of(model)(made)
        except (ValueError, TypeError) as error:
            cause = error.__cause__ or error
            raise RequestError(
                f"{class_of(model).__name__} refuses the target config: {str(cause).strip().splitlines()[-1]}"
            ) from None
        return grown

    return build


def _other_class(model: nn.Module) -> Build:
    """Return what builds the class of transformers that the target config names, where it is not the source's."""

    def build(target: dict[str, Any]) -> nn.Module:
        import transformers
        from transformers.initialization import no_init_weights

        values = {k: v for k, v in target.items() if k not in ("model_type", "transformers_version")}
        try:
            made = transformers.AutoConfig.for_model(target["model_type"], **values)
            made._attn_implementation = model.config._attn_implementation  # type: ignore[union-attr]
            with no_init_weights():
                grown: nn.Module = getattr(transformers, target["architectures"][0])(made)
        except (ValueError, TypeError, AttributeError) as error:
            cause = error.__cause__ or error
            raise RequestError(
                f"{target['model_type']} refuses the target config: {str(cause).strip().splitlines()[-1]}"
            ) from None
        return grown

    return build


def restore_ties(plan: Plan, grown: nn.Module) -> None:
    """Let the parameters of a grown model that share storage in the source be one."""
    for alias, reason in plan.source.dropped.items():
        owner = tied_to(reason)
        if owner is not None and grown.get_parameter(alias) is not grown.get_parameter(owner):
            parent, _, leaf = alias.rpartition(".")
            setattr(grown.get_submodule(parent), leaf, grown.get_parameter(owner))


def frozen_copies(plan: Plan, grown: nn.Module) -> list[str]:
    """Return the names of parameters that are new and frozen, since those are that they copy: nothing trains them."""
    frozen = {plain_name(name) for name, parameter in grown.named_parameters() if not parameter.requires_grad}
    return [stored.name for stored in stored_tensors(plan) if stored.name in frozen and plan.is_new(stored.parts[0][1])]


def match(plan: Plan, model: nn.Module, grown: nn.Module) -> None:
    """Give the grown model the source's mode, buffers' dtypes and devices, frozen state and generation settings.

    A parameter is frozen if the one is that it comes from or copies: layers have other numbers than in the source.
    """
    buffers = {plain_name(name): buffer for name, buffer in model.named_buffers()}
    for name, buffer in list(grown.named_buffers()):
        if name in buffers:
            parent, _, leaf = name.rpartition(".")
            moved = buffer.to(dtype=buffers[name].dtype, device=buffers[name].device)
            grown.get_submodule(parent)._buffers[leaf] = moved
    learning = {plain_name(n): p.requires_grad for n, p in model.named_parameters(remove_duplicate=False)}
    origins = {
        stored.name: plan.stored_origin(spec, index)
        for stored in stored_tensors(plan)
        for spec, index, _ in stored.parts[:1]
    }
    for name, p in grown.named_parameters():
        p.requires_grad_(learning.get(origins.get(name, name), p.requires_grad))
    grown.train(model.training)
    if getattr(model, "generation_config", None) is not None:
        grown.generation_config = copy.deepcopy(model.generation_config)
