"""What several ranks do together in the tests: every function runs on all of them, and raises where it is wrong."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.distributed.models import MODELS, make, mesh_of, same, shard, step, tokens, whole_state
from tests.theorems.support import CONFIGS, THEOREMS, execute, inputs_for, plan_for, random_model

import growformer
from growformer.execute import placement
from growformer.reference import ReferenceConfig, ReferenceTransformer
from growformer.training.continuation import scale_updates
from growformer.training.updates import updates_of


def _raises(message: str, call: Any) -> None:
    with pytest.raises(growformer.GrowformerError, match=re.escape(message)):
        call()


def equals_one_process(folder: Path) -> None:
    for name in MODELS:
        for dtype in (torch.float32, torch.bfloat16):
            model, sizes = make(name, dtype)
            expected = growformer.grow(model, **sizes)
            shard(model)
            before = whole_state(model)
            grown = growformer.grow(model, parallelize=shard, **sizes)
            found, wanted = whole_state(grown), expected.state_dict()
            assert same(found, wanted), name
            assert same(before, whole_state(model)), "the source is not changed"
            assert all(placement.is_sharded(p) for p in grown.parameters())
            assert isinstance(grown, MODELS[name][0])
            buffers = dict(expected.named_buffers())
            assert all(torch.equal(buffer, buffers[n]) for n, buffer in grown.named_buffers())
            assert set(buffers) == {n for n, _ in grown.named_buffers()}
            assert len(list(grown.parameters())) == len(list(expected.parameters())), "ties"
            with torch.no_grad():
                torch.testing.assert_close(grown(tokens()).logits, expected(tokens()).logits)


def a_disturbed_shard_shows(folder: Path) -> None:
    model, sizes = make("llama")
    wanted = growformer.grow(model, **sizes).state_dict()
    shard(model)
    if dist.get_rank() == dist.get_world_size() - 1:
        with torch.no_grad():
            placement.local(model.model.layers[1].mlp.up_proj.weight)[0, 0] += 1
    found = whole_state(growformer.grow(model, parallelize=shard, **sizes))
    assert not torch.equal(found["model.layers.1.mlp.up_proj.weight"], wanted["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(found["model.layers.0.mlp.up_proj.weight"], wanted["model.layers.0.mlp.up_proj.weight"])


def wrong_bounds_show(folder: Path) -> None:
    from growformer.execute import distributed

    model, sizes = make("llama")
    wanted = growformer.grow(model, **sizes).state_dict()
    shard(model)
    right = placement.bounds_of

    def wrong(tensor: torch.Tensor) -> Any:
        bounds = right(tensor)
        by = 1 if bounds and bounds[0].start else 0
        return bounds and (slice(bounds[0].start - by, bounds[0].stop - by), *bounds[1:])

    distributed.bounds_of = wrong
    try:
        found = whole_state(growformer.grow(model, parallelize=shard, **sizes))
    finally:
        distributed.bounds_of = right
    assert not same(found, wanted)


def initialisations_equal_one_process(folder: Path) -> None:
    for options in ({"init": "orthogonal"}, {"init": "copy"}, {"init": "noise", "seed": 5}, {"new_layers": "random"},
                    {"init": lambda fill, normal: normal * 0.3 + normal.mean()}):  # fmt: skip
        model, sizes = make("llama")
        wanted = growformer.grow(model, **sizes, **options).state_dict()
        found = whole_state(growformer.grow(shard(model), parallelize=shard, **sizes, **options))
        assert same(found, wanted), options


def _twin(model: torch.nn.Module, optimizer: torch.optim.Optimizer, name: str) -> Any:
    """Return the same model and optimizer in one process."""
    twin, _ = make(name)
    twin.load_state_dict(whole_state(model))
    alone = torch.optim.AdamW(twin.parameters())
    alone.param_groups[0].update({n: v for n, v in optimizer.param_groups[0].items() if n != "params"})
    for parameter, own in zip(model.parameters(), twin.parameters(), strict=True):
        alone.state[own] = {
            slot: value.full_tensor() if placement.is_sharded(value) else copy.deepcopy(value)
            for slot, value in optimizer.state[parameter].items()
        }
    return twin, alone


def optimizer_equals_one_process(folder: Path) -> None:
    for name in ("llama", "gpt_oss"):
        model, sizes = make(name)
        shard(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=10)
        for seed in range(3):
            step(model, optimizer, seed)
            schedule.step()
        twin, alone = _twin(model, optimizer, name)
        grown, same_optimizer = growformer.grow(model, optimizer=optimizer, parallelize=shard, **sizes)
        assert same_optimizer is optimizer
        expected, alone = growformer.grow(twin, optimizer=alone, **sizes)
        assert same(whole_state(grown), expected.state_dict())
        moving = 0
        for parameter, own in zip(grown.parameters(), expected.parameters(), strict=True):
            slots, wanted = optimizer.state[parameter], alone.state[own]
            assert set(slots) == set(wanted)
            for slot, value in slots.items():
                if slot != "step":
                    assert placement.is_sharded(value)
                    assert value.placements == parameter.placements
                    assert torch.equal(value.full_tensor(), wanted[slot]), slot
                    moving += bool(value.full_tensor().any())
        assert moving > 40
        for seed in range(4):
            losses = step(grown, optimizer, seed), step(expected, alone, seed)
            torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-5, atol=0)


def region_updates_follow_shards(folder: Path) -> None:
    for name in ("llama", "gpt_oss"):
        for rules in (growformer.UpdateRules(new_rate=1.7, ramp=3), growformer.UpdateRules(freeze_old=True)):
            model, sizes = make(name)
            shard(model)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3)
            for seed in range(2):
                step(model, optimizer, seed)
            twin, alone = _twin(model, optimizer, name)
            grown, _ = growformer.grow(model, optimizer=optimizer, parallelize=shard, updates=rules, **sizes)
            expected, _ = growformer.grow(twin, optimizer=alone, updates=rules, **sizes)
            at_growth = whole_state(grown)
            free = copy.deepcopy(expected)
            free_optimizer = torch.optim.AdamW(free.parameters())
            free_optimizer.load_state_dict(copy.deepcopy(alone.state_dict()))
            for seed in range(3):
                step(grown, optimizer, seed), step(expected, alone, seed), step(free, free_optimizer, seed)
            found, wanted, unruled = whole_state(grown), expected.state_dict(), free.state_dict()
            apart = {}
            for tensor in wanted:
                moved = float((wanted[tensor] - at_growth[tensor]).abs().max())
                off = float((found[tensor] - wanted[tensor]).abs().max())
                assert off <= 1e-4 * max(moved, 1e-3), (tensor, off, moved)
                apart[tensor] = float((unruled[tensor] - wanted[tensor]).abs().max())
            assert max(apart.values()) > 1e-4, "rules that change nothing test nothing"


def source_is_freed_as_it_is_read(folder: Path) -> None:
    import weakref

    from growformer.execute import distributed

    model, sizes = make("llama")
    wanted = growformer.grow(model, **sizes).state_dict()
    shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer)
    twin, alone = _twin(model, optimizer, "llama")
    expected, alone = growformer.grow(twin, optimizer=alone, **sizes)
    names = {id(p): n for n, p in model.named_parameters()}
    order: list[str] = []
    gathered: list[Any] = []
    most = 0
    whole, release = placement.whole, distributed.release

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal most
        assert not any(found() is not None for found in gathered), "more than one tensor gathered"
        result = whole(tensor)
        gathered.append(weakref.ref(result))
        most += 1
        return result

    def noted(tensor: torch.Tensor) -> None:
        order.append(names[id(tensor)])
        release(tensor)
        assert not placement.local(tensor).untyped_storage().nbytes()

    placement.whole, distributed.release = counted, noted
    try:
        grown, _ = growformer.grow(model, optimizer=optimizer, parallelize=shard, free_source=True, **sizes)
    finally:
        placement.whole, distributed.release = whole, release
    assert most > len(order) > 10
    assert sorted(order) == sorted(names.values())
    assert order[-1] != "model.embed_tokens.weight"
    del wanted
    assert same(whole_state(grown), expected.state_dict())
    for parameter, own in zip(grown.parameters(), expected.parameters(), strict=True):
        for slot in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[parameter][slot].full_tensor(), alone.state[own][slot])
    _raises("lies on the meta device", lambda: growformer.plan(model, **sizes))
    step(grown, optimizer)


def plain_models_grow_into_shards(folder: Path) -> None:
    model, sizes = make("gpt2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer)
    wanted = growformer.grow(model, **sizes).state_dict()
    grown, _ = growformer.grow(model, optimizer=optimizer, parallelize=shard, **sizes)
    assert same(whole_state(grown), wanted)
    assert all(placement.is_sharded(optimizer.state[p]["exp_avg"]) for p in grown.parameters())
    step(grown, optimizer)


def own_models_equal_one_process(folder: Path) -> None:
    """The paper's model, every size per layer and head, in float64, with a function that builds it."""
    from torch.distributed.fsdp import fully_shard

    mesh = mesh_of(dist.get_world_size())

    def parallelize(model: torch.nn.Module) -> None:
        fully_shard(model, mesh=mesh)

    for variant in ("paper", "norm after"):
        model = random_model(CONFIGS[variant])
        plan = plan_for(model, *THEOREMS["3.1" if variant == "norm after" else "all"])
        wanted = execute(plan, model)
        parallelize(model)
        grown = growformer.grow(
            model,
            plan=plan,
            build=lambda config: ReferenceTransformer(ReferenceConfig.from_dict(config)),
            parallelize=parallelize,
        )
        assert isinstance(grown, ReferenceTransformer)
        assert same(whole_state(grown), wanted.state_dict())
        inputs = inputs_for(wanted.config)[0]
        torch.testing.assert_close(grown(inputs), wanted(inputs))


