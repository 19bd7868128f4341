"""The checkpoint executor: a safetensors folder in, a stock safetensors folder out, at the speed of the disk.

    layout.py     where every byte goes
    fill.py       makes the bytes of one band
    pipeline.py   threads that make, digest and write bands
    ranks.py      several processes that share the work

The output appears whole, by one rename, or not at all (``storage.output_folder``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import for_config
from growformer.architecture.source import SourceInfo, canonical_names, describe
from growformer.errors import OutputError, PlanError, RequestError, SourceError
from growformer.execute.class_check import ClassCheck
from growformer.execute.companion import Companion
from growformer.execute.fill import BandFiller
from growformer.execute.layout import Band, Layout, lay_out
from growformer.execute.pipeline import Digests, Pipeline
from growformer.execute.provenance import FILE, FORMAT, new_region_groups
from growformer.execute.ranks import Ranks, from_environment
from growformer.execute.side_files import choose_side_files, write_side_files
from growformer.execute.stored import StoredTensor, stored_tensors
from growformer.planning.plan import Plan
from growformer.planning.rules import tensor_plan
from growformer.storage import digests, disk
from growformer.storage.folder import INDEX, ModelFolder, read_json
from growformer.storage.identity import Identity
from growformer.storage.output_folder import OutputFolder, check_free, check_room, estimated_seconds
from growformer.storage.weights import Weights

Progress = Callable[[int, int, str], None]
"""Called with bytes written, bytes in all, and the tensor at hand."""

MAX_THREADS = 8
LONG = 20_000_000_000
"""Bytes from which on it is worth a second to estimate how long they take."""


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
        resumed: what an earlier, unfinished run had left, and what was made of it; empty if there was none.
        notes: what the user should know of what lies beside the weights.
    """

    path: Path
    plan: Plan
    tensors: dict[str, str]
    dropped: dict[str, str]
    files: dict[str, str]
    num_bytes: int
    resumed: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = {kind: sum(found == kind for found in self.tensors.values()) for kind in ("grown", "carried", "new")}
        parts = ", ".join(f"{number} tensors {kind}" for kind, number in count.items() if number)
        return f"{self.path}: {parts}, {self.num_bytes:,} bytes"


def grow_folder(
    plan: Plan,
    source: ModelFolder,
    out: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    threads: int | None = None,
    keep_code: bool = False,
    progress: Progress | None = None,
    checking: ClassCheck | None = None,
    estimated: Callable[[int, float], None] | None = None,
    companion: Companion | None = None,
) -> GrownCheckpoint:
    """Write the grown checkpoint of a source folder.

    Under ``torchrun`` all ranks call this with the same arguments and a common file system; they share the work. The
    bytes do not depend on threads or ranks.

    Args:
        plan: made for this source.
        source: the folder.
        out: a folder that does not exist yet.
        dtype: of all floating-point tensors; by default each keeps its own.
        max_shard_bytes: no shard is larger, unless one tensor is.
        threads: how many make and write; by default one more than cores, at most 8: some wait for the disk.
        keep_code: carry the source's code files and their names in the config; they are not read.
        progress: called after every piece of a tensor.
        checking: a check of the target config that was started early; by default it starts now.
        estimated: called before a long run writes anything, with its bytes and about how many seconds they take.
        companion: what grows with the weights.

    Raises:
        PlanError: the source is not the one that the plan was made for.
        RequestError: the model's class refuses the target config, or an unknown dtype.
        SourceError: the source cannot be read, or changed meanwhile.
        OutputError: the output exists, is being written by another run, or cannot be written.
    """
    out = Path(out)
    ranks = from_environment()
    before = Identity.of(source)
    check_same_source(plan, source)
    if dtype is not None and (dtype not in ("bfloat16", "float16", "float32", "float64")):
        raise RequestError(f"unknown dtype {dtype!r}: expected bfloat16, float16, float32 or float64")
    if threads is not None and threads < 1:
        raise RequestError(f"{threads} threads: expected 1 or more")
    config = _target_config(plan, dtype, keep_code)
    grown_files = frozenset() if companion is None else companion.files
    side_files, dropped_files = choose_side_files(plan, source, keep_code=keep_code, grown_otherwise=grown_files)
    layout = lay_out(stored_tensors(plan, dtype), max_shard_bytes)
    if out.resolve().is_relative_to(source.path.resolve()):
        raise OutputError(f"{out}: lies inside the source {source.path}; write beside it")
    fingerprint = _fingerprint(plan, before, config, dtype, max_shard_bytes, keep_code)
    with _as_output_errors(out), ExitStack() as stack:
        if ranks.first:
            checking = checking or stack.enter_context(ClassCheck(str(config.get("model_type"))))
        partial = OutputFolder(out, fingerprint)

        def begin() -> dict[str, str]:
            check_free(out)
            check_room(out, layout.num_bytes + (0 if companion is None else companion.prepare()))
            if estimated is not None and layout.num_bytes >= LONG:
                estimated(layout.num_bytes, estimated_seconds(out.parent, layout.num_bytes))
            if checking is not None:
                checking.submit(plan, config)
            return stack.enter_context(partial).finished

        finished = dict(ranks.on_first(begin))
        weights = stack.enter_context(Weights(source.entries))
        filler = BandFiller(plan, weights)
        shares = _Shares(partial, layout, ranks, checking, progress)
        shares.write(filler, finished, threads or min(MAX_THREADS, (os.cpu_count() or 1) + 1))
        ranks.together(lambda: _check_unchanged(before, partial))
        tensors = {s.name: status_of(plan, s) for shard in layout.shards for s in shard.tensors}
        dropped, notes = {**plan.source.dropped, **dropped_files}, () if companion is None else companion.notes
        grown = GrownCheckpoint(out, plan, tensors, dropped, {}, layout.tensor_bytes, partial.note, notes)

        def publish() -> dict[str, str]:
            carried = write_side_files(source, partial.path, side_files)
            if companion is not None:
                companion.check_unchanged()
                carried |= companion.write(partial.path)
            if len(layout.shards) > 1:
                disk.write_file(partial.path / INDEX, _index(layout))
            record = _provenance(grown, source, partial.finished, carried)
            disk.write_file(partial.path / FILE, (json.dumps(record) + "\n").encode())
            if checking is not None:
                _wait(checking, partial)
            disk.write_file(partial.path / "config.json", (json.dumps(config, indent=2) + "\n").encode())
            partial.publish()
            return carried

        grown.files.update(ranks.on_first(publish))
    return grown


