"""Runs every norm of a model alone and compares it with the formula that its arrow stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import torch

from growformer.architecture.arrows import Arrow
from growformer.architecture.declaration import TensorSpec
from growformer.architecture.language import leaves
from growformer.architecture.source import spelled
from growformer.verification.live import Live

TOLERANCE = 1e-5
"""Largest relative difference that counts as none: many classes compute norms in float32."""


def norm_problems(live: Live) -> Iterator[str]:
    """Yield the norms that do not compute ``(offset + gain) x / sqrt(mean(x^2) + eps) + bias``.

    LayerNorms subtract the mean of x first. The input is small, of the order of sqrt(eps), so that eps matters. A norm
    is the module that bears its arrow's name, and takes one tensor; one without a gain may be no module at all.

    Args:
        live: the model and its declaration.
    """
    architecture, source = live.architecture, live.source
    resolved = architecture.resolve_config(source.sizes)
    for name, arrow in architecture.arrows.items():
        if arrow.kind != "norm" or (arrow.gain and f"{name}.weight" not in source.templates):
            continue
        eps = float(resolved[arrow.eps]) if isinstance(arrow.eps, str) else arrow.eps
        has_bias = f"{name}.bias" in source.templates
        spec = TensorSpec(name, name, "weight", (), tuple(re.findall(r"\{(\w+)\}", name)))
        for index in architecture.instances_of(spec, resolved):
            if not arrow.gain:
                size_of = partial(architecture.size, config=resolved, index=index)
                size = leaves(architecture.expand(arrow.over or arrow.target), size_of)[0]
                module = spelled(architecture, source, name, index)
                if any(module == known for known, _ in live.model.named_modules()):
                    yield from _compare(live.model, arrow, module, size, eps, ())
                continue
            info = source.tensors[f"{name}.weight".format(**index)]
            parts = ("weight", "bias") if has_bias else ("weight",)
            yield from _compare(live.model, arrow, info.stored.removesuffix(".weight"), info.shape[0], eps, parts)


def _compare(
    model: torch.nn.Module, arrow: Arrow, name: str, size: int, eps: float, parts: tuple[str, ...]
) -> Iterator[str]:
    generator = torch.Generator().manual_seed(size)
    gain, bias, *rows = torch.randn(5, size, generator=generator, dtype=torch.float64)
    x = (torch.stack(rows) + 0.5) * max(eps, 1e-12) ** 0.5
    tensors = {part: {"weight": gain, "bias": bias}[part] for part in parts}
    try:
        with torch.no_grad():
            found = torch.func.functional_call(model.get_submodule(name), tensors, (x,))
    except Exception as error:  # not a module, or one that takes something else
        yield f"{name} cannot be run alone, so neither its epsilon nor its form can be checked: {error}"
        return
    centred = x - x.mean(-1, keepdim=True) if arrow.centred else x
    expected = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)
    expected = (arrow.offset + gain) * expected if "weight" in parts else expected
    expected = expected + bias if "bias" in parts else expected
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        form = "LayerNorm" if arrow.centred else "RMSNorm"
        offset = f" and gains stored minus {arrow.offset}" if arrow.offset else ""
        yield f"{name} is no {form} with epsilon {eps:g}{offset}: it differs by {difference:.1e} of the largest"


__all__ = ["norm_problems"]
