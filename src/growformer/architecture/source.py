"""What a source is, seen from its architecture: a config, and names, shapes and dtypes of tensors. No tensor data.

Canonical names are those of the declaration: without the base model's prefix, in the newest spelling. ``describe``
maps stored names to them and back, and checks that everything is there and nothing is left over.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.errors import ArchitectureError, SourceError, did_you_mean

_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM")
"""Parts of class names that say that there is an output projection, stored or tied."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the source.

    Attributes:
        stored: its name in the source.
        shape: its shape.
        dtype: torch's name of its dtype: ``bfloat16``.
    """

    stored: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """A source, described.

    Attributes:
        config: the config as config.json holds it.
        tensors: canonical name -> tensor.
        templates: the templates of the architecture that the source has.
        dropped: stored name -> why it does not go on to the target.
        prefix: what stands in front of the base model's names in this source: ``"model."`` or nothing.
        tied: whether the architecture's ties hold.
        location: where it came from, for messages.
        inferred: sizes that the config does not hold, read off shapes.
        zeros: templates that only the class which the source is written as has: zero in the target.
        original: the source's own config, where ``config`` is that of another class.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    templates: frozenset[str]
    dropped: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    tied: bool = False
    location: str = ""
    inferred: Mapping[str, int] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()
    original: Mapping[str, Any] | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        """The config with what was read off shapes."""
        return {**self.config, **self.inferred}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the source's own config and every tensor's name, shape and dtype."""
        headers = {t.stored: [list(t.shape), t.dtype] for t in self.tensors.values()}
        config = self.config if self.original is None else self.original
        text = json.dumps([dict(config), headers], sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "digest": self.digest,
            "config": dict(self.config),
            "tensors": {n: [t.stored, list(t.shape), t.dtype] for n, t in self.tensors.items()},
            "templates": sorted(self.templates),
            "dropped": dict(self.dropped),
            "prefix": self.prefix,
            "tied": self.tied,
            "location": self.location,
            "inferred": dict(self.inferred),
            **({"zeros": sorted(self.zeros), "original": dict(self.original)} if self.original is not None else {}),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SourceInfo:
        """Read what ``to_json`` wrote."""
        return SourceInfo(
            config=data["config"],
            tensors={n: TensorInfo(s, tuple(shape), dtype) for n, (s, shape, dtype) in data["tensors"].items()},
            templates=frozenset(data["templates"]),
            dropped=data["dropped"],
            prefix=data["prefix"],
            tied=data["tied"],
            location=data["location"],
            inferred=data["inferred"],
            zeros=frozenset(data.get("zeros", ())),
            original=data.get("original"),
        )


def stored_name(architecture: Architecture, prefix: str, canonical: str) -> str:
    """Return the name under which a canonical tensor is stored."""
    return canonical if canonical.split(".")[0] in architecture.heads else prefix + canonical


def describe(
    architecture: Architecture,
    config: Mapping[str, Any],
    tensors: Mapping[str, tuple[tuple[int, ...], str]],
    *,
    aliases: Mapping[str, str] | None = None,
    location: str = "",
) -> SourceInfo:
    """Match stored tensors with an architecture.

    Args:
        architecture: the declaration.
        config: the source's config.
        tensors: stored name -> (shape, dtype name).
        aliases: stored names that hold the same as another one (a module's tied weights), which are left out. Given,
            even if empty, they decide whether the model is tied; otherwise absence and the config do.
        location: where the source is, for messages.

    Raises:
        SourceError: tensors are missing, left over, or have shapes that the config does not predict; all are named.
    """
    from_storage, aliases = aliases is not None, aliases or {}
    where = f"{location}: " if location else ""
    resolved = architecture.resolve_config(config)
    for name, (value, reason) in architecture.constants.items():
        if resolved.get(name, value) != value:
            raise SourceError(f"{where}{name} = {resolved[name]!r}: {reason}")
    for name, arrow in architecture.arrows.items():
        if isinstance(arrow.eps, str) and arrow.eps not in resolved:
            raise SourceError(f"{where}the config has no {arrow.eps!r}, the epsilon that {name} is declared with")
    if architecture.prefix and any(_renamed(architecture, n).startswith(architecture.prefix + ".") for n in tensors):
        prefix = architecture.prefix + "."
    else:
        prefix = ""
    patterns = [
        (spec, re.compile(re.sub(r"\\\{\w+\\\}", r"(\\d+)", re.escape(spec.template))))
        for spec in architecture.tensors.values()
    ]
    found: dict[str, TensorInfo] = {}
    templates: set[str] = set()
    dropped = {name: f"the same storage as {other}" for name, other in aliases.items()}
    problems: list[str] = []
    inferred: dict[str, int] = {}
    for stored, (shape, dtype) in tensors.items():
        if stored in aliases:
            continue
        name = _renamed(architecture, stored)
        canonical = name[len(prefix) :] if prefix and name.startswith(prefix) else name
        if prefix and not name.startswith(prefix) and name.split(".")[0] not in architecture.heads:
            canonical = "?" + name
        match = next(((spec, m) for spec, p in patterns if (m := p.fullmatch(canonical))), None)
        if match is None or not architecture.exists(match[0], resolved):
            why = next((r for p, r in architecture.ignored.items() if re.fullmatch(p, name)), None)
            if why is not None:
                dropped[stored] = why
            elif match is not None:
                problems.append(f"unexpected {stored}: the config says that there is none")
            else:
                known = [stored_name(architecture, prefix, t) for t in architecture.tensors]
                problems.append(f"unexpected {stored} {list(shape)}{did_you_mean(stored, known)}")
            continue
        spec, groups = match
        for dim, size in zip(spec.dims, shape, strict=False):
            field_name = architecture.sizes.get(str(dim.term).split(":")[-1], "")
            if field_name in architecture.inferred:
                inferred[field_name] = resolved[field_name] = size
        index = dict(zip(spec.index, map(int, groups.groups()), strict=True))
        try:
            expected = architecture.shape(spec, resolved, index)
            outside = any(index[a] >= architecture.size(a, resolved, index) for a in spec.index)
        except ArchitectureError as error:
            if "no entry" not in str(error):
                raise SourceError(f"{where}the config contradicts itself: {error}") from None
            outside = True
        if outside:
            problems.append(f"unexpected {stored}: the config has fewer {' and '.join(spec.index)}s")
            continue
        if shape != expected:
            terms = ", ".join(re.sub(r"\w+:", "", str(dim.term)) for dim in spec.dims)
            problems.append(f"{stored} has shape {list(shape)}; the config predicts {list(expected)} = [{terms}]")
        found[canonical] = TensorInfo(stored, shape, dtype)
        templates.add(spec.template)
    if any(name.removeprefix(prefix) in architecture.ties for name in aliases):
        tied = True
    else:
        tied = not from_storage and _ties_hold(architecture, resolved, templates)
    problems += _missing(architecture, resolved, found, templates, prefix, tied)
    if problems:
        shown = "\n  ".join(problems[:12])
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise SourceError(f"{where}the tensors do not fit the config ({architecture.name}):\n  {shown}{more}")
    return SourceInfo(
        config=json.loads(json.dumps(dict(config))), tensors=found, templates=frozenset(templates), dropped=dropped,
        prefix=prefix, tied=tied,
        location=location, inferred=inferred,
    )  # fmt: skip


def from_config(architecture: Architecture, config: Mapping[str, Any], dtype: str | None = None) -> SourceInfo:
    """Describe a source from its config alone, all shapes taken from the declaration.

    A language model's head is there if ``architectures`` names a class with one; other optional heads are not. Unless
    a dtype is given, it is the config's, or else float32.
    """
    dtype = dtype or str(config.get("dtype") or config.get("torch_dtype") or "float32")
    resolved = architecture.resolve_config(config)
    with_head = any("For" in str(a) or "Head" in str(a) for a in config.get("architectures") or ())
    tied = bool(with_head and architecture.tie_field and resolved.get(architecture.tie_field))
    tensors = {}
    prefix = f"{architecture.prefix}." if architecture.prefix and with_head else ""
    for spec in architecture.tensors.values():
        optional = architecture.arrows[spec.owner].optional
        is_tied_head = tied and spec.template in architecture.ties
        is_lm_head = spec.template in architecture.ties and with_head
        if not architecture.exists(spec, resolved) or is_tied_head or (optional and not is_lm_head):
            continue
        for index in architecture.instances(spec.index, resolved):
            shape = architecture.shape(spec, resolved, index)
            tensors[stored_name(architecture, prefix, spec.name(index))] = (shape, dtype)
    return describe(architecture, config, tensors, location="config")


def _renamed(architecture: Architecture, stored: str) -> str:
    for pattern, replacement in architecture.renames:
        stored = re.sub(pattern, replacement, stored)
    return stored


def _ties_hold(architecture: Architecture, resolved: Mapping[str, Any], templates: set[str]) -> bool:
    """Tell from config and names alone whether heads that are not stored are tied."""
    heads = resolved.get("architectures") or [""]
    headless = str(heads[0]).endswith("Model") and "Head" not in str(heads[0])  # GPT2LMHeadModel has one
    flagged = architecture.tie_field is None or bool(resolved.get(architecture.tie_field))
    return bool(architecture.ties) and not headless and flagged and not (set(architecture.ties) & templates)


def _missing(
    architecture: Architecture,
    resolved: Mapping[str, Any],
    found: Mapping[str, TensorInfo],
    templates: set[str],
    prefix: str,
    tied: bool,
) -> list[str]:
    problems = []
    has_head = any(word in str(a) for a in resolved.get("architectures") or () for word in _LANGUAGE_MODELS)
    owners = {spec.owner for spec in architecture.tensors.values() if spec.template in templates}
    for spec in architecture.tensors.values():
        is_head = spec.template in architecture.ties
        absent = architecture.arrows[spec.owner].optional and spec.owner not in owners
        if not architecture.exists(spec, resolved) or (absent and not (is_head and has_head)) or (is_head and tied):
            continue
        for index in architecture.instances(spec.index, resolved):
            if spec.name(index) not in found:
                problems.append(f"missing {stored_name(architecture, prefix, spec.name(index))}")
    return problems
