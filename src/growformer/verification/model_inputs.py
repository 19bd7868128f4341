"""Random inputs that any class takes: tokens, images, videos, waveforms or spectrograms, by its forward and its config.

What a class reads is in the signature of its forward and in ``main_input_name``; how large it is, in its config.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from growformer.errors import RequestError
from growformer.verification.output_runs import InputSet

Config = Mapping[str, Any]


class NoDefaultInputs(RequestError):
    """A class reads what cannot be made up."""


_LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len", "block_size", "max_target_positions")
_ONE_EACH = re.compile(r"For(Sequence|Image|Audio|Video)Classification|ForMultipleChoice|ForXVector")
_FEW, _MANY = 2, 24
_IMAGE_SIZE, _FRAMES, _CHOICES = 224, 64, 2
_MASKED = 3


@dataclass(frozen=True, slots=True)
class Reads:
    """What a model's forward reads, by its signature and config.

    Attributes:
        main: name of its main argument.
        names: of all arguments.
        required: names of those without a default.
        config: as a dictionary.
        class_name: of the model.
        rotates: whether it has rotary frequencies, which know no longest position.
    """

    main: str
    names: frozenset[str]
    required: frozenset[str]
    config: Config
    class_name: str
    rotates: bool

    def field(self, *names: str, default: Any = None) -> Any:
        """Return the first of several fields that the config, or one inside of it, has."""
        return next((level[n] for level in levels(self.config) for n in names if level.get(n) is not None), default)

    @property
    def longest(self) -> int | None:
        """The largest number of positions that the config allows; None: it says nothing.

        Tables of positions may start after the padding token's (RoBERTa), so that two fewer can be used.
        """
        found = self.field(*_LONGEST)
        if isinstance(found, bool) or not isinstance(found, int) or found < 4:
            return None
        return found if self.rotates else found - 2

    @property
    def is_text(self) -> bool:
        """Whether it reads tokens."""
        return self.main == "input_ids"

    @property
    def is_pair(self) -> bool:
        """Whether it compares texts with images."""
        return self.is_text and "pixel_values" in self.names and "return_loss" in self.names


def what_it_reads(model: nn.Module) -> Reads:
    """Return what a model's forward reads; its weights are not looked at."""
    parameters = inspect.signature(model.forward).parameters.values()
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    config: Any = getattr(model, "config", None)
    found = config if isinstance(config, Mapping) else config.to_dict() if hasattr(config, "to_dict") else {}
    names = [p.name for p in plain]
    main = getattr(model, "main_input_name", None)
    if main not in names:
        main = next((name for name in ("input_ids", "pixel_values", "input_values") if name in names), None)
    return Reads(
        main=str(main or (names[0] if names else "input_ids")),
        names=frozenset(names),
        required=frozenset(p.name for p in plain if p.default is p.empty),
        config=found,
        class_name=type(model).__name__,
        rotates=any(name.endswith("inv_freq") for name, _ in model.named_buffers()),
    )


def levels(config: Config) -> Iterator[Config]:
    """Yield a config and the configs inside of it, those of texts first."""
    yield config
    first = ("text_config", "vision_config", "encoder", "decoder")
    inner = [config[name] for name in first if isinstance(config.get(name), Mapping)]
    inner += [v for n, v in config.items() if isinstance(v, Mapping) and n.endswith("_config") and n not in first]
    for level in inner:
        yield from levels(level)


def random_inputs(model: nn.Module, length: int = 64, seed: int = 0) -> InputSet:
    """Return random inputs for a model: two sequences of tokens, or images and sounds of the config's size.

    Where a class gives one result per sequence there are 24, so that the ratio of two errors is more than chance.

    Raises:
        NoDefaultInputs: the class reads something else; the message names its arguments.
    """
    reads = what_it_reads(model)
    generator = torch.Generator().manual_seed(seed)
    batch = _MANY if _ONE_EACH.search(reads.class_name) or reads.is_pair else _FEW
    if reads.is_text:
        given = _text(reads, length, batch, generator)
        kind = "random tokens"
        if reads.is_pair:
            given |= _images(reads, batch, generator)
            kind = "random tokens and images"
    elif reads.main == "pixel_values":
        given = _images(reads, batch, generator)
        kind = "random videos" if given["pixel_values"].ndim == 5 else "random images"
    elif reads.main in ("input_values", "input_features"):
        given, kind = _sound(reads, length, batch, generator), "random sounds"
    else:
        raise NoDefaultInputs(
            f"{reads.class_name} reads {reads.main}, for which there is no default: give arrays by the names of its "
            f"arguments with --inputs FILE.npz (or inputs=...): {', '.join(sorted(reads.names))}"
        )
    left = reads.required - given.keys()
    if left:
        raise NoDefaultInputs(
            f"{reads.class_name} also needs {', '.join(sorted(left))}, for which there is no default: give all "
            "arguments with --inputs FILE.npz (or inputs=...)"
        )
    alone = "SequenceClassification" in reads.class_name and reads.is_text and reads.field("pad_token_id") is None
    batches = [{n: t[i : i + 1] for n, t in given.items()} for i in range(batch)] if alone else [given]
    return InputSet(kind, tuple(batches))


