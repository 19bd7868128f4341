"""An optimizer's state dict on disk: read without running anything, matched with parameters by name, grown, written.

A state dict numbers parameters in the order of its groups and does not say what they are. The names are those that it
holds itself (``param_names``, of an optimizer of named parameters), or follow from how it was made:

    two groups   Trainer's: parameters that decay, then those that do not, each in the order of ``named_parameters()``
    one group    all of them, in that order

What a class itself freezes is among them or not, as the sizes of the groups tell: ``from_pretrained`` thaws it.
Group sizes and the shape of every slot must agree with that, and everything else is refused: a moment that ends up at
another parameter of the same shape would do harm that nobody sees.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch

from growformer.errors import OutputError, RequestError, SourceError
from growformer.execute.group_order import grown_order
from growformer.execute.live_plan import LiveParameter, LivePlan
from growformer.execute.slots import FACTORED, GrownSlots, States, check_slots, grow_slot, grown_state, powers_of
from growformer.execute.stored import StoredTensor, take
from growformer.storage.links import open_inside

_BEHIND = "eave it behind with state='omit' (--optimizer-state omit), and the optimizer starts anew"
_INSTEAD, _OR = f"L{_BEHIND}", f"Or l{_BEHIND}"
_SAFE = (2, 6)
"""The first torch whose ``weights_only`` keeps what it promises (CVE-2025-32434)."""
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("NAdam", ("betas", "momentum_decay")),
    ("AdamW", ("betas", "amsgrad")),
    ("RMSprop", ("alpha", "centered")),
    ("SGD", ("dampening", "nesterov")),
    ("Adagrad", ("lr_decay", "initial_accumulator_value")),
    ("Muon", ("ns_coefficients", "momentum")),
    ("Adafactor", ("scale_parameter", "relative_step")),
)
"""Kind of optimizer -> options that together only its groups have."""


@dataclass(frozen=True, slots=True)
class SavedOptimizer:
    """A state dict whose parameters have names.

    Attributes:
        file: where it was read.
        kind: of the optimizer, as its options tell.
        groups: options of every group, without its parameters.
        members: of every group, names of its parameters.
        named: whether the state dict holds the names.
        thawed: whether what the class freezes is trained as well.
        states: name of a parameter -> slot -> value.
    """

    file: Path
    kind: str
    groups: tuple[dict[str, Any], ...]
    members: tuple[tuple[str, ...], ...]
    named: bool
    thawed: bool
    states: Mapping[str, Mapping[str, Any]]

    def steps(self) -> dict[str, int]:
        """Return how many steps every parameter has seen, where that is counted."""
        return {name: step for name, slots in self.states.items() if (step := _whole(slots.get("step"))) is not None}


def load_plain(home: Path, name: str) -> Any:
    """Read a file of ``torch.save`` that holds tensors and plain data; tensors stay in the file until they are read.

    Raises:
        SourceError: it is missing, leads out of its folder, holds anything else, cannot be read, or is not the file
            that was checked any more when it has been read.
        RequestError: this torch cannot read such files safely.
    """
    file = home / name
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _SAFE:
        raise RequestError(f"{file}: torch {torch.__version__} cannot read it safely; install torch 2.6 or newer")
    if not file.exists():
        raise SourceError(f"{file}: missing; every checkpoint of Trainer that training can go on from has one")
    try:
        with open_inside(home, file) as opened, zipfile.ZipFile(opened) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise SourceError(f"{file}: {packed[0]!r} in it is compressed, as torch never does it; not read")
            data = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # mapping needs the path
            if not _is_at(opened, file):
                raise SourceError(f"{file}: was replaced while it was read; grow a checkpoint that nobody writes to")
        return data
    except SourceError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(
            f"{file}: cannot be read without running code that it may hold, which is never done: {reason}"
        ) from None


def _is_at(opened: BinaryIO, file: Path) -> bool:
    """Return whether an open file is the one that still stands at a path."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), os.stat(file))
    except OSError:
        return False


