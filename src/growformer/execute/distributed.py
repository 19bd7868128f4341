"""The distributed executor: the grown model is sharded while it has no storage, then every rank fills its own part.

    agree       all ranks say what they were asked for, and what they hold of what
    parallelize the grown model, on the meta device, is handed to the function that shards it
    fill        tensor by tensor: one source tensor is gathered, each rank takes from it what its part needs

The same blocks give any region of a tensor, and fresh values depend on logical coordinates alone, so that the result
equals that of one process bit by bit. A source can be freed as it is read.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from growformer.architecture.source import tied_to
from growformer.errors import PlanError, RequestError
from growformer.execute.empty import parameters_on_meta
from growformer.execute.module import Build, build_ungrown, class_of, match, plain_name, restore_ties, tensors_of
from growformer.execute.placement import (
    OneWhole,
    bounds_of,
    describe_placement,
    is_sharded,
    local,
    placed_like,
    placement_trouble,
    release,
    working_device,
)
from growformer.execute.ranks import Ranks, current
from growformer.execute.stored import StoredTensor, materialise_stored, stored_tensors, take
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan

Parallelize = Callable[[nn.Module], nn.Module | None]
"""Shards a model whose parameters lie on the meta device: in place, or it returns the model."""


def is_distributed(model: nn.Module) -> bool:
    """Return whether any parameter of a model is a DTensor."""
    return any(is_sharded(tensor) for tensor in tensors_of(model).values())


def grow_sharded(
    plan: Plan,
    model: nn.Module,
    parallelize: Parallelize | None,
    build: Build | None = None,
    *,
    free_source: bool = False,
) -> nn.Module:
    """Return a grown model whose parameters are sharded by ``parallelize``, filled rank by rank.

    A rank holds its parts of source and target, one gathered source tensor, and the float64 of some rows. Every rank
    calls this with the same arguments; the parameters equal those of ``execute.module`` bit by bit.

    Args:
        plan: made for this model.
        model: the source, sharded or not.
        parallelize: gets the grown model with ties, dtypes, mode and ``requires_grad`` as they will be, parameters on
            the meta device, buffers as the class computes them. None: the grown model is whole on every rank.
        build: makes a model from the target config; by default the model's own class does.
        free_source: free every source tensor after its last reader; the source cannot be used any more.

    Raises:
        PlanError: the grown tensors do not fit the class, or the plan does not fit the source.
        RequestError: ranks disagree, placements that are not supported, or ``parallelize`` broke the model. Nothing
            has been changed then.
    """
    ranks = current("nothing was grown", RequestError) if parallelize or is_distributed(model) else Ranks()
    source = tensors_of(model)
    ranks.together(lambda: check_source(plan, source, parallelize, free_source=free_source))
    agree(ranks, "the plan", {"the plan": plan.to_json()})
    agree(ranks, "the model to grow", {name: _said(tensor) for name, tensor in source.items()})
    made: list[nn.Module] = []
    ranks.together(lambda: made.append(_parallelized(plan, model, build, parallelize)))
    grown = made[0]
    agree(ranks, "the grown model", {name: _said(tensor) for name, tensor in tensors_of(grown).items()})
    _fill(plan, source, grown, Readers(plan) if free_source else None)
    return grown


def check_source(
    plan: Plan, source: Mapping[str, torch.Tensor], parallelize: Parallelize | None, *, free_source: bool
) -> None:
    """Refuse a source that the plan was not made for, or that cannot be read region by region.

    Raises:
        PlanError: a tensor is missing, or has another shape.
        RequestError: a placement that is not supported, or sharded parameters and no ``parallelize``.
    """
    for name in {info.stored for info in plan.source.tensors.values()}:
        if name not in source:
            raise PlanError(f"the model has no {name!r}, which the plan reads")
    for canonical, info in plan.source.tensors.items():
        shape = tuple(source[info.stored].shape)
        if info.piece is None and shape != info.shape:
            raise PlanError(f"{canonical} has shape {list(shape)}; the plan was made for {list(info.shape)}")
    storages: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in source.items():
        trouble = placement_trouble(tensor)
        if trouble is not None:
            raise RequestError(f"{name} {trouble}")
        address = local(tensor).untyped_storage().data_ptr()
        other, holder = storages.setdefault(address, (name, tensor))
        if free_source and address and holder is not tensor and is_sharded(tensor):
            raise RequestError(
                f"{name} and {other} lie in one storage, so that neither can be freed: free_source=False"
            )
    if parallelize is None and any(map(is_sharded, source.values())):
        raise RequestError(
            "the model's parameters are sharded; say how the grown model's are, as in parallelize=fn, a function that "
            "calls fully_shard on it as your training script does"
        )


def agree(ranks: Ranks, what: str, facts: Mapping[str, str]) -> None:
    """Let all ranks compare what they know.

    Raises:
        RequestError: on every rank, with the first thing that differs.
    """
    text = repr(sorted(facts.items()))
    if len(set(ranks.together(lambda: hashlib.sha256(text.encode()).hexdigest()))) == 1:
        return
    every = ranks.together(lambda: dict(facts))
    for name in sorted(set().union(*every)):
        said = [one.get(name, "not there") for one in every]
        other = next((rank for rank, one in enumerate(said) if one != said[0]), None)
        if other is not None:
            differs = "" if len(said[0]) > 500 else f": rank 0 has {said[0]}; rank {other} has {said[other]}"
            where = what if name == what else f"{what}, {name}"
            raise RequestError(
                f"ranks disagree about {where}{differs}; every rank must call this with the same model and arguments"
            )


def describe_state(optimizer: torch.optim.Optimizer, named: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return what an optimizer holds for each named parameter, in words that ranks can compare."""
    return {
        name: ", ".join(
            f"{slot}: {_said(value) if isinstance(value, torch.Tensor) else type(value).__name__}"
            for slot, value in sorted(optimizer.state[parameter].items())
        )
        for name, parameter in named.items()
        if parameter in optimizer.state
    }


