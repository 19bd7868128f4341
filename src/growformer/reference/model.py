"""The forward pass of the paper's section 2, line by line.

Row vectors multiply from the left, ``y = x W``, so every weight is stored ``[source, target]`` as the paper writes it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from growformer.reference.config import ReferenceConfig


class Matrix(nn.Module):
    """``x W + b`` with ``W`` of shape ``[source, target]``; token ids look up rows of ``W``."""

    def __init__(self, source: int, target: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(source, target))
        self.bias = nn.Parameter(torch.empty(target)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., source]`` to ``[..., target]``; for integers, ``[...]`` to ``[..., target]``."""
        y = x @ self.weight if x.is_floating_point() else functional.embedding(x, self.weight)
        return y if self.bias is None else y + self.bias


class Norm(nn.Module):
    """RMSNorm: ``x g / sqrt(mean(x^2) + eps)``, computed in the dtype of ``x``."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., size]`` to ``[..., size]``."""
        return x * self.weight / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)


class Head(nn.Module):
    """One attention head with its rows of W_O: ``softmax(Q K^T / sqrt(k)) V W_O``."""

    def __init__(self, hidden: int, key: int, value: int, *, causal: bool) -> None:
        super().__init__()
        self.query = Matrix(hidden, key)
        self.key = Matrix(hidden, key)
        self.value = Matrix(hidden, value)
        self.output = Matrix(value, hidden)
        self.scale = key**-0.5
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, position, hidden]`` to the head's share of the branch's output, same shape."""
        scores = self.scale * self.query(x) @ self.key(x).transpose(-1, -2)
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        mixed: Tensor = self.output(scores.softmax(dim=-1) @ self.value(x))
        return mixed


class MLP(nn.Module):
    """``act(x W1 + b1) W2 + b2``."""

    def __init__(self, hidden: int, size: int, activation: str) -> None:
        super().__init__()
        self.up = Matrix(hidden, size, bias=True)
        self.down = Matrix(size, hidden, bias=True)
        self.activation = functional.relu if activation == "relu" else functional.gelu

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., hidden]`` to ``[..., hidden]``."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


class Layer(nn.Module):
    """``x' = x + MHA(Norm(x))`` and ``y = x' + MLP(Norm(x'))``."""

    def __init__(self, config: ReferenceConfig, index: int) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.norm_eps

        def norm(when: bool) -> Norm | None:
            return Norm(hidden, eps) if when else None

        self.mha_norm = norm(config.pre_branch_norm)
        self.heads = nn.ModuleList(
            Head(hidden, key, value, causal=config.causal)
            for key, value in zip(config.key[index], config.value[index], strict=True)
        )
        self.mha_post_norm = norm(config.post_branch_norm)
        self.mlp_norm = norm(config.pre_branch_norm)
        self.mlp = MLP(hidden, config.mlp[index], config.activation)
        self.mlp_post_norm = norm(config.post_branch_norm)

    @property
    def output_weight(self) -> Tensor:
        """The paper's W_O, ``[sum of the heads' value widths, hidden]``: the heads' splits under each other."""
        return torch.cat([head.output.weight for head in self._heads()])

    def _heads(self) -> list[Head]:
        return [head for head in self.heads if isinstance(head, Head)]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, position, hidden]`` to the same shape."""
        normed = _apply(self.mha_norm, x)
        # concat(heads) W_O, summed split by split.
        attended = torch.stack([head(normed) for head in self.heads]).sum(dim=0)
        x = x + _apply(self.mha_post_norm, attended)
        return x + _apply(self.mlp_post_norm, self.mlp(_apply(self.mlp_norm, x)))


class ReferenceTransformer(nn.Module):
    """``Transformer(I) = Layer^N(I W_in + P) W_out``, every size per layer and per head.

    Args:
        config: its sizes.
    """

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Matrix(config.input_size, config.hidden_size)
        self.positions = Matrix(config.max_positions, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.norm_eps) if config.final_norm else None
        self.output = Matrix(config.hidden_size, config.output_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill weights from N(0, initializer_range), biases with 0 and gains with 1."""
        for module in self.modules():
            if isinstance(module, Matrix):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Norm):
                nn.init.ones_(module.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs ``[batch, position, output]``.

        Args:
            inputs: token ids ``[batch, position]``, or a dense input ``[batch, position, input]``.

        Raises:
            ValueError: there are more positions than position embeddings.
        """
        length = inputs.shape[1]
        if length > self.config.max_positions:
            raise ValueError(f"{length} positions, but only {self.config.max_positions} have an embedding")
        x = self.embedding(inputs) + self.positions.weight[:length]
        for layer in self.layers:
            x = layer(x)
        y: Tensor = self.output(_apply(self.norm, x))
        return y


def _apply(norm: nn.Module | None, x: Tensor) -> Tensor:
    y: Tensor = x if norm is None else norm(x)
    return y


__all__ = ["ReferenceTransformer"]
