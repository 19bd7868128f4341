"""The checkpoint executor: a safetensors folder in, a stock safetensors folder out, tensor by tensor.

The output appears whole, by one rename, or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import for_config
from growformer.architecture.source import SourceInfo, canonical_names, describe
from growformer.errors import OutputError, PlanError, RequestError, SourceError
from growformer.execute.class_check import check_with_class
from growformer.execute.provenance import FILE, new_region_groups
from growformer.execute.stored import StoredTensor, stored_tensors
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan
from growformer.storage.folder import INDEX, WEIGHT_SUFFIXES, ModelFolder, read_json
from growformer.storage.safetensors_file import DTYPES, ShardWriter

Progress = Callable[[int, int, str], None]
"""Called with bytes written, bytes in all, and the tensor at hand."""

_WIDTH = dict(DTYPES.values())


@dataclass(frozen=True, slots=True)
class GrownCheckpoint:
    """What was written.

    Attributes:
        path: the folder.
        plan: what it was made by.
        tensors: stored name in the target -> ``grown``, ``carried`` (bit by bit) or ``new``.
        dropped: stored name in the source, or file -> why it did not go on.
        files: file beside the weights -> ``carried`` or ``updated: …``.
        num_bytes: size of the weights.
    """

    path: Path
    plan: Plan
    tensors: dict[str, str]
    dropped: dict[str, str]
    files: dict[str, str]
    num_bytes: int

    def __str__(self) -> str:
        count = {kind: sum(found == kind for found in self.tensors.values()) for kind in ("grown", "carried", "new")}
        parts = ", ".join(f"{number} tensors {kind}" for kind, number in count.items() if number)
        return f"{self.path}: {parts}, {self.num_bytes:,} bytes"


@dataclass(slots=True)
class _Layout:
    """Which tensors go to which shard."""

    shards: list[list[StoredTensor]] = field(default_factory=list)
    num_bytes: int = 0


def grow_folder(
    plan: Plan,
    source: ModelFolder,
    out: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress | None = None,
) -> GrownCheckpoint:
    """Write the grown checkpoint of a source folder.

    Args:
        plan: made for this source.
        source: the folder.
        out: a folder that does not exist yet.
        dtype: of all floating-point tensors; by default each keeps its own.
        max_shard_bytes: no shard is larger, unless one tensor is.
        progress: called after every tensor.

    Raises:
        PlanError: the source is not the one that the plan was made for.
        RequestError: the model's class refuses the target config, or an unknown dtype.
        OutputError: the output exists, or cannot be written.
    """
    out = Path(out)
    check_same_source(plan, source)
    if dtype is not None and (dtype not in ("bfloat16", "float16", "float32", "float64")):
        raise RequestError(f"unknown dtype {dtype!r}: expected bfloat16, float16, float32 or float64")
    config = {name: value for name, value in plan.target_config.items() if name != "auto_map"}  # its code is not taken
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"] = dtype
    side_files, dropped_files = _side_files(plan, source)
    layout = _layout(plan, dtype, max_shard_bytes)
    if out.resolve().is_relative_to(source.path.resolve()):
        raise OutputError(f"{out}: lies inside the source {source.path}; write beside it")
    _check_output(out, layout.num_bytes)
    check_with_class(plan, config)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        partial.chmod(0o755 & ~_umask())
        tensors, digests = _write_shards(plan, source, partial, layout, progress)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        files = _write_side_files(source, partial, side_files)
        grown = GrownCheckpoint(out, plan, tensors, {**plan.source.dropped, **dropped_files}, files, layout.num_bytes)
        _write_provenance(grown, source, partial, digests)
        for path in sorted(partial.rglob("*")):
            _sync(path)
        _sync(partial)
        try:
            if out.exists():  # a rename would replace an empty folder
                raise FileExistsError("it exists")
            partial.rename(out)
        except OSError as error:
            raise OutputError(f"{out}: appeared while it was being written ({error})") from None
        _sync(out.parent)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return grown


def describe_folder(architecture: Architecture, folder: ModelFolder) -> SourceInfo:
    """Match a folder's tensors with an architecture.

    Tied heads are those that are not stored, or stored with the same bytes; a head that differs is a head of its own,
    whatever the config says, as ``transformers`` has it.

    Raises:
        SourceError: as ``describe``.
    """
    shapes, aliases = folder.shapes(), None
    names = canonical_names(architecture, shapes)
    stored = {names[head]: names[table] for head, table in architecture.ties.items() if {head, table} <= set(names)}
    if stored and architecture.resolve_config(folder.config).get(architecture.tie_field or "") and folder.has_files():
        aliases = folder.equal(stored) or None
    return describe(architecture, folder.config, shapes, aliases=aliases, location=str(folder.path))


def check_same_source(plan: Plan, source: ModelFolder) -> None:
    """Refuse a folder whose config or tensors are not those that a plan was made for.

    Raises:
        PlanError: they differ.
    """
    own = plan.source.config if plan.source.original is None else plan.source.original
    kind, planned = source.config.get("model_type"), own.get("model_type")
    if kind != planned:
        raise PlanError(f"{source.path}: a model of type {kind!r}; the plan was made for one of type {planned!r}")
    architecture = plan.architecture if plan.source.original is None else for_config(dict(own))
    try:
        info = describe_folder(architecture, source)
    except SourceError as error:
        raise PlanError(f"the plan does not fit this source: {error}") from None
    if info.digest != plan.source.digest:
        raise PlanError(
            f"{source.path}: config or tensors differ from the source that the plan was made for "
            f"({plan.source.location}): digest {info.digest[:19]}…, expected {plan.source.digest[:19]}…; plan again"
        )


def _check_output(out: Path, num_bytes: int) -> None:
    if out.exists() or out.is_symlink():
        raise OutputError(f"{out}: exists already, and is never overwritten. Choose another name, or remove it first")
    parent = out.parent
    if parent.exists() and not parent.is_dir():
        raise OutputError(f"{out}: {parent} is a file; expected a folder to write into")
    if not parent.is_dir():
        raise OutputError(f"{out}: its parent folder {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: no permission to write in {parent}; choose another place, or change its mode")
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise OutputError(f"{out}: needs {num_bytes:,} bytes, {free:,} are free on that disk")


def _layout(plan: Plan, dtype: str | None, max_shard_bytes: int) -> _Layout:
    layout = _Layout()
    room = 0
    for stored in stored_tensors(plan, dtype):
        size = stored.num_elements * _WIDTH[stored.dtype]
        if not layout.shards or size > room:
            layout.shards.append([])
            room = max_shard_bytes
        layout.shards[-1].append(stored)
        room -= size
        layout.num_bytes += size
    return layout


def _write_shards(
    plan: Plan, source: ModelFolder, folder: Path, layout: _Layout, progress: Progress | None
) -> tuple[dict[str, str], dict[str, str]]:
    import torch

    from growformer.execute.stored import materialise_stored, take

    count = len(layout.shards)
    names = [
        "model.safetensors" if count == 1 else f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)
    ]
    tensors: dict[str, str] = {}
    digests: dict[str, str] = {}
    done = 0
    with source.reader() as read_stored:

        def read(canonical: str) -> torch.Tensor:
            info = plan.source.tensors[canonical]
            if info.piece is None or info.piece.at is None:
                return take(read_stored(info.stored), info.piece)
            return take(read_stored(info.stored, info.piece.at), replace(info.piece, at=None))

        for file, contents in zip(names, layout.shards, strict=True):
            writer = ShardWriter(folder / file, {s.name: (s.shape, s.dtype) for s in contents})
            try:
                for stored in contents:
                    cache: dict[str, torch.Tensor] = {}

                    def read_once(canonical: str, cache: dict[str, torch.Tensor] = cache) -> torch.Tensor:
                        if canonical not in cache:
                            cache[canonical] = read(canonical)
                        return cache[canonical]

                    tensors[stored.name] = _status(plan, stored)
                    spec, index, piece = stored.parts[0]
                    origin = tensor_plan(plan, spec, index).source
                    if (
                        piece is None
                        and tensors[stored.name] == "carried"
                        and (plan.source.tensors[origin].dtype == stored.dtype)
                    ):
                        value = read(origin)
                    else:
                        value = materialise_stored(stored, plan, read_once, getattr(torch, stored.dtype))
                    writer.add(stored.name, value)
                    done += value.numel() * value.element_size()
                    if progress is not None:
                        progress(done, layout.num_bytes, stored.name)
                digests[file] = writer.close()
            finally:
                writer.abort()
    if count > 1:
        weight_map = {s.name: file for file, contents in zip(names, layout.shards, strict=True) for s in contents}
        index_file = {"metadata": {"total_size": layout.num_bytes}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index_file, indent=2) + "\n", encoding="utf-8")
    return tensors, digests


def _status(plan: Plan, stored: StoredTensor) -> str:
    """Return whether a stored tensor is new, grown or carried: of several declared ones, the first of these."""
    found = {plan.status(tensor_plan(plan, spec, index)) for spec, index, _ in stored.parts}
    if len(found) > 1:
        return "grown"
    return found.pop()


def _side_files(plan: Plan, source: ModelFolder) -> tuple[dict[Path, dict[str, Any] | None], dict[str, str]]:
    """Return the files to carry (None) or to write anew (their content), and those to drop with the reason."""
    found: dict[Path, dict[str, Any] | None] = {}
    dropped: dict[str, str] = {}
    field_name = plan.architecture.roles.get("hidden", "hidden_size")
    before, after = plan.source_sizes.get(field_name), plan.target_sizes.get(field_name)
    for path in source.other_files():
        nested_weights = len(path.parts) > 1 and path.suffix in WEIGHT_SUFFIXES
        if source.leads_outside(path):
            dropped[str(path)] = "a link that leads out of the model's folder"
        elif (source.path / path).is_dir():
            dropped[str(path)] = "a linked folder"
        elif _is_another_model(source, path):
            dropped[str(path)] = "part of another checkpoint inside the model's folder"
        elif path.name == FILE:
            dropped[str(path)] = "the record of an earlier growth; its digest is kept in the new one"
        elif path.suffix == ".py":
            dropped[str(path)] = "code; a stock class loads the result"
        elif path.name in ("training_args.bin", "scheduler.pt", "trainer_state.json") or path.name.startswith("rng_"):
            found[path] = None
        elif path.suffix in WEIGHT_SUFFIXES or path.name.endswith(".index.json"):
            if nested_weights and path.parts[0] not in ("onnx", "openvino"):
                if before != after:
                    raise RequestError(
                        f"{source.path / path}: a part with weights of its own stands behind the model and reads its "
                        f"{before} outputs; it cannot follow to {after}. Grow other sizes, or remove that part"
                    )
                found[path] = None
            else:
                dropped[str(path)] = "weights in another format, of the source's sizes"
        else:
            found[path] = None
            if path.suffix == ".json" and len(path.parts) > 1 and before != after:
                content = json.loads((source.path / path).read_text(encoding="utf-8"))
                if isinstance(content, dict) and content.get("word_embedding_dimension") == before:
                    found[path] = {**content, "word_embedding_dimension": after}
    return found, dropped


def _is_another_model(source: ModelFolder, path: Path) -> bool:
    """Tell whether a file belongs to a checkpoint in a subfolder: a Trainer's, or an original's."""
    if len(path.parts) < 2:
        return False
    top = path.parts[0]
    is_part = (source.path / "modules.json").is_file() and top[:1].isdigit()  # sentence-transformers: 1_Pooling
    return not is_part and (
        top.startswith("checkpoint-")
        or top == "original"
        or (source.path / top / INDEX).is_file()
        or (source.path / top / "model.safetensors").is_file()
    )


def _write_side_files(source: ModelFolder, folder: Path, files: dict[Path, dict[str, Any] | None]) -> dict[str, str]:
    written: dict[str, str] = {}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            try:
                shutil.copyfile(source.path / path, folder / path)
            except OSError as error:
                raise SourceError(f"{source.path / path}: cannot be carried along: {error.strerror or error}") from None
            written[str(path)] = "carried"
        else:
            (folder / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            written[str(path)] = f"updated: word_embedding_dimension = {content['word_embedding_dimension']}"
    return written


def _write_provenance(grown: GrownCheckpoint, source: ModelFolder, folder: Path, digests: dict[str, str]) -> None:
    earlier = source.path / FILE
    record = {
        "format": 1,
        "growformer": version("growformer"),
        "source": {
            "location": grown.plan.source.location,
            "revision": source.revision,
            "digest": grown.plan.source.digest,
            "grown_before": read_json(earlier, "").get("source") if earlier.is_file() else None,
        },
        "files": {"weights": digests, "others": grown.files},
        "tensors": grown.tensors,
        "dropped": grown.dropped,
        "new_regions": new_region_groups(grown.plan),
        "plan": json.loads(grown.plan.to_json()),
    }
    (folder / FILE).write_text(json.dumps(record) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