def _said(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}, {describe_placement(tensor)}"


def _parallelized(plan: Plan, model: nn.Module, build: Build | None, parallelize: Parallelize | None) -> nn.Module:
    """Return the grown model without values, sharded and checked."""
    with parameters_on_meta():
        grown = build_ungrown(plan, model, build)
    _shape(plan, grown)
    restore_ties(plan, grown)
    match(plan, model, grown)
    before = tensors_of(grown)
    if parallelize is not None:
        result = parallelize(grown)
        if result is not None and not isinstance(result, nn.Module):
            raise RequestError(
                f"parallelize returned {type(result).__name__}: expected the model, or None after sharding in place"
            )
        grown = grown if result is None else result
    after = tensors_of(grown)
    _check_parallelized(plan, before, after)
    return grown


def _shape(plan: Plan, grown: nn.Module) -> None:
    """Give the parameters of an empty model the plan's dtypes.

    Raises:
        PlanError: it has other tensors than the plan, or of other shapes.
    """
    present = tensors_of(grown)
    planned = {stored.name: stored for stored in stored_tensors(plan)}
    missing = sorted(set(present) - set(planned) - set(plan.source.dropped))
    unexpected = sorted(set(planned) - set(present))
    if missing or unexpected:
        raise PlanError(
            f"{class_of(grown).__name__} built from the target config has other tensors: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}"
        )
    left = sorted(set(present) - set(planned) - {alias for alias, _ in tied(plan)})
    left = [name for name in left if isinstance(present[name], nn.Parameter)]
    if left:
        raise PlanError(f"{left[0]}: {plan.source.dropped[left[0]]}, so that nothing gives the grown model its values")
    for name, stored in planned.items():
        tensor = present[name]
        if tuple(tensor.shape) != stored.shape:
            raise PlanError(
                f"the grown tensors do not fit {class_of(grown).__name__}: {name} has shape {list(tensor.shape)}, "
                f"expected {list(stored.shape)}"
            )
        if isinstance(tensor, nn.Parameter):
            dtype = getattr(torch, stored.dtype)
            empty = torch.empty(stored.shape, dtype=dtype, device="meta")
            _put(grown, name, nn.Parameter(empty, requires_grad=tensor.requires_grad))


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, parameter)


