"""Checks a plan before any tensor is touched: its recorded spaces, and every block against what must hold there.

What must hold comes from ``conditions`` and ``requirements``, which know nothing of the planner; of the plan this file
knows the values that blocks are written in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np

from growformer.architecture.exact import Root
from growformer.errors import PlanError
from growformer.planning.blocks import Affine, Block, Constant, Fill, Mean, Noise, Sum, TensorPlan, Value
from growformer.verification.conditions import local_conditions
from growformer.verification.recorded import Indices, Recorded
from growformer.verification.regions import Positions, Region, compact, count, intersect, show, spread
from growformer.verification.requirements import (
    Free,
    MeanOf,
    Requirement,
    Scaled,
    TensorRequirements,
    requirements,
)
from growformer.verification.requirements import Value as Fixed
from growformer.verification.violations import Violation

if TYPE_CHECKING:
    from growformer.planning.plan import Plan

CLOSE = 2.0**-48
"""Relative deviation of factors that are written as floats somewhere: epsilons, shifts, irrational sums."""


def check(plan: Plan) -> list[Violation]:
    """Return everything in a plan that would not preserve the function; an empty list means that it does."""
    from growformer.planning.initialisation import Initialisation

    # A user's own initialisation cannot be written down, and is of no concern here.
    data = json.loads(replace(plan, init=Initialisation()).to_json())
    return check_plan(data, plan.tensors())


def check_plan(data: Mapping[str, Any] | Recorded, tensors: Iterable[TensorPlan]) -> list[Violation]:
    """Compare a plan's blocks with what must hold.

    Args:
        data: the plan's JSON.
        tensors: the plans of all tensors, as ``Plan.tensors()`` yields them.

    Raises:
        PlanError: the data is not a record of a growth.
    """
    rec = Recorded.read(data)
    violations = local_conditions(rec)
    if any(v.kind == "axis map" for v in violations):
        return violations
    expected = {spec.name(index): (spec, index) for spec, index in rec.specs()}
    for tensor in tensors:
        found = expected.pop(tensor.name, None)
        if found is None:
            violations.append(Violation(kind="left over", where=tensor.name, expected="no such tensor", found="a plan"))
            continue
        try:
            needed = requirements(rec, found[0].template, found[1])
        except PlanError as error:
            where = str(rec.target_held(*found))
            violations.append(Violation(kind="space", where=where, expected="values that preserve", found=str(error)))
            continue
        violations += check_tensor(needed, tensor)
    for missing in expected.values():
        where = str(rec.target_held(*missing))
        violations.append(Violation(kind="missing", where=where, expected="a plan", found="none"))
    return violations


def check_tensor(needed: TensorRequirements, tensor: TensorPlan) -> Iterator[Violation]:
    """Yield everything in which the blocks of one tensor differ from what it must hold."""
    if tensor.shape != needed.shape:
        yield Violation(
            kind="shape", where=str(needed.held), expected=str(list(needed.shape)), found=str(list(tensor.shape))
        )
        return
    broken = list(_coverage(needed, tensor))
    yield from broken
    if broken:
        return
    for use in needed.uses:
        for requirement in use:
            for region, values in _pieces(requirement, tensor.blocks):
                problem = _problem(region, values)
                if problem is not None:
                    expected, found = problem
                    yield Violation(
                        kind="block",
                        where=str(needed.held),
                        region=show(region.copies[0]),
                        expected=expected,
                        found=found,
                    )


def _coverage(needed: TensorRequirements, tensor: TensorPlan) -> Iterator[Violation]:
    def wrong(expected: str, found: str, region: Region | None = None) -> Violation:
        at = show(region) if region is not None else ""
        return Violation(kind="coverage", where=str(needed.held), region=at, expected=expected, found=found)

    for block in tensor.blocks:
        if len(block.region) != len(needed.shape) or not all(map(_is_inside, block.region, needed.shape)):
            yield wrong("a region inside of the tensor", "one that is not", block.region)
            return
    for first, second in combinations(tensor.blocks, 2):
        shared = intersect(first.region, second.region)
        if shared is not None:
            yield wrong("one block", "two", shared)
            return
    whole = count(tuple(slice(0, size) for size in needed.shape))
    covered = sum(count(block.region) for block in tensor.blocks)
    if covered != whole:
        yield wrong(f"{whole} values in blocks", str(covered))


def _is_inside(along: Positions, size: int) -> bool:
    if isinstance(along, slice):
        return bool(0 <= along.start < along.stop <= size)
    inside = along.size > 0 and int(along.min()) >= 0 and int(along.max()) < size
    return inside and np.unique(along).size == along.size


# Pieces in which both the requirement and the blocks are uniform.


@dataclass(frozen=True, slots=True)
class _Placed:
    """A block's value at some positions of its region (``picks``, one array per dimension)."""

    value: Value
    picks: tuple[Indices, ...]


