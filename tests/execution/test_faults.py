"""Every call that reads or writes fails once, in turn: the output is complete or absent, and another run succeeds."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.execution.test_same_bytes import files

import growformer
from growformer import GrowformerError
from growformer.storage import disk

CALLS = ("_open", "_preadv", "_pwrite", "_fsync", "_rename", "_mkdir", "_unlink")
ERRORS = {"_preadv": errno.EIO, "_pwrite": errno.ENOSPC, "_fsync": errno.EIO}
REQUEST: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3}
OPTIONS: dict[str, Any] = {"max_shard_bytes": 40_000, "threads": 2}


@contextmanager
def counted(fault: Callable[[str, int], None]) -> Iterator[dict[str, int]]:
    """Call ``fault`` with the name and number of every call before it is made; yields how many there were."""
    count = dict.fromkeys(CALLS, 0)
    lock = threading.Lock()

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            with lock:
                count[name] += 1
                number = count[name]
            fault(name, number)
            return call(*arguments, **options)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(disk, name, wrapped(name, getattr(disk, name)))
        yield count


@pytest.fixture(scope="module")
def expected(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the source, a plan, the files of an undisturbed run, and how many calls of each kind it makes."""
    source = tmp_path_factory.mktemp("faults") / "source"
    shutil.copytree(checkpoint("llama-LlamaForCausalLM"), source)
    (source / "tokenizer.json").write_text("{}")
    out = source.parent / "undisturbed"
    plan = growformer.plan(source, **REQUEST)
    with counted(lambda name, number: None) as count:
        growformer.grow_checkpoint(source, out, plan=plan, **OPTIONS)
    assert all(count[name] >= 1 for name in CALLS)
    return source, plan, files(out), count


@pytest.mark.parametrize("call", CALLS)
def test_every_call_may_fail(expected: Any, tmp_path: Path, call: str) -> None:
    source, plan, whole, count = expected
    for number in range(1, count[call] + 1):
        out = tmp_path / f"out{number}"

        def fault(name: str, at: int, number: int = number) -> None:
            if (name, at) == (call, number):
                code = ERRORS.get(call, errno.EACCES)
                raise OSError(code, os.strerror(code))

        failed: GrowformerError | None = None
        with counted(fault):
            try:
                growformer.grow_checkpoint(source, out, plan=plan, **OPTIONS)
            except GrowformerError as error:
                failed = error
        assert failed is not None or (call == "_unlink" and number == count[call])  # the lock of a published output
        left = [path for path in out.parent.iterdir() if path != out]
        assert all(path.name == f".{out.name}.partial" for path in left)
        assert not any((path / "config.json").exists() for path in left)
        if number % 5 and not out.exists():
            shutil.rmtree(tmp_path / f".{out.name}.partial", ignore_errors=True)
            continue
        if not out.exists():
            growformer.grow_checkpoint(source, out, plan=plan, **OPTIONS)
        complete(out, whole)
        for path in out.parent.iterdir():
            shutil.rmtree(path)


def complete(out: Path, whole: dict[str, bytes]) -> None:
    """Assert that a published output has every byte; the lock may be left where removing it is what failed."""
    found = files(out)
    found.pop(".growformer.lock", None)
    assert found == whole


def test_writes_and_reads_that_do_less_than_asked_go_on(expected: Any, tmp_path: Path, monkeypatch: Any) -> None:
    source, plan, whole, _ = expected
    monkeypatch.setattr(disk, "_pwrite", lambda fd, data, offset: os.pwrite(fd, data[:1000], offset))
    monkeypatch.setattr(disk, "_preadv", lambda fd, into, offset: os.preadv(fd, [into[0][:777]], offset))
    growformer.grow_checkpoint(source, tmp_path / "out", plan=plan, **OPTIONS)
    assert files(tmp_path / "out") == whole
