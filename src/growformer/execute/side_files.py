"""The files beside config and weights: which go on to the output, which change with the sizes, which stay behind."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from growformer.errors import RequestError, SourceError
from growformer.execute.provenance import CERTIFICATE, FILE
from growformer.planning.plan import Plan
from growformer.storage import disk
from growformer.storage.folder import INDEX, WEIGHT_SUFFIXES, ModelFolder
from growformer.storage.plain_json import load_json

OPTIMIZER, SCHEDULER, TRAINER_STATE, SCALER = "optimizer.pt", "scheduler.pt", "trainer_state.json", "scaler.pt"
REGION_UPDATES = "region_updates.json"
_PIECE = 8 << 20
_TRAINING = ("training_args.bin", SCHEDULER, TRAINER_STATE, SCALER)
_SHARDED_STATE = re.compile(
    r"global_step\d+|pytorch_model_fsdp(_\d+|\.bin)|optimizer_\d+|optimizer\.bin|optimizer\.pt_\d+|"
    r"rank\d+-of-\d+-optimizer\.pt"
)
"""Files and folders in which DeepSpeed, FSDP and others keep the state of optimizers."""


def choose_side_files(
    plan: Plan, source: ModelFolder, *, keep_code: bool = False, grown_otherwise: frozenset[str] = frozenset()
) -> tuple[dict[Path, dict[str, Any] | None], dict[str, str]]:
    """Return the files to carry (None) or to write anew (their content), and those to drop with the reason.

    Args:
        plan: what the model becomes.
        source: the folder.
        keep_code: whether code is carried.
        grown_otherwise: files that somebody else answers for.
    """
    found: dict[Path, dict[str, Any] | None] = {}
    dropped: dict[str, str] = {}
    field_name = plan.architecture.roles.get("hidden", "hidden_size")
    before, after = plan.source_sizes.get(field_name), plan.target_sizes.get(field_name)
    for path in source.other_files():
        nested_weights = len(path.parts) > 1 and path.suffix in WEIGHT_SUFFIXES
        if str(path) in grown_otherwise:
            continue
        if source.leads_outside(path):
            dropped[str(path)] = "a link that leads out of the model's folder"
        elif (source.path / path).is_dir():
            dropped[str(path)] = "a linked folder"
        elif is_another_model(source, path):
            dropped[str(path)] = "part of another checkpoint inside the model's folder"
        elif path.name == FILE:
            dropped[str(path)] = "the record of an earlier growth; its digest is kept in the new one"
        elif path.name == CERTIFICATE:
            dropped[str(path)] = "the certificate of what was grown earlier; verify writes one of its own"
        elif path.suffix == ".py" and not keep_code:
            dropped[str(path)] = "code; a stock class loads the result (--keep-code carries it, unread)"
        elif str(path) in (OPTIMIZER, REGION_UPDATES) or _SHARDED_STATE.fullmatch(path.parts[0]):
            dropped[str(path)] = "the state of an optimizer, of the source's sizes"
        elif path.name in _TRAINING or path.name.startswith("rng_"):
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
                try:
                    content = load_json(source.path / path, "", home=source.path)
                except SourceError:
                    content = None  # whatever it is, it is carried as it is
                if isinstance(content, dict) and content.get("word_embedding_dimension") == before:
                    found[path] = {**content, "word_embedding_dimension": after}
    return found, dropped


def is_another_model(source: ModelFolder, path: Path) -> bool:
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


def write_side_files(source: ModelFolder, folder: Path, files: dict[Path, dict[str, Any] | None]) -> dict[str, str]:
    """Write the chosen files, and return what became of each: ``carried`` or ``updated: …``."""
    written: dict[str, str] = {}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            _carry(source.path / path, folder / path)
            written[str(path)] = "carried"
        else:
            disk.write_file(folder / path, (json.dumps(content, indent=2) + "\n").encode())
            written[str(path)] = f"updated: word_embedding_dimension = {content['word_embedding_dimension']}"
    return written


def _carry(source: Path, target: Path) -> None:
    """Copy a file's bytes, unread; they are synced with all others."""
    try:
        taken = disk.open_to_read(source)
    except OSError as error:
        raise SourceError(f"{source}: cannot be carried along: {error.strerror or error}") from None
    try:
        written = disk.open_to_write(target, fresh=True)
        try:
            piece, offset = memoryview(bytearray(min(_PIECE, max(1, os.fstat(taken).st_size)))), 0
            while count := _read(source, taken, piece, offset):
                with disk.named(target):
                    disk.write_at(written, piece[:count], offset)
                offset += count
        finally:
            os.close(written)
    finally:
        os.close(taken)


def _read(source: Path, descriptor: int, piece: memoryview, offset: int) -> int:
    try:
        return disk.read_at(descriptor, piece, offset)
    except OSError as error:
        raise SourceError(f"{source}: cannot be carried along: {error.strerror or error}") from None


def sharded_state(source: ModelFolder) -> str | None:
    """Return the file or folder in which a distributed run keeps the state of its optimizer, if there is one."""
    tops = (path.parts[0] for path in source.other_files())
    return next((top for top in tops if _SHARDED_STATE.fullmatch(top)), None)


__all__ = [
    "OPTIMIZER",
    "REGION_UPDATES",
    "SCALER",
    "SCHEDULER",
    "TRAINER_STATE",
    "choose_side_files",
    "is_another_model",
    "sharded_state",
    "write_side_files",
]
