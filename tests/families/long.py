"""Rotary embeddings at 4,096 positions: a base that is a power of the source's keeps angles up to float32 rounding."""

from __future__ import annotations

from typing import Any

import torch
from tests.families.case import Case
from tests.families.growths import Growth, growths_of

import growformer
from growformer.verification.outputs import put_frequencies

POSITIONS = 4096
LAST = 64
ROUNDING = 1e-4
PER_RADIAN = 50.0
"""By how much outputs may move, relative to the largest, per radian that the last position's angle moves."""
_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len")


def check_long(case: Case, growth: Growth) -> list[str]:
    """The last positions of 4,096 are preserved; where head_dim grew, up to what its frequencies' rounding predicts.

    The first growth that moves frequencies is tried, and ``growth`` in any case.
    """
    if not case.architecture.rotary or case.inputs != "tokens":
        return []
    from tests.families.checks import moves_frequencies, planned

    first = next((g for g in growths_of(case).accepted.values() if moves_frequencies(planned(case, g))), growth)
    # New post-norm layers are exact as far as the epsilon is small.
    source = case.build(eps=min(growth.eps, first.eps), changes=_room(case))
    inputs = case.make_inputs(source.config, length=POSITIONS, batch=1)
    length = inputs["input_ids"].shape[1]
    if length < POSITIONS:
        return [f"the inputs have {length} positions of {POSITIONS}: give the case room in long="]
    expected = _last(source, inputs)
    problems: list[str] = []
    for one in dict.fromkeys((growth, first)):
        name, plan = one.name, growformer.plan(source, init="noise", **one.request)
        grown = growformer.grow(source, plan=plan)
        moved = moves_frequencies(plan)
        angle = _largest_angle(source, grown) if moved else 0.0
        free = _differs(_last(grown, inputs), expected)
        if not free < max(PER_RADIAN * angle, ROUNDING):
            problems.append(f"{name}: outputs move by {free:.1e} of the largest, angles by {angle:.1e}")
        if moved:
            put_frequencies(source, grown)
            same = _differs(_last(grown, inputs), expected)
            if not same < ROUNDING:
                problems.append(f"{name}: with the source's frequencies, outputs move by {same:.1e} of the largest")
            if angle > POSITIONS * 2**-18:
                problems.append(f"{name}: angles move by {angle:.1e}, more than float32 rounds: another base")
    return problems


def _room(case: Case) -> dict[str, Any]:
    resolved = case.architecture.resolve_config({"model_type": case.model_type, **case.config})
    found: dict[str, Any] = {n: POSITIONS + 8 for n in _LIMITS if isinstance(resolved.get(n), int)}
    return {**{n: v for n, v in found.items() if resolved[n] < v}, **case.long}


def _last(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        output = model(**inputs)
    given = (getattr(output, name, None) for name in ("logits", "last_hidden_state", "start_logits"))
    found = next(one for one in given if one is not None)
    return found[:, -LAST:].double()  # type: ignore[no-any-return]


def _differs(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference relative to the largest output; new coordinates of a stream come last."""
    return float((found[..., : expected.shape[-1]] - expected).abs().max() / expected.abs().max())


def _largest_angle(source: torch.nn.Module, grown: torch.nn.Module) -> float:
    """Return by how much the angle of a source frequency moves at the last position, in radians."""
    after = dict(grown.named_buffers())
    angles = [0.0]
    for name, buffer in source.named_buffers():
        if name.endswith("inv_freq") and name in after:
            mine = after[name][..., : buffer.shape[-1]]
            angles.append(float((mine.double() - buffer.double()).abs().max()) * POSITIONS)
    return max(angles)
