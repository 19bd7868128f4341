"""Parameters without storage: only of modules that this thread builds, and only as long as it asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import nn

from growformer.execute.empty import parameters_on_meta


def device() -> str:
    module = nn.BatchNorm1d(3)
    assert module.running_mean is not None
    assert module.running_mean.device.type == "cpu"  # buffers are computed in any case
    return module.weight.device.type


def in_a_thread(ask: Callable[[], str]) -> str:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()
    thread.join()
    return found[0]


def test_another_thread_builds_real_modules_meanwhile() -> None:
    register = nn.Module.register_parameter
    assert device() == "cpu"
    with parameters_on_meta():
        assert device() == "meta"
        assert in_a_thread(device) == "cpu"
        with parameters_on_meta():
            assert device() == "meta"
        assert device() == "meta"
    assert device() == "cpu"
    assert nn.Module.register_parameter is register


def test_contexts_of_threads_may_end_in_any_order() -> None:
    register = nn.Module.register_parameter
    entered, leave = threading.Event(), threading.Event()
    found: list[str] = []

    def other() -> None:
        with parameters_on_meta():
            entered.set()
            leave.wait(60)
            found.append(device())
        found.append(device())

    thread = threading.Thread(target=other)
    with parameters_on_meta():
        thread.start()
        assert entered.wait(60)
    assert device() == "cpu"  # while the other one is still inside
    leave.set()
    thread.join()
    assert found == ["meta", "cpu"]
    assert nn.Module.register_parameter is register


def test_what_is_frozen_stays_so() -> None:
    with parameters_on_meta():
        module = nn.Module()
        module.weight = nn.Parameter(torch.ones(2), requires_grad=False)
    assert module.weight.device.type == "meta"
    assert not module.weight.requires_grad
