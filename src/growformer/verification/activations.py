"""How large new coordinates of activations are beside those of the source: before training, and while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from growformer.architecture.declaration import Dim
from growformer.verification.live_tensors import LiveTensor
from growformer.verification.recorded import Recorded
from growformer.verification.units import Flags, new_coordinates


@dataclass(frozen=True, slots=True)
class Activation:
    """What one module gives (or where a norm reads the stream, what it reads).

    Attributes:
        module: its name; with `` (input)`` behind it for what it reads.
        step: how many steps had been taken.
        source_rms, new_rms: root mean square over the source's coordinates, and over the new ones.
    """

    module: str
    step: int
    source_rms: float
    new_rms: float


@dataclass(slots=True)
class _Watched:
    source: torch.Tensor
    new: torch.Tensor
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    calls: int = 0


class Activations:
    """Watches the modules of a model whose outputs have new coordinates beside those of the source.

    Args:
        model: the grown model.
        rec: how it was grown.
        tensors: its declared tensors.
    """

    def __init__(self, model: nn.Module, rec: Recorded, tensors: Sequence[LiveTensor]) -> None:
        self.found: list[Activation] = []
        self._step = 0
        self._watched: dict[str, _Watched] = {}
        self._handles: list[Any] = []
        modules = dict(model.named_modules())
        for tensor in tensors:
            name, _, part = tensor.held.stored.rpartition(".")
            if tensor.held.piece is not None or part != "weight" or name not in modules:
                continue
            arrow = rec.architecture.arrows[tensor.spec.owner]
            if arrow.kind == "carried":
                continue
            wanted = "gain" if arrow.kind in ("norm", "scale") else "write"
            dim = next((d for d in tensor.spec.dims if d.role == wanted), None)
            if dim is None:
                continue
            flags = new_coordinates(rec, tensor.spec, dim, tensor.index)
            if self._watch(name, flags):
                self._handles.append(modules[name].register_forward_hook(partial(self._see_output, name)))
            if arrow.kind == "norm":
                if arrow.over is None and arrow.source is not None:
                    read = Dim("read", rec.architecture.expand(arrow.source))
                    flags = new_coordinates(rec, tensor.spec, read, tensor.index)
                if self._watch(f"{name} (input)", flags):
                    self._handles.append(modules[name].register_forward_pre_hook(partial(self._see_input, name)))

    def _watch(self, name: str, flags: Flags) -> bool:
        """Tell whether there is anything to compare: some coordinates are new, and some are not."""
        if not flags.any() or flags.all():
            return False
        new = torch.from_numpy(flags)
        self._watched[name] = _Watched((~new).nonzero().flatten(), new.nonzero().flatten())
        return True

    def begin(self, step: int) -> None:
        """Say how many steps have been taken when the model is run next."""
        self.finish()
        self._step = step

    def finish(self) -> None:
        """Close the round that was under way."""
        for name, watched in self._watched.items():
            if watched.calls:
                source, new = ((total / watched.calls) ** 0.5 for total in watched.squares)
                self.found.append(Activation(name, self._step, source, new))
            watched.squares, watched.calls = [0.0, 0.0], 0

    def close(self) -> None:
        """Let go of the model."""
        self.finish()
        for handle in self._handles:
            handle.remove()

    def _see_output(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._see(name, output[0] if isinstance(output, tuple) and output else output)

    def _see_input(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs:
            self._see(f"{name} (input)", inputs[0])

    def _see(self, name: str, values: Any) -> None:
        watched = self._watched[name]
        size = watched.source.numel() + watched.new.numel()
        if not isinstance(values, torch.Tensor) or not values.ndim or values.shape[-1] != size or not values.numel():
            return  # a convolution's channels stand elsewhere
        detached = values.detach().float()
        for number, where in enumerate((watched.source, watched.new)):
            part = detached.index_select(-1, where.to(values.device))
            watched.squares[number] += float(part.square().mean())
        watched.calls += 1


__all__ = ["Activation", "Activations"]
