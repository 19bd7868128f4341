"""A model folder as a source: its config, its tensors, and the files beside them. Nothing in it is executed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from growformer.errors import SourceError
from growformer.storage.header import DTYPES, Entry, read_header
from growformer.storage.safetensors_file import read_tensor

if TYPE_CHECKING:
    import torch

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")
INDEX = "model.safetensors.index.json"


class Read(Protocol):
    """Reads a tensor by its stored name; or only what lies at one position of its first dimension."""

    def __call__(self, name: str, at: int | None = None) -> torch.Tensor:
        """Return it in memory of its own."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model folder whose config and headers have been read and checked.

    Attributes:
        path: the folder.
        config: config.json.
        entries: stored name -> where its bytes are.
        revision: the commit of a hub model.
    """

    path: Path
    config: dict[str, Any]
    entries: dict[str, Entry]
    revision: str | None = None

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return stored name -> (shape, dtype name)."""
        return {name: (entry.shape, entry.dtype) for name, entry in self.entries.items()}

    @contextmanager
    def reader(self) -> Iterator[Read]:
        """Yield a function that reads one tensor by its stored name, or one entry of it along its first dimension.

        Files stay open until the end.
        """
        with ExitStack() as stack:
            files: dict[Path, BinaryIO] = {}

            def read(name: str, at: int | None = None) -> torch.Tensor:
                entry = self.entries[name] if at is None else self.entries[name].part(at)
                try:
                    if entry.file not in files:
                        files[entry.file] = stack.enter_context(entry.file.open("rb"))
                    return read_tensor(entry, files[entry.file])
                except OSError as error:
                    raise SourceError(f"{entry.file}: cannot be read: {error.strerror or error}") from None

            yield read

    def has_files(self) -> bool:
        """Tell whether the weights are here, and not only their headers."""
        return all(entry.file.is_file() for entry in self.entries.values())

    def equal(self, pairs: Mapping[str, str]) -> dict[str, str]:
        """Return those of some pairs of stored names whose tensors are both there and the same, byte for byte."""
        import torch

        found: dict[str, str] = {}
        with self.reader() as read:
            for one, other in pairs.items():
                if one in self.entries and other in self.entries:
                    first, second = read(one), read(other)
                    if first.dtype == second.dtype and torch.equal(first, second):
                        found[one] = other
        return found

    def other_files(self) -> list[Path]:
        """Return relative paths of the files beside config and weights (and of linked folders), in order."""
        read = {entry.file for entry in self.entries.values()}
        found = []
        for root, folders, files in os.walk(self.path):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            linked = [name for name in folders if (Path(root) / name).is_symlink()]
            for name in sorted([*files, *linked]):
                relative = (Path(root) / name).relative_to(self.path)
                if str(relative) not in ("config.json", INDEX) and not name.startswith("."):
                    found.append(relative)
        return [p for p in found if self.path / p not in read]

    def leads_outside(self, relative: Path) -> bool:
        """Tell whether a file is a link to somewhere else than this folder, or the hub cache that it is in."""
        target, home = (self.path / relative).resolve(), self.path.resolve()
        blobs = home.parent.parent / "blobs"
        return not (target.is_relative_to(home) or target.is_relative_to(blobs))


def open_folder(model: str | Path, revision: str | None = None) -> ModelFolder:
    """Read config and headers of a model folder, or of a hub id, which is downloaded.

    Raises:
        SourceError: there is no such model, or it is one that cannot be read safely; the message says what to do.
    """
    path = Path(model)
    if not path.exists():
        path, revision = _download(str(model), revision)
    if not path.is_dir():
        raise SourceError(f"{path}: expected a model folder with config.json, found a file")
    config = read_json(path / "config.json", "every model folder has one")
    _refuse_unsuitable(path, config)
    entries: dict[str, Entry] = {}
    for file, names in _shards(path).items():
        header = read_header(file)
        if names is not None and names - set(header):
            raise SourceError(f"{file}: {INDEX} says that it holds {sorted(names - set(header))[0]!r}, but it does not")
        for name, entry in header.items():
            if name in entries:
                raise SourceError(f"{file}: {name!r} is in {entries[name].file.name} as well")
            entries[name] = entry
    return ModelFolder(path, config, entries, revision)


