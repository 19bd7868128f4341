"""Sizes for a parameter count: kernel-friendly, in the source's proportions, or deeper, or wider.

Candidates are a hidden size, with heads and MLP width in the source's proportions to it, and a number of layers. Those
within two per cent of the count are ranked by how far their proportions are from the source's, all others behind them
by the count; the planner judges them in that order, and the first that it accepts is the plan. What it refuses (a
hidden size that only whole multiples preserve, say) is left out, and the notes say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm, log
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.source import SourceInfo
from growformer.errors import ArchitectureError, GrowformerError, RequestError, did_you_mean
from growformer.planning.plan import Plan
from growformer.planning.planner import make_plan
from growformer.sizing.counting import count_parameters, head_size, is_coupled, to_ask, whole

SHAPES = ("balanced", "deeper", "wider")
FACTORS = (1.5, 2.0, 4.0)
"""Multiples of the source's parameters that are suggested where none is asked for."""
CLOSE = 0.02
"""Candidates this near to the count are ranked by their proportions."""
FARTHEST = 0.1
"""No plan is made whose count is farther off than this."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_MLP_SLACK = 0.125
_LOST_FACTOR = 0.04
"""What a factor of two fewer in the number of heads weighs: half as many ranks can share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Sizes that were considered.

    Attributes:
        sizes: config field -> value.
        parameters: how many there would be.
        error: relative distance from the count asked for.
        strain: how far proportions are from the source's: a sum of logarithms of ratios.
    """

    sizes: Mapping[str, int]
    parameters: int
    error: float
    strain: float

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Near the count the proportions decide, elsewhere the count."""
        far = self.error > CLOSE
        return (far, self.error, self.strain) if far else (far, self.strain, self.error)


@dataclass(frozen=True, slots=True)
class _Source:
    """The sizes that are chosen, as the source has them."""

    architecture: Architecture
    info: SourceInfo
    layers: int | None
    hidden: int | None
    mlp: int | None
    heads: int | None
    kv_heads: int | None
    head: int | None

    @staticmethod
    def read(architecture: Architecture, info: SourceInfo) -> _Source:
        """Read them by their roles."""
        config = architecture.resolve_config(info.sizes)
        layers, hidden, mlp, heads, kv_heads = (
            whole(architecture, config, role) for role in ("layers", "hidden", "mlp", "heads", "kv_heads")
        )
        return _Source(architecture, info, layers, hidden, mlp, heads, kv_heads, head_size(architecture, config))

    def count(self, sizes: Mapping[str, int]) -> int:
        """Return the parameters at other sizes."""
        return count_parameters(self.architecture, self.info, sizes)

    def name(self, role: str) -> str:
        """Return a role's config field."""
        return self.architecture.roles[role]


def parse_count(text: str | int, name: str = "to_parameters", what: str = "parameters") -> int:
    """Return a number of parameters (or of what else ``name`` counts): ``1.2B``, ``350M``, ``7e9``, or a number.

    Raises:
        RequestError: it is none.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        found = float(text)
    else:
        match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([KkMmBbTt]?)\s*", str(text))
        found = float(match[1].replace("_", "")) * _UNITS[match[2].upper()] if match else 0.0
    if found < 1:
        raise RequestError(f"{name} = {text!r}: expected a number of {what} such as 1.2B, 350M or 7e9")
    return round(found)


def plan_to_parameters(
    architecture: Architecture,
    source: SourceInfo,
    to_parameters: str | int,
    *,
    shape: str = "balanced",
    **options: Any,
) -> Plan:
    """Plan a growth to a number of parameters; the notes say what was chosen, and from what.

    Args:
        architecture: the source's declaration.
        source: the source, described.
        to_parameters: the number: ``"1.2B"``.
        shape: ``balanced``: width and depth in the source's proportion; ``deeper``: layers only; ``wider``: none.
        options: of ``make_plan``: ``init``, ``seed``, ``new_layers_at``, …

    Raises:
        RequestError: fewer parameters than the source has, or no sizes near enough; names the nearest.
    """
    if shape not in SHAPES:
        raise RequestError(f"unknown shape {shape!r}: expected one of {', '.join(SHAPES)}{did_you_mean(shape, SHAPES)}")
    wanted = parse_count(to_parameters)
    own = _Source.read(architecture, source)
    present = own.count({})
    if wanted <= present:
        raise RequestError(
            f"cannot grow {present:,} parameters to {wanted:,}: growth never removes any; name more than the source has"
        )
    found = sorted(_candidates(own, wanted, shape), key=lambda c: c.rank)
    refused: dict[int, str] = {}
    for candidate in found:
        hidden = candidate.sizes.get(architecture.roles.get("hidden", ""), 0)
        if candidate.error > FARTHEST or hidden in refused:
            continue
        try:
            made = make_plan(architecture, source, to_ask(architecture, source, candidate.sizes), **options)
        except GrowformerError as error:
            if hidden != own.hidden:
                refused[hidden] = str(error)
            continue
        return replace(made, notes=(*_notes(own, candidate, wanted, shape, found, refused), *made.notes))
    raise RequestError(_nothing_near(own, wanted, shape, found, refused))


def suggest(
    architecture: Architecture, source: SourceInfo, factors: Sequence[float] = FACTORS, shape: str = "balanced"
) -> list[tuple[float, Plan | str]]:
    """Return a plan for each multiple of the source's parameters, or why there is none."""
    present = count_parameters(architecture, source, {})
    found: list[tuple[float, Plan | str]] = []
    for factor in factors:
        try:
            found.append((factor, plan_to_parameters(architecture, source, round(factor * present), shape=shape)))
        except RequestError as error:
            found.append((factor, str(error)))
    return found