@dataclass(slots=True)
class _Shares:
    """The shards that ranks write together, and what is agreed on after each one."""

    partial: OutputFolder
    layout: Layout
    ranks: Ranks
    checking: ClassCheck | None
    progress: Progress | None
    done: int = 0

    def write(self, filler: BandFiller, finished: dict[str, str], threads: int) -> None:
        """Write the shards that are not finished yet.

        Raises:
            As ``grow_folder``.
        """
        pipeline = Pipeline(filler, self.partial.path, threads, (self.ranks.rank, self.ranks.size))
        left = [(number, s) for number, s in enumerate(self.layout.shards) if s.file not in finished]
        self.done = sum(shard.num_bytes - len(shard.header) for shard in self.layout.shards if shard.file in finished)
        written = pipeline.run(left, self._wrote)
        try:
            for _ in left:
                parts = self.ranks.together(lambda: next(written))
                number = parts[0][0]
                pieces: Digests = {}
                for _, some in parts:
                    pieces.update(some)
                digest = digests.of_file(pieces[piece] for piece in range(len(pieces)))
                file = self.layout.shards[number].file
                self.ranks.on_first(lambda file=file, digest=digest: self.partial.record(file, digest))  # type: ignore[misc]
        finally:
            written.close()  # type: ignore[attr-defined]

    def _wrote(self, band: Band) -> None:
        refusal = self.checking.refusal() if self.checking is not None else None
        if refusal is not None:
            self.partial.forget()
            raise refusal
        self.done += band.num_bytes
        if self.progress is not None:
            self.progress(self.done, self.layout.tensor_bytes, band.stored.name)


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


def status_of(plan: Plan, stored: StoredTensor) -> str:
    """Return whether a stored tensor is new, grown or carried: of several declared ones, the first of these."""
    found = {plan.status(tensor_plan(plan, spec, index)) for spec, index, _ in stored.parts}
    if len(found) > 1:
        return "grown"
    return found.pop()


def _target_config(plan: Plan, dtype: str | None, keep_code: bool) -> dict[str, Any]:
    """Return the config to write; code that is not taken is not named in it."""
    config = {name: value for name, value in plan.target_config.items() if keep_code or name != "auto_map"}
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"] = dtype
    return config


def _fingerprint(
    plan: Plan, source: Identity, config: dict[str, Any], dtype: str | None, max_shard_bytes: int, keep_code: bool
) -> str | None:
    """Return a digest of all that the output's bytes depend on; None where a function fills blocks."""
    if plan.init.custom is not None:
        return None
    parts = [version("growformer"), plan.to_json(), source.to_json(), config, dtype, max_shard_bytes, keep_code]
    return digests.of_piece(json.dumps(parts).encode()).hex()


def _wait(checking: ClassCheck, partial: OutputFolder) -> None:
    try:
        checking.wait()
    except RequestError:
        partial.forget()
        raise


@contextmanager
def _as_output_errors(out: Path) -> Iterator[None]:
    """Reading raises SourceError, so that any OSError is of writing."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}{where}") from error


def _check_unchanged(before: Identity, partial: OutputFolder) -> None:
    try:
        before.check_unchanged()
    except SourceError:
        partial.forget()
        raise


def _index(layout: Layout) -> bytes:
    weight_map = {stored.name: shard.file for shard in layout.shards for stored in shard.tensors}
    content = {"metadata": {"total_size": layout.tensor_bytes}, "weight_map": weight_map}
    return (json.dumps(content, indent=2) + "\n").encode()


def _recorded_source(earlier: Path, source: ModelFolder) -> Any:
    """Return what an earlier growth says of its own source; None if there was none, or its record is not one."""
    if not earlier.is_file():
        return None
    try:
        return read_json(earlier, "", home=source.path).get("source")
    except SourceError:
        return None


def _provenance(
    grown: GrownCheckpoint, source: ModelFolder, shards: dict[str, str], carried: dict[str, str]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "growformer": version("growformer"),
        "source": {
            "location": grown.plan.source.location,
            "revision": source.revision,
            "digest": grown.plan.source.digest,
            "grown_before": _recorded_source(source.path / FILE, source),
        },
        "files": {"weights": dict(sorted(shards.items())), "others": carried},
        "tensors": grown.tensors,
        "dropped": grown.dropped,
        "new_regions": new_region_groups(grown.plan),
        "plan": json.loads(grown.plan.to_json()),
    }
