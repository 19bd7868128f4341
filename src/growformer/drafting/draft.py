"""Puts a draft together: the nearest family, what differs from it, and what the oracles say about the result."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import nn

from growformer.architecture.arrows import Arrow
from growformer.architecture.declaration import Architecture, space_of
from growformer.architecture.exact import evaluate
from growformer.architecture.language import Axis, Product, Term
from growformer.drafting.code import extension_code
from growformer.drafting.measure import Build, Measured, measure
from growformer.drafting.nearest import Likeness, nearest
from growformer.errors import ArchitectureError, UnknownArchitectureError
from growformer.verification.oracles import iterate_problems

LEAST_ALIKE = 0.4
"""Below this share of common names, no family is a help, and a draft would mislead."""
_MOST_PROBLEMS = 12


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A declaration to start from.

    Attributes:
        name: of the family.
        base: the family that it extends.
        share: how many of all names both have.
        architecture: the draft itself; None where it is not even consistent.
        unsure: arrow -> what needs a look.
        problems: what the oracles say; empty where the draft agrees with the class.
        text: the draft as a Python module.
    """

    name: str
    base: str
    share: float
    architecture: Architecture | None
    unsure: Mapping[str, str]
    problems: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.text


def draft(config: Mapping[str, Any], build: Build, *, name: str | None = None) -> Draft:
    """Draft a declaration for a class.

    Args:
        config: of the model; its sizes are made small before anything is built.
        build: config dictionary -> model.
        name: of the family; the config's model_type by default.

    Raises:
        UnknownArchitectureError: no declared family is like this class, or it cannot be built small.
    """
    name = name or str(config.get("model_type") or "my_model")
    small = shrink(config, build)
    measured = measure(small, build)
    like = nearest(measured.shapes)
    if like.share < LEAST_ALIKE:
        raise UnknownArchitectureError(
            f"no declared family is like {name}: the nearest is {like.architecture.name}, which shares "
            f"{like.share:.0%} of its names. Declare it as in docs/architectures.md; what its dimensions depend on:\n  "
            + "\n  ".join(_table(measured))
        )
    changes, unsure = _changes(name, measured, like)
    architecture: Architecture | None = None
    try:
        architecture = like.architecture.extend(name.replace("-", "_"), **{**changes, "model_types": (name,)})
        problems: tuple[str, ...] = tuple(_judge(architecture, small, build))
    except ArchitectureError as error:
        problems = (f"the draft contradicts itself: {error}",)
    for problem in problems:
        for arrow in changes.get("arrows", {}):
            if _mentions(problem, arrow):
                unsure.setdefault(arrow, "the class disagrees, see below")
    return Draft(
        name=name, base=like.architecture.name, share=like.share, architecture=architecture, unsure=unsure,
        problems=problems, text=_text(name, like, measured, changes, unsure, problems),
    )  # fmt: skip


def shrink(config: Mapping[str, Any], build: Build) -> dict[str, Any]:
    """Return a config of the same class with small, mostly different sizes, as far as the class takes them.

    Raises:
        UnknownArchitectureError: the class can be built neither small nor as it is.
    """
    wanted: dict[str, Any] = {}
    for field, value in config.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 2:
            continue
        small = next((size for pattern, size in _SMALL if re.fullmatch(pattern, field)), None)
        if small is not None and small < value:
            wanted[field] = small
    lists = {field: None for field, value in config.items() if field == "layer_types" and isinstance(value, list)}
    error: Exception | None = None
    for changes in ({**wanted, **lists}, {**wanted, **lists, "head_dim": None}, wanted, {}):
        small_config = {**config, **{k: v for k, v in changes.items() if k in config}}
        try:
            with torch.device("meta"):
                build(dict(small_config))
            return small_config
        except Exception as found:  # the class may refuse in any way it likes
            error = found
    raise UnknownArchitectureError(f"the class cannot be built, neither small nor as its config says: {error}")


