"""The declared family whose names are most like those of a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import architectures
from growformer.architecture.source import match_names


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How a class's names compare with a family's.

    Attributes:
        architecture: the family.
        prefix: what stands before the base model's names in the class, or nothing.
        matched: stored name -> template of the family.
        unmatched: stored names that the family does not have.
        missing: modules of the family that the class lacks, optional ones left out.
        spare: how many more modules the family has, under conditions or as optional heads.
        share: of all names, the class's and the family's, how many both have.
    """

    architecture: Architecture
    prefix: str
    matched: dict[str, str]
    unmatched: tuple[str, ...]
    missing: tuple[str, ...]
    spare: int
    share: float


def compare(architecture: Architecture, names: Iterable[str]) -> Likeness:
    """Compare stored names with those of a family, whatever stands before the base model's names."""
    names = list(names)
    prefix = common_prefix(names)
    own = f"{architecture.prefix}." if architecture.prefix and prefix else ""
    alike = {own + name.removeprefix(prefix) if prefix and name.startswith(prefix) else name: name for name in names}
    found = match_names(architecture, alike)
    matched = {alike[name]: template for name, template in found.items() if template is not None}
    held = {part for t in matched.values() if t in architecture.packed for part in architecture.packed[t].parts}
    present = {architecture.tensors[t].owner for t in {*matched.values(), *held} if t in architecture.tensors}
    absent = dict.fromkeys(spec.owner for spec in architecture.tensors.values() if spec.owner not in present)
    arrows = architecture.arrows
    missing = tuple(name for name in absent if not arrows[name].optional and arrows[name].when is None)
    unmatched = tuple(name for name in names if name not in matched)
    kinds = len({*matched.values()})
    return Likeness(
        architecture=architecture, prefix=prefix, matched=matched, unmatched=unmatched, missing=missing,
        spare=len(absent) - len(missing),
        share=kinds / max(kinds + len(_distinct(unmatched)) + len(missing), 1),
    )  # fmt: skip


def common_prefix(names: Iterable[str]) -> str:
    """Return the first component, with its dot, that most names share: the base model's attribute."""
    names = list(names)
    first = Counter(name.partition(".")[0] for name in names if "." in name)
    word, count = first.most_common(1)[0] if first else ("", 0)
    return f"{word}." if 2 * count > len(names) and not word.isdigit() and word not in _PARTS else ""


_PARTS = ("layers", "layer", "h", "blocks", "block", "encoder", "decoder", "embeddings")
"""First components of names that are parts of a model rather than the attribute that holds it."""


def nearest(names: Iterable[str]) -> Likeness:
    """Return the family that is most like a class; among equals the one with fewer facts and modules of its own."""
    names = list(names)
    found = [compare(architecture, names) for architecture in architectures().values()]
    return max(found, key=lambda f: (f.share, -f.spare, -len(f.architecture.kinds), -len(f.architecture.constants)))


def _distinct(names: Iterable[str]) -> set[str]:
    return {".".join("#" if part.isdigit() else part for part in name.split(".")) for name in names}


__all__ = ["Likeness", "common_prefix", "compare", "nearest"]