def _check_parallelized(plan: Plan, before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> None:
    lost, added = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    if lost or added:
        raise RequestError(
            f"parallelize renamed parameters: {', '.join(lost[:3]) or 'none'} became {', '.join(added[:3]) or 'none'}; "
            "expected the model that it was given, sharded in place, as fully_shard does"
        )
    for name, tensor in after.items():
        if tensor.shape != before[name].shape:
            raise RequestError(
                f"parallelize changed the shape of {name} from {list(before[name].shape)} to {list(tensor.shape)}"
            )
        trouble = placement_trouble(tensor)
        if trouble is not None:
            raise RequestError(f"after parallelize, {name} {trouble}")
    for alias, owner in tied(plan):
        if after[alias] is not after[owner]:
            raise RequestError(
                f"parallelize untied {alias} and {owner}, which are one parameter: let one fully_shard call take both "
                "modules, as in fully_shard(model) or fully_shard([embedding, head])"
            )


def tied(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the names that are left out because another one names the same parameter, with that one."""
    stored = {stored.name for stored in stored_tensors(plan)}
    for alias, reason in plan.source.dropped.items():
        owner = tied_to(reason)
        if owner in stored:
            yield alias, owner


class Readers:
    """Who is the last to read each source tensor, so that it can be freed then.

    Args:
        plan: what becomes of each tensor.
    """

    def __init__(self, plan: Plan) -> None:
        last: dict[str, str] = {}
        for stored in stored_tensors(plan):
            for name in sources_of(plan, stored):
                last[name] = stored.name
        self._finished: dict[str, list[str]] = defaultdict(list)
        for name, reader in last.items():
            self._finished[reader].append(name)

    def finished(self, stored: StoredTensor) -> list[str]:
        """Return the stored source tensors that nobody reads after a target tensor."""
        return self._finished.get(stored.name, [])


def sources_of(plan: Plan, stored: StoredTensor) -> Iterator[str]:
    """Yield the stored source tensors that a target tensor has values or a dtype from."""
    for spec, index, _ in stored.parts:
        yield plan.stored_origin(spec, index)
        for name in tensor_plan(plan, spec, index).sources():
            yield plan.source.tensors[name].stored


def _fill(plan: Plan, source: Mapping[str, torch.Tensor], grown: nn.Module, readers: Readers | None) -> None:
    """Give the grown model's parameters and persistent buffers their values, this rank's part of each."""
    targets = {plain_name(name): (name, tensor) for name, tensor in grown.state_dict(keep_vars=True).items()}
    wholes = OneWhole()

    def read(canonical: str) -> torch.Tensor:
        info = plan.source.tensors[canonical]
        return take(wholes.get(info.stored, lambda: source[info.stored]), info.piece)

    filled: dict[str, torch.Tensor] = {}
    for stored in stored_tensors(plan):
        _, like = targets[stored.name]
        spec, index, _ = stored.parts[0]
        origin = source[plan.stored_origin(spec, index)]
        part = materialise_stored(
            stored, plan, read, getattr(torch, stored.dtype), working_device(origin), within=bounds_of(like)
        ).to(_device_for(like, origin))
        value = placed_like(like, part)
        if isinstance(like, nn.Parameter):
            value = nn.Parameter(value, requires_grad=like.requires_grad)
        filled[stored.name] = value
        if readers is not None:
            for name in readers.finished(stored):
                release(source[name])
    for alias, owner in tied(plan):
        filled[alias] = filled[owner]
    grown.load_state_dict({targets[name][0]: value for name, value in filled.items()}, strict=False, assign=True)


def _device_for(like: torch.Tensor, origin: torch.Tensor) -> torch.device:
    """Return where a target's part goes: where it is, or where its source's is, or where its mesh is."""
    if local(like).device.type != "meta":
        return local(like).device
    if is_sharded(like) and not is_sharded(origin):
        return torch.device(like.device_mesh.device_type)
    return local(origin).device


__all__ = [
    "Parallelize",
    "Readers",
    "agree",
    "check_source",
    "describe_state",
    "grow_sharded",
    "is_distributed",
    "tied",
]
