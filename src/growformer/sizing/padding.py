"""The smallest sizes that a consumer can split over the ranks of tensor parallelism and into quantisation groups.

Candidates are sizes of attention (and, where a class asks for it, of the residual stream), each with the class that
says them; the planner judges them in the order of their parameters, and the first that it accepts is the plan. What
must divide:

    query heads        by the ranks, inside their key-value groups
    kv heads           by the ranks, or the ranks by them where the consumer shares a kv head between ranks
    heads × value      each rank's share by the group size (the output projection reads it)
    MLP width          each rank's share by the group size
    heads × head_dim   equals the hidden size, where the consumer's class computes the one from the other
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd, lcm
from typing import Any

from growformer.architecture.conversion import Conversion, conversions_of, convert
from growformer.architecture.declaration import Architecture
from growformer.architecture.source import SourceInfo
from growformer.errors import GrowformerError, RequestError
from growformer.planning.plan import Plan
from growformer.planning.planner import make_plan
from growformer.sizing.consumers import Consumer, consumer_of
from growformer.sizing.counting import count_parameters, head_size, is_coupled, to_ask, whole
from growformer.sizing.shares import idle_ranks, shares

MOST_TRIED = 200
"""Candidates that are planned before giving up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the sizes must fit.

    Attributes:
        tensor_parallel: ranks that each layer is split over.
        multiple_of: the group size that each rank's inputs of a matrix must divide by; 1: any.
        consumer: who loads the result.
        keep_class: do not write the model as another class.
        pad_hidden: make the hidden size a multiple of the group size as well.
    """

    tensor_parallel: int = 1
    multiple_of: int = 1
    consumer: Consumer = field(default_factory=lambda: consumer_of("transformers"))
    keep_class: bool = False
    pad_hidden: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not a positive whole number."""
        for name in ("tensor_parallel", "multiple_of"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise RequestError(f"{name} = {value!r}: expected a whole number from 1 on")
        if self.tensor_parallel == self.multiple_of == 1:
            raise RequestError("nothing to fit: name tensor_parallel, multiple_of, or both, as in tensor_parallel=8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Sizes that fit, and the class that says them.

    Attributes:
        conversion: how the model is written as another class; None for its own.
        sizes: config field -> value.
        parameters: how many there would be.
    """

    conversion: Conversion | None
    sizes: Mapping[str, int]
    parameters: int


def plan_padding(
    architecture: Architecture, source: SourceInfo, fit: Fit, *, init: str = "zero", seed: int = 0
) -> Plan:
    """Plan the smallest growth whose sizes fit; a source that fits already gives a plan that changes nothing.

    Args:
        architecture: the source's declaration.
        source: the source, described.
        fit: what the sizes must fit.
        init: how new weights are filled that no output depends on.
        seed: of fresh values.

    Raises:
        RequestError: no sizes fit, or none that the planner can reach; says what was tried.
    """
    found = sorted(_candidates(architecture, source, fit), key=lambda c: (c.parameters, c.conversion is not None))
    refused: list[tuple[Candidate, str]] = []
    for candidate in found[:MOST_TRIED]:
        own, info = architecture, source
        try:
            if candidate.conversion is not None:
                own, info = convert(candidate.conversion, architecture, source)
            made = make_plan(own, info, to_ask(own, info, candidate.sizes), init=init, seed=seed)
        except GrowformerError as error:
            refused.append((candidate, str(error)))
            continue
        notes = _notes(made, fit, architecture, source, _runner_up(found, candidate, architecture, source))
        return replace(made, notes=(*notes, *made.notes))
    raise RequestError(_nothing_fits(architecture, source, fit, refused))


def _candidates(architecture: Architecture, source: SourceInfo, fit: Fit) -> Iterator[Candidate]:
    conversions = () if fit.keep_class else conversions_of(source.config.get("model_type"))
    for conversion in (None, *conversions):
        own, info = architecture, source
        if conversion is not None:
            try:
                own, info = convert(conversion, architecture, source)
            except RequestError:
                continue  # said in _nothing_fits and in the notes, where it matters
        for sizes in _sizes(own, info, fit):
            yield Candidate(conversion=conversion, sizes=sizes, parameters=count_parameters(own, info, sizes))


def _sizes(architecture: Architecture, source: SourceInfo, fit: Fit) -> Iterator[dict[str, int]]:
    """Yield sizes that fit, of one class."""
    config = architecture.resolve_config(source.sizes)
    roles = architecture.roles
    base: dict[str, int] = {}
    width = whole(architecture, config, "mlp")
    if width is not None:
        base[roles["mlp"]] = round_up(width, fit.tensor_parallel * fit.multiple_of)
    heads, hidden = whole(architecture, config, "heads"), whole(architecture, config, "hidden")
    size = head_size(architecture, config)
    if heads is None or hidden is None or size is None:
        if not base:
            raise RequestError(
                f"{architecture.name} declares neither heads nor an MLP among its roles; ask for sizes by name"
            )
        yield base
        return
    quotient = fit.consumer.rule(str(source.config.get("model_type"))).head_dim == "quotient"
    for kv_heads, query_heads in _attention(architecture, config, fit, heads, size):
        found = dict(base)
        found[roles["heads"]] = query_heads
        if kv_heads is not None:
            found[roles["kv_heads"]] = kv_heads
        for wide in _hidden(architecture, fit, hidden, query_heads, size, quotient):
            yield {**found, roles["hidden"]: wide}


def _attention(
    architecture: Architecture, config: Mapping[str, Any], fit: Fit, heads: int, size: int
) -> Iterator[tuple[int | None, int]]:
    """Yield (kv heads, query heads) that the ranks can share, the smallest first for each number of kv heads."""
    ranks = fit.tensor_parallel
    step = ranks * fit.multiple_of // gcd(fit.multiple_of, size)  # what query heads must divide by
    kv_heads = whole(architecture, config, "kv_heads")
    if kv_heads is None:
        # Where the hidden size follows, it may have to be a whole multiple of the source's.
        first = round_up(heads, step)
        yield from ((None, n) for n in range(first, max(first, 8 * heads) + 1, step))
        return
    group = heads // kv_heads
    for count in range(kv_heads, round_up(kv_heads, step) + 1):
        if fit.consumer.splits_kv_heads(count, ranks):
            each = step // gcd(step, count)  # what the heads of one group must divide by
            first = round_up(group, each)
            yield from ((count, count * g) for g in range(first, first + 4 * each, each))


def _hidden(
    architecture: Architecture, fit: Fit, hidden: int, query_heads: int, size: int, quotient: bool
) -> Iterator[int]:
    unit = fit.multiple_of if fit.pad_hidden else 1
    if quotient or is_coupled(architecture):
        wide = query_heads * size
        if wide >= hidden and wide % unit == 0:
            yield wide
        return
    yield round_up(hidden, unit)
    if any(m.field == architecture.roles["hidden"] for m in architecture.multiples):
        yield round_up(hidden, lcm(query_heads, unit))


def round_up(value: int, unit: int) -> int:
    """Return the smallest multiple of a unit that is not below a value."""
    return -(-value // unit) * unit


# What the user should know.


def _runner_up(
    found: Sequence[Candidate], chosen: Candidate, architecture: Architecture, source: SourceInfo
) -> Candidate | None:
    """Return the cheapest candidate that keeps the class, where the chosen one does not."""
    if chosen.conversion is None:
        return None
    for candidate in found:
        if candidate.conversion is not None:
            continue
        try:
            make_plan(architecture, source, to_ask(architecture, source, candidate.sizes))
        except GrowformerError:
            continue
        return candidate
    return None


def _notes(
    plan: Plan, fit: Fit, architecture: Architecture, source: SourceInfo, kept: Candidate | None
) -> Iterator[str]:
    """Yield why these sizes, one sentence each."""
    roles, consumer, ranks = plan.architecture.roles, fit.consumer, fit.tensor_parallel
    before, after = plan.source_sizes, plan.target_sizes
    named = f"{consumer.name} {consumer.version}"
    kind = str(source.config.get("model_type"))
    rule = consumer.rule(kind)
    heads, kv = roles.get("heads", ""), roles.get("kv_heads", "")
    size = head_size(plan.architecture, after)
    over = _many(ranks, "rank")
    if plan.source.original is not None or rule.head_dim == "quotient":
        computed = f"{before[roles['hidden']]} // {after[heads]} = {before[roles['hidden']] // after[heads]}"
        says = f"{named} computes the head size of {kind} as hidden_size // num_attention_heads ({rule.where})"
        if plan.source.original is not None:
            other = plan.target_config["model_type"]
            yield (
                f"{says}, {computed}, where it is {size}: the model is written as {other}, which reads head_dim "
                f"({consumer.rule(other).where}); {', '.join(sorted(plan.source.zeros))} is there and zero"
            )
        elif after[roles["hidden"]] != before[roles["hidden"]]:
            yield f"{says}: {roles['hidden']} follows, to {after[heads]} × {size} = {after[roles['hidden']]}"
            yield from (why for _, why in _not_written(architecture, source, fit))
    if kept is not None:
        own = ", ".join(f"{n} = {v}" for n, v in _changed(architecture, source, kept))
        yield f"to stay {kind} (keep_class) would take {own}: {kept.parameters:,} parameters"
    if kv and before[heads] != after[heads]:
        groups = (before[heads] // before[kv], after[heads] // after[kv])
        inside = f"their groups, {groups[0]} -> {groups[1]} per kv head" if groups[0] != groups[1] else "new groups"
        yield f"{after[heads]} heads are {after[heads] // ranks} for each of {over}; new ones stand in {inside}"
    if kv and after[kv] % ranks:
        yield (
            f"{_many(after[kv], 'kv head')} for {over}: {named} gives each to {ranks // after[kv]} of them "
            f"({consumer.shares_where})"
        )
    elif kv and after[kv] != before[kv] and not consumer.shares_kv_heads:
        yield (
            f"{named} gives every rank whole kv heads of its own ({consumer.shares_where}), so that there must be "
            f"{after[kv]}; vllm and sglang let ranks share one"
        )
    counts = plan.num_parameters()
    if counts[0] != counts[1]:
        yield f"padding adds {counts[1] - counts[0]:,} parameters, {counts[1] / counts[0] - 1:.2%}"
    idle = idle_ranks(shares(plan, ranks, consumer))
    if idle:
        yield f"{len(idle)} of {over} get only new heads, which compute nothing"
    if roles.get("mlp") in after and isinstance(after[roles["mlp"]], int):
        share = after[roles["mlp"]] // ranks
        groups_of = _many(share // fit.multiple_of, "group")
        parts = f", {groups_of} of {fit.multiple_of}" if fit.multiple_of > 1 else ""
        yield f"{roles['mlp']} {after[roles['mlp']]} is {share} for each of {over}{parts}"
    hidden = after.get(roles.get("hidden", ""))
    if isinstance(hidden, int) and hidden % fit.multiple_of:
        yield (
            f"{roles['hidden']} {hidden} is no multiple of {fit.multiple_of}: matrices that read it cannot be "
            f"quantised in groups of {fit.multiple_of}; pad_hidden makes it {round_up(hidden, fit.multiple_of)}"
        )
    unit, vocabulary = consumer.vocabulary_unit, after.get("vocab_size")
    if unit and isinstance(vocabulary, int) and round_up(vocabulary, unit) % ranks:
        yield (
            f"{named} pads the vocabulary to {round_up(vocabulary, unit)}, which {over} do not divide, and refuses; "
            "growformer does not change vocabularies"
        )


def _changed(architecture: Architecture, source: SourceInfo, candidate: Candidate) -> Iterator[tuple[str, int]]:
    present = architecture.resolve_config(source.sizes)
    return ((name, value) for name, value in candidate.sizes.items() if present.get(name) != value)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _not_written(architecture: Architecture, source: SourceInfo, fit: Fit) -> Iterator[tuple[Conversion, str]]:
    """Yield the other classes that this source is not written as, and why."""
    for conversion in conversions_of(source.config.get("model_type")):
        if fit.keep_class:
            yield conversion, f"keep_class forbids to write it as {conversion.target}"
            continue
        try:
            convert(conversion, architecture, source)
        except RequestError as error:
            yield conversion, str(error)


def _nothing_fits(
    architecture: Architecture, source: SourceInfo, fit: Fit, refused: Sequence[tuple[Candidate, str]]
) -> str:
    kind = source.config.get("model_type")
    text = (
        f"no sizes of {kind or architecture.name} fit tensor_parallel = {fit.tensor_parallel} and multiple_of = "
        f"{fit.multiple_of} for {fit.consumer.name}"
    )
    text += "".join(f"; {why}" for _, why in _not_written(architecture, source, fit))
    if refused:
        candidate, why = refused[0]
        sizes = ", ".join(f"{name} = {value}" for name, value in candidate.sizes.items())
        text += f". Of {len(refused)} that would, the smallest is {sizes}: {why}"
    return text + ". Nearest that may work: a smaller tensor_parallel or multiple_of, or another consumer"


__all__ = ["Candidate", "Fit", "plan_padding", "round_up"]