def _pieces(requirement: Requirement, blocks: tuple[Block, ...]) -> Iterator[tuple[Requirement, list[_Placed]]]:
    """Cut a requirement into parts that lie in one block for each copy."""
    lengths = [spread(along).size for along in requirement.copies[0]]
    parts: list[tuple[tuple[Indices, ...], list[_Placed]]] = [(tuple(np.arange(n) for n in lengths), [])]
    for region in requirement.copies:
        finer = []
        for (local, placed), block in product(parts, blocks):
            inside: list[Indices] = []
            picks: list[Indices] = []
            for where, along, taken in zip(local, region, block.region, strict=True):
                first, second = _shared(spread(along)[where], taken)
                if not first.size:
                    break
                inside.append(where[first])
                picks.append(second)
            else:
                finer.append((tuple(inside), [*placed, _Placed(block.value, tuple(picks))]))
        parts = finer
    for local, placed in parts:
        copies = tuple(_pick(region, local) for region in requirement.copies)
        must = requirement.must
        if isinstance(must, Scaled):
            must = replace(must, region=_pick(must.region, local))
        elif isinstance(must, MeanOf):
            must = replace(must, region=_pick(must.region, local, skip=must.dim))
        yield Requirement(copies, must), placed


def _shared(first: Indices, second: Positions) -> tuple[Indices, Indices]:
    """Return where in each of two lists of positions those stand that are in both, in the order of the first."""
    if isinstance(second, slice):
        found = np.flatnonzero((first >= second.start) & (first < second.stop))
        return found, first[found] - second.start
    _, left, right = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    order = np.argsort(left)
    return left[order], right[order]


def _pick(region: Region, local: tuple[Indices, ...], skip: int | None = None) -> Region:
    return tuple(
        along if d == skip else compact(spread(along)[where])
        for d, (along, where) in enumerate(zip(region, local, strict=True))
    )


def _same(first: Region, second: Region, unordered: int | None = None) -> bool:
    if len(first) != len(second):
        return False
    for d, (a, b) in enumerate(zip(map(spread, first), map(spread, second), strict=True)):
        if d == unordered:
            a, b = np.sort(a), np.sort(b)
        if not np.array_equal(a, b):
            return False
    return True


# Values.


@dataclass(slots=True)
class _Terms:
    """The values of all copies, added up."""

    affine: list[tuple[str, Region, Root]]
    mean: list[tuple[str, Region, int, Root]]
    noise: list[tuple[str, Region, int, int]]
    constant: float = 0.0
    is_fresh: bool = False


def _add(terms: _Terms, value: object, placed: _Placed) -> None:
    if isinstance(value, Constant):
        terms.constant += value.value
    elif isinstance(value, Affine):
        terms.affine.append((value.tensor, _pick(value.region, placed.picks), value.scale))
        terms.constant += value.shift
    elif isinstance(value, Mean):
        terms.mean.append((value.tensor, _pick(value.region, placed.picks, value.dim), value.dim, value.scale))
    elif isinstance(value, Noise):
        terms.noise.append((value.tensor, _pick(value.coordinates, placed.picks), value.copy, value.copies))
    elif isinstance(value, Sum):
        for part in value.parts:
            _add(terms, part, placed)
    elif isinstance(value, Fill):
        terms.is_fresh = True
    else:
        raise PlanError(f"a block holds an unknown value: {value!r}")