def read_optimizer(home: Path, name: str, parameters: Sequence[LiveParameter]) -> SavedOptimizer:
    """Read a state dict and give its parameters names.

    Args:
        home: the folder.
        name: of the file.
        parameters: of the model, in the order of ``named_parameters()``.

    Raises:
        SourceError: it cannot be read, or is no state dict of an optimizer.
        RequestError: it does not belong to this model, or its parameters could be several.
    """
    file = home / name
    data = load_plain(home, name)
    groups, states = _parts(file, data)
    numbers = [list(group["params"]) for group in groups]
    if [n for some in numbers for n in some] != list(range(sum(map(len, numbers)))):
        raise SourceError(f"{file}: its groups do not number parameters from 0 on, as those of torch do. {_INSTEAD}")
    named = any("param_names" in group for group in groups)
    members, thawed = (
        (_said(file, groups, numbers, parameters), True) if named else _members(file, groups, numbers, parameters)
    )
    names = [name for some in members for name in some]
    strange = [number for number in states if type(number) is not int or not 0 <= number < len(names)]
    if strange:
        raise SourceError(f"{file}: state of parameter {strange[0]!r}; its groups have {len(names)}. {_INSTEAD}")
    options = tuple({n: v for n, v in group.items() if n not in ("params", "param_names")} for group in groups)
    by_name = {names[number]: slots for number, slots in sorted(states.items())}
    _check_tensors(file, by_name)
    return SavedOptimizer(file, _kind(options), options, members, named, thawed, by_name)


def _parts(file: Path, data: Any) -> tuple[list[dict[str, Any]], dict[Any, dict[str, Any]]]:
    """Return the groups and the state of a state dict."""
    if not isinstance(data, dict) or not {"state", "param_groups"} <= set(data):
        kind = type(data).__name__
        found = f"{kind} with {', '.join(map(str, list(data)[:4])) or 'nothing'}" if isinstance(data, dict) else kind
        raise SourceError(
            f"{file}: expected what optimizer.state_dict() gives (state, param_groups), found {found}. {_INSTEAD}"
        )
    more = sorted(str(key) for key in set(data) - {"state", "param_groups"})
    if more:
        raise SourceError(
            f"{file}: holds {', '.join(more[:4])} beside state and param_groups, as optimizers do that wrap another "
            f"one; what that means for a larger model is not known. {_INSTEAD}"
        )
    groups, states = data["param_groups"], data["state"]
    proper = isinstance(groups, list) and groups and isinstance(states, dict)
    if not proper or not all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups):
        raise SourceError(f"{file}: its param_groups are none of torch: expected objects with params. {_INSTEAD}")
    if not all(isinstance(slots, dict) for slots in states.values()):
        raise SourceError(f"{file}: its state is none of torch: expected slots by parameter. {_INSTEAD}")
    return groups, states


def _members(
    file: Path, groups: Sequence[Mapping[str, Any]], numbers: Sequence[list[int]], parameters: Sequence[LiveParameter]
) -> tuple[tuple[tuple[str, ...], ...], bool]:
    """Return the names of the parameters in every group, and whether those that the class freezes are among them."""
    sizes = [len(some) for some in numbers]
    for thawed in (False, True):
        expected = by_rule(len(groups), parameters, thawed=thawed)
        if expected is not None and [len(some) for some in expected] == sizes:
            break
    else:
        decaying, all_of_them = sum(p.decays for p in parameters), len(parameters)
        raise RequestError(
            f"{file}: groups of {' and '.join(map(str, sizes))} parameters; expected those of Trainer, "
            f"{decaying} with weight decay and {all_of_them - decaying} without, or one of all {all_of_them}. So "
            "parameters are frozen, or grouped in a way of their own, or it belongs to another model: which moment is "
            "whose cannot be told. Save the state of an optimizer that is made of model.named_parameters(), which "
            f"holds their names. {_OR}"
        )
    decay = groups[-1].get("weight_decay", 0)
    if len(groups) == 2 and not (isinstance(decay, (int, float)) and decay == 0):
        raise RequestError(
            f"{file}: the second group decays by {decay}, and Trainer's second group holds what "
            "does not decay: these groups were made in another way, so that which moment is whose cannot be told. "
            f"Save the state of an optimizer that is made of model.named_parameters(). {_OR}"
        )
    return expected, thawed


def by_rule(count: int, parameters: Sequence[LiveParameter], *, thawed: bool) -> tuple[tuple[str, ...], ...] | None:
    """Return which parameters are in each of some groups: two by Trainer's rule, or one; None of other numbers."""
    trained = [p for p in parameters if thawed or not p.frozen]
    if count == 1:
        return (tuple(p.name for p in trained),)
    if count == 2:
        return tuple(p.name for p in trained if p.decays), tuple(p.name for p in trained if not p.decays)
    return None


