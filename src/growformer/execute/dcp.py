"""The executor of distributed checkpoints: a folder of torch.distributed.checkpoint in, a stock one out.

One tensor of the target is made at a time, when the stock writer asks for it; model, averages of it and optimizer state
come from the same blocks. Nothing in the source is executed (``storage.dcp``). The output appears whole or not at all.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save

from growformer.architecture.declaration import Architecture
from growformer.architecture.source import SourceInfo, canonical_names, describe, tied_to
from growformer.errors import OutputError, PlanError, SourceError
from growformer.execute.checkpoint import GrownCheckpoint, status_of
from growformer.execute.dcp_layout import DcpLayout, OfParameter, key_of, sort_keys
from growformer.execute.placement import OneWhole
from growformer.execute.provenance import FILE, FORMAT, new_region_groups
from growformer.execute.slots import OWN_SLOTS, SLOTS, STARTS, check_policy, check_slot, grow_slot
from growformer.execute.stored import StoredTensor, materialise_stored, stored_tensors, take
from growformer.planning.plan import Plan
from growformer.storage import disk
from growformer.storage.dcp import DcpFolder, KeyPath
from growformer.storage.output_folder import OutputFolder, check_free, check_room

Make = Callable[[], torch.Tensor | bytes]


@dataclass(slots=True)
class _Output:
    """What is to be written: for every key where it stood, what it looks like, and how it is made."""

    paths: dict[str, KeyPath] = field(default_factory=dict)
    looks: dict[str, Any] = field(default_factory=dict)
    makes: dict[str, Make] = field(default_factory=dict)

    def tensor(self, path: KeyPath, shape: tuple[int, ...], dtype: str, make: Callable[[], torch.Tensor]) -> None:
        self._add(path, torch.empty(shape, dtype=getattr(torch, dtype), device="meta"), make)

    def blob(self, path: KeyPath, make: Callable[[], bytes]) -> None:
        self._add(path, None, make)

    def _add(self, path: KeyPath, look: Any, make: Make) -> None:
        key = key_of(path)
        self.paths[key], self.looks[key], self.makes[key] = path, look, make

    @property
    def num_bytes(self) -> int:
        return sum(look.numel() * look.element_size() for look in self.looks.values() if look is not None)


def describe_dcp(architecture: Architecture, folder: DcpFolder, config: Mapping[str, Any]) -> SourceInfo:
    """Match a checkpoint's parameters with an architecture; those of a tie count once if their values are equal.

    Raises:
        SourceError: as ``describe``; or no tensor is a parameter of the architecture.
    """
    keys, shapes = sort_keys(architecture, folder).model, parameters_of(architecture, folder)
    names = canonical_names(architecture, shapes)
    aliases: dict[str, str] = {}
    if architecture.resolve_config(config).get(architecture.tie_field or ""):
        for head, table in architecture.ties.items():
            if {head, table} <= set(names) and _equal(folder, keys[names[head]], keys[names[table]]):
                aliases[names[head]] = names[table]
    return describe(architecture, config, shapes, aliases=aliases or None, location=str(folder.path))


def parameters_of(architecture: Architecture, folder: DcpFolder) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return name -> shape and dtype of the model's tensors.

    Raises:
        SourceError: there are none.
    """
    keys = sort_keys(architecture, folder).model
    return {name: (folder.tensors[key].shape, folder.tensors[key].dtype) for name, key in keys.items()}


def _equal(folder: DcpFolder, one: str, other: str) -> bool:
    return folder.tensors[one].shape == folder.tensors[other].shape and torch.equal(
        folder.read(one), folder.read(other)
    )


def grow_dcp(
    plan: Plan,
    folder: DcpFolder,
    out: str | Path,
    *,
    state: str = "carry",
    slots: Mapping[str, int] | None = None,
) -> GrownCheckpoint:
    """Write the grown checkpoint of a source folder; ``dcp.load`` reads it on any number of ranks.

    Args:
        plan: made for this source.
        folder: the source.
        out: a folder that does not exist yet.
        state: what becomes of optimizer state, as of ``execute.optimizer.grow_optimizer``; what starts anew is written
            as zeros with a step count of zero. Of what is dropped, slots without a known start are left out: those of
            an unknown meaning, factored and quantised ones.
        slots: name -> power of the gradient, for slots that torch's optimizers do not have.

    Raises:
        PlanError: the source is not the one that the plan was made for.
        RequestError: state that cannot be grown, or an unknown policy.
        SourceError: the source cannot be read.
        OutputError: the output exists, or cannot be written.
    """
    out = Path(out)
    check_policy(state)
    info = describe_dcp(plan.architecture, folder, plan.source.config)
    if info.digest != plan.source.digest:
        raise PlanError(
            f"{folder.path}: config or tensors differ from the source that the plan was made for "
            f"({plan.source.location}); plan again"
        )
    check_free(out)
    if out.resolve().is_relative_to(folder.path.resolve()):
        raise OutputError(f"{out}: lies inside the source {folder.path}; write beside it")
    layout = sort_keys(plan.architecture, folder)
    output = _Planned(plan, folder, layout, state, _powers(layout, slots)).output()
    check_room(out, output.num_bytes)
    before = folder.stamps()
    tensors = {stored.name: status_of(plan, stored) for stored in stored_tensors(plan)}
    dropped = {name: why for name, why in plan.source.dropped.items() if tied_to(why) is None}
    grown = GrownCheckpoint(out, plan, tensors, dropped, {}, output.num_bytes)
    try:
        with OutputFolder(out, None) as partial:
            _save(output, partial.path, out)
            changed = [name for name, stamp in folder.stamps().items() if before.get(name) != stamp]
            if changed:
                raise SourceError(f"{folder.path / changed[0]}: changed while it was read, so nothing was published")
            disk.write_file(partial.path / FILE, (json.dumps(_record(grown, plan)) + "\n").encode())
            text = json.dumps(dict(plan.target_config), indent=2) + "\n"
            disk.write_file(partial.path / "config.json", text.encode())
            partial.publish()
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    return grown


