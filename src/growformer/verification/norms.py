"""Runs every norm of a model alone and compares it with the formula that its arrow stands for."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from growformer.architecture.declaration import Architecture, Arrow, Config
from growformer.architecture.source import SourceInfo

TOLERANCE = 1e-5
"""Largest relative difference that counts as none: many classes compute norms in float32."""


def norm_problems(
    architecture: Architecture, config: Config, model: torch.nn.Module, source: SourceInfo
) -> Iterator[str]:
    """Yield the norms that do not compute ``(offset + gain) x / sqrt(mean(x^2) + eps) + bias``.

    LayerNorms subtract the mean of x first. The input is small, of the order of sqrt(eps), so that eps matters.

    Args:
        architecture: the declaration.
        config: the model's config.
        model: the model; a norm is the module that bears its arrow's name, and takes one tensor.
        source: its tensors, matched with the declaration.
    """
    resolved = architecture.resolve_config(source.sizes)
    for name, arrow in architecture.arrows.items():
        if arrow.kind != "norm" or f"{name}.weight" not in source.templates:
            continue
        spec = architecture.tensors[f"{name}.weight"]
        for index in architecture.instances(spec.index, resolved):
            info = source.tensors[spec.name(index)]
            eps = float(resolved[arrow.eps]) if isinstance(arrow.eps, str) else arrow.eps
            has_bias = f"{name}.bias" in source.templates
            yield from _compare(model, arrow, info.stored.removesuffix(".weight"), info.shape[0], eps, has_bias)


def _compare(model: torch.nn.Module, arrow: Arrow, name: str, size: int, eps: float, has_bias: bool) -> Iterator[str]:
    generator = torch.Generator().manual_seed(size)
    gain, bias, *rows = torch.randn(5, size, generator=generator, dtype=torch.float64)
    x = (torch.stack(rows) + 0.5) * max(eps, 1e-12) ** 0.5
    tensors = {"weight": gain, "bias": bias} if has_bias else {"weight": gain}
    try:
        with torch.no_grad():
            found = torch.func.functional_call(model.get_submodule(name), tensors, (x,))
    except Exception as error:  # not a module, or one that takes something else
        yield f"{name} cannot be run alone, so neither its epsilon nor its form can be checked: {error}"
        return
    centred = x - x.mean(-1, keepdim=True) if arrow.centred else x
    expected = (arrow.offset + gain) * centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)
    expected = expected + bias if has_bias else expected
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        form = "LayerNorm" if arrow.centred else "RMSNorm"
        offset = f" and gains stored minus {arrow.offset}" if arrow.offset else ""
        yield f"{name} is no {form} with epsilon {eps:g}{offset}: it differs by {difference:.1e} of the largest"


__all__ = ["norm_problems"]