def _text(reads: Reads, length: int, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    longest = reads.longest
    length = max(1, min(length, longest) if longest is not None else length)
    ids = _tokens(reads, (batch, length), generator)
    end = reads.field("eos_token_id")
    if (reads.is_pair or "Text" in reads.class_name) and _is_token(reads, end):
        ids[:, -1] = end  # towers for texts give what stands at their end
    given = {"input_ids": ids}
    if "ForMultipleChoice" in reads.class_name:
        given["input_ids"] = ids[:, None].expand(-1, _CHOICES, -1).clone()
        given["input_ids"][:, 1] = _tokens(reads, (batch, length), generator)
    return given | _for_decoder(reads, max(length * 2 // 3, 2), batch, generator)


def _for_decoder(reads: Reads, length: int, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return tokens for the decoder of an encoder-decoder, its start first."""
    if "decoder_input_ids" not in reads.names or not reads.config.get("is_encoder_decoder", False):
        return {}
    ids = _tokens(reads, (batch, length), generator)
    start = reads.field("decoder_start_token_id")
    if _is_token(reads, start):
        ids[:, 0] = start
    return {"decoder_input_ids": ids}


def _is_token(reads: Reads, token: Any) -> bool:
    return isinstance(token, int) and 0 <= token < int(reads.field("vocab_size", default=0))


def _tokens(reads: Reads, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Return random tokens, none of which a config gives a meaning, such as padding or the place of an image."""
    sizes = [reads.field(name) for name in ("vocab_size", "src_vocab_size", "tgt_vocab_size")]
    vocabulary = min((int(size) for size in sizes if size is not None), default=256)
    special = {
        v for level in levels(reads.config) for n, v in level.items() if n.endswith("_token_id") or n == "pad_index"
    }  # fmt: skip
    allowed = [token for token in range(vocabulary) if token not in special] or [0]
    picked = torch.randint(len(allowed), shape, generator=generator)
    return torch.tensor(allowed)[picked]


def _images(reads: Reads, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    inside = reads.config.get("vision_config")
    vision = inside if isinstance(inside, Mapping) else reads.config
    channels = int(_first(vision, "num_channels", "in_channels", "in_chans", default=3))
    tube = _first(vision, "tubelet_size", default=1)
    depth, patch = int(tube) if isinstance(tube, int) else int(tube[0]), _pair(_first(vision, "patch_size", default=16))
    if "spatial_shapes" in reads.names:
        rows, columns = _grid(int(_first(vision, "num_patches", default=16)))
        shape: tuple[int, ...] = (batch, rows * columns, channels * math.prod(patch))
        given = {"pixel_values": torch.randn(shape, generator=generator)}
        given["spatial_shapes"] = torch.tensor([[rows, columns]] * batch)
        if {"pixel_attention_mask", "attention_mask"} & reads.names:
            mask = "pixel_attention_mask" if "pixel_attention_mask" in reads.names else "attention_mask"
            given[mask] = torch.ones((batch, rows * columns), dtype=torch.long)
        return given
    size = _pair(_first(vision, "image_size", default=_IMAGE_SIZE))
    frames = _first(vision, "num_frames")
    moving = () if frames is None else (int(frames),)
    given = {"pixel_values": torch.randn((batch, *moving, channels, *size), generator=generator)}
    count = (size[0] // patch[0]) * (size[1] // patch[1])
    if moving:
        count *= int(frames) // depth
    if "noise" in reads.names:
        given["noise"] = torch.rand((batch, count), generator=generator)  # else the class hides patches at random
    if "bool_masked_pos" in reads.names and "bool_masked_pos" in reads.required:
        given["bool_masked_pos"] = (torch.arange(count) % _MASKED == 0).expand(batch, count)
    return given


def _sound(reads: Reads, length: int, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    bins = reads.field("num_mel_bins", "input_feat_per_channel", "feature_size")
    if reads.main == "input_values" and reads.field("conv_stride") is not None:
        samples = math.prod(reads.field("conv_stride")) * min(length, _FRAMES) + sum(reads.field("conv_kernel"))
        return {"input_values": torch.randn((batch, samples), generator=generator)}
    if reads.main == "input_values":
        shape = (batch, int(reads.field("max_length", default=1024)), int(bins or 128))
        return {"input_values": torch.randn(shape, generator=generator)}
    if reads.field("input_feat_per_channel") is not None:
        shape = (batch, 4 * min(length, _FRAMES), int(bins))
    else:
        shape = (batch, int(bins or 80), 2 * int(reads.field("max_source_positions", default=1500)))
    given = {"input_features": torch.randn(shape, generator=generator)}
    longest = reads.field("max_target_positions", default=length)
    return given | _for_decoder(reads, max(2, min(length // 2, int(longest))), batch, generator)


def _first(config: Config, *names: str, default: Any = None) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), default)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (int(size), int(size))


def _grid(patches: int) -> tuple[int, int]:
    rows = max(1, math.isqrt(patches))
    return rows, max(1, patches // rows)


__all__ = ["NoDefaultInputs", "Reads", "levels", "random_inputs", "what_it_reads"]