def data_parallel_ranks_agree(folder: Path) -> None:
    from torch.nn.parallel import DistributedDataParallel

    model, sizes = make("llama")
    model.train()
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True, bucket_cap_mb=3)
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-2)
    first = step(wrapped, optimizer, seed=dist.get_rank())
    expected = growformer.grow(copy.deepcopy(model), **sizes)
    grown, _ = growformer.grow(wrapped, optimizer=optimizer, **sizes)
    assert isinstance(grown, DistributedDataParallel)
    assert grown.gradient_as_bucket_view
    assert grown.bucket_bytes_cap == 3 * 1024 * 1024
    assert grown.module.training
    assert same(grown.module.state_dict(), expected.state_dict())
    for _ in range(3):
        last = step(grown, optimizer, seed=dist.get_rank())
    assert last < first
    for part in (grown.module.state_dict(), {n: optimizer.state[p]["exp_avg"] for n, p in grown.named_parameters()}):
        for name, tensor in part.items():
            every = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
            dist.all_gather(every, tensor.contiguous())
            assert all(torch.equal(one, tensor) for one in every), name
    assert growformer.plan(wrapped, **sizes).target_config["hidden_size"] == sizes["hidden_size"]
    wrapped.register_comm_hook(None, lambda state, bucket: torch.futures.Future())
    _raises("grow model.module, and wrap the result yourself", lambda: growformer.grow(wrapped, **sizes))


