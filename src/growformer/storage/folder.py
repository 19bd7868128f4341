"""A model folder as a source: its config, its tensors, and the files beside them. Nothing in it is executed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from growformer.errors import SourceError
from growformer.storage.header import MAX_TENSORS, Entry, checked_entry, read_header
from growformer.storage.links import commit_of, is_commit, leads_outside
from growformer.storage.plain_json import read_json as read_json
from growformer.storage.safetensors_file import read_tensor
from growformer.storage.weights import Weights

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
        with Weights(self.entries) as weights:
            known = {one: other for one, other in pairs.items() if one in self.entries and other in self.entries}
            return {one: other for one, other in known.items() if weights.equal(one, other)}

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
        """Tell whether a file is none to carry along: a link out of this folder and its hub cache, a pipe, a device."""
        path = self.path / relative
        return leads_outside(self.path, path) or not (os.path.isfile(path) or os.path.isdir(path))


def open_folder(model: str | Path, revision: str | None = None) -> ModelFolder:
    """Read config and headers of a model folder, or of a hub id, which is downloaded.

    Raises:
        SourceError: there is no such model, or it is one that cannot be read safely; the message says what to do.
    """
    path = Path(model)
    if os.path.exists(path):
        revision = _own_revision(path, revision)
    else:
        path, revision = _download(str(model), revision)
    if not os.path.isdir(path):
        raise SourceError(f"{path}: expected a model folder with config.json, found a file")
    _refuse_adapter(path)
    config = read_json(path / "config.json", "every model folder has one", home=path)
    _refuse_unsuitable(path, config)
    entries: dict[str, Entry] = {}
    for file, names in _shards(path).items():
        header = read_header(file, home=path)
        if names is not None and not names <= header.keys():
            raise SourceError(f"{file}: {INDEX} says that it holds {min(names - header.keys())!r}, but it does not")
        for name, entry in header.items():
            if name in entries:
                raise SourceError(f"{file}: {name!r} is in {entries[name].file.name} as well")
            entries[name] = entry
        _check_number(path, entries)
    return ModelFolder(path, config, entries, revision)


def open_headers(model: str | Path, revision: str | None = None) -> ModelFolder:
    """Read config and headers only: of a hub model, a few kilobytes are fetched and no weights.

    Raises:
        SourceError: as ``open_folder``.
    """
    if os.path.exists(model):
        return open_folder(model, revision)
    _check_hub_id(str(model))
    try:
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi()
        commit = api.model_info(str(model), revision=revision).sha
        _check_commit(str(model), commit)
        config_file = hf_hub_download(str(model), "config.json", revision=commit)
        metadata = api.get_safetensors_metadata(str(model), revision=commit)
    except SourceError:
        raise
    except Exception as error:
        raise _not_fetched(str(model), error) from None
    path = Path(str(model))
    config = read_json(Path(config_file), "every model has one")
    _refuse_unsuitable(path, config)
    entries: dict[str, Entry] = {}
    for file, contents in metadata.files_metadata.items():
        if not _is_shard(file):
            raise SourceError(f"{model}: its index points to {file!r}, which is not a safetensors file beside it")
        for name, tensor in contents.tensors.items():
            shape, offsets = tuple(tensor.shape), tuple(tensor.data_offsets)
            if not all(type(number) is int and number >= 0 for number in (*shape, *offsets)):
                raise SourceError(f"{model}: {name!r} has the shape {shape!r} and the data_offsets {offsets!r}")
            entries[name] = checked_entry(path / file, name, str(tensor.dtype), shape, offsets)
        _check_number(path, entries)
    return ModelFolder(path, config, entries, commit)


def _own_revision(path: Path, revision: str | None) -> str | None:
    """Return the commit of a folder in the hub's cache; None of another folder, which has no revisions.

    Raises:
        SourceError: another revision is asked for.
    """
    commit = commit_of(path)
    if revision is not None and revision != commit:
        raise SourceError(
            f"{path}: a folder {f'with the commit {commit}' if commit else 'which has no revisions'}, asked for in the "
            f"revision {revision!r}. Leave the revision out, or name a model of the hub, owner/name"
        )
    return commit


def _shards(path: Path) -> dict[Path, set[str] | None]:
    index = path / INDEX
    single = path / "model.safetensors"
    if os.path.lexists(index):
        weight_map = read_json(index, "", home=path, constants=False).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise SourceError(f"{index}: has no weight_map")
        held: dict[str, set[str]] = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or (file not in held and not _is_shard(file)):
                raise SourceError(f"{index}: {name!r} points to {file!r}, which is not a safetensors file beside it")
            held.setdefault(file, set()).add(name)
        shards: dict[Path, set[str] | None] = {path / file: names for file, names in held.items()}
        missing = [file.name for file in shards if not os.path.lexists(file)]
        if missing:
            raise SourceError(f"{path}: {len(missing)} shards of {INDEX} are missing: {', '.join(missing[:3])}")
        if os.path.lexists(single) and single.name not in held:
            raise SourceError(
                f"{path}: holds {single.name}, which transformers loads, and {INDEX}, which names other files; remove "
                "the one that is not meant"
            )
        return shards
    if os.path.lexists(single):
        return {single: None}
    try:
        pickles = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None
    if pickles:
        raise SourceError(
            f"{path}: the weights are a pickle ({pickles[0]}), which can run code when it is opened. Convert once "
            "where you trust it: python -c \"from transformers import AutoModel; AutoModel.from_pretrained('SRC', "
            "weights_only=True).save_pretrained('DST')\" (with the model's own class instead of AutoModel)"
        )
    raise SourceError(f"{path}: no model.safetensors and no {INDEX}; growformer reads safetensors checkpoints")


def _is_shard(file: object) -> bool:
    """Tell whether an index names a file in its own folder: no other folder, and no character that no file has."""
    if not isinstance(file, str) or len(file) > 255:
        return False
    return file.isprintable() and not set(file) & set("/\\:") and file.endswith(".safetensors")


def _check_number(path: Path, entries: dict[str, Entry]) -> None:
    if len(entries) > MAX_TENSORS:
        raise SourceError(f"{path}: more than {MAX_TENSORS:,} tensors; expected a model of fewer")


def _refuse_unsuitable(path: Path, config: dict[str, Any]) -> None:
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else quantisation
        raise SourceError(
            f"{path}: quantised weights ({method}) cannot be grown: rescaled and averaged blocks have no place on "
            "their grid. Take the checkpoint that it was quantised from, or dequantise first: "
            "AutoModelForCausalLM.from_pretrained(SRC).dequantize().save_pretrained(DST)"
        )


def _refuse_adapter(path: Path) -> None:
    if os.path.lexists(path / "adapter_config.json"):
        raise SourceError(
            f"{path}: an adapter (adapter_config.json), which from_pretrained loads on top of the weights "
            "beside it where peft is installed. Merge it into its base model first (merge_and_unload), or move it away"
        )


def _check_hub_id(model: str) -> None:
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise SourceError(f"{model}: no such folder (a hub id has the form owner/name)")


def _check_commit(model: str, commit: object) -> None:
    if not is_commit(commit):
        raise SourceError(
            f"{model}: the hub names no commit for it (found {commit!r}); without one, what is read now could not be "
            "read again. Download the model, and name its folder"
        )


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
        _check_commit(model, commit)
        allowed = ["*.json", "*.safetensors", "*.txt", "*.model", "*.md", "*.jinja", "LICENSE*", "*/config.json"]
        return Path(snapshot_download(model, revision=commit, allow_patterns=allowed)), str(commit)
    except SourceError:
        raise
    except Exception as error:
        raise _not_fetched(model, error) from None
