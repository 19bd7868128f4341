"""Inputs of model classes, by kind: a function of the config (a dictionary), a length and a batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

Inputs = dict[str, torch.Tensor]
Config = Mapping[str, Any]


def field(config: Config, *names: str, default: Any = None) -> Any:
    """Return the first of several fields that a config, or one inside of it, has."""
    for level in _levels(config):
        for name in names:
            if level.get(name) is not None:
                return level[name]
    return default


def _levels(config: Config) -> Iterator[Config]:
    yield config
    for name in ("text_config", "text", "vision_config", "encoder", "decoder", "thinker_config"):
        if isinstance(config.get(name), Mapping):
            yield from _levels(config[name])


def _ids(config: Config, length: int, batch: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(field(config, "vocab_size", default=32))
    longest = field(config, "max_position_embeddings", "n_positions", "max_seq_len", "block_size")
    length = length or 41
    if isinstance(longest, int) and longest > 4:
        length = min(length, longest - 2)
    return torch.randint(2, vocabulary, (batch, length), generator=generator)


def tokens(config: Config, length: int, batch: int) -> Inputs:
    """Random tokens; none of them 0 or 1, which many configs take for padding."""
    return {"input_ids": _ids(config, length, batch)}


def encoder_decoder(config: Config, length: int, batch: int) -> Inputs:
    """Random tokens for both sides, of different lengths."""
    length = length or 41
    return {
        "input_ids": _ids(config, length, batch),
        "decoder_input_ids": _ids(config, max(length * 2 // 3, 2), batch, seed=2),
    }


def _image(config: Config, batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    vision = config.get("vision_config")
    inside = vision if isinstance(vision, Mapping) else config
    size = field(inside, "image_size", default=24)
    size = size if isinstance(size, (list, tuple)) else (size, size)
    channels = field(inside, "num_channels", "in_channels", "in_chans", default=3)
    return torch.randn((batch, channels, *size), generator=generator)


def pixels(config: Config, length: int, batch: int) -> Inputs:
    """Random images of the config's size."""
    return {"pixel_values": _image(config, batch)}


def clip(config: Config, length: int, batch: int) -> Inputs:
    """Random tokens and images, as many of both."""
    text = config.get("text_config") or config
    return {"input_ids": _ids(text, length or 7, batch), "pixel_values": _image(config, batch)}


def audio(config: Config, length: int, batch: int) -> Inputs:
    """Random waveforms."""
    generator = torch.Generator().manual_seed(4)
    return {"input_values": torch.randn((batch, 60 * (length or 20)), generator=generator)}


def features(config: Config, length: int, batch: int) -> Inputs:
    """Random spectrograms, with tokens for the decoder where there is one."""
    generator = torch.Generator().manual_seed(5)
    bins = field(config, "num_mel_bins", "feature_size", "input_feat_per_channel", default=80)
    frames = 2 * int(field(config, "max_source_positions", default=20))
    made = {"input_features": torch.randn((batch, bins, frames), generator=generator)}
    if field(config, "is_encoder_decoder", default=False):
        made["decoder_input_ids"] = _ids({**config, "max_position_embeddings": None}, min(length or 11, 11), batch)
    return made


MAKERS: dict[str, Callable[[Config, int, int], Inputs]] = {
    "tokens": tokens,
    "encoder-decoder": encoder_decoder,
    "pixels": pixels,
    "clip": clip,
    "audio": audio,
    "features": features,
}