def _save(output: _Output, path: Path, out: Path) -> None:
    """Let the stock writer write; what goes wrong comes out as it was raised."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it was asked to be
            save(output.looks, storage_writer=_Writer(path, out), planner=_Planner(output), no_dist=True)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None


def _powers(layout: DcpLayout, slots: Mapping[str, int] | None) -> dict[str, int]:
    present = {entry.what for entries in layout.slots.values() for entry in entries}
    own = OWN_SLOTS["RMSprop"] if {"square_avg", "momentum_buffer"} <= present else {}
    return {**SLOTS, **own, **(slots or {})}


@dataclass(slots=True)
class _Planned:
    """Finds out what the target's keys are and how each is made, and refuses what cannot be grown."""

    plan: Plan
    folder: DcpFolder
    layout: DcpLayout
    policy: str
    powers: Mapping[str, int]
    aliases: dict[str, str] = field(init=False)
    wholes: OneWhole = field(default_factory=OneWhole)

    def __post_init__(self) -> None:
        dropped = self.plan.source.dropped.items()
        self.aliases = {name: owner for name, why in dropped if (owner := tied_to(why)) is not None}

    def output(self) -> _Output:
        output = _Output()
        targets = list(stored_tensors(self.plan))
        origins = {stored.name: self._origin(stored) for stored in targets}
        for where, keys in self.layout.models.items():
            for stored in targets:
                for name in self._names(stored.name):
                    if origins[stored.name] in keys and (name == stored.name or name in keys):
                        self._parameter(output, (*where, name), stored, keys)
        own: dict[str, list[OfParameter]] = {}
        for name, entries in self.layout.slots.items():
            own[self.aliases.get(name, name)] = entries
        for stored in targets:
            for entry in own.get(origins[stored.name], []):
                if self.policy == "drop":
                    self._start(output, entry, stored)
                else:
                    self._slot(output, entry, stored, own)
        for stored in targets:
            for entry in self.layout.options.get(origins[stored.name], []):
                output.blob(entry.of(stored.name), self._bytes(entry.key))
        for key in self.layout.groups:
            output.blob(self.folder.paths[key], self._group(key, origins))
        for key in self.layout.others:
            self._other(output, key)
        return output

    def _origin(self, stored: StoredTensor) -> str:
        spec, index, _ = stored.parts[0]
        return self.plan.stored_origin(spec, index)

    def _names(self, owner: str) -> Iterator[str]:
        """Yield a target's name, and those of the tensors that are tied to it."""
        yield owner
        yield from (alias for alias, of in self.aliases.items() if of == owner)

    def _parameter(self, output: _Output, path: KeyPath, stored: StoredTensor, keys: Mapping[str, str]) -> None:
        dtype = self.folder.tensors[keys[self._origin(stored)]].dtype

        def read(canonical: str) -> torch.Tensor:
            info = self.plan.source.tensors[canonical]
            return take(self._whole(keys[info.stored]), info.piece)

        output.tensor(
            path, stored.shape, dtype, lambda: materialise_stored(stored, self.plan, read, getattr(torch, dtype))
        )

    def _slot(
        self, output: _Output, entry: OfParameter, stored: StoredTensor, own: Mapping[str, list[OfParameter]]
    ) -> None:
        path = entry.of(entry.name if entry.name in self.aliases else stored.name)
        fresh = self.policy == "zero-new" and self.plan.is_new(stored.parts[0][1])
        if entry.key in self.folder.blobs:
            output.blob(path, self._bytes(entry.key))
            return
        saved = self.folder.tensors[entry.key]
        dtype = getattr(torch, saved.dtype)
        owner = self.folder.tensors[self.layout.model[self._origin(stored)]].shape
        if not saved.shape and owner:
            start = torch.full((), STARTS.get(entry.what, 0.0), dtype=dtype)
            output.tensor(path, (), saved.dtype, (lambda: start) if fresh else (lambda: self.folder.read(entry.key)))
            return
        check_slot(f"{self.folder.path}: {entry.key}", entry.what, saved.shape, dtype, owner, self.powers)

        def read(canonical: str) -> torch.Tensor:
            info = self.plan.source.tensors[canonical]
            key = next((e.key for e in own.get(info.stored, []) if e.what == entry.what), None)
            if key is None:  # never stepped
                return take(
                    torch.zeros(self.folder.tensors[self.layout.model[info.stored]].shape, dtype=dtype), info.piece
                )
            return take(self._whole(key), info.piece)

        power = self.powers[entry.what]
        output.tensor(
            path, stored.shape, saved.dtype,
            lambda: grow_slot(self.plan, stored, power, read, dtype, policy=self.policy),
        )  # fmt: skip

    def _start(self, output: _Output, entry: OfParameter, stored: StoredTensor) -> None:
        """Write a slot as an optimizer has it before its first step, so that ``dcp.load`` finds every key."""
        path = entry.of(entry.name if entry.name in self.aliases else stored.name)
        if entry.key in self.folder.blobs:
            value = self.folder.read_object(entry.key)
            counts = entry.what in STARTS and isinstance(value, (int, float))
            output.blob(path, _saved(type(value)(STARTS[entry.what])) if counts else self._bytes(entry.key))
            return
        saved = self.folder.tensors[entry.key]
        dtype = getattr(torch, saved.dtype)
        owner = self.folder.tensors[self.layout.model[self._origin(stored)]].shape
        if not saved.shape and entry.what in STARTS:
            output.tensor(path, (), saved.dtype, lambda: torch.full((), STARTS[entry.what], dtype=dtype))
        elif saved.shape == owner and entry.what in self.powers and dtype.is_floating_point:
            output.tensor(path, stored.shape, saved.dtype, lambda: torch.zeros(stored.shape, dtype=dtype))

    def _group(self, key: str, origins: Mapping[str, str]) -> Callable[[], bytes]:
        """Return what writes a list of parameters' names, with those of the grown model that come from them."""
        names = self.folder.read_object(key)
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise SourceError(f"{self.folder.path}: {key} is not a list of parameters' names")
        spelled = {self.aliases.get(name, name): name for name in names}
        unknown = next((name for owner, name in spelled.items() if owner not in self.layout.model), None)
        if unknown is not None:
            raise SourceError(f"{self.folder.path}: {key} names {unknown!r}, which is no parameter of the model")
        grown = [spelled.get(target, target) for target, origin in origins.items() if origin in spelled]
        return _saved(grown)

    def _other(self, output: _Output, key: str) -> None:
        path = self.folder.paths[key]
        if key in self.folder.blobs:
            output.blob(path, self._bytes(key))
            return
        saved = self.folder.tensors[key]
        output.tensor(path, saved.shape, saved.dtype, lambda: self.folder.read(key))

    def _whole(self, key: str) -> torch.Tensor:
        return self.wholes.get(key, lambda: self.folder.read(key))

    def _bytes(self, key: str) -> Callable[[], bytes]:
        return lambda: self.folder.read_bytes(key)