def checkpointed_and_mixed_precision(folder: Path) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import MixedPrecisionPolicy

    def parallelize(model: torch.nn.Module) -> torch.nn.Module:
        for number, block in enumerate(model.model.layers):
            model.model.layers[number] = checkpoint_wrapper(block)
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        return shard(model, mp_policy=policy, reshard_after_forward=False)

    model, sizes = make("llama")
    wanted = growformer.grow(model, **sizes).state_dict()
    model.model.embed_tokens.weight.requires_grad_(False)
    parallelize(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    before = whole_state(model)
    with torch.no_grad():
        model(tokens())  # leaves parameters gathered
    grown, _ = growformer.grow(model, optimizer=optimizer, parallelize=parallelize, **sizes)
    assert same(before, whole_state(model))
    assert same(whole_state(grown), wanted)
    assert [n for n, p in grown.named_parameters() if not p.requires_grad] == ["model.embed_tokens.weight"]
    step(grown, optimizer)
    again, _ = growformer.grow(grown, optimizer=optimizer, parallelize=parallelize, num_hidden_layers=4)
    step(again, optimizer)


def wrong_calls_are_refused(folder: Path) -> None:
    from torch.distributed.tensor import DTensor, Partial, Replicate

    rank, size = dist.get_rank(), dist.get_world_size()
    model, sizes = make("llama")
    other = torch.optim.SGD(make("gpt2")[0].parameters(), lr=1.0)
    shard(model)
    before = whole_state(model)

    def grow(**options: Any) -> Any:
        return growformer.grow(model, **{"parallelize": shard, **sizes, **options})

    _raises("the model's parameters are sharded; say how", lambda: grow(parallelize=None))
    _raises("parallelize returned str: expected the model", lambda: grow(parallelize=lambda m: "done"))
    _raises("parallelize renamed parameters", lambda: grow(parallelize=lambda m: torch.nn.Sequential(m)))
    _raises("the optimizer does not belong to this model", lambda: grow(optimizer=other))

    def untie(m: Any) -> None:
        m.lm_head.weight = torch.nn.Parameter(m.lm_head.weight.detach().clone())

    _raises("parallelize untied lm_head.weight and model.embed_tokens.weight", lambda: grow(parallelize=untie))

    def partial(m: Any) -> None:
        value = DTensor.from_local(m.model.norm.weight.detach(), mesh_of(size), [Partial()], run_check=False)
        m.model.norm.weight = torch.nn.Parameter(value)

    _raises("after parallelize, model.norm.weight is placed as P", lambda: grow(parallelize=partial))
    broken, _ = make("llama")
    broken.model.norm.weight = torch.nn.Parameter(
        DTensor.from_local(broken.model.norm.weight.detach(), mesh_of(size), [Partial()], run_check=False)
    )
    _raises("model.norm.weight is placed as P", lambda: growformer.grow(broken, parallelize=shard, **sizes))

    def fails_on_the_last(m: Any) -> None:
        if rank == size - 1:
            raise growformer.RequestError("no")
        shard(m)

    message = "no" if rank == size - 1 else f"rank {size - 1} failed, so nothing was grown: no"
    _raises(message, lambda: grow(parallelize=fails_on_the_last))
    if size > 1:
        _raises("ranks disagree about the plan", lambda: grow(seed=rank))
        whole = lambda m: m if rank == 0 else shard(m)  # noqa: E731
        mesh_of(size)
        _raises(
            "whole on every rank; rank 1 has torch.float32 [53, 42], [Shard(dim=0)] on a cpu mesh",
            lambda: grow(parallelize=whole),
        )
        optimizer = torch.optim.AdamW(model.parameters())
        step(model, optimizer)
        before = whole_state(model)
        if rank == 1:
            del optimizer.state[model.model.norm.weight]["exp_avg_sq"]
        _raises("ranks disagree about the optimizer's state, model.norm.weight", lambda: grow(optimizer=optimizer))
    assert same(before, whole_state(model))
    replicated, _ = make("llama")
    replicated.model.norm.weight = torch.nn.Parameter(
        DTensor.from_local(replicated.model.norm.weight.detach(), mesh_of(size), [Replicate()], run_check=False)
    )
    growformer.grow(replicated, parallelize=shard, **sizes)


def two_mesh_dimensions(folder: Path) -> None:
    """Hybrid sharding, and FSDP2 after tensor parallelism."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    size = dist.get_world_size()
    mesh = mesh_of(2, size // 2, names=("data", "other"))

    def hybrid(model: torch.nn.Module) -> torch.nn.Module:
        return shard(model, mesh)

    def tensor_parallel(model: torch.nn.Module) -> torch.nn.Module:
        for block in model.model.layers:
            plan = {"mlp.up_proj": ColwiseParallel(), "mlp.gate_proj": ColwiseParallel(),
                    "mlp.down_proj": RowwiseParallel()}  # fmt: skip
            parallelize_module(block, mesh["other"], plan)
        return shard(model, mesh["data"])

    for how in (hybrid, tensor_parallel):
        model, sizes = make("llama")
        sizes = {**sizes, "intermediate_size": 52}
        how(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        step(model, optimizer)
        twin, alone = _twin(model, optimizer, "llama")
        expected, alone = growformer.grow(twin, optimizer=alone, **sizes)
        grown, _ = growformer.grow(model, optimizer=optimizer, parallelize=how, **sizes)
        assert same(whole_state(grown), expected.state_dict()), how
        for parameter, own in zip(grown.parameters(), expected.parameters(), strict=True):
            assert torch.equal(optimizer.state[parameter]["exp_avg"].full_tensor(), alone.state[own]["exp_avg"])
        step(grown, optimizer)


def a_saved_run_grows_on_disk(folder: Path) -> None:
    """Ranks save their shards, one process grows the checkpoint, and ranks load theirs of the grown one."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import set_state_dict

    model, sizes = make("llama")
    shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for seed in range(3):
        step(model, optimizer, seed)
    small, large = (folder / f"{name}-{dist.get_world_size()}" for name in ("small", "large"))
    dcp.save(_saved(model, optimizer), checkpoint_id=small)
    if dist.get_rank() == 0:
        (small / "config.json").write_text(json.dumps(model.config.to_dict()))
        growformer.grow_checkpoint(small, large, **sizes)
    dist.barrier()
    grown, _ = growformer.grow(model, optimizer=optimizer, parallelize=shard, **sizes)
    other = shard(type(grown).__mro__[2](copy.deepcopy(grown.config)))
    fresh = torch.optim.AdamW(other.parameters(), lr=1.0)
    state = _saved(other, fresh)
    assert not same(whole_state(other), whole_state(grown))
    dcp.load(state, checkpoint_id=large)
    set_state_dict(other, fresh, model_state_dict=state["model"], optim_state_dict=state["optim"])
    assert same(whole_state(other), whole_state(grown))
    for mine, theirs in zip(other.parameters(), grown.parameters(), strict=True):
        for slot in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(placement.local(fresh.state[mine][slot]), placement.local(optimizer.state[theirs][slot]))
    scale_updates(fresh, other, growformer.load_provenance(large).plan)
    for seed in range(3):
        assert step(grown, optimizer, seed) == step(other, fresh, seed)


def _saved(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": state, "optim": optimizer_state, "updates": ""}


def grow_and_save(folder: Path) -> None:
    """Grow in the middle of a run, save, and go on; ``resume`` must find the same losses."""
    import torch.distributed.checkpoint as dcp

    model, sizes = make("llama")
    shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for seed in range(3):
        step(model, optimizer, seed)
    rules = growformer.UpdateRules(new_rate=1.6, ramp=6)
    grown, _ = growformer.grow(model, optimizer=optimizer, parallelize=shard, updates=rules, **sizes)
    step(grown, optimizer, 3)
    state = {**_saved(grown, optimizer), "updates": json.dumps(updates_of(optimizer).state_dict())}
    dcp.save(state, checkpoint_id=folder / "saved")
    losses = [step(grown, optimizer, seed) for seed in range(4, 10)]
    if dist.get_rank() == 0:
        grown.config.save_pretrained(folder)
        (folder / "losses.json").write_text(json.dumps(losses))


def resume(folder: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import set_state_dict
    from transformers import LlamaConfig, LlamaForCausalLM

    expected = torch.tensor(json.loads((folder / "losses.json").read_text()))
    for kept in ("all", "no region updates", "no optimizer"):
        model = shard(LlamaForCausalLM(LlamaConfig.from_pretrained(folder)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        state = _saved(model, optimizer)
        dcp.load(state, checkpoint_id=folder / "saved")
        if kept == "no optimizer":
            optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
            model.load_state_dict(state["model"])
        else:
            set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
        if kept == "all":
            updates_of(optimizer).load_state_dict(json.loads(state["updates"]))
        found = torch.tensor([step(model, optimizer, seed) for seed in range(4, 10)])
        assert torch.allclose(found[0], expected[0], rtol=1e-6, atol=0)
        assert torch.allclose(found, expected, rtol=1e-5, atol=0) == (kept == "all"), (kept, found, expected)


COMMON = (
    "equals_one_process",
    "a_disturbed_shard_shows",
    "initialisations_equal_one_process",
    "optimizer_equals_one_process",
    "region_updates_follow_shards",
    "source_is_freed_as_it_is_read",
    "plain_models_grow_into_shards",
    "own_models_equal_one_process",
    "data_parallel_ranks_agree",
    "checkpointed_and_mixed_precision",
    "a_saved_run_grows_on_disk",
    "wrong_calls_are_refused",
)
SCENARIOS = {1: COMMON, 2: (*COMMON, "wrong_bounds_show"), 4: (*COMMON, "wrong_bounds_show", "two_mesh_dimensions")}
