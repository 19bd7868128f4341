"""A user's own inputs: texts, token ids, arrays by the names of a model's arguments, and images. Nothing is executed.

Sequences are run one by one where their lengths differ, so that nothing is padded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from growformer.errors import RequestError, did_you_mean
from growformer.verification.model_inputs import Reads, what_it_reads
from growformer.verification.output_runs import InputSet

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
KINDS = (".txt", ".json", ".jsonl", ".npz", ".safetensors", *IMAGES)
"""Endings of files that can be read; a folder may stand for its images."""

MAX_BYTES = 1 << 30
"""Of one file of inputs."""

Batch = dict[str, torch.Tensor]


class Inputs:
    """Reads a user's inputs for one model.

    Args:
        model: the source, of which the forward and the config are looked at.
        folder: its folder, for the tokenizer and the image processor; None of a live model.
    """

    def __init__(self, model: nn.Module, folder: Path | None) -> None:
        self.reads: Reads = what_it_reads(model)
        self.folder = folder
        self.notes: list[str] = []
        self._tokenizer: Any = None

    def read(self, files: Sequence[str | Path]) -> list[InputSet]:
        """Return one set of inputs per kind of file.

        Raises:
            RequestError: a file that cannot be read, or is not for this model; the message says which and why.
        """
        texts: list[Batch] = []
        arrays: list[tuple[Path, Batch]] = []
        named: list[Path] = []
        images: list[Path] = []
        for given in files:
            path = Path(given)
            ending = path.suffix.lower()
            if path.is_dir():
                images += self._images_in(path)
            elif not path.exists():
                raise RequestError(f"{path}: no such file of inputs")
            elif ending in IMAGES:
                images.append(path)
            elif ending not in KINDS:
                known = f"expected one of {', '.join(KINDS)}, or a folder of images"
                raise RequestError(f"{path}: inputs of an unknown kind; {known}{did_you_mean(ending, KINDS)}")
            elif path.stat().st_size > MAX_BYTES:
                raise RequestError(f"{path}: {path.stat().st_size:,} bytes of inputs; expected at most {MAX_BYTES:,}")
            elif ending == ".txt":
                texts += self._texts(path)
                named.append(path)
            elif ending in (".json", ".jsonl"):
                texts += self._records(path)
                named.append(path)
            else:
                arrays.append((path, self._arrays(path)))
        what = "tokens" if self._tokenizer is None else "text"  # of token ids alone, no tokenizer is needed
        found = [InputSet(f"{what} of {_names(named)}", together(texts))] if texts else []
        found += [InputSet(f"arrays of {_names([path])}", (batch,)) for path, batch in arrays]
        return found + ([InputSet(f"images of {_names(images)}", self._processed(images))] if images else [])

    def prompt(self, text: str) -> InputSet:
        """Return a text as the only sequence.

        Raises:
            RequestError: there is no tokenizer, or it makes no tokens of it.
        """
        if self.folder is None:
            raise RequestError("a prompt needs a model folder with a tokenizer; pass inputs=... for live models")
        ids = self._ids(text)
        if not ids:
            raise RequestError(f"the prompt {text!r} has no tokens; give a text, or none for random tokens")
        return InputSet("text of the prompt", (self._batch(ids, "the prompt"),))

    # Texts.

    def _texts(self, path: Path) -> list[Batch]:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"{path}: cannot be read as UTF-8 text: {error}") from None
        lines = [line.rstrip() for line in text.splitlines()]
        parts = "\n".join(lines).split("\n\n") if "" in lines[:-1] else lines
        kept = [part.strip("\n") for part in parts if part.strip()]
        if not kept:
            raise RequestError(f"{path}: has no text; expected one per line, or paragraphs")
        named = ((part, f"{path}: text {number}") for number, part in enumerate(kept, 1))
        return [self._batch(self._ids(part, where), where) for part, where in named]

    def _records(self, path: Path) -> list[Batch]:
        try:
            text = path.read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if line.strip()]
            found = list(map(json.loads, lines)) if path.suffix.lower() == ".jsonl" else json.loads(text)
        except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
            raise RequestError(f"{path}: not {path.suffix[1:].upper()}: {error}") from None
        records = found if isinstance(found, list) else [found]
        if not records:
            raise RequestError(f'{path}: no inputs; expected {{"input_ids": [...]}} or {{"text": "..."}}')
        return [self._record(path, number, record) for number, record in enumerate(records, 1)]

    def _record(self, path: Path, number: int, record: Any) -> Batch:
        where = f"{path}: entry {number}"
        if not isinstance(record, dict) or len({"text", "input_ids"} & set(record)) != 1:
            raise RequestError(
                f'{where}: expected {{"input_ids": [...]}} or {{"text": "..."}}, found {str(record)[:80]}'
            )
        if "text" in record:
            if not isinstance(record["text"], str) or not record["text"]:
                raise RequestError(f"{where}: text is {record['text']!r}; expected some text")
            return self._batch(self._ids(record["text"], where), where)
        given = {name: self._numbers(where, name, value) for name, value in record.items()}
        for name, values in given.items():
            self._check_name(where, name)
            if not name.startswith("decoder_") and len(values) != len(given["input_ids"]):
                raise RequestError(
                    f"{where}: {name} has {len(values)} numbers; expected {len(given['input_ids'])}, as input_ids"
                )
        batch = self._batch(given.pop("input_ids"), where)
        length = batch["input_ids"].shape[1]
        return batch | {n: torch.tensor([v if n.startswith("decoder_") else v[:length]]) for n, v in given.items()}

    def _numbers(self, where: str, name: str, value: Any) -> list[int]:
        whole = isinstance(value, list) and all(type(x) is int and 0 <= x < 2**63 for x in value)
        if not whole or not value:
            raise RequestError(f"{where}: {name} is {str(value)[:60]}; expected whole numbers from 0, as in [1, 5, 9]")
        return list(value)

    def _ids(self, text: str, where: str = "a text") -> list[int]:
        return [int(token) for token in self.tokenizer(where)(text)["input_ids"]]

    def tokenizer(self, where: str = "a text") -> Any:
        """Return the source's tokenizer.

        Raises:
            RequestError: it has none, or needs code of its own.
        """
        if self._tokenizer is None:
            if self.folder is None:
                raise RequestError(f"{where} needs a model folder with a tokenizer; give token ids for a live model")
            try:
                from transformers import AutoTokenizer

                self._tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
            except Exception as error:
                reason = next(iter(str(error).splitlines()), "no reason given")
                raise RequestError(
                    f"{where} needs a tokenizer, and {self.folder} has none that can be loaded ({reason}); give token "
                    'ids as JSON, {"input_ids": [...]}'
                ) from None
        return self._tokenizer

    def _batch(self, ids: list[int], where: str) -> Batch:
        """Return one sequence, cut to what the model can read, with tokens for a decoder where there is one."""
        if "input_ids" not in self.reads.names:
            raise RequestError(f"{where}: {self.reads.class_name} reads {self.reads.main}, not text")
        if not ids:
            raise RequestError(f"{where}: has no tokens")
        vocabulary = self.reads.field("vocab_size", "src_vocab_size")
        beyond = next((token for token in ids if vocabulary is not None and token >= int(vocabulary)), None)
        if beyond is not None:
            raise RequestError(f"{where}: token {beyond}; the model has tokens 0 to {int(vocabulary) - 1}")
        longest = self.reads.longest
        if longest is not None and len(ids) > longest:
            self.notes.append(f"{where}: cut from {len(ids):,} to {longest:,} tokens, the model's longest")
            ids = ids[:longest]
        batch = {"input_ids": torch.tensor([ids])}
        if "decoder_input_ids" in self.reads.names and self.reads.config.get("is_encoder_decoder", False):
            start = self.reads.field("decoder_start_token_id")
            batch["decoder_input_ids"] = torch.tensor([[start if isinstance(start, int) else ids[0], *ids[:-1]]])
        return batch

    # Arrays.

    def _arrays(self, path: Path) -> Batch:
        try:
            found = _load_npz(path) if path.suffix.lower() == ".npz" else _load_safetensors(path)
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RequestError(f"{path}: cannot be read as {path.suffix[1:]}: {reason}") from None
        if not found:
            raise RequestError(f"{path}: holds no arrays; expected one per argument, such as {self.reads.main}")
        for name, value in found.items():
            self._check_name(str(path), name)
            if value.ndim < 1 or value.shape[0] < 1:
                raise RequestError(
                    f"{path}: {name} has the shape {list(value.shape)}; expected sequences along its first dimension"
                )
            if name.endswith("_ids"):
                self._check_ids(f"{path}: {name}", name, value)
        counts = {name: value.shape[0] for name, value in found.items()}
        if len(set(counts.values())) > 1:
            raise RequestError(f"{path}: arrays of different numbers of sequences: {counts}")
        missing = self.reads.required - found.keys()
        if missing:
            raise RequestError(f"{path}: {self.reads.class_name} also needs {', '.join(sorted(missing))}")
        return found

    def _check_ids(self, where: str, name: str, value: torch.Tensor) -> None:
        """Refuse what is no number of an entry in a table.

        Raises:
            RequestError: it has a fraction, is negative, or beyond the vocabulary.
        """
        if value.is_floating_point() or value.dtype == torch.bool:
            dtype = str(value.dtype).removeprefix("torch.")
            raise RequestError(f"{where} are numbers of {dtype}; expected whole numbers")
        lowest, highest = (int(x) for x in value.aminmax()) if value.numel() else (0, 0)
        vocabulary = self.reads.field("vocab_size", "src_vocab_size") if name == "input_ids" else None
        if lowest < 0:
            raise RequestError(f"{where} holds {lowest}; expected whole numbers from 0")
        if vocabulary is not None and highest >= int(vocabulary):
            raise RequestError(f"{where} holds {highest}; the model has tokens 0 to {int(vocabulary) - 1}")

    def _check_name(self, where: str, name: str) -> None:
        if name not in self.reads.names:
            hint = did_you_mean(name, self.reads.names)
            raise RequestError(f"{where}: {self.reads.class_name} has no argument {name!r}{hint}")

    # Images.

    def _images_in(self, folder: Path) -> list[Path]:
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)
        if not found:
            raise RequestError(f"{folder}: a folder without images; expected {', '.join(IMAGES)}")
        return found

    def _processed(self, files: Sequence[Path]) -> tuple[Batch, ...]:
        if "pixel_values" not in self.reads.names:
            raise RequestError(f"{files[0]}: {self.reads.class_name} reads {self.reads.main}, not images")
        if self.folder is None:
            raise RequestError(f"{files[0]}: images need a model folder with an image processor; give pixel_values")
        processor = self._processor(files[0])
        batches = []
        for file in files:
            try:
                from PIL import Image

                with Image.open(file) as image:
                    made = processor(images=image.convert("RGB"), return_tensors="pt")
            except ImportError:
                raise RequestError(f"{file}: reading images needs Pillow: pip install pillow") from None
            except Exception as error:
                raise RequestError(f"{file}: cannot be read as an image: {error}") from None
            known = {n: t for n, t in made.items() if n in self.reads.names and isinstance(t, torch.Tensor)}
            batches.append(known)
        if self.reads.is_pair:
            raise RequestError(
                f"{files[0]}: {self.reads.class_name} reads texts with images: give input_ids and pixel_values as .npz"
            )
        return together(batches)

    def _processor(self, file: Path) -> Any:
        try:
            from transformers import AutoImageProcessor

            return AutoImageProcessor.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "no reason given")
            raise RequestError(
                f"{file}: images need an image processor, and {self.folder} has none that can be loaded ({reason}); "
                "give pixel_values as .npz"
            ) from None


def _names(files: Sequence[Path]) -> str:
    """Return what the verdict calls some files."""
    shown = [file.name for file in files]
    return shown[0] if len(shown) == 1 else f"{shown[0]} and {len(shown) - 1} more"


def together(batches: Iterable[Batch]) -> tuple[Batch, ...]:
    """Return batches in their order, neighbours of the same shapes as one, so that sequences keep their numbers."""
    found: list[list[Batch]] = []
    for batch in batches:
        if found and _shapes(found[-1][0]) == _shapes(batch):
            found[-1].append(batch)
        else:
            found.append([batch])
    return tuple({name: torch.cat([b[name] for b in same]) for name in same[0]} for same in found)


def _shapes(batch: Batch) -> dict[str, Any]:
    return {name: (t.shape[1:], t.dtype) for name, t in batch.items()}


def _load_npz(path: Path) -> Batch:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return {str(name): _tensor(arrays[name]) for name in arrays.files}


def _tensor(array: Any) -> torch.Tensor:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"an array of {array.dtype}; expected numbers")
    found = torch.from_numpy(array.copy())
    return found.long() if array.dtype.kind in "iu" else found


def _load_safetensors(path: Path) -> Batch:
    from safetensors.torch import load_file

    load: Callable[[Path], Batch] = load_file
    return {name: t if t.is_floating_point() or t.dtype == torch.bool else t.long() for name, t in load(path).items()}


__all__ = ["IMAGES", "KINDS", "Inputs", "together"]
