"""A few AdamW steps in as little memory as they can take: gradients are used and freed as they come.

Every parameter is updated by a hook as soon as its gradient is complete, so that no two gradients are there at once.
AdamW's moments follow from the gradients so far: for two steps the first gradient is kept, where an optimizer keeps two
moments. The updates are those of ``torch.optim.AdamW``, bit by bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from math import prod, sqrt
from typing import Any

import torch
from torch import nn

from growformer.verification.outputs import OUTPUTS

BETAS = (0.9, 0.999)
EPS = 1e-8
Seen = Callable[[int, tuple[str, ...], torch.Tensor], None]
"""Called with the step, the names of a parameter, and its gradient, which is not to be kept."""


def take_steps(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    seen: Seen,
    *,
    steps: int,
    seed: int,
    learning_rate: float,
    before: Callable[[int], None] = lambda step: None,
) -> None:
    """Train a model for some steps, in place.

    The loss is a random projection of every output (logits, or hidden states and pooled output), so that nothing is
    missed because a task does not ask for it.

    Args:
        model: in float32.
        inputs: its keyword arguments.
        seen: is shown every gradient.
        steps: how many.
        seed: of the projection.
        learning_rate: of AdamW; weight decay is 0.
        before: called with the number of steps done so far before each forward pass; the last one is after all steps.
    """
    names: dict[int, tuple[str, ...]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names[id(p)] = (*names.get(id(p), ()), name)
        parameters[id(p)] = p
    past: dict[int, list[torch.Tensor]] = {}
    now = 0

    def use(p: torch.Tensor) -> None:
        gradient, p.grad = p.grad, None
        if gradient is None:
            return
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        seen(now, names[id(p)], gradient)
        kept = past.setdefault(id(p), [])
        _adamw(p, [*kept, gradient], learning_rate)
        if now < steps:
            kept.append(gradient)

    with ExitStack() as stack, torch.enable_grad():
        for p in parameters.values():
            p.requires_grad_(p.is_floating_point())
            p.grad = None
            if p.is_floating_point():
                handle = p.register_post_accumulate_grad_hook(use)  # type: ignore[no-untyped-call]
                stack.callback(handle.remove)
        for now in range(1, steps + 1):
            before(now - 1)
            projected(_forward(model, inputs), seed).backward()  # type: ignore[no-untyped-call]
    past.clear()
    before(steps)
    with torch.no_grad():
        _forward(model, inputs)


def _adamw(p: torch.Tensor, gradients: list[torch.Tensor], learning_rate: float) -> None:
    """Make the update of ``torch.optim.AdamW`` after these gradients, in its order of operations."""
    first, second = BETAS
    with torch.no_grad():
        mean = gradients[0] * (1 - first)
        square = (gradients[0] * (1 - second)).mul_(gradients[0])
        for gradient in gradients[1:]:
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        step = len(gradients)
        correction = sqrt(1 - second**step)
        denominator = square.sqrt_().div_(correction).add_(EPS)
        p.addcdiv_(mean, denominator, value=-learning_rate / (1 - first**step))


def _forward(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Any:
    return model(**{name: t.float() if t.is_floating_point() else t for name, t in inputs.items()})


def projected(output: Any, seed: int) -> torch.Tensor:
    """Return a random projection of a model's outputs: of the named ones, or where there is none, of all it gives.

    Raises:
        ValueError: nothing that it gives can be trained on.
    """
    named = [getattr(output, name, None) for name in OUTPUTS]
    found = [t for t in named if isinstance(t, torch.Tensor) and t.requires_grad]
    found = found or [t for t in _tensors(output) if t.requires_grad]
    if not found:
        raise ValueError(f"{type(output).__name__} holds no output that depends on the parameters")
    generator = torch.Generator().manual_seed(seed)
    terms = [(t * torch.randn(t.shape, generator=generator).to(t.device)).mean() for t in found]
    return torch.stack(terms).sum()


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)


def float32_copy(model: nn.Module) -> nn.Module:
    """Return a copy in float32 and evaluation mode; each parameter is copied once, whatever its dtype."""
    memo: dict[int, Any] = {}
    for p in model.parameters():
        values = p.detach().to(torch.float32, copy=True) if p.is_floating_point() else p.detach().clone()
        memo[id(p)] = nn.Parameter(values, requires_grad=p.requires_grad)
    return copy.deepcopy(model, memo).float().eval()


def memory_needed(shapes: Iterable[tuple[int, ...]], num_tokens: int, *, steps: int = 2, in_place: bool = False) -> int:
    """Estimate the bytes that the check takes at its peak, the grown model itself included.

    Weights in float32 (twice, unless the model may be changed), the gradients of all steps but the last, three buffers
    of the largest parameter's size, and activations: for every matrix what it reads and writes at every token, twice.

    Args:
        shapes: of the grown model's parameters.
        num_tokens: positions in the inputs, over all sequences.
        steps: how many are taken.
        in_place: whether the model itself is trained, rather than a copy.
    """
    known = list(shapes)
    sizes = [prod(shape) for shape in known]
    copies = (1 if in_place else 2) + steps - 1
    ends = sum(shape[0] + prod(shape[1:]) if len(shape) == 2 else sum(shape[-2:]) for shape in known if len(shape) > 1)
    return 4 * (copies * sum(sizes) + 3 * max(sizes, default=0) + 2 * num_tokens * ends)


__all__ = ["float32_copy", "memory_needed", "projected", "take_steps"]
