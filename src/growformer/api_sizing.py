"""The public functions that choose sizes: for a consumer that splits a model, and for a number of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from growformer.api import Source, _violations, describe_source, grow, grow_checkpoint
from growformer.architecture.declaration import Architecture
from growformer.errors import RequestError
from growformer.planning.plan import Plan
from growformer.storage.folder import open_folder

if TYPE_CHECKING:
    from torch import nn

    from growformer.execute.checkpoint import GrownCheckpoint, Progress
    from growformer.execute.module import Build
    from growformer.sizing.flops import Flops


def plan_padding(
    source: Source,
    *,
    tensor_parallel: int = 1,
    multiple_of: int = 1,
    consumer: str = "transformers",
    trainable: bool = False,
    keep_class: bool = False,
    pad_hidden: bool = False,
    seed: int = 0,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Plan:
    """Plan the smallest growth with which a consumer can split the model; every output stays as it is.

    Args:
        source: a model folder or hub id, a config, or a live model.
        tensor_parallel: how many ranks share every layer: heads, kv heads and MLP width will divide by it.
        multiple_of: the group size of a quantisation: each rank's inputs of a matrix will divide by it.
        consumer: whose rules hold: ``transformers``, ``vllm`` or ``sglang``.
        trainable: fill new weights that no output depends on as for training. By default they are zero, and what is
            new neither computes nor learns anything.
        keep_class: do not write the model as another class where its own cannot say the sizes.
        pad_hidden: make the hidden size a multiple of ``multiple_of`` as well.
        seed: of fresh values.
        architecture: the declaration of an own model.
        config: the config of a live model that has none.
        revision: of a hub model.

    Returns:
        The plan; its notes say why these sizes, and it changes nothing where the source fits already.

    Raises:
        RequestError: no sizes fit; the message says what was tried.
        SourceError, UnknownArchitectureError: as ``growformer.plan``.
    """
    from growformer.sizing.consumers import consumer_of
    from growformer.sizing.padding import Fit
    from growformer.sizing.padding import plan_padding as make

    fit = Fit(
        tensor_parallel=tensor_parallel,
        multiple_of=multiple_of,
        consumer=consumer_of(consumer),
        keep_class=keep_class,
        pad_hidden=pad_hidden,
    )
    found, info = describe_source(source, architecture, config, revision)
    return _checked(make(found, info, fit, init="normal" if trainable else "zero", seed=seed))


@overload
def pad(
    source: nn.Module, out: None = None, *, plan: Plan | None = None, build: Build | None = None, **options: Any
) -> nn.Module: ...
@overload
def pad(
    source: str | Path,
    out: str | Path,
    *,
    plan: Plan | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress | None = None,
    revision: str | None = None,
    **options: Any,
) -> GrownCheckpoint: ...
def pad(
    source: Any,
    out: str | Path | None = None,
    *,
    plan: Plan | None = None,
    build: Build | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress | None = None,
    revision: str | None = None,
    **options: Any,
) -> nn.Module | GrownCheckpoint:
    """Make heads, kv heads and MLP width divide by a tensor-parallel degree and a group size; outputs stay.

    Args:
        source: a live model, or with ``out`` a model folder or hub id.
        out: a folder that does not exist yet.
        plan: of ``plan_padding``, instead of its options.
        build: makes a live model from a config dictionary; by default the class that the plan names.
        dtype: of the result; by default each tensor keeps its own.
        max_shard_bytes: the largest shard.
        progress: called with bytes written, bytes in all, tensor name.
        revision: of a hub model.
        options: as for ``plan_padding``: ``tensor_parallel``, ``multiple_of``, ``consumer``, …

    Returns:
        A padded model, of the source's class or of the one that can say the sizes; or what was written.

    Raises:
        RequestError: as ``plan_padding``; or ``out`` is missing, or given for a live model.
        OutputError: ``out`` exists or cannot be written.
    """
    if plan is not None and options:
        raise RequestError(f"{', '.join(sorted(options))}: the plan decides that already; leave out one of the two")
    if hasattr(source, "state_dict"):
        if out is not None:
            raise RequestError(
                "out is for a model folder: a live model is returned; save it with save_pretrained, or pass the folder"
            )
        return grow(source, plan=plan or plan_padding(source, **options), build=build)
    if out is None:
        raise RequestError(f"{source}: a folder is padded into another; pass out=, or a live model")
    folder = open_folder(source, revision)
    return grow_checkpoint(
        source,
        out,
        plan=plan or plan_padding(folder, **options),
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        progress=progress,
        revision=folder.revision,
    )


def suggest(
    source: Source,
    *,
    factors: Sequence[float] = (1.5, 2.0, 4.0),
    shape: str = "balanced",
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> dict[float, Plan | str]:
    """Return plans to several multiples of a source's parameters, in its proportions.

    Args:
        source: as for ``growformer.plan``.
        factors: the multiples.
        shape: ``balanced``, ``deeper`` or ``wider``.
        architecture: the declaration of an own model.
        config: the config of a live model that has none.
        revision: of a hub model.

    Returns:
        Multiple -> the plan, or why there is none.
    """
    from growformer.sizing.suggest import suggest as make

    found, info = describe_source(source, architecture, config, revision)
    return {f: p if isinstance(p, str) else _checked(p) for f, p in make(found, info, factors, shape)}


def flops(
    source: Source,
    *,
    architecture: Architecture | None = None,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Flops:
    """Return what a token costs in matrices and in attention, from the declaration and the sizes alone.

    It is what PyTorch's ``FlopCounterMode`` counts with eager attention: ``flops(model).training(tokens, length)`` for
    forward and backward passes.

    Args:
        source: as for ``growformer.plan``.
        architecture: the declaration of an own model.
        config: the config of a live model that has none.
        revision: of a hub model.

    Raises:
        RequestError: the declaration does not say how many tokens meet every weight.
        SourceError, UnknownArchitectureError: as ``growformer.plan``.
    """
    from growformer.sizing.flops import count_flops

    described, info = describe_source(source, architecture, config, revision)
    found = count_flops(described, info)
    if found is None:
        raise RequestError(
            f"{described.name}: how many tokens meet every weight is not declared (a convolution over the input, or "
            "experts without a count), and so its FLOPs are not known"
        )
    return found


def _checked(made: Plan) -> Plan:
    wrong = _violations(made)
    if wrong:
        raise RequestError(f"this would change what the model computes:\n  {wrong}")
    return made