_SMALL = (
    (r"(num_hidden_layers|n_layers?|num_layers|num_decoder_layers|encoder_layers|decoder_layers)", 2),
    (r"(num_attention_heads|n_heads?|num_heads|encoder_attention_heads|decoder_attention_heads)", 4),
    (r"(num_key_value_heads|n_kv_heads|multi_query_group_num)", 2),
    (r"(head_dim|d_kv|kv_channels)", 10),
    (r"(hidden_size|d_model|n_embd|embed_dim|dim)", 40),
    (r"(intermediate_size|ffn_dim|d_ff|n_inner|ffn_hidden_size|encoder_ffn_dim|decoder_ffn_dim|hidden_dim)", 74),
    (r"(moe_intermediate_size|shared_expert_intermediate_size)", 26),
    (r"(num_experts|num_local_experts|n_routed_experts)", 5),
    (r"(num_experts_per_tok|top_k)", 2),
    (r"(vocab_size|padded_vocab_size)", 61),
    (r"(max_position_embeddings|n_positions|max_seq_len|block_size|seq_length)", 58),
)


_DERIVED = {"head_dim": "hidden_size / num_attention_heads", "num_key_value_heads": "num_attention_heads"}
"""What most classes put where a config leaves these fields out."""


def _changes(name: str, measured: Measured, like: Likeness) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arguments of ``extend`` that turn the nearest family into this one, and what is not sure."""
    base = like.architecture
    unsure: dict[str, str] = {}
    changes: dict[str, Any] = {"model_types": (name,)}
    prefix = like.prefix
    if prefix.removesuffix(".") != base.prefix and prefix:
        changes["prefix"] = prefix.removesuffix(".")
    sizes = _sizes(measured, like)
    if sizes:
        changes["sizes"] = sizes
    spelled = {axis: size for axis, size in {**base.sizes, **sizes}.items() if size is not None}
    arrows: dict[str, Arrow | None] = {**dict.fromkeys(like.missing), **_past_missing_norms(like, unsure)}
    arrows |= _wider_norms(measured, like, unsure)
    fresh: dict[str, str] = {}
    for template in measured.templates:
        if not set(measured.templates[template]) & set(like.unmatched):
            continue
        canonical = template.removeprefix(prefix)
        owner, _, part = canonical.rpartition(".")
        if part == "bias" and (
            f"{prefix}{owner}.weight" in measured.templates or f"{owner}.weight" in measured.templates
        ):
            known = base.arrows.get(owner)
            if known is not None and arrows.get(owner) is None and owner not in like.missing:
                arrows[owner] = replace(known, bias=True)
            continue
        arrow = _arrow(canonical, measured, template, spelled, fresh)
        key = owner if part == "weight" else canonical
        if f"{template.removesuffix('weight')}bias" in measured.templates and arrow is not None:
            arrow = replace(arrow, bias=True)
        if arrow is None:
            unsure[key] = f"shape {_shape(measured, template)}, of which no arrow could be made"
            continue
        arrows[key] = arrow
        unsure[key] = f"not in {base.name}; where it reads and writes is a guess from its shape"
    if fresh:
        changes["sizes"] = {**changes.get("sizes", {}), **fresh}
    if arrows:
        changes["arrows"] = arrows
    heads = {n.partition(".")[0] for n in like.unmatched if prefix and not n.startswith(prefix)} - set(base.heads)
    if heads:
        changes["heads"] = (*base.heads, *sorted(heads))
    defaults = {f: default for f, default in _DERIVED.items() if f in base.defaults and measured.config.get(f) is None}
    defaults = {f: default for f, default in defaults.items() if base.defaults[f] != default}
    if defaults:
        changes["defaults"] = defaults
    return changes, unsure


def _past_missing_norms(like: Likeness, unsure: dict[str, str]) -> dict[str, Arrow | None]:
    """Let what reads the output of a norm that the class lacks read what the norm would have read."""
    base = like.architecture
    instead = {
        space_of(arrow.target): (space_of(arrow.source), name)
        for name, arrow in base.arrows.items()
        if name in like.missing and arrow.kind == "norm"
    }
    found: dict[str, Arrow | None] = {}
    for name, arrow in base.arrows.items():
        if name in like.missing or not isinstance(arrow.source, Axis) or arrow.source.name not in instead:
            continue
        space, norm = instead[arrow.source.name]
        found[name] = replace(arrow, source=Axis(space))
        unsure[name] = f"reads {space}, as there is no {norm}"
    return found


def _wider_norms(measured: Measured, like: Likeness, unsure: dict[str, str]) -> dict[str, Arrow | None]:
    """Let norms that are longer than the family's reduce all of what they read (Q/K norms over all heads)."""
    base = like.architecture
    found: dict[str, Arrow | None] = {}
    for names in measured.templates.values():
        template = like.matched.get(names[0], "")
        owner = base.tensors[template].owner if template in base.tensors else ""
        arrow = base.arrows.get(owner)
        if arrow is None or arrow.kind != "norm" or arrow.over is None or not template.endswith("weight"):
            continue
        axes = base.spaces[space_of(arrow.source)].axes
        sizes = [_size(base, axis, {**measured.config, **_derived(base, measured.config)}) for axis in axes]
        if None not in sizes and prod(s for s in sizes if s) == measured.shapes[names[0]][0]:
            found[owner] = replace(arrow, over=Product(tuple(map(Axis, axes))))
            unsure[owner] = "over all heads, from its length"
    return found


