"""Arrows: how one named module (or bare parameter) maps one space to another, and how it is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from growformer.architecture.language import Term, format_arrow, parse_arrow, parse_term
from growformer.errors import ArchitectureError

Kind = Literal["linear", "linear_transposed", "embedding", "parameter", "norm", "scale", "convolution", "carried"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """How one named module (or bare parameter) maps one space to another, and how it is stored.

    Attributes:
        kind: how the tensor is stored: ``linear`` is ``[target, source]``, ``linear_transposed`` and ``embedding``
            are ``[source, target]``, ``parameter`` is the vector ``[target]``, ``norm`` a gain over ``over``, ``scale``
            a vector that multiplies its source coordinate by coordinate, ``convolution`` is ``[target, source,
            *kernel]``, ``carried`` a tensor of any shape that no growth touches.
        source: the term it reads; None for a parameter.
        target: the term it writes.
        bias: whether it has a bias: yes, no, or the condition that says so.
        when: the condition under which it exists at all: an expression over config fields and index axes.
        optional: a head that only some checkpoints of the family carry.
        centred: the norm subtracts the mean (LayerNorm).
        offset: what is added to the stored gain (Gemma: 1).
        eps: the norm's epsilon: a config field, or a constant of the class.
        over: the axes that the norm reduces; None for all of its space.
        gain: whether the norm has a gain at all.
        kernel: axes of a convolution's window.
        leading: number of dimensions of size one in front (a class token is stored ``[1, 1, hidden]``).
        bare: stored under its own name, without ``.weight``.
        otherwise: what it reads where nothing in the source at hand writes ``source`` (one name, two classes).
    """

    kind: Kind
    source: Term | None
    target: Term
    bias: bool | str = False
    when: str | None = None
    optional: bool = False
    centred: bool = False
    offset: int = 0
    eps: str | float = 0.0
    over: Term | None = None
    gain: bool = True
    kernel: tuple[str, ...] = ()
    leading: int = 0
    bare: bool = False
    otherwise: Term | None = None

    def __str__(self) -> str:
        return format_arrow(self.source, self.target)


def linear(
    arrow: str,
    *,
    bias: bool | str = False,
    when: str | None = None,
    optional: bool = False,
    otherwise: str | None = None,
) -> Arrow:
    """A matrix stored ``[target, source]``, as ``torch.nn.Linear`` does."""
    made = _weight("linear", arrow, bias, when, optional)
    return replace(made, otherwise=parse_term(otherwise)) if otherwise else made


def linear_transposed(
    arrow: str, *, bias: bool | str = False, when: str | None = None, optional: bool = False
) -> Arrow:
    """A matrix stored ``[source, target]``, as GPT-2's ``Conv1D`` does."""
    return _weight("linear_transposed", arrow, bias, when, optional)


def convolution(
    arrow: str, *, kernel: tuple[str, ...], bias: bool | str = True, when: str | None = None, optional: bool = False
) -> Arrow:
    """A convolution stored ``[target, source, *kernel]``, all of whose channels meet (``groups=1``)."""
    return _weight("convolution", arrow, bias, when, optional, kernel=kernel)


def embedding(
    arrow: str, *, when: str | None = None, optional: bool = False, leading: int = 0, bare: bool = False
) -> Arrow:
    """A table stored ``[source, target]`` whose rows are looked up."""
    return _weight("embedding", arrow, False, when, optional, leading=leading, bare=bare)


def parameter(arrow: str, *, when: str | None = None, optional: bool = False, leading: int = 0) -> Arrow:
    """A bare vector that is added to its target: ``"-> vocab"``."""
    return _weight("parameter", arrow, False, when, optional, leading=leading, bare=True)


def rms_norm(
    arrow: str,
    *,
    eps: str | float,
    over: str | None = None,
    offset: int = 0,
    when: str | None = None,
    optional: bool = False,
    gain: bool = True,
    bias: bool | str = False,
) -> Arrow:
    """RMSNorm: ``(offset + gain) * x / sqrt(mean(x^2) + eps)``, the mean over ``over``."""
    source, target = parse_arrow(arrow)
    return Arrow(
        kind="norm", source=source, target=target, eps=eps, offset=offset, when=when, optional=optional, gain=gain,
        bias=bias, over=parse_term(over) if over else None,
    )  # fmt: skip


def layer_norm(
    arrow: str,
    *,
    eps: str | float,
    bias: bool | str = True,
    over: str | None = None,
    offset: int = 0,
    when: str | None = None,
    optional: bool = False,
    gain: bool = True,
) -> Arrow:
    """LayerNorm: as RMSNorm of what is left when the mean over ``over`` is subtracted, plus a bias."""
    source, target = parse_arrow(arrow)
    return Arrow(
        kind="norm", source=source, target=target, eps=eps, offset=offset, when=when, optional=optional, gain=gain,
        bias=bias, centred=True, over=parse_term(over) if over else None,
    )  # fmt: skip


def layer_scale(arrow: str, *, when: str | None = None, optional: bool = False) -> Arrow:
    """A bare vector that multiplies a vector coordinate by coordinate (LayerScale)."""
    source, target = parse_arrow(arrow)
    return Arrow(kind="scale", source=source, target=target, when=when, optional=optional, bare=True)


def _weight(
    kind: Kind,
    arrow: str,
    bias: bool | str,
    when: str | None,
    optional: bool,
    *,
    kernel: tuple[str, ...] = (),
    leading: int = 0,
    bare: bool = False,
) -> Arrow:
    source, target = parse_arrow(arrow)
    if (source is None) != (kind == "parameter"):
        raise ArchitectureError(f"a {kind} arrow {'must not' if source else 'must'} read a space: {arrow!r}")
    return Arrow(
        kind=kind, source=source, target=target, bias=bias, when=when, optional=optional, kernel=kernel,
        leading=leading, bare=bare,
    )  # fmt: skip


__all__ = [
    "Arrow", "Kind", "convolution", "embedding", "layer_norm", "layer_scale", "linear",
    "linear_transposed", "parameter", "rms_norm",
]  # fmt: skip
