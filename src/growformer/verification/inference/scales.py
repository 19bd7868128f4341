"""By what source coordinates must be multiplied, as it follows from the epsilons that the target's config has.

A norm whose epsilon was multiplied by rho, over coordinates of which the mean square has shrunk by s, needs what it
reads to be scaled by sqrt(rho / s): by one where the epsilon followed (the gain form), by more where it stayed (the
stream form). Additions, norms without gains, attention and ties carry that on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import prod

from growformer.architecture.declaration import space_of
from growformer.architecture.exact import ONE, Root, compute, evaluate
from growformer.verification.conditions import added_factor
from growformer.verification.recorded import Recorded
from growformer.verification.structure import Index

Epsilons = dict[str, Fraction]
"""Config field -> factor on it."""
_NEAR = 1e-9


def epsilon_choices(rec: Recorded) -> list[Epsilons]:
    """Return the factors on epsilons that a growth may have: first what the configs say, then what it should have been.

    Args:
        rec: a record without scales.
    """
    possible: dict[str, list[Fraction]] = {}
    for name, arrow in rec.norms.items():
        if isinstance(arrow.eps, str):
            shrunk = [rec.mean_square_ratio(arrow, index) for index in rec.sources_of(name)]
            possible.setdefault(arrow.eps, []).extend([*shrunk, Fraction(1)])
    seen: Epsilons = {}
    for field, ratios in possible.items():
        before, after = Fraction(rec.source_config[field]), Fraction(rec.target_config[field])
        if before:
            near = [r for r in ratios if abs(after / before / r - 1) < _NEAR]
            seen[field] = near[0] if near else min(ratios)
        else:
            seen[field] = min(ratios)
    gains = {field: min(ratios) for field, ratios in possible.items()}
    kept = dict.fromkeys(possible, Fraction(1))
    choices = []
    for choice in (seen, gains, kept):
        if choice not in choices:
            choices.append(choice)
    return choices


def scales_of(rec: Recorded, epsilons: Epsilons) -> Mapping[str, Mapping[tuple[int, ...], Root]]:
    """Return the factor of every space and instance where it is not one.

    Where two reasons ask for different factors the first stays, and a condition says what does not agree.

    Args:
        rec: a record without scales.
        epsilons: the factors on epsilons.
    """
    known = _Known(rec)
    for space in rec.outputs:
        for index in known.instances(space):
            known.decide(space, index, ONE)
    for name, arrow in rec.norms.items():
        factor = epsilons.get(arrow.eps, Fraction(1)) if isinstance(arrow.eps, str) else Fraction(1)
        for index in rec.sources_of(name):
            known.decide(space_of(arrow.source), index, Root.sqrt(factor / rec.mean_square_ratio(arrow, index)))
    links = list(_links(rec, epsilons))
    known.spread(links)
    _keys(rec, known)
    _heads(rec, known)
    known.spread(links)
    for _, target, index, ratio in reversed(links):
        if ratio != ONE and known.get(target, index) is None:
            known.decide(target, index, ONE)
            known.spread(links)
    return {space: {key: f for key, f in found.items() if f != ONE} for space, found in known.found.items()}


class _Known:
    """The factors found so far."""

    def __init__(self, rec: Recorded) -> None:
        self.rec = rec
        self.found: dict[str, dict[tuple[int, ...], Root]] = {space: {} for space in rec.architecture.spaces}

    def instances(self, *spaces: str) -> Iterator[dict[str, int]]:
        return self.rec.sources(self.rec.outer(*spaces))

    def _key(self, space: str, index: Index) -> tuple[int, ...]:
        return tuple(index[name] for name in self.rec.architecture.spaces[space].index if name in index)

    def get(self, space: str, index: Index) -> Root | None:
        return self.found[space].get(self._key(space, index))

    def decide(self, space: str, index: Index, factor: Root) -> None:
        self.found[space].setdefault(self._key(space, index), factor)

    def spread(self, links: list[tuple[str, str, dict[str, int], Root]]) -> None:
        """Carry what is known over links."""
        changed = True
        while changed:
            changed = False
            for source, target, index, ratio in links:
                before, after = self.get(source, index), self.get(target, index)
                if before is not None and after is None:
                    self.decide(target, index, before * ratio)
                    changed = True
                elif before is None and after is not None:
                    self.decide(source, index, after / ratio)
                    changed = True


def _links(rec: Recorded, epsilons: Epsilons) -> Iterator[tuple[str, str, dict[str, int], Root]]:
    """Yield two spaces, an instance, and by what the second's factor differs from the first's."""
    for add in rec.adds:
        for index in rec.sources(rec.outer(add.source, add.target)):
            if add.when is not None and not compute(add.when, rec.target_config, index):
                continue
            before = added_factor(rec, add, rec.source_config, rec.origin(index))
            after = added_factor(rec, add, rec.target_config, index)
            yield add.source, add.target, index, after / before if before.square and after.square else ONE
    for c in rec.architecture.attention:
        for index in rec.sources(rec.outer(c.value, c.output)):
            yield c.value, c.output, index, ONE
    for arrow in rec.norms.values():
        if arrow.gain:
            continue
        factor = epsilons.get(arrow.eps, Fraction(1)) if isinstance(arrow.eps, str) else Fraction(1)
        source, target = space_of(arrow.source), space_of(arrow.target)
        for index in rec.sources(rec.outer(source, target)):
            yield source, target, index, ONE / Root.sqrt(factor)


def _keys(rec: Recorded, known: _Known) -> None:
    """Keys make good for what the scale of the scores, and that of queries, has changed by."""
    for c in rec.architecture.attention:
        for query, key in c.pairs:
            for index in known.instances(key):
                before = evaluate(c.scale, rec.source_config, rec.origin(index))
                after = evaluate(c.scale, rec.target_config, index)
                known.decide(key, index, before / after / (known.get(query, index) or ONE))


def _heads(rec: Recorded, known: _Known) -> None:
    """What a tied head reads makes good for what the table that it shares is multiplied by, or repeated."""
    architecture = rec.architecture
    for head, table in rec.tied_heads.items():
        read = next((d for d in architecture.tensors[head].dims if d.role == "read"), None)
        written = next((d for d in architecture.tensors[table].dims if d.role == "write"), None)
        if read is None or written is None:
            continue
        space = space_of(written.term)
        sizes = (rec.sizes(axis, {}) for axis in architecture.spaces[space].axes if rec.kind(space, axis) == "copy")
        copies = prod(target // source for source, target in sizes)
        known.decide(space_of(read.term), {}, ONE / Fraction(copies) / (known.get(space, {}) or ONE))


__all__ = ["Epsilons", "epsilon_choices", "scales_of"]
