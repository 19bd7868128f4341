"""Thousands of mutated headers, indices and configs: every one ends in success or in one GrowformerError.

python3 scripts/test.py tests/hostile            # a few hundred
python3 scripts/test.py tests/hostile -m fuzz    # more than 20,000
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.hostile import mutations, targets
from tests.hostile.samples import CONFIGS

from growformer.storage.header import read_header

QUICK = {"header": 200, "index": 100, "config": 80, "grow": 5}
FULL = {"header": 10_000, "index": 5_000, "config": 6_000, "grow": 300}
"""Examples of each kind."""
MAX_GROWTH_BYTES = 3_000_000_000
"""By which the process may grow at most: plans of sizes up to 2^24 take two gigabytes at their peak."""

MODEL_TYPES = st.sampled_from(sorted(CONFIGS))


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_GROWTH_BYTES


def of_every_model_type() -> st.SearchStrategy[tuple[str, bytes]]:
    """Return a model type and a config of it."""
    return MODEL_TYPES.flatmap(lambda name: st.tuples(st.just(name), mutations.configs(name)))


def run(count: int, strategy: st.SearchStrategy[object], check: Callable[[object], bool]) -> None:
    """Run as many examples, and see that not all of them were refused, nor all taken."""
    seen: Counter[bool] = Counter()

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=count < 1000, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def one(example: object) -> None:
        seen[check(example)] += 1

    one()
    print(f"{seen[True]} of {seen.total()} were taken")
    assert seen[False]


def read_as_the_library_does(raw: bytes, home: Path) -> bool:
    """Read a header; what is taken, the library takes too, and as the same tensors."""
    from safetensors import safe_open

    taken = targets.read_header(raw, home)
    if taken:
        file = home / "header" / "model.safetensors"
        found = read_header(file)
        with safe_open(file, "np") as opened:
            assert {n: list(e.shape) for n, e in found.items()} == {
                n: opened.get_slice(n).get_shape()
                for n in opened.keys()  # noqa: SIM118
            }
    return taken


CHECKS: dict[str, Callable[[Path], tuple[st.SearchStrategy, Callable]]] = {
    "header": lambda home: (mutations.headers(), lambda raw: read_as_the_library_does(raw, home)),
    "index": lambda home: (mutations.indices(), lambda raw: targets.read_index(raw, home)),
    "config": lambda home: (of_every_model_type(), lambda made: targets.read_config(made[1], home, made[0])),
    "grow": lambda home: (of_every_model_type(), lambda made: targets.grow(made[1], home, made[0])),
}


@pytest.mark.parametrize("kind", QUICK)
def test_a_few(kind: str, tmp_path: Path) -> None:
    run(QUICK[kind], *CHECKS[kind](tmp_path))


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", FULL)
def test_many(kind: str, tmp_path: Path) -> None:
    run(FULL[kind], *CHECKS[kind](tmp_path))


@pytest.mark.parametrize("model_type", CONFIGS)
def test_what_is_mutated_is_right(model_type: str, tmp_path: Path) -> None:
    import json

    raw = json.dumps(CONFIGS[model_type]).encode()
    assert targets.read_config(raw, tmp_path, model_type)
    assert targets.grow(raw, tmp_path, model_type)
