"""What the outputs check runs on: models loaded from folders, a text or random tokens, and what to say of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import RequestError, SourceError

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_model(model: Any) -> nn.Module:
    """Load a folder as its own class, in float32; a live model is returned as it is.

    Raises:
        SourceError: the folder cannot be read, or transformers has no such class.
    """
    if not isinstance(model, (str, Path)):
        return model  # type: ignore[no-any-return]
    import torch
    import transformers

    from growformer.storage.folder import open_folder

    folder = open_folder(model)
    heads = folder.config.get("architectures") or []
    model_class = getattr(transformers, heads[0], None) if heads else transformers.AutoModel
    if model_class is None:
        raise SourceError(f"{folder.path}: transformers has no class {heads[0]!r}; load the models and pass them")
    return model_class.from_pretrained(folder.path, dtype=torch.float32).eval()  # type: ignore[no-any-return]


def default_inputs(
    source: Any, model: nn.Module, prompt: str | None, seed: int, length: int
) -> dict[str, torch.Tensor]:
    """Return a text by the source's tokenizer, or random tokens where there is no text.

    Raises:
        RequestError: a text without a tokenizer, or one of no tokens.
    """
    import torch

    if prompt is not None:
        from transformers import AutoTokenizer

        if not isinstance(source, (str, Path)):
            raise RequestError("a prompt needs a model folder with a tokenizer; pass inputs=... for live models")
        encoded = dict(AutoTokenizer.from_pretrained(source)(prompt, return_tensors="pt"))
        if not encoded["input_ids"].numel():
            raise RequestError(f"the prompt {prompt!r} has no tokens; give a text, or none for random tokens")
        return encoded
    config = getattr(model, "config", None)
    vocabulary = int(getattr(config, "vocab_size", 256))
    longest = getattr(config, "max_position_embeddings", None) or length
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(0, vocabulary, (2, min(length, longest)), generator=generator)}


def stored_dtypes(source: Any, grown: Any, dtypes: Sequence[str]) -> list[str]:
    """Say where the grown checkpoint was stored in fewer bits than it is compared in."""
    if not (isinstance(source, (str, Path)) and isinstance(grown, (str, Path))):
        return []
    from growformer.storage.folder import open_folder

    stored = [{e.dtype for e in open_folder(m).entries.values() if "float" in e.dtype} for m in (source, grown)]
    rounded = sorted(stored[1] - stored[0])
    if not rounded or set(dtypes) <= stored[1]:
        return []
    return [
        f"the grown checkpoint is stored as {', '.join(rounded)}, the source is not: what is measured in "
        f"{', '.join(d for d in dtypes if d not in stored[1])} is that rounding; compare in {', '.join(rounded)}"
    ]


def generates(models: Sequence[nn.Module]) -> bool:
    """Tell whether all models generate text."""
    return all(getattr(m, "can_generate", lambda: False)() for m in models)


def rotary_ratio(models: Sequence[nn.Module]) -> float | None:
    """Return by how much the number of rotary frequencies grew from the first model to the second; None without."""
    found = [next((b.numel() for n, b in m.named_buffers() if n.endswith("inv_freq")), None) for m in models]
    return found[1] / found[0] if found[0] and found[1] else None


__all__ = ["default_inputs", "generates", "load_model", "rotary_ratio", "stored_dtypes"]
