"""The public functions: what the package's front door offers, put together from the parts behind it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import for_config
from growformer.architecture.source import SourceInfo, from_config, specialised, without_absent_heads
from growformer.errors import PlanError, RequestError, SourceError
from growformer.planning.initialisation import Custom
from growformer.planning.layers import NewLayersAt
from growformer.planning.plan import Plan
from growformer.planning.planner import make_plan
from growformer.planning.transformations import Transformation, merge
from growformer.storage.dcp import NEEDS_CONFIG, is_dcp, open_dcp
from growformer.storage.folder import ModelFolder, open_folder, open_headers, read_json

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from growformer.drafting.draft import Draft
    from growformer.execute.checkpoint import GrownCheckpoint, Progress
    from growformer.execute.companion import Companion
    from growformer.execute.distributed import Parallelize
    from growformer.execute.module import Build
    from growformer.training.update_rules import UpdateRules
    from growformer.verification.verification import Verification

Source = Any
"""A model folder or hub id, a config (a dictionary, or the path of a config.json), a live model, or an Inspection."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a source is, before anything is decided.

    Attributes:
        source: its description.
        architecture: its declaration.
        sizes: size field -> (value, axes that it sets).
        num_parameters: how many parameters it has; tied ones count once.
        fixed: sizes that cannot grow -> why.
    """

    source: SourceInfo
    architecture: Architecture
    sizes: Mapping[str, tuple[Any, tuple[str, ...]]]
    num_parameters: int
    fixed: Mapping[str, str] = field(default_factory=dict)


def plan(
    source: Source,
    *transformations: Transformation,
    like: Mapping[str, Any] | str | Path | None = None,
    new_layers_at: NewLayersAt | None = None,
    new_layers: str | None = None,
    init: str | Custom = "normal",
    seed: int = 0,
    set_fields: Mapping[str, Any] | None = None,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    to_parameters: str | int | None = None,
    shape: str | None = None,
    **sizes: Any,
) -> Plan:
    """Plan a growth that leaves every output as it is; reads config and headers only.

    One exception: where a folder stores a head that its config calls tied, it is compared with the embedding.

    Args:
        source: a model folder or hub id, a config, a live model, or what ``inspect`` gave of one.
        transformations: any of the six, in any order.
        like: a target config (a dictionary, or a path) whose sizes are the request.
        new_layers_at: ``interleave`` (default), ``end``, or positions in the target.
        new_layers: ``copy`` (default) or ``random``.
        init: how free blocks are filled: ``normal``, ``copy``, ``orthogonal``, or a function.
        seed: of all fresh values.
        set_fields: other config fields to change.
        architecture: the declaration of an own model.
        config: the config of a live model, or of a distributed checkpoint, that has none.
        revision: of a hub model.
        to_parameters: a number of parameters, ``"1.2B"``, instead of sizes; the plan's notes say what was chosen.
        shape: of such a growth: ``balanced`` (default), ``deeper`` or ``wider``.
        sizes: the request in the model's own config names: ``hidden_size=1024``.

    Returns:
        The plan: ``print(plan.explain())``, ``plan.check()``, ``plan.to_json()``.

    Raises:
        SourceError: the source cannot be read, or its tensors do not fit its config.
        RequestError: the request cannot be met; the message names the nearest that can.
        NotPreservableError: no weights of these sizes compute the same function.
        UnknownArchitectureError: no declaration describes the model.
    """
    architecture, info = describe_source(source, architecture, config, revision)
    if like is not None:
        sizes = {**_sizes_like(architecture, info, like), **sizes}
    options: dict[str, Any] = {}
    for entry in transformations:
        if not isinstance(entry, Transformation):
            raise RequestError(f"expected a transformation such as MLPExpansion(intermediate_size=…), got {entry!r}")
    if transformations:
        request, options = merge(transformations, architecture, info.sizes)
        twice = sorted(set(request) & set(sizes))
        if twice:
            raise RequestError(f"{', '.join(twice)}: asked for by a transformation and by keyword; leave one out")
        sizes = {**request, **sizes}
    if new_layers_at is not None:
        options["new_layers_at"] = new_layers_at
    if new_layers is not None:
        options["new_layers"] = new_layers
    options |= {"init": init, "seed": seed, "set_fields": set_fields}
    if to_parameters is not None:
        from growformer.sizing.suggest import plan_to_parameters

        if sizes:
            raise RequestError(f"to_parameters chooses all sizes: leave out {', '.join(sizes)}, or to_parameters")
        made = plan_to_parameters(architecture, info, to_parameters, shape=shape or "balanced", **options)
    elif shape is not None:
        raise RequestError(f"shape = {shape!r} goes with to_parameters, as in to_parameters='1.2B'")
    else:
        made = make_plan(architecture, info, sizes, **options)
    wrong = _violations(made)
    if wrong:
        raise RequestError(f"this would change what the model computes:\n  {wrong}")
    return made


def _violations(made: Plan) -> str:
    """Return what the spaces and the target config of a plan break, by code that does not know the planner."""
    import json

    from growformer.verification.conditions import local_conditions

    return "\n  ".join(map(str, local_conditions(json.loads(made.to_json()))[:12]))


def _given(made: Plan | None) -> Plan | None:
    """Return a plan that was handed over, once it has been checked: it may come from a file that was edited.

    Raises:
        PlanError: it would change what the model computes.
    """
    wrong = _violations(made) if made is not None else ""
    if wrong:
        raise PlanError(f"the plan would change what the model computes:\n  {wrong}")
    return made


_plan = plan  # the functions below have a parameter of that name


@overload
def grow(
    model: nn.Module,
    *transformations: Transformation,
    optimizer: None = None,
    parallelize: Parallelize | None = None,
    free_source: bool = False,
    plan: Plan | None = None,
    build: Build | None = None,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module: ...


@overload
def grow(
    model: nn.Module,
    *transformations: Transformation,
    optimizer: Optimizer,
    state: str = "carry",
    slots: Mapping[str, int] | None = None,
    updates: UpdateRules | None = None,
    parallelize: Parallelize | None = None,
    free_source: bool = False,
    plan: Plan | None = None,
    build: Build | None = None,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[nn.Module, Optimizer]: ...


@overload
def grow(
    model: nn.Module,
    *transformations: Transformation,
    optimizer: Iterable[Optimizer],
    state: str = "carry",
    slots: Mapping[str, int] | None = None,
    updates: UpdateRules | None = None,
    parallelize: Parallelize | None = None,
    free_source: bool = False,
    plan: Plan | None = None,
    build: Build | None = None,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[nn.Module, Sequence[Optimizer]]: ...


def grow(
    model: nn.Module,
    *transformations: Transformation,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    state: str = "carry",
    slots: Mapping[str, int] | None = None,
    updates: UpdateRules | None = None,
    parallelize: Parallelize | None = None,
    free_source: bool = False,
    plan: Plan | None = None,
    build: Build | None = None,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module | tuple[nn.Module, Optimizer | Sequence[Optimizer]]:
    """Return a larger model of the same class that computes the same outputs. The source is not changed.

    With its optimizer, training goes on: the same optimizer object then holds the grown model's parameters, with state
    that follows the plan, and is returned as well. What copies a frozen parameter is frozen too, and a warning says so.

    Among several ranks every one makes this call with the same arguments. A model in DistributedDataParallel comes back
    in one with the same settings. One that ``fully_shard`` spread over ranks grows shard by shard, into what
    ``parallelize`` says, with the parameters that one process would give, bit by bit.

    Args:
        model: a ``transformers`` model, or any module with an ``architecture`` declaration.
        transformations: any of the six, in any order.
        optimizer: of torch, or any whose state has the parameter's shape; or several, such as Muon for matrices and
            AdamW for the rest, which come back as they were given, or as a list where that was no sequence. Together
            they hold all that learns: a warning names what they leave out.
        state: what becomes of its state: ``carry``, ``zero-new`` or ``drop``; see ``execute.optimizer``.
        slots: name of a slot that torch does not have -> the power of the gradient that it averages.
        updates: how what is new and what is old is updated from then on; by default, new regions get the bias
            correction of their own age in Adam and AdamW, and copied layers fade in over 50 steps; gradients that have
            been accumulated are not carried over, so grow after a step. See ``growformer.UpdateRules``.
        parallelize: shards the grown model in place, as with ``fully_shard``, or returns it; gets it with parameters on
            the meta device.
        free_source: free each of the source's tensors, and its optimizer state, after its last reader: neither can be
            used afterwards.
        plan: a plan made for this model, instead of a request.
        build: makes a model from a config dictionary; by default the model's own class.
        architecture: the declaration of an own model.
        config: its config, where ``model.config.to_dict()`` does not give one.
        options: as for ``growformer.plan``: sizes, ``init``, ``seed``, ``new_layers_at``, …

    Raises:
        As ``growformer.plan``.
    """
    if not hasattr(model, "state_dict"):
        raise SourceError(
            f"expected a live model, got {type(model).__name__}; grow_checkpoint grows a model folder into another"
        )
    from growformer.execute.data_parallel import check_wrapper, rewrapped, unwrapped

    if parallelize is None:
        check_wrapper(model)
    source = unwrapped(model)
    made = _given(plan) or _plan(source, *transformations, architecture=architecture, config=config, **options)
    optimizers: list[Optimizer] = []
    if optimizer is not None:
        from growformer.execute.optimizer import check_optimizers
        from growformer.training.optimizers import listed, warn_of_left_out

        optimizers = listed(optimizer)
        check_optimizers(optimizers, source, state=state, slots=slots)
        warn_of_left_out(optimizers, source, stacklevel=3)
    grown = _grown(made, source, build, parallelize, free_source)
    if optimizers:
        _warn_of_frozen(made, grown)
    for each in optimizers:
        from growformer.training.continuation import continue_training

        continue_training(made, each, source, grown, state=state, slots=slots, updates=updates, free_source=free_source)
    if free_source:
        source.to("meta")
    result = grown if parallelize is not None else rewrapped(model, grown)
    if optimizer is None:
        return result
    several = optimizer if isinstance(optimizer, Sequence) else optimizers
    return result, optimizers[0] if optimizer is optimizers[0] else several


def _warn_of_frozen(made: Plan, grown: nn.Module) -> None:
    from growformer.execute.module import frozen_copies

    frozen = frozen_copies(made, grown)
    if frozen:
        warnings.warn(
            f"{len(frozen)} parameters of new layers are frozen, as those that they copy are ({frozen[0]} first); to "
            "train them and keep the old as they are, thaw the model, pass all parameters to the optimizer and grow "
            "with updates=UpdateRules(freeze_old=True)",
            stacklevel=3,
        )


def _grown(
    made: Plan, source: nn.Module, build: Build | None, parallelize: Parallelize | None, free_source: bool
) -> nn.Module:
    """Return a grown module, by the executor that the call asks for."""
    from growformer.execute.distributed import grow_sharded, is_distributed
    from growformer.execute.module import grow_module

    if parallelize is None and not free_source and not is_distributed(source):
        return grow_module(made, source, build)
    return grow_sharded(made, source, parallelize, build, free_source=free_source)


def grow_checkpoint(
    source: str | Path | ModelFolder,
    out: str | Path,
    *transformations: Transformation,
    plan: Plan | None = None,
    state: str | None = None,
    slots: Mapping[str, int] | None = None,
    updates: UpdateRules | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    threads: int | None = None,
    keep_code: bool = False,
    progress: Progress | None = None,
    revision: str | None = None,
    **options: Any,
) -> GrownCheckpoint:
    """Write a grown checkpoint that stock classes load; it appears whole or not at all.

    Memory does not depend on the size of the model; of a training state, there is one slot of one parameter at a time
    beside mapped files. A run that was stopped is continued by the same call. Under
    ``torchrun`` every rank makes this call, and they share the work.

    Of a checkpoint of ``transformers``' Trainer, the training state grows as well: ``Trainer.train`` resumes from the
    result with the same step, order of data and learning rate, and moments that follow the plan.

    A folder of ``torch.distributed.checkpoint`` becomes another one, with the optimizer's state, tensor by tensor in
    one process. Its config is the ``config.json`` in it, or ``config=``; of the keywords below it takes ``plan``,
    ``state``, ``slots`` and those of ``growformer.plan``.

    Args:
        source: a model folder or hub id, or a folder of ``torch.distributed.checkpoint``.
        out: a folder that does not exist yet.
        transformations: any of the six, in any order.
        plan: a plan made for this source, instead of a request.
        state: of a training checkpoint, what becomes of the optimizer's state: ``carry`` (default), ``zero-new`` or
            ``drop``, see ``execute.optimizer``; ``omit`` leaves Trainer's behind.
        slots: name of a slot that torch's optimizers do not have -> the power of the gradient that it averages.
        updates: how what is new and what is old is updated from then on, with ``growformer.RegionUpdatesCallback``.
        dtype: of the result; by default each tensor keeps its own. Optimizer state keeps its own in any case.
        max_shard_bytes: the largest shard.
        threads: how many make and write; by default one more than cores, at most 8. The bytes do not depend on it.
        keep_code: carry the source's code files, unread, and their names in the config.
        progress: called with bytes written, bytes in all, tensor name.
        revision: of a hub model.
        options: as for ``growformer.plan``.

    Raises:
        As ``growformer.plan``, and OutputError where ``out`` exists or cannot be written. RequestError and SourceError
        also where the training state does not fit the model, is of another step, or cannot be grown.
    """
    if not isinstance(source, ModelFolder) and is_dcp(source):
        given = {"dtype": dtype, "threads": threads, "keep_code": keep_code, "revision": revision, "updates": updates}
        asked = [name for name, value in given.items() if value]
        if asked:
            raise RequestError(f"{source}: a distributed checkpoint is grown without {', '.join(asked)}; leave it out")
        from growformer.execute.dcp import grow_dcp

        made = _given(plan) or _plan(source, *transformations, **options)
        return grow_dcp(made, open_dcp(source), out, state=state or "carry", slots=slots)
    from growformer.execute.checkpoint import grow_folder

    folder = source if isinstance(source, ModelFolder) else open_folder(source, revision)
    made = _given(plan) or _plan(folder, *transformations, **options)
    return grow_folder(
        made,
        folder,
        out,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        threads=threads,
        keep_code=keep_code,
        progress=progress,
        companion=training_state(made, folder, state=state, slots=slots, updates=updates),
    )


def training_state(
    plan: Plan,
    folder: ModelFolder,
    *,
    state: str | None = None,
    slots: Mapping[str, int] | None = None,
    updates: UpdateRules | None = None,
) -> Companion | None:
    """Return what grows the training state of a folder, if it has any; torch is not imported where it has none.

    Raises:
        RequestError: as ``training.trainer_checkpoint.trainer_checkpoint``.
    """
    from growformer.execute.side_files import TRAINER_STATE

    asked = state is not None or slots is not None or updates is not None
    if not asked and not (folder.path / TRAINER_STATE).exists():
        return None
    from growformer.training.trainer_checkpoint import trainer_checkpoint

    return trainer_checkpoint(plan, folder, state=state, slots=slots, updates=updates)


def verify(source: Source, grown: Source, *, checks: Sequence[str] | str | None = None, **options: Any) -> Verification:
    """Check that a grown model computes what its source computes.

    Args:
        source: a folder, a hub id, or a live model.
        grown: likewise.
        checks: ``constraints`` (every value, no forward pass), ``outputs`` (both models on the same inputs),
            ``trainability`` (which new parameters learn in two steps). By default all three, as far as memory allows;
            of live models without ``plan=`` only outputs, and the others by what both models show if asked for.
        options: see ``growformer.verification.verification.verify``.
    """
    from growformer.verification.verification import verify as run

    return run(source, grown, checks=checks, **options)


def inspect(
    source: Source,
    *,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Inspection:
    """Return what a source is: its sizes, what can grow, and what cannot and why; arguments as for ``plan``."""
    from math import prod

    architecture, info = describe_source(source, architecture, config, revision)
    resolved = architecture.resolve_config(info.sizes)
    from growformer.architecture.exact import names_in

    sizes = {
        name: (resolved[name], tuple(a for a, e in architecture.sizes.items() if name in names_in(e)))
        for name in architecture.size_fields()
        if name in resolved
    }
    return Inspection(info, architecture, sizes, sum(prod(t.shape) for t in info.tensors.values()), architecture.fixed)


def draft_architecture(
    source: Source,
    *,
    build: Build | None = None,
    name: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Draft:
    """Draft a declaration for a model that no family describes: a start for a person, with what is unsure marked.

    The class is built small, without storage, at sizes that differ in one config field, and run small where it takes
    ``input_ids``. Nothing is written, and no weights are read.

    Args:
        source: a model folder or hub id, or a config.
        build: a function from a config dictionary to an ungrown model; by default the class of the config.
        name: of the family; the config's model_type by default.
        trust_remote_code: run the code of a class that comes with the checkpoint.
        revision: of a hub model.

    Returns:
        The draft: ``print(draft)`` gives a Python module, ``draft.problems`` what the oracles say against it.

    Raises:
        SourceError: the source cannot be read, or its class is code that was not asked to be run.
        UnknownArchitectureError: there is no class, or no family is like it.
    """
    from growformer.drafting.classes import builder
    from growformer.drafting.draft import draft

    folder: Path | None = None
    if isinstance(source, Mapping):
        config = dict(source)
    elif str(source).endswith(".json"):
        config, folder = read_json(Path(source), "expected a config.json"), Path(source).parent
    elif Path(source).is_dir():
        config, folder = read_json(Path(source) / "config.json", "every model folder has one"), Path(source)
    else:
        config = open_headers(source, revision).config
    if build is None:
        config, build = builder(config, folder, trust_remote_code=trust_remote_code)
    return draft(config, build, name=name)


def describe_source(
    source: Source,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> tuple[Architecture, SourceInfo]:
    """Return the declaration of a source and its description: its config, and the shape and dtype of every tensor.

    No weights are read, except as ``plan`` says of a head that is called tied.

    Args:
        source: a model folder or hub id, a config, a live model, or what ``inspect`` gave of one.
        architecture: the declaration of an own model; by default that of the config's family.
        config: the config of a live model, or of a distributed checkpoint, that has none.
        revision: of a hub model.

    Raises:
        SourceError: the source cannot be read, or its tensors do not fit its config.
        UnknownArchitectureError: no declaration describes the model.
    """
    if isinstance(source, Inspection):
        return source.architecture, source.source
    if isinstance(source, Mapping):
        found = architecture or for_config(dict(source))
        described = from_config(found, source)
        shapes = {info.stored: (info.shape, info.dtype) for info in described.tensors.values()}
        return without_absent_heads(specialised(found, shapes), described), described
    if isinstance(source, (str, Path)) and str(source).endswith(".json"):
        return describe_source(read_json(Path(source), "expected a config.json"), architecture)
    if isinstance(source, (str, Path)) and is_dcp(source):
        from growformer.execute.dcp import describe_dcp, parameters_of

        saved = open_dcp(source)
        fields = dict(config) if config is not None else read_json(Path(source) / "config.json", NEEDS_CONFIG)
        found = architecture or for_config(fields)
        found = specialised(found, parameters_of(found, saved))
        described = describe_dcp(found, saved, fields)
        return without_absent_heads(found, described), described
    if isinstance(source, (str, Path, ModelFolder)):
        folder = source if isinstance(source, ModelFolder) else open_headers(source, revision)
        found = specialised(architecture or for_config(folder.config), folder.shapes())
        from growformer.execute.checkpoint import describe_folder

        described = describe_folder(found, folder)
        return without_absent_heads(found, described), described
    if hasattr(source, "state_dict"):
        from growformer.execute.data_parallel import unwrapped
        from growformer.execute.module import config_of, describe_module, tensors_of

        model = unwrapped(source)
        found = architecture or for_config(dict(config) if config is not None else config_of(model))
        found = specialised(found, {name: (tuple(t.shape), "") for name, t in tensors_of(model).items()})
        described = describe_module(found, model, config)
        return without_absent_heads(found, described), described
    raise SourceError(f"expected a model folder, a hub id, a config or a live model, got {type(source).__name__}")


def _sizes_like(architecture: Architecture, info: SourceInfo, like: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Return the sizes of a target config that differ from the source's.

    Raises:
        RequestError: the target is of another model type.
    """
    target = like if isinstance(like, Mapping) else read_json(Path(like), "expected the target's config.json")
    wanted, present = target.get("model_type"), info.config.get("model_type")
    if wanted != present:
        raise RequestError(f"the target config is of model_type {wanted!r}, the source of {present!r}")
    resolved, source = architecture.resolve_config(target), architecture.resolve_config(info.sizes)
    return {
        name: resolved[name]
        for name in architecture.size_fields()
        if name in resolved and resolved[name] != source.get(name)
    }