def _said(
    file: Path, groups: Sequence[Mapping[str, Any]], numbers: Sequence[list[int]], parameters: Sequence[LiveParameter]
) -> tuple[tuple[str, ...], ...]:
    known = {p.name for p in parameters} | {p.stored for p in parameters}
    own = {p.stored: p.name for p in parameters}
    found: list[tuple[str, ...]] = []
    for place, (group, some) in enumerate(zip(groups, numbers, strict=True)):
        names = group.get("param_names")
        if not isinstance(names, list) or len(names) != len(some):
            raise SourceError(
                f"{file}: group {place} has {len(some)} parameters, and param_names of others. {_INSTEAD}"
            )
        for name in names:
            if name not in known:
                raise RequestError(
                    f"{file}: a parameter {name!r} in group {place}, which the model does not have: it belongs to "
                    f"another model. {_INSTEAD}"
                )
        found.append(tuple(own.get(str(name), str(name)) for name in names))
    flat = [name for some in found for name in some]
    if len(set(flat)) != len(flat):
        raise SourceError(f"{file}: the same parameter stands twice in its groups. {_INSTEAD}")
    return tuple(found)


def _check_tensors(file: Path, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse tensors that hold no values, or not all of them, in the file: sharded, sparse or without storage."""
    for name, slots in states.items():
        for slot, value in slots.items():
            if not isinstance(value, torch.Tensor):
                continue
            plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout == torch.strided
            if not plain or value.device.type != "cpu":
                raise SourceError(
                    f"{file}: slot {slot!r} of {name} is a {type(value).__name__} of layout {value.layout} on "
                    f"{value.device.type}; expected a plain tensor. {_INSTEAD}"
                )


def _check_shapes(saved: SavedOptimizer, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse the state of another model: slots of which none has its parameter's shape."""
    for name, slots in saved.states.items():
        found = [tuple(v.shape) for v in slots.values() if isinstance(v, torch.Tensor) and v.ndim]
        if found and shapes[name] not in found and not set(slots) & set(FACTORED):
            raise RequestError(
                f"{saved.file}: does not belong to this model: the state of {name} has shape {list(found[0])}, the "
                f"parameter {list(shapes[name])}. Take optimizer.pt and weights of the same checkpoint. Or, if the "
                "optimizer keeps state of other shapes than its parameters, drop it with state='drop'"
            )


def _whole(step: Any) -> int | None:
    """Return a step count; None where there is none."""
    if isinstance(step, torch.Tensor) and step.ndim == 0 and bool(torch.isfinite(step)):
        return int(step)
    return int(step) if isinstance(step, int) else None


def _kind(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the optimizer, as far as it matters to what its slots mean."""
    options = set(groups[0])
    for kind, marks in _KINDS:
        if set(marks) <= options:
            return "Adam" if kind == "AdamW" and groups[0].get("decoupled_weight_decay") is False else kind
    return "the optimizer"


@dataclass(frozen=True, slots=True)
class OptimizerGrowth:
    """A saved optimizer and all that is needed to write the grown one; everything has been checked.

    Attributes:
        live: the plan under the names of parameters.
        saved: the source's optimizer.
        state: ``carry``, ``zero-new`` or ``drop``.
        powers: slot -> power of the gradient.
        members: of every group, names of the target's parameters.
        grown: what becomes of every parameter's state, by names of parameters.
    """

    live: LivePlan
    saved: SavedOptimizer
    state: str
    powers: Mapping[str, int]
    members: tuple[tuple[str, ...], ...]
    grown: tuple[GrownSlots[str], ...] = field(default=())

    def num_bytes(self) -> int:
        """Return about how large the grown state is."""
        shapes = {p.name: p.shape for p in self.live.target}
        total = 0
        for slots in self.grown:
            if slots.carried:
                for value in self.saved.states[slots.before].values():
                    if isinstance(value, torch.Tensor) and value.ndim:
                        total += prod(shapes[slots.parameter]) * value.element_size()
        return total

    def write(self, folder: Path, name: str) -> None:
        """Write the grown state dict.

        Each slot is made in memory that a file holds, of which the system keeps in RAM what it has room for; besides,
        there is never more than one slot of one parameter at a time.
        """
        states: dict[str, dict[str, Any]] = {}
        stored = {p.name: p.stored for p in self.live.source}
        by_stored = {stored[name]: slots for name, slots in self.saved.states.items()}
        with tempfile.TemporaryDirectory(prefix=".optimizer-", dir=folder) as scratch:
            empty = _Scratch(Path(scratch))
            for slots in self.grown:
                if slots.carried:
                    make = partial(self._slot, slots.stored, by_stored, empty)
                    states[slots.parameter] = grown_state(
                        self.live.plan, slots.stored, by_stored, stored[slots.before], self.powers, self.state, make
                    )
            try:
                torch.save(self._state_dict(states), folder / name)
            except RuntimeError as error:
                reason = (str(error).strip().splitlines() or ["no reason given"])[0]
                raise OutputError(f"{folder / name}: cannot be written: {reason}") from None

    def _slot(
        self, stored: StoredTensor, states: States, empty: _Scratch, slot: str, power: int, like: torch.Tensor
    ) -> torch.Tensor:
        """Return one slot of one grown parameter, in memory that a file holds."""

        def read(canonical: str) -> torch.Tensor:
            info = self.live.plan.source.tensors[canonical]
            value = states.get(info.stored, {}).get(slot)
            if value is None:  # never stepped
                return torch.zeros(info.shape, dtype=like.dtype)
            return take(value, info.piece)

        made = grow_slot(self.live.plan, stored, power, read, like.dtype, policy=self.state)
        return empty(stored.shape, like.dtype).copy_(made)

    def _state_dict(self, states: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        numbers = {name: n for n, name in enumerate(name for some in self.members for name in some)}
        groups = []
        for options, some in zip(self.saved.groups, self.members, strict=True):
            group = {**options, "params": [numbers[name] for name in some]}
            if self.saved.named:
                group["param_names"] = list(some)
            groups.append(group)
        return {"state": {numbers[n]: states[n] for n in numbers if n in states}, "param_groups": groups}


class _Scratch:
    """Makes tensors of zeros in memory that files hold, which have no name any more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = prod(shape)
        if not size:
            return torch.zeros(shape, dtype=dtype)
        file = self._folder / "slot"
        if hasattr(os, "posix_fallocate"):  # so that a full disk is an error here, and no signal later
            with file.open("wb") as opened:
                os.posix_fallocate(opened.fileno(), 0, size * dtype.itemsize)
        made = torch.from_file(str(file), shared=True, size=size, dtype=dtype)
        file.unlink()
        return made.view(shape)


def plan_optimizer(
    live: LivePlan, saved: SavedOptimizer, *, state: str, slots: Mapping[str, int] | None = None
) -> OptimizerGrowth:
    """Decide what becomes of a saved optimizer; nothing is written yet.

    Args:
        live: the plan under the names of parameters.
        saved: the source's optimizer.
        state: ``carry``, ``zero-new`` or ``drop``; see ``execute.optimizer.grow_optimizer``.
        slots: name -> power of the gradient, for slots that torch's optimizers do not have.

    Raises:
        RequestError: a slot cannot be grown, the groups of the target are not those of the source, or their order,
            which says whose the state is, cannot be followed.
    """
    powers = powers_of(saved.kind, slots)
    if state != "drop":
        shapes = {p.name: p.shape for p in live.source}
        _check_shapes(saved, shapes)
        check_slots(saved.kind, saved.states, shapes, powers)
    own = {p.stored: p.name for p in live.source}
    group_of = {name: number for number, some in enumerate(saved.members) for name in some}
    grown: list[GrownSlots[str]] = []
    followed: list[dict[str, str]] = [{} for _ in saved.members]
    for parameter in live.target:
        stored = live.tensors[parameter.stored]
        spec, index, _ = stored.parts[0]
        before = own.get(live.plan.stored_origin(spec, index))
        if before is None or before not in group_of:
            continue  # what it comes from is not trained
        followed[group_of[before]][parameter.name] = before
        is_new = state == "zero-new" and live.plan.is_new(index)
        carried = state != "drop" and not is_new and bool(saved.states.get(before))
        grown.append(GrownSlots(stored, before, parameter.name, carried))
    orders = grown_order(saved.members, followed, [p.name for p in live.source], [p.name for p in live.target])
    for number, order in enumerate(orders):
        if order.lost is not None and state != "drop":
            raise RequestError(
                f"{saved.file}: {order.problem(number)}. Save the state of an optimizer whose groups are in the order "
                "of model.named_parameters() or of sorted names; or drop the state (state='drop', --optimizer-state "
                f"drop). {_OR}"
            )
    members = tuple(order.names for order in orders)
    if not saved.named:
        rule = by_rule(len(saved.groups), live.target, thawed=saved.thawed)
        assert rule is not None
        missing = {name for some in rule for name in some} - {name for some in members for name in some}
        if missing:
            raise RequestError(
                f"{min(missing)} is trained in the target, and what it comes from is not in the source. {_INSTEAD}"
            )
        members = rule
    return OptimizerGrowth(live, saved, state, powers, members, tuple(grown))


__all__ = ["OptimizerGrowth", "SavedOptimizer", "by_rule", "load_plain", "plan_optimizer", "read_optimizer"]
