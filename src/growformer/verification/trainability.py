"""The trainability check: which new parameters learn, and when. Preserving is not enough; a dead unit never learns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from growformer.architecture.declaration import space_of
from growformer.architecture.exact import names_in
from growformer.verification.activations import Activation, Activations
from growformer.verification.live_tensors import LiveTensor, live_tensors
from growformer.verification.reach import Followed, Reach, Regions, followed_regions, reaches
from growformer.verification.recorded import Recorded
from growformer.verification.rows import Row
from growformer.verification.symmetry import Locked, Symmetry
from growformer.verification.training_steps import float32_copy, take_steps
from growformer.verification.units import UnitTable

SCALE_LIMIT = 30.0
"""How far the root mean square of a new region's gradient may lie above that of its neighbours: the source's values of
the same tensor, and of the same tensor in other layers. Measured over all families: below 5. A zeroed writer in front
of an RMSNorm gives 10,000, and one step of training then destroys what was preserved."""
_MOST_ROWS = 8
_INNER = ("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size")
"""Config fields with a number of MLP units, by the names that families give them."""
_ZERO_BELOW_ZERO = re.compile(r"(gated-)?relu[26]?|relu\^2|squared_relu")


@dataclass(frozen=True, slots=True)
class TrainabilityReport:
    """The trainability check.

    Attributes:
        regions: every new region.
        steps: how many steps were taken.
        locked: new units that stay equal to each other, or to one of the source.
        activations: how large new coordinates are beside the source's, before and after each step. Not judged.
        notes: what was not looked at, and why.
    """

    regions: tuple[Reach, ...]
    steps: int
    locked: tuple[Locked, ...] = ()
    activations: tuple[Activation, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def dead(self) -> tuple[Reach, ...]:
        """Regions that no gradient reached, or not in every new coordinate."""
        return tuple(r for r in self.regions if r.is_dead)

    @property
    def out_of_scale(self) -> tuple[Reach, ...]:
        """Regions whose gradient is far larger than that of their neighbours."""
        return tuple(r for r in self.regions if r.ratio is not None and not r.ratio <= SCALE_LIMIT)

    @property
    def ok(self) -> bool:
        """Whether every new region learns within the steps, each unit for itself, at the scale of its neighbours."""
        return not (self.dead or self.locked or self.out_of_scale)

    def rows(self) -> list[Row]:
        """Return one row per finding: check, what was looked at, result, whether it passed."""
        return [*self._reach_rows(), *self._dead_rows(), *self._locked_rows(), *self._scale_rows(), *self._size_rows()]

    def _reach_rows(self) -> list[Row]:
        by_step = self.by_first_step()
        steps = ", ".join(f"{n} from step {step}" for step, n in by_step.items() if n)
        result = (
            f"{len(self.regions) - len(self.dead)} of {len(self.regions)} new regions learn within {self.steps} steps"
        )
        return [("trainability", "new parameters", f"{result}{f': {steps}' if steps else ''}", not self.dead)]

    def _dead_rows(self) -> list[Row]:
        rows: list[Row] = [("trainability", f"dead: {r.tensor}", str(r), False) for r in self.dead]
        return _shortened(rows, "dead regions")

    def _locked_rows(self) -> list[Row]:
        rows: list[Row] = [
            ("trainability", "locked units", f"equal in values and gradients: {found}", False) for found in self.locked
        ]
        return _shortened(rows, "axes with locked units")

    def _scale_rows(self) -> list[Row]:
        rows: list[Row] = [
            ("trainability", f"scale: {r.tensor}", f"a new gradient is {r.ratio:.0f} times its neighbours'", False)
            for r in self.out_of_scale
        ]
        if rows:
            return _shortened(rows, "gradients out of scale")
        ratios = [r.ratio for r in self.regions if r.ratio is not None]
        if not ratios:
            return []
        return [("trainability", "size of new gradients", f"at most {max(ratios):.2g} times their neighbours'", True)]

    def _size_rows(self) -> list[Row]:
        last = [a for a in self.activations if a.step == self.steps and a.source_rms]
        if not last:
            return []
        largest = max(last, key=lambda a: a.new_rms / a.source_rms)
        share = largest.new_rms / largest.source_rms
        result = f"new coordinates have at most {share:.2g} of the source's RMS ({largest.module})"
        return [("trainability", f"activations after {self.steps} steps", result, True)]

    def by_first_step(self) -> dict[int, int]:
        """Return how many regions learn from each step on."""
        return {step: sum(r.first_step == step for r in self.regions) for step in range(1, self.steps + 1)}

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "ok": self.ok,
            "steps": self.steps,
            "regions": len(self.regions),
            "by_first_step": {str(step): found for step, found in self.by_first_step().items()},
            "reach": [r.to_json() for r in self.regions],
            "dead": [r.to_json() for r in self.dead],
            "locked": [
                {
                    "tensor": found.tensors[0],
                    "region": found.where,
                    "units": [list(group) for group in found.units],
                    "tensors": list(found.tensors),
                }
                for found in self.locked
            ],
            "out_of_scale": [r.to_json() for r in self.out_of_scale],
            "activations": [
                {"module": a.module, "source_rms": a.source_rms, "new_rms": a.new_rms, "step": a.step}
                for a in self.activations
            ],
            "notes": list(self.notes),
        }


def check_trainability(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    *,
    record: Recorded | None = None,
    regions: Mapping[str, Regions] | None = None,
    steps: int | None = None,
    seed: int = 0,
    learning_rate: float = 1e-3,
    in_place: bool = False,
) -> TrainabilityReport:
    """Take a few AdamW steps and report what gradients reach, when, and how large they and activations are.

    The loss is a random projection of every output, so that nothing is missed because a task does not ask for it.
    Computed in float32, in evaluation mode. Parameters that the class keeps from learning are left out; a model that is
    frozen as a whole is judged as if it were not. Left out and named in a note is also what outputs do not come from,
    in the source's layers either, so that growth is not why: an indexer that only picks tokens, a head for contacts.

    Args:
        model: the grown model; not changed, unless ``in_place``.
        inputs: its keyword arguments. Rows of tables that they do not look up get no gradient, and are not called dead.
        record: how it was grown: gives new regions, units and new coordinates.
        regions: instead: parameter -> its new regions, as ``load_provenance`` gives them; units and activations are
            then not compared.
        steps: how many; by default as many as everything new needs to learn.
        seed: of the projection.
        learning_rate: of AdamW; weight decay is 0.
        in_place: train the model itself, which takes less memory; its weights are not what they were.

    Raises:
        PlanError: the record contradicts itself.
        ValueError: neither record nor regions, or the model returns nothing that can be trained on.
    """
    if (record is None) == (regions is None):
        raise ValueError("expected either a record or regions")
    taken = steps if steps is not None else steps_to_learn(record) if record is not None else 2
    trains = {n for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    trained = model.float().eval() if in_place else float32_copy(model)
    parameters = dict(trained.named_parameters(remove_duplicate=False))
    tensors = list(live_tensors(record, parameters)) if record is not None else []
    followed = [Followed.of(t) for t in tensors] if regions is None else followed_regions(regions, parameters)
    learns = [f for f in followed if f.stored in trains and f.new]
    judged = learns or [f for f in followed if f.new]
    everything = {id(f) for f in followed if f.stored in trains or not learns}
    watched = [f for f in followed if id(f) in everything]
    by_parameter: dict[str, list[Followed]] = {}
    for f in watched:
        by_parameter.setdefault(f.stored, []).append(f)
    table = UnitTable(record, tensors) if record is not None else None
    symmetry = _start(table, parameters) if table is not None else None
    activations = Activations(trained, record, tensors) if record is not None else None

    def seen(step: int, names: tuple[str, ...], gradient: torch.Tensor) -> None:
        for name in names:
            for f in by_parameter.get(name, ()):
                f.see(step, gradient)
                if symmetry is not None and f.tensor is not None and symmetry.wants(f.tensor):
                    symmetry.compare(f.tensor, f.tensor.take(gradient))

    def before(step: int) -> None:
        if symmetry is not None:
            symmetry.begin()
        if activations is not None:
            activations.begin(step)

    try:
        take_steps(trained, inputs, seen, steps=taken, seed=seed, learning_rate=learning_rate, before=before)
    finally:
        if activations is not None:
            activations.close()
    used = {f.template for f in watched if f.first or any(f.source_rms.values())}
    unused = {f.template for f in watched if not f.is_new} - used
    known = {f.stored for f in watched if f.template in used}
    notes = [] if record is not None else ["units and activations were not compared: no record says which are new"]
    left_out = unused & {f.template for f in judged}
    if left_out:
        notes.append(f"not judged, as no gradient comes to the source's values of them either: {_list(left_out)}")
    passed_by = {id(f): f.stored for f in _passed_by(watched, taken)}
    if passed_by:
        notes.append(f"not judged, as no token came to these experts at some step: {_list({*passed_by.values()})}")
    resting = resting_axes(record) if record is not None else frozenset()
    asked = [f for f in judged if f.template not in unused and id(f) not in passed_by]
    found = reaches(asked, watched, taken, table, parameters, resting)
    notes += [
        f"{reach.tensor}: {reach.at_rest} new of its units gave nothing on any of these inputs, as the activation is "
        "zero below zero; they learn once a token moves them"
        for reach in found
        if reach.at_rest
    ]
    return TrainabilityReport(
        tuple(found),
        taken,
        tuple(found for found in symmetry.locked() if known & {*found.tensors}) if symmetry is not None else (),
        tuple(activations.found) if activations is not None else (),
        tuple(notes),
    )


def _passed_by(watched: Sequence[Followed], steps: int) -> Iterator[Followed]:
    """Yield tensors of experts to which tokens did not come at every step, and others of their layer got gradients."""
    groups: dict[tuple[str, int], list[Followed]] = {}
    for f in watched:
        if f.tensor is not None and len(f.tensor.spec.index) > 1:
            groups.setdefault((f.template, f.tensor.index[f.tensor.spec.index[0]]), []).append(f)
    for together in groups.values():
        silent = [f for f in together if not f.first and sum(rms > 0 for rms in f.source_rms.values()) < steps]
        if len(silent) < len(together):
            yield from silent


def steps_to_learn(record: Recorded) -> int:
    """Return within how many steps everything new learns: two, or three with a tied head behind norms on branches.

    There the first step moves the table's new columns, the second the rows of the writer in front of the norm, which
    has no gradient before, and the third the norm's gain.
    """
    spaces = record.architecture.spaces
    on_branches = any(
        spaces[space_of(arrow.source)].index and not spaces[space_of(arrow.target)].index
        for arrow in record.architecture.arrows.values()
        if arrow.kind == "norm" and arrow.gain
    )
    return 3 if record.tied and on_branches else 2


def resting_axes(record: Recorded) -> frozenset[str]:
    """Return the axes of MLP units where the config names an activation that is zero below zero, such as ReLU."""
    config = record.target_config
    texts = [value for part in (config, *config.values()) if isinstance(part, Mapping) for value in part.values()]
    if not any(isinstance(text, str) and _ZERO_BELOW_ZERO.fullmatch(text) for text in texts):
        return frozenset()
    fields = {record.architecture.roles.get("mlp", ""), *_INNER}
    sizes = record.architecture.sizes.items()
    return frozenset(axis for axis, size in sizes if fields & {name.rpartition(".")[2] for name in names_in(size)})


def _start(table: UnitTable, parameters: Mapping[str, nn.Parameter]) -> Symmetry:
    """Compare the values of units, in the smallest matrices first: what those tell apart is not looked at again."""
    symmetry = Symmetry(table)

    def size(tensor: LiveTensor) -> tuple[bool, int]:
        p = parameters[tensor.held.stored]
        return p.ndim < 2, p.numel()

    with torch.no_grad():
        for tensor in sorted(table.tensors, key=size):
            if symmetry.wants(tensor):
                symmetry.compare(tensor, tensor.take(parameters[tensor.held.stored].detach()))
    return symmetry


def _list(names: set[str]) -> str:
    shown = sorted(names)
    return f"{', '.join(shown[:4])}{f' and {len(shown) - 4} more' if shown[4:] else ''}"


def _shortened(rows: list[Row], what: str) -> list[Row]:
    if len(rows) <= _MOST_ROWS:
        return rows
    more = len(rows) - _MOST_ROWS + 1
    return [*rows[: _MOST_ROWS - 1], ("trainability", "and more", f"{more} more {what}; --json names them", False)]


__all__ = ["SCALE_LIMIT", "Reach", "Regions", "TrainabilityReport", "check_trainability", "steps_to_learn"]
