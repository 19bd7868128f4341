"""One bench for all tests, consumers that cannot run skipped with the reason, and a table of figures at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from tests.consumers.consumers import CONSUMERS
from tests.consumers.judging import Bench, Figures

FIGURES = pytest.StashKey[list[Figures]]()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Every case's checkpoints and results; gigabytes, and therefore not kept as pytest keeps other folders."""
    folder = tmp_path_factory.mktemp("consumers")
    yield Bench(folder)
    shutil.rmtree(folder)


@pytest.fixture(params=list(CONSUMERS), scope="session")
def consumer(request: pytest.FixtureRequest) -> str:
    """The name of a consumer that can run."""
    name: str = request.param
    reason = CONSUMERS[name].unavailable()
    if reason:
        pytest.skip(f"{name}: {reason}")
    return name


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


@pytest.fixture
def record(request: pytest.FixtureRequest) -> list[Figures]:
    """Figures to be printed at the end."""
    return request.config.stash[FIGURES]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if not figures:
        return
    write = terminalreporter.write_line
    terminalreporter.section("consumers: relative errors against the source in float64")
    for name in dict.fromkeys(f.consumer for f in figures):
        write(CONSUMERS[name].versions())
    write("")
    write(
        "| consumer | checkpoint | transformers(source) | consumer(source) | consumer(grown) | ratio | drift | greedy |"
    )
    write("|---|---|---|---|---|---|---|---|")
    for f in figures:
        numbers = f"{f.transformers:.1e} | {f.source:.1e} | {f.grown:.1e} | {f.ratio:.2f} | {f.drift:.1e}"
        greedy = {None: "–", True: "equal", False: "DIFFERS"}[f.greedy]
        write(f"| {f.consumer} | {f.case} | {numbers} | {greedy} |")
