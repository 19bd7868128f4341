"""What a source is, seen from its architecture: a config, and names, shapes and dtypes of tensors. No tensor data.

Canonical names are those of the declaration: without the base model's prefix, in the newest spelling. ``describe``
maps stored names to them and back, and checks that everything is there and nothing is left over.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from growformer.architecture.arrows import Arrow
from growformer.architecture.declaration import Architecture, TensorSpec, spaces_in
from growformer.architecture.fields import check_fields
from growformer.architecture.language import Axis, Product
from growformer.architecture.packing import Piece, packed_shape, pieces
from growformer.errors import ArchitectureError, SourceError, did_you_mean

_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM")
"""Parts of class names that say that there is an output projection, stored or tied."""


_TIED = "the same storage as "
_Find = Callable[[str], tuple[str | None, dict[str, int]]]


def tied_to(reason: str) -> str | None:
    """Return which tensor one that was dropped shares storage with, as the reason says; None if it has another."""
    return reason.removeprefix(_TIED) if reason.startswith(_TIED) else None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the source.

    Attributes:
        stored: the name in the source of the tensor that holds it.
        shape: its shape.
        dtype: torch's name of its dtype: ``bfloat16``.
        piece: where it lies there, if that holds others as well.
    """

    stored: str
    shape: tuple[int, ...]
    dtype: str
    piece: Piece | None = None


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """A source, described.

    Attributes:
        config: the config as config.json holds it.
        tensors: canonical name -> tensor.
        templates: the templates of the architecture that the source has.
        dropped: stored name -> why it does not go on to the target; see ``tied_to``.
        prefix: what stands in front of the base model's names in this source: ``"model."`` or nothing.
        spelling: template -> how this source spells it, where that is not the template behind the prefix.
        packed: templates of stored tensors that hold several declared ones.
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
    spelling: Mapping[str, str] = field(default_factory=dict)
    packed: tuple[str, ...] = ()
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
        headers: dict[str, list[Any]] = {}
        for t in self.tensors.values():
            entry = headers.setdefault(t.stored, [list(t.shape), t.dtype])
            if t.piece is not None:
                entry[0] = [*entry[0], *astuple(t.piece)]
        config = self.config if self.original is None else self.original
        text = json.dumps([dict(config), headers], sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "digest": self.digest,
            "config": dict(self.config),
            "tensors": {n: _info_to_json(t) for n, t in self.tensors.items()},
            "templates": sorted(self.templates),
            "dropped": dict(self.dropped),
            "prefix": self.prefix,
            "spelling": dict(self.spelling),
            "packed": list(self.packed),
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
            tensors={n: _info_from_json(entry) for n, entry in data["tensors"].items()},
            templates=frozenset(data["templates"]),
            dropped=data["dropped"],
            prefix=data["prefix"],
            spelling=data["spelling"],
            packed=tuple(data["packed"]),
            tied=data["tied"],
            location=data["location"],
            inferred=data["inferred"],
            zeros=frozenset(data.get("zeros", ())),
            original=data.get("original"),
        )


def _info_to_json(info: TensorInfo) -> list[Any]:
    found: list[Any] = [info.stored, list(info.shape), info.dtype]
    return [*found, list(astuple(info.piece))] if info.piece is not None else found


def _info_from_json(entry: list[Any]) -> TensorInfo:
    stored, shape, dtype, *piece = entry
    return TensorInfo(stored, tuple(shape), dtype, Piece(*piece[0]) if piece else None)


def stored_name(architecture: Architecture, prefix: str, canonical: str) -> str:
    """Return the name under which a canonical tensor is stored, spelled as it is declared."""
    return canonical if canonical.split(".")[0] in architecture.heads else prefix + canonical


def spelled(architecture: Architecture, source: SourceInfo | Any, template: str, index: Mapping[str, int]) -> str:
    """Return the name under which a source (or what is grown from it) stores a tensor.

    Args:
        architecture: the declaration.
        source: has ``prefix`` and ``spelling``.
        template: of a declared tensor, or of a stored one that holds several.
        index: its instance.
    """
    pattern = source.spelling.get(template)
    if pattern is not None:
        return str(pattern).format(**index)
    return stored_name(architecture, source.prefix, template.format(**index))


def canonical_names(architecture: Architecture, stored: Iterable[str]) -> dict[str, str]:
    """Return canonical name -> stored name."""
    names = dict.fromkeys(stored)
    prefix = _prefix(architecture, names)
    return {_canonical(architecture, prefix, name): name for name in names}


def match_names(architecture: Architecture, stored: Iterable[str]) -> dict[str, str | None]:
    """Return stored name -> the template that it is an instance of, of a declared or a packed tensor, or None."""
    find = _finder(architecture)
    return {name: find(canonical)[0] for canonical, name in canonical_names(architecture, stored).items()}


def specialised(architecture: Architecture, tensors: Mapping[str, tuple[tuple[int, ...], str]]) -> Architecture:
    """Return the architecture as it holds for one source: with what it carries, without heads that are not there.

    Every stored tensor that the architecture carries, of whatever shape, gets an arrow. Optional arrows of which the
    source has no tensor are left out, and so restrict nothing. An arrow that reads what nothing in this source writes
    reads what it is declared to read otherwise.
    """
    prefix = _prefix(architecture, tensors)
    find = _finder(architecture)
    arrows = dict(architecture.arrows)
    sizes: dict[str, str] = {}
    present: set[str] = set()
    for stored, (shape, _) in tensors.items():
        canonical = _canonical(architecture, prefix, stored)
        template, _ = find(canonical)
        if template in architecture.tensors:
            present.add(architecture.tensors[template].owner)
        elif template is None and any(re.fullmatch(p, canonical) for p in architecture.carried):
            sizes.update({f"_{dim}_{size}": str(size) for dim, size in enumerate(shape)})
            term = Product(tuple(Axis(f"_{dim}_{size}") for dim, size in enumerate(shape))) if shape else Axis("-")
            arrows[canonical] = Arrow(kind="carried", source=None, target=term)
            present.add(canonical)
    tied = {architecture.tensors[head].owner for head in architecture.ties}
    arrows = {n: a for n, a in arrows.items() if n in present or n in tied or not a.optional}
    written = {s for a in arrows.values() if a.kind != "carried" for s in spaces_in(a.target)}
    written |= {c.output for c in architecture.attention} | {add.target for add in architecture.adds}
    for name, arrow in list(arrows.items()):
        if arrow.optional and arrow.source is not None and not written & set(spaces_in(arrow.source)):
            if arrow.otherwise is not None:
                arrows[name] = replace(arrow, source=arrow.otherwise, otherwise=None)
            elif name not in present:  # a tied head behind a transformation that is not there
                del arrows[name]
    fixed = dict.fromkeys(sizes, "not a size of the model")
    for name, why in architecture.computed.items():
        if name not in arrows:
            axes = {a for space in spaces_in(architecture.arrows[name].target) for a in architecture.spaces[space].axes}
            fixed |= dict.fromkeys(sorted(axes), why)
    return architecture.restricted(arrows, sizes={**architecture.sizes, **sizes}, fixed={**architecture.fixed, **fixed})


def without_absent_heads(architecture: Architecture, source: SourceInfo) -> Architecture:
    """Return the architecture without heads that could be tied and are not there: nothing reads what they would."""
    present = {architecture.tensors[template].owner for template in source.templates}
    heads = {architecture.tensors[head].owner for head in architecture.ties} - present
    if source.tied or not heads:
        return architecture
    return architecture.restricted({name: a for name, a in architecture.arrows.items() if name not in heads})


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
    check_fields(architecture, resolved, location)
    for name, (value, reason) in architecture.constants.items():
        if resolved.get(name, value) != value:
            raise SourceError(f"{where}{name} = {resolved[name]!r}: {reason}")
    for name, arrow in architecture.arrows.items():
        if isinstance(arrow.eps, str) and arrow.eps not in resolved:
            raise SourceError(f"{where}the config has no {arrow.eps!r}, the epsilon that {name} is declared with")
    prefix = _prefix(architecture, tensors)
    find = _finder(architecture)
    found: dict[str, TensorInfo] = {}
    names: dict[str, dict[str, tuple[int, ...]]] = {}
    dropped = {name: _TIED + other for name, other in aliases.items()}
    problems: list[str] = []
    inferred: dict[str, int] = {}
    for stored, (shape, dtype) in tensors.items():
        if stored in aliases:
            continue
        canonical = _canonical(architecture, prefix, stored)
        template, index = find(canonical)
        if template is None and canonical in architecture.shared:
            dropped[stored] = _TIED + architecture.shared[canonical]
            continue
        packed = architecture.packed.get(template or "")
        spec = architecture.tensors.get(packed.parts[0] if packed else template or "")
        try:
            there = spec is not None and _is_there(architecture, spec, resolved, index, packed is not None)
        except ArchitectureError as error:
            raise SourceError(f"{where}the config contradicts itself: {error}") from None
        if spec is None or not there:
            name = _renamed(architecture, stored)
            why = next((r for p, r in architecture.ignored.items() if re.fullmatch(p, name)), None)
            why = why or _beyond(architecture, resolved, canonical)
            if why is not None:
                dropped[stored] = why
            elif spec is None:
                known = [stored_name(architecture, prefix, t) for t in architecture.tensors]
                problems.append(f"unexpected {stored} {list(shape)}{did_you_mean(stored, known)}")
            elif not architecture.exists(spec, resolved):
                problems.append(f"unexpected {stored}: the config says that there is none")
            else:
                problems.append(f"unexpected {stored}: the config has fewer {' and '.join(spec.index)}s")
            continue
        names.setdefault(str(template), {})[stored] = tuple(index.values())
        if packed is not None:
            try:
                expected = packed_shape(architecture, packed, resolved, index)
                inside = list(pieces(architecture, packed, resolved, index))
            except ArchitectureError as error:
                raise SourceError(f"{where}the config contradicts itself: {error}") from None
            if shape != expected:
                problems.append(f"{stored} has shape {list(shape)}; the config predicts {list(expected)}")
            for part, inner, piece in inside:
                part_shape = architecture.shape(part, resolved, inner)
                found[part.name(inner)] = TensorInfo(stored, part_shape, dtype, piece)
            continue
        for dim, size in zip(spec.dims, shape, strict=False):
            field_name = architecture.sizes.get(str(dim.term).split(":")[-1], "")
            if field_name in architecture.inferred:
                inferred[field_name] = resolved[field_name] = size
        try:
            expected = architecture.shape(spec, resolved, index)
        except ArchitectureError as error:
            raise SourceError(f"{where}the config contradicts itself: {error}") from None
        if shape != expected:
            terms = ", ".join(re.sub(r"\w+:", "", str(dim.term)) for dim in spec.dims)
            problems.append(f"{stored} has shape {list(shape)}; the config predicts {list(expected)} = [{terms}]")
        found[canonical] = TensorInfo(stored, shape, dtype)
    stored_packed = tuple(t for t in architecture.packed if t in names)
    parts = {part for t in stored_packed for part in architecture.packed[t].parts}
    templates = {t for t in names if t not in architecture.packed} | parts
    if any(name.removeprefix(prefix) in architecture.ties for name in aliases):
        tied = True
    else:
        tied = not from_storage and _ties_hold(architecture, resolved, templates)
    spelling = _spelling(architecture, prefix, names)
    problems += _missing(architecture, resolved, found, templates, prefix, tied)
    if problems:
        shown = "\n  ".join(problems[:12])
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise SourceError(f"{where}the tensors do not fit the config ({architecture.name}):\n  {shown}{more}")
    return SourceInfo(
        config=json.loads(json.dumps(dict(config))), tensors=found, templates=frozenset(templates), dropped=dropped,
        prefix=prefix, spelling=spelling, packed=stored_packed, tied=tied,
        location=location, inferred=inferred,
    )  # fmt: skip


def from_config(architecture: Architecture, config: Mapping[str, Any], dtype: str | None = None) -> SourceInfo:
    """Describe a source from its config alone, all shapes taken from the declaration.

    A language model's head is there if ``architectures`` names a class with one, with all of the module that it is the
    end of; other optional heads are not. Unless a dtype is given, it is the config's, or else float32.
    """
    dtype = dtype or str(config.get("dtype") or config.get("torch_dtype") or "float32")
    resolved = architecture.resolve_config(config)
    check_fields(architecture, resolved, "config")
    with_head = any("For" in str(a) or "Head" in str(a) for a in config.get("architectures") or ())
    flagged = architecture.tie_field is None or bool(resolved.get(architecture.tie_field))
    tied = bool(with_head and architecture.ties and flagged)
    is_language = any(word in str(a) for a in config.get("architectures") or () for word in _LANGUAGE_MODELS)
    owners = (architecture.tensors[template].owner for template in architecture.ties)
    modules = tuple(f"{module}." for owner in owners if is_language and (module := owner.rpartition(".")[0]))
    tensors = {}
    prefix = f"{architecture.prefix}." if architecture.prefix and with_head else ""
    for spec in architecture.tensors.values():
        optional = architecture.arrows[spec.owner].optional
        is_tied_head = tied and spec.template in architecture.ties
        is_lm_head = spec.template in architecture.ties and with_head
        is_lm_head = is_lm_head or spec.owner.startswith(modules)
        if not architecture.exists(spec, resolved) or is_tied_head or (optional and not is_lm_head):
            continue
        for index in architecture.instances_of(spec, resolved):
            shape = architecture.shape(spec, resolved, index)
            tensors[stored_name(architecture, prefix, spec.name(index))] = (shape, dtype)
    return describe(architecture, config, tensors, location="config")


def _prefix(architecture: Architecture, tensors: Iterable[str]) -> str:
    base = architecture.prefix + "."
    has_prefix = architecture.prefix and any(_renamed(architecture, name).startswith(base) for name in tensors)
    return base if has_prefix else ""


def _canonical(architecture: Architecture, prefix: str, stored: str) -> str:
    """Return a stored name as it would be declared; one that no declaration can match starts with a question mark."""
    name = _renamed(architecture, stored)
    if not prefix:
        return name
    if name.startswith(prefix):
        return name[len(prefix) :]
    return name if name.split(".")[0] in architecture.heads else "?" + name


def _finder(architecture: Architecture) -> _Find:
    """Return a function from a canonical name to its template and index; ``(None, {})`` where there is none."""
    return _finder_of((*architecture.tensors, *architecture.packed))


@lru_cache(maxsize=64)
def _finder_of(templates: tuple[str, ...]) -> _Find:
    patterns: dict[str, list[tuple[str, list[str], re.Pattern[str]]]] = {}
    for template in templates:
        axes = re.findall(r"\{(\w+)\}", template)
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", r"(\\d+)", re.escape(template)))
        patterns.setdefault(_numberless(re.sub(r"\{\w+\}", "0", template)), []).append((template, axes, pattern))

    def find(name: str) -> tuple[str | None, dict[str, int]]:
        for template, axes, pattern in patterns.get(_numberless(name), ()):
            match = pattern.fullmatch(name)
            if match is not None:
                return template, dict(zip(axes, map(int, match.groups()), strict=True))
        return None, {}

    return find


def _numberless(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _is_there(
    architecture: Architecture, spec: TensorSpec, resolved: Mapping[str, Any], index: Mapping[str, int], packed: bool
) -> bool:
    """Tell whether the config has this instance of a tensor (of those packed together: any with this index)."""
    for axis in index:
        outer = {a: index[a] for a in architecture.size_index(axis)}
        try:
            if index[axis] >= architecture.size(axis, resolved, outer):
                return False
        except ArchitectureError as error:
            if "no entry" in str(error):
                return False
            raise
    inner = {**dict.fromkeys(spec.index, 0), **index} if packed else index
    return architecture.exists(spec, resolved, inner)


def _beyond(architecture: Architecture, resolved: Mapping[str, Any], canonical: str) -> str | None:
    """Return why a tensor of an instance past the last one is dropped; None where it is not of one."""
    for axis, (more, reason) in architecture.beyond.items():
        last, count = architecture.size(axis, resolved), resolved.get(more) or 0
        for stem in {template.partition(f"{{{axis}}}")[0] for template in architecture.tensors}:
            number = re.match(re.escape(stem) + r"(\d+)\.", canonical)
            if number and last <= int(number[1]) < last + count:
                return reason
    return None


def _spelling(
    architecture: Architecture, prefix: str, names: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> dict[str, str]:
    """Return how the source spells templates, where it is not as declared: names of older or other checkpoints."""
    found = {}
    for template, instances in names.items():
        axes = re.findall(r"\{(\w+)\}", template)
        if all(
            stored == stored_name(architecture, prefix, template.format(**dict(zip(axes, values, strict=True))))
            for stored, values in instances.items()
        ):
            continue
        parts = next(iter(instances)).split(".")
        for number, axis in enumerate(axes):
            at = next(
                (
                    i
                    for i, part in enumerate(parts)
                    if part.isdigit()
                    and all(stored.split(".")[i] == str(values[number]) for stored, values in instances.items())
                ),
                None,
            )
            if at is not None:
                parts[at] = "{" + axis + "}"
        spelled_as = ".".join(parts)
        if all(
            stored == spelled_as.format(**dict(zip(axes, values, strict=True))) for stored, values in instances.items()
        ):
            found[template] = spelled_as
    return found


def _renamed(architecture: Architecture, stored: str) -> str:
    for pattern, replacement in architecture.renames:
        stored = re.sub(pattern, replacement, stored)
    return stored


def _ties_hold(architecture: Architecture, resolved: Mapping[str, Any], templates: set[str]) -> bool:
    """Tell from config and names alone whether heads that are not stored are tied."""
    name = str((resolved.get("architectures") or [""])[0])
    headless = name.endswith(("Model", "Encoder")) and "Head" not in name  # GPT2LMHeadModel has one
    headless |= any(task in name for task in ("Classification", "QuestionAnswering", "MultipleChoice"))
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
        for index in architecture.instances_of(spec, resolved):
            if spec.name(index) not in found:
                problems.append(f"missing {stored_name(architecture, prefix, spec.name(index))}")
    return problems