def _derived(base: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    fields = [f for f in _DERIVED if f in base.defaults and config.get(f) is None]
    return {f: int(evaluate(_DERIVED[f], config).rational()) for f in fields}


def _sizes(measured: Measured, like: Likeness) -> dict[str, str]:
    """Return sizes of the family whose expressions do not hold for the class, with those that were measured."""
    base = like.architecture
    found: dict[str, str] = {}
    for template, names in measured.templates.items():
        matched = like.matched.get(names[0])
        if matched is None or matched not in base.tensors:
            continue
        dims = zip(base.tensors[matched].dims, measured.expressions[template], strict=False)
        for position, (dim, expression) in enumerate(dims):
            axis = str(dim.term).split(":")[-1]
            if expression is None or axis not in base.sizes or axis in found:
                continue
            if _size(base, axis, measured.config) != measured.shapes[names[0]][position]:
                found[axis] = expression
    for axis, field in measured.counts.items():
        if (
            axis in base.sizes
            and field is not None
            and field != base.sizes[axis]
            and base.sizes[axis] not in measured.config
        ):
            found[axis] = field
    return found


def _size(base: Architecture, axis: str, config: Mapping[str, Any]) -> int | None:
    """Return what a family says of an axis under a config that may not be its own; None where it says nothing."""
    try:
        return base.size(axis, base.resolve_config(config), dict.fromkeys(base.size_index(axis), 0))
    except ArchitectureError:
        return None


def _arrow(
    canonical: str, measured: Measured, template: str, sizes: Mapping[str, str], fresh: dict[str, str]
) -> Arrow | None:
    """Guess an arrow from the shape and the name of a tensor that the family does not have."""
    expressions = measured.expressions[template]
    terms = [_term(expression, sizes, fresh) for expression in expressions]
    if any(term is None for term in terms) or not terms:
        return None
    name = re.sub(r"\W+", "_", re.sub(r"\{\w+\}\.?", "", canonical.removesuffix(".weight"))).strip("_")
    if len(terms) == 1:
        is_norm = re.search(r"norm|(^|_)ln", name) is not None and canonical.endswith("weight")
        if is_norm:
            eps = next(iter(f for f in measured.config if "eps" in f), 1e-5)
            centred = f"{template.removesuffix('weight')}bias" in measured.templates
            return Arrow(
                kind="norm", source=_named(terms[0], f"{name}_in"), target=_named(terms[0], f"{name}_out"), eps=eps,
                centred=centred, bias=centred,
            )  # fmt: skip
        return Arrow(kind="parameter", source=None, target=_named(terms[0], name), bare=True)
    if len(terms) != 2:
        return None
    if "embed" in name:
        return Arrow(kind="embedding", source=terms[0], target=_named(terms[1], f"{name}_out"))
    return Arrow(kind="linear", source=_named(terms[1], f"{name}_in"), target=_named(terms[0], f"{name}_out"))


def _term(expression: str | None, sizes: Mapping[str, str], fresh: dict[str, str]) -> Term | None:
    """Return the axis (or the product of axes) with a size; a new axis where there is none."""
    if expression is None:
        return None
    for axis, size in {**sizes, **fresh}.items():
        if size == expression:
            return Axis(axis)
    pairs = [(a, b) for a, x in sizes.items() for b, y in sizes.items() if f"{x} * {y}" == expression]
    if pairs:
        return Product((Axis(pairs[0][0]), Axis(pairs[0][1])))
    axis = "_".join(["size", *re.findall(r"\w+", expression)])
    fresh[axis] = expression
    return Axis(axis)


def _named(term: Term | None, label: str) -> Term:
    assert term is not None  # checked by the caller
    return replace(term, label=label)


def _judge(architecture: Architecture, small: dict[str, Any], build: Build) -> Iterator[str]:
    def make_inputs(config: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        vocab = next((config[f] for f in ("vocab_size", "padded_vocab_size") if f in config), 50)
        return {"input_ids": torch.randint(vocab, (2, 11), generator=generator)}

    def make_model(config: dict[str, Any]) -> nn.Module:
        return build(dict(config)).eval()

    try:
        for number, problem in enumerate(iterate_problems(architecture, small, make_model, make_inputs)):
            if number == _MOST_PROBLEMS:
                yield "and more"
                return
            yield problem
    except Exception as error:  # the class's forward wants other inputs, say
        yield (
            f"the class could not be run with input_ids alone ({type(error).__name__}: {error}); "
            "only shapes were compared"
        )


def _mentions(problem: str, arrow: str) -> bool:
    pattern = re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(arrow))
    return re.search(rf"(^|[\s.]){pattern}(\.|\s|$)", problem) is not None


def _shape(measured: Measured, template: str) -> str:
    dims = zip(measured.shapes[measured.templates[template][0]], measured.expressions[template], strict=True)
    return "[" + ", ".join(f"{expression or '?'} = {size}" for size, expression in dims) + "]"


def _table(measured: Measured) -> Iterator[str]:
    for template in measured.templates:
        yield f"{template}: {_shape(measured, template)}"


def _text(
    name: str, like: Likeness, measured: Measured, changes: dict[str, Any], unsure: Mapping[str, str],
    problems: tuple[str, ...],
) -> str:  # fmt: skip
    agrees = "The oracles agree with it." if not problems else "The oracles do not agree with it yet, see the end."
    head = f"{name}: drafted from its class as a variety of {like.architecture.name} ({like.share:.0%} of the names)."
    code = extension_code(name.replace("-", "_"), like.architecture, changes, unsure, f"{head} {agrees}")
    lines = [code]
    left = {arrow: why for arrow, why in unsure.items() if arrow not in changes.get("arrows", {})}
    if left:
        lines += ["# Not declared yet:", *(f"#   {arrow}: {why}" for arrow, why in left.items())]
    if problems:
        lines += ["# What the class does otherwise:", *(f"#   {line}" for p in problems for line in p.splitlines())]
    lines += [
        "# What shapes and symmetries cannot show, and a person must look up in the class: the scale of the attention",
        "# scores, epsilons that are constants, factors that depend on a size, and what follows from a layer's number.",
        "# To test it:      growformer.verification.oracles.check_declaration (docs/architectures.md)",
        '# To register it:  [project.entry-points."growformer.architectures"]',
        f'#                  {name.replace("-", "_")} = "your_package.this_module"',
        "",
    ]
    return "\n".join(lines)


__all__ = ["Draft", "draft", "shrink"]