def _problem(piece: Requirement, placed: list[_Placed]) -> tuple[str, str] | None:
    """Return what was expected and found where the values do not add up to what must hold."""
    must = piece.must
    if isinstance(must, Free):
        value = placed[0].value
        if must.forbidden is not None and isinstance(value, Constant) and value.value == must.forbidden:
            return "a gain that can learn", f"the constant {value.value}"
        return None
    terms = _Terms([], [], [])
    for one in placed:
        _add(terms, one.value, one)
    together = f"{len(placed)} copies that sum to " if len(placed) > 1 else ""
    says, found = together + _says(must), ", ".join(_shown(one.value) for one in placed)
    if terms.is_fresh or not _cancels(terms.noise):
        return says, found
    if isinstance(must, Fixed):
        wanted = float(must)
        fits = not terms.affine and not terms.mean and abs(terms.constant - wanted) <= CLOSE * abs(wanted)
        return None if fits else (says, found)
    if isinstance(must, MeanOf):
        fits = not terms.affine and not terms.constant and _adds_up([s for *_, s in terms.mean], must.scale)
        for name, region, dim, _ in terms.mean:
            fits &= name == must.tensor and dim == must.dim and _same(region, must.region, unordered=dim)
        return None if fits else (says, found)
    shift = must.offset * (float(must.scale) - 1)
    fits = not terms.mean and abs(terms.constant - shift) <= CLOSE * max(1, must.offset) * abs(shift or 1)
    fits &= bool(shift) or not terms.constant
    fits &= _adds_up([s for *_, s in terms.affine], must.scale)
    for name, region, _ in terms.affine:
        fits &= name == must.tensor and _same(region, must.region)
    return None if fits else (says, found)


def _adds_up(scales: list[Root], wanted: Root) -> bool:
    """Tell whether exact factors add up to another; a factor of one must be exact."""
    if not scales:
        return False
    try:
        total = scales[0] * sum(((s / scales[0]).rational() for s in scales), Fraction(0))
    except (ValueError, ZeroDivisionError):
        return abs(sum(map(float, scales)) - float(wanted)) <= CLOSE * float(wanted)
    return total == wanted or (not wanted.is_one() and abs(float(total) - float(wanted)) <= CLOSE * float(wanted))


def _cancels(noise: list[tuple[str, Region, int, int]]) -> bool:
    """Tell whether draws cancel: copy i is draw i minus draw i + 1, over all copies of the same coordinates."""
    left = list(noise)
    while left:
        name, region, _, copies = left[0]
        same = [n for n in left if n[0] == name and n[3] == copies and _same(n[1], region)]
        if sorted(n[2] for n in same) != list(range(copies)):
            return False
        left = [n for n in left if n not in same] if len(same) < len(left) else []
    return True


def _says(must: Scaled | MeanOf | Fixed) -> str:
    if isinstance(must, Scaled):
        offset = f" with the offset {must.offset}" if must.offset else ""
        return f"{must.scale} * {must.tensor}{show(must.region)}{offset}"
    if isinstance(must, MeanOf):
        return f"{must.scale} * the mean of {must.tensor}{show(must.region)} over dimension {must.dim}"
    return f"the constant {float(must)}"


def _shown(value: object) -> str:
    if isinstance(value, Constant):
        return f"the constant {value.value}"
    if isinstance(value, Affine):
        shift = f" {value.shift:+g}" if value.shift else ""
        return f"{value.scale} * {value.tensor}{show(value.region)}{shift}"
    if isinstance(value, Mean):
        return f"{value.scale} * the mean of {value.tensor}{show(value.region)} over dimension {value.dim}"
    if isinstance(value, Sum):
        return " plus ".join(_shown(part) for part in value.parts)
    return "cancelling noise" if isinstance(value, Noise) else "fresh values"


__all__ = ["check", "check_plan", "check_tensor"]
