"""Errors by position: what rounding alone explains, and one wrong position among thousands."""

from __future__ import annotations

import math

import pytest
import torch

from growformer.verification.output_errors import FALSE_ALARM, MAX_BINS, errors_of, fluctuation

ROUNDING = 1e-7


def outputs(seed: int, sequences: int = 1, positions: int = 4096, width: int = 48) -> tuple[torch.Tensor, ...]:
    """Return a result, and two that are off by rounding, more at some positions than at others."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sequences, positions, width)
    y = torch.randn(shape, generator=generator, dtype=torch.float64)
    # Some positions are badly conditioned: both models' errors are large there.
    scale = ROUNDING * torch.exp(2 * torch.randn((*shape[:2], 1), generator=generator, dtype=torch.float64))
    mixed = torch.randn((12, width), generator=generator, dtype=torch.float64) / 12**0.5
    errors = [scale * (torch.randn((*shape[:2], 12), generator=generator, dtype=torch.float64) @ mixed) for _ in "ab"]
    return y, y + errors[0], y + errors[1]


@pytest.mark.parametrize("seed", range(5))
def test_rounding_raises_no_alarm_however_different_positions_are(seed: int) -> None:
    y, own, other = outputs(seed)
    found = errors_of("logits", [y], [own], [other])
    assert found.ratio == pytest.approx(1, abs=0.7)
    assert found.position_ratio <= found.position_factor
    assert len(found.by_position) == MAX_BINS


def test_one_wrong_position_of_4096_is_found_although_the_whole_hardly_changes() -> None:
    y, own, other = outputs(0)
    other[0, 3333] += 26 * (own - y)[0, 3300:3400].norm(dim=-1).max() / y.shape[-1] ** 0.5
    found = errors_of("logits", [y], [own], [other])
    assert found.ratio < 2
    assert found.position_ratio > 2 * found.position_factor
    assert found.worst is not None
    assert found.worst[:2] == (0, 3333)
    worst = max(found.by_position, key=lambda part: part.ratio)
    assert worst.start <= 3333 < worst.stop


def test_errors_of_positions_add_up_to_the_error_of_the_whole() -> None:
    y, own, other = outputs(1, sequences=3, positions=128)
    found = errors_of("logits", [y], [own], [other])
    mean = sum(part.grown_error**2 for part in found.by_position) / len(found.by_position)
    assert math.sqrt(mean) == pytest.approx(found.grown_error, rel=1e-9)
    # As one batch or as three.
    apart = errors_of("logits", *([t[i : i + 1] for i in range(3)] for t in (y, own, other)))
    assert apart.grown_error == pytest.approx(found.grown_error, rel=1e-12)
    assert apart.worst == pytest.approx(found.worst)


def test_sequences_of_different_lengths_count_through_the_batches() -> None:
    y, own, other = outputs(2, sequences=2, positions=40)
    short = [t[:1, :10].clone() for t in (y, own, other)]
    other[1, 30] += 1.0
    found = errors_of("logits", *([a, b] for a, b in zip(short, (y, own, other), strict=True)))
    assert found.worst is not None
    assert found.worst[:2] == (2, 30)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_the_worst_position(value: float) -> None:
    y, own, other = outputs(3, positions=64)
    other[0, 17, 3] = value
    found = errors_of("logits", [y], [own], [other])
    assert not found.position_ratio <= 1e9
    assert not found.ratio <= 1e9
    assert found.worst is not None
    assert found.worst[:2] == (0, 17)


def test_equal_infinities_are_equal() -> None:
    y, own, other = outputs(4, positions=64)
    for t in (y, own, other):
        t[..., 0] = -math.inf
    found = errors_of("logits", [y], [own], [other])
    assert math.isfinite(found.ratio)
    assert found.ratio < 2


def test_where_the_source_is_exact_the_grown_model_must_be() -> None:
    y, _, _ = outputs(5, positions=64)
    assert errors_of("logits", [y], [y], [y]).ratio == 0
    assert errors_of("logits", [y], [y], [y * (1 + 1e-9)]).ratio > 1e3


def test_outputs_without_positions_have_none() -> None:
    y, own, other = (t[:, :, 0] for t in outputs(6, sequences=24, positions=7))
    found = errors_of("pooler_output", [y], [own], [other])
    assert found.by_position == ()
    assert found.worst is None


def test_the_limit_is_a_quantile_of_f() -> None:
    """Against a Monte-Carlo estimate at a probability that few draws show."""
    generator = torch.Generator().manual_seed(0)
    directions, count = 8, 100
    draws = torch.randn((2, 400_000, directions), generator=generator, dtype=torch.float64).square().sum(-1)
    ratios = (draws[0] / draws[1]).sqrt()
    # The bound at this probability, by the same formula: fluctuation(k, n) has FALSE_ALARM / n.
    probability = 1e-3
    limit = fluctuation(directions, FALSE_ALARM / probability)  # type: ignore[arg-type]
    exceeded = float((ratios > limit).double().mean())
    assert exceeded == pytest.approx(probability, rel=0.5) or exceeded < probability
    assert fluctuation(directions, count) > limit


def test_more_directions_and_fewer_positions_leave_less_to_chance() -> None:
    assert fluctuation(64, 100) < fluctuation(16, 100) < fluctuation(4, 100)
    assert fluctuation(16, 10) < fluctuation(16, 10_000)
    assert fluctuation(1000, 4096) < 2


def test_the_position_in_the_middle_stands_for_all_where_tokens_may_go_to_other_experts() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(2, 33, 16, generator=generator, dtype=torch.float64)
    own, other = (exact + 1e-2 * torch.randn(exact.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    sent = other.clone()
    sent[0, 5] += 1
    assert errors_of("logits", [exact], [own], [sent]).ratio > 3
    found = errors_of("logits", [exact], [own], [sent], typical=True)
    assert 0.8 < found.ratio < 1.25
    assert found.by_position == ()
    assert errors_of("logits", [exact], [own], [exact + 4 * (other - exact)], typical=True).ratio > 3
    sent[0, 5] = math.nan
    assert errors_of("logits", [exact], [own], [sent], typical=True).grown_error == math.inf