def open_headers(model: str | Path, revision: str | None = None) -> ModelFolder:
    """Read config and headers only: of a hub model, a few kilobytes are fetched and no weights.

    Raises:
        SourceError: as ``open_folder``.
    """
    if Path(model).exists():
        return open_folder(model, revision)
    _check_hub_id(str(model))
    try:
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi()
        commit = str(api.model_info(str(model), revision=revision).sha)
        config_file = hf_hub_download(str(model), "config.json", revision=commit)
        metadata = api.get_safetensors_metadata(str(model), revision=commit)
    except Exception as error:
        raise _not_fetched(str(model), error) from None
    path = Path(str(model))
    config = read_json(Path(config_file), "every model has one")
    _refuse_unsuitable(path, config)
    entries: dict[str, Entry] = {}
    for file, contents in metadata.files_metadata.items():
        for name, tensor in contents.tensors.items():
            if tensor.dtype not in DTYPES:
                raise SourceError(f"{model}: {name} has the unknown dtype {tensor.dtype!r}")
            entries[name] = Entry(path / file, tuple(tensor.shape), DTYPES[tensor.dtype][0], *tensor.data_offsets)
    return ModelFolder(path, config, entries, commit)


def read_json(path: Path, why: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SourceError: the file is missing or is not a JSON object.
    """
    if not path.is_file():
        raise SourceError(f"{path}: missing; {why}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise SourceError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def _shards(path: Path) -> dict[Path, set[str] | None]:
    index = path / INDEX
    single = path / "model.safetensors"
    if index.is_file():
        weight_map = read_json(index, "").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise SourceError(f"{index}: has no weight_map")
        shards: dict[Path, set[str] | None] = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise SourceError(f"{index}: {name!r} points to {file!r}, which is not a safetensors file beside it")
            names = shards.setdefault(path / file, set())
            if names is not None:
                names.add(name)
        missing = [file.name for file in shards if not file.is_file()]
        if missing:
            raise SourceError(f"{path}: {len(missing)} shards of {INDEX} are missing: {', '.join(missing[:3])}")
        return shards
    if single.is_file():
        return {single: None}
    pickles = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        raise SourceError(
            f"{path}: the weights are a pickle ({pickles[0]}), which can run code when it is opened. Convert once "
            "where you trust it: python -c \"from transformers import AutoModel; AutoModel.from_pretrained('SRC', "
            "weights_only=True).save_pretrained('DST')\" (with the model's own class instead of AutoModel)"
        )
    raise SourceError(f"{path}: no model.safetensors and no {INDEX}; growformer reads safetensors checkpoints")


def _refuse_unsuitable(path: Path, config: dict[str, Any]) -> None:
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else quantisation
        raise SourceError(
            f"{path}: quantised weights ({method}) cannot be grown: rescaled and averaged blocks have no place on "
            "their grid. Take the checkpoint that it was quantised from, or dequantise first: "
            "AutoModelForCausalLM.from_pretrained(SRC).dequantize().save_pretrained(DST)"
        )
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise SourceError(f"{path}: an adapter; merge it into its base model first (merge_and_unload)")


def _check_hub_id(model: str) -> None:
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise SourceError(f"{model}: no such folder (a hub id has the form owner/name)")


def _not_fetched(model: str, error: Exception) -> SourceError:
    reason = str(error).splitlines()[0] if str(error) else "no reason given"
    return SourceError(
        f"{model}: no such folder, and it could not be fetched from the hub: {type(error).__name__}: {reason}"
    )


def _download(model: str, revision: str | None) -> tuple[Path, str]:
    _check_hub_id(model)
    try:
        from huggingface_hub import HfApi, snapshot_download

        commit = HfApi().model_info(model, revision=revision).sha
        allowed = ["*.json", "*.safetensors", "*.txt", "*.model", "*.md", "*.jinja", "LICENSE*", "*/config.json"]
        return Path(snapshot_download(model, revision=commit, allow_patterns=allowed)), str(commit)
    except Exception as error:
        raise _not_fetched(model, error) from None