def _saved(value: Any) -> Callable[[], bytes]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue


class _Planner(DefaultSavePlanner):
    """Lets the stock writer ask for one tensor at a time, under the keys and places of the source."""

    def __init__(self, output: _Output) -> None:
        super().__init__(flatten_state_dict=True)
        self._output = output

    def set_up_planner(
        self, state_dict: Any, storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        super().set_up_planner(dict(self._output.looks), storage_meta, is_coordinator)
        self.mappings = dict(self._output.paths)

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        made = self._output.makes[write_item.index.fqn]()
        if write_item.type == WriteItemType.BYTE_IO:
            assert isinstance(made, bytes)
            return io.BytesIO(made)
        assert isinstance(made, torch.Tensor)
        return made.contiguous()


class _Writer(FileSystemWriter):
    """Records the final name of the folder, not the one that it has while it is written."""

    def __init__(self, path: Path, out: Path) -> None:
        super().__init__(path, single_file_per_rank=True, thread_count=1, per_thread_copy_ahead=0)
        self._out = out

    def storage_meta(self) -> StorageMeta | None:
        return StorageMeta(checkpoint_id=str(self._out), save_id=self.save_id)


def _record(grown: GrownCheckpoint, plan: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "growformer": version("growformer"),
        "source": {"location": plan.source.location, "revision": None, "digest": plan.source.digest},
        "files": {"weights": {}, "others": {}},
        "tensors": grown.tensors,
        "dropped": grown.dropped,
        "new_regions": new_region_groups(plan),
        "plan": json.loads(plan.to_json()),
    }


__all__ = ["describe_dcp", "grow_dcp", "parameters_of"]