def _candidates(own: _Source, wanted: int, shape: str) -> Iterator[Candidate]:
    for width in _widths(own, wanted, shape):
        for layers in _depths(own, width, wanted, shape):
            sizes = {**width, **({own.name("layers"): layers} if layers is not None else {})}
            for adjusted in _adjusted(own, sizes, wanted, shape):
                if all(adjusted[name] == value for name, value in _present(own, adjusted).items()):
                    continue  # the source itself
                try:
                    parameters = own.count(adjusted)
                except ArchitectureError:
                    continue
                strain = _strain(own, adjusted, shape)
                error = abs(parameters / wanted - 1)
                yield Candidate(sizes=adjusted, parameters=parameters, error=error, strain=strain)


def _present(own: _Source, sizes: Mapping[str, int]) -> dict[str, Any]:
    config = own.architecture.resolve_config(own.info.sizes)
    return {name: config[name] for name in sizes}


def _widths(own: _Source, wanted: int, shape: str) -> Iterator[dict[str, int]]:
    """Yield hidden sizes from the source's on, with heads and MLP in its proportions to them."""
    if own.hidden is None:
        if own.mlp is not None and shape != "deeper":
            unit = _unit(own.mlp, 256 if own.mlp >= 4096 else 128)
            for width in range(own.mlp, 16 * own.mlp + unit, unit):
                yield {own.name("mlp"): width if width == own.mlp else width // unit * unit}
        else:
            yield {}
        return
    yield {}
    if shape == "deeper":
        return
    unit = _unit(own.hidden, 128 if own.head is not None and own.head % 128 == 0 else 64)
    if own.head is not None and is_coupled(own.architecture):
        both = lcm(unit, own.head)
        unit = both if both <= own.hidden // 4 else own.head
    hidden = own.hidden // unit * unit
    while hidden < 16 * own.hidden:
        hidden += unit
        found = {own.name("hidden"): hidden}
        ratio = hidden / own.hidden
        if own.mlp is not None:
            step = _unit(own.mlp, 256 if own.mlp >= 4096 else 128)
            found[own.name("mlp")] = max(round(own.mlp * ratio / step) * step, own.mlp)
        heads = _heads(own, hidden)
        if heads is None:
            continue
        found.update(heads)
        try:
            if own.count(found) > (1 + FARTHEST) * wanted:
                return
        except ArchitectureError:
            continue
        yield found


def _unit(size: int, preferred: int) -> int:
    """Return a preferred multiple, or a smaller power of two where that would be too coarse for a size."""
    while preferred > 1 and preferred * 8 > size:
        preferred //= 2
    return preferred


def _heads(own: _Source, hidden: int) -> dict[str, int] | None:
    """Return heads in proportion to a hidden size; None where its class takes none there."""
    assert own.hidden is not None  # asked before
    if own.heads is None:
        return {}
    if is_coupled(own.architecture):
        assert own.head is not None  # a coupling keeps it
        return {own.name("heads"): hidden // own.head}
    ratio = hidden / own.hidden
    divides = any(m.of == own.name("heads") and m.field == own.name("hidden") for m in own.architecture.multiples)
    kv_heads = own.kv_heads if own.kv_heads is not None else own.heads
    group = own.heads // kv_heads
    groups = range(group, int(group * ratio) + 2) if own.kv_heads is not None and group > 1 else [group]
    options = [
        (_uneven(own, kv * g, kv, ratio) + 0.25 * abs(log(kv / (kv_heads * ratio))), kv, kv * g)
        for kv in range(kv_heads, int(kv_heads * ratio) + 2)
        for g in groups
        if not divides or hidden % (kv * g) == 0
    ]
    if not options:
        return None
    _, kv, heads = min(options)
    return {own.name("heads"): heads, **({own.name("kv_heads"): kv} if own.kv_heads is not None else {})}


def _uneven(own: _Source, heads: int, kv_heads: int, ratio: float) -> float:
    """Return how far heads are from their proportion, and from the powers of two that the source's ranks share."""
    assert own.heads is not None  # asked before
    pairs = ((own.heads, heads), (own.kv_heads or own.heads, kv_heads))
    lost = sum(max(0, _twos(before) - _twos(after)) for before, after in pairs)
    return abs(log(heads / (own.heads * ratio))) + _LOST_FACTOR * lost


def _twos(number: int) -> int:
    """Return how often two divides a number."""
    return (number & -number).bit_length() - 1


def _depths(own: _Source, width: Mapping[str, int], wanted: int, shape: str) -> Iterator[int | None]:
    """Yield the numbers of layers just below and above the count; parameters are linear in them."""
    if own.layers is None:
        yield None
        return
    if shape == "wider":
        yield own.layers
        return
    name = own.name("layers")
    try:
        one = own.count({**width, name: own.layers})
        each = own.count({**width, name: own.layers + 1}) - one
    except ArchitectureError:
        return
    exact = own.layers + (wanted - one) / each
    yield from sorted({max(own.layers, int(exact)), max(own.layers, int(exact) + 1)})


def _adjusted(own: _Source, sizes: Mapping[str, int], wanted: int, shape: str) -> Iterator[dict[str, int]]:
    """Yield sizes, and the same with the MLP width that comes nearest to the count."""
    yield dict(sizes)
    if own.mlp is None or shape == "deeper":
        return
    name = own.name("mlp")
    unit = _unit(own.mlp, 256 if own.mlp >= 4096 else 128)
    here = sizes.get(name, own.mlp)
    try:
        each = own.count({**sizes, name: here + 1}) - own.count({**sizes, name: here})
        exact = here + (wanted - own.count(sizes)) / each
    except ArchitectureError:
        return
    nearest = round(min(max(exact, (1 - _MLP_SLACK) * here), (1 + _MLP_SLACK) * here) / unit) * unit
    if nearest >= own.mlp and nearest != here:
        yield {**sizes, name: nearest}


def _strain(own: _Source, sizes: Mapping[str, int], shape: str) -> float:
    def size(role: str, before: int | None) -> float:
        return sizes.get(own.architecture.roles.get(role, ""), before) / before if before else 1.0

    hidden = size("hidden", own.hidden)
    total = abs(log(size("mlp", own.mlp) / hidden)) if own.mlp else 0.0
    if own.heads:
        now = {role: sizes.get(own.architecture.roles.get(role, "")) for role in ("heads", "kv_heads")}
        heads = now["heads"] or own.heads
        total += _uneven(own, heads, now["kv_heads"] or own.kv_heads or heads, hidden)
    if shape == "balanced" and own.layers:
        total += abs(log(hidden / size("layers", own.layers)))
    return total


# What the user should know.


def _notes(
    own: _Source, chosen: Candidate, wanted: int, shape: str, found: Sequence[Candidate], refused: Mapping[int, str]
) -> Iterator[str]:
    near = sum(c.error <= CLOSE for c in found)
    off = chosen.parameters / wanted - 1
    side = "above" if off >= 0 else "below"
    yield (
        f"{chosen.parameters:,} parameters, {abs(off):.2%} {side} the {wanted:,} asked for; "
        f"of {len(found)} {shape} candidates {near} are within {CLOSE:.0%}"
        + (", and this one keeps the source's proportions best" if near > 1 and chosen.error <= CLOSE else "")
    )
    after = {**_present(own, chosen.sizes), **chosen.sizes}
    parts = []
    pairs = (("hidden", "layers", own.hidden, own.layers), ("mlp", "hidden", own.mlp, own.hidden))
    for role, other, above, below in pairs:
        if above and below:
            now = after.get(own.name(role), above) / after.get(own.name(other), below)
            parts.append(f"{own.name(role)} / {own.name(other)} {above / below:.3g} -> {now:.3g}")
    if parts:
        yield "proportions: " + ", ".join(parts)
    if refused and shape != "deeper":
        yield f"{len(refused)} other widths are refused, such as: {next(iter(refused.values()))}"


def _nothing_near(own: _Source, wanted: int, shape: str, found: Sequence[Candidate], refused: Mapping[int, str]) -> str:
    text = f"no {shape} sizes come within {FARTHEST:.0%} of {wanted:,} parameters"
    hidden = own.architecture.roles.get("hidden", "")
    rest = [c for c in found if c.sizes.get(hidden) not in refused]
    below = [c.parameters for c in rest if c.parameters < wanted]
    above = [c.parameters for c in rest if c.parameters > wanted]
    nearest = [f"{value:,}" for value in (max(below, default=0), min(above, default=0)) if value]
    if nearest:
        text += f"; nearest: {', '.join(nearest)}"
    if refused:
        text += f". {len(refused)} widths are refused: {next(iter(refused.values()))}"
    others = [name for name in SHAPES if name != shape]
    return f"{text}. Try another count, or the shape {' or '.join(others)}"


__all__ = ["CLOSE", "FACTORS", "FARTHEST", "SHAPES", "parse_count", "plan_to_parameters", "suggest"]
