"""Which lengths run, what a default run leaves out and says, and when models run from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.verification.test_outputs_compare import llama
from tests.verification.test_outputs_from_disk import bert, saved
from torch import nn

import growformer
from growformer.errors import RequestError
from growformer.verification import lengths, run_outputs, run_trainability
from growformer.verification.lengths import checked_lengths, cost, default_lengths, positions_matter
from growformer.verification.memory import available_bytes
from growformer.verification.run_outputs import checked_dtypes
from growformer.verification.verification import Verification

torch.set_num_threads(1)
PLENTY = 1 << 40


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    """Return a Llama, one with more layers, and one with larger heads."""
    torch.manual_seed(0)
    source = llama().eval()
    return {
        "source": source,
        "deeper": growformer.grow(source, num_hidden_layers=4, init="noise"),
        "turned": growformer.grow(source, head_dim=12, init="noise"),
    }


def test_positions_matter_where_rotary_was_grown(models: dict[str, nn.Module]) -> None:
    assert not positions_matter(models["source"], models["deeper"])
    assert positions_matter(models["source"], models["turned"])
    longer = bert()
    longer.config.max_position_embeddings = 128
    assert not positions_matter(bert(), bert())
    assert positions_matter(bert(), longer)


def test_positions_matter_where_windows_differ() -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 31}
    one, other = (
        transformers.MistralForCausalLM(
            transformers.MistralConfig(**sizes, intermediate_size=8, num_hidden_layers=1, sliding_window=window)
        )
        for window in (128, 80)
    )
    assert not positions_matter(one, one)
    assert positions_matter(one, other)


def test_default_lengths(models: dict[str, nn.Module]) -> None:
    assert default_lengths(models["source"], models["deeper"], 64, 1, 3, PLENTY) == ([64], [])
    assert default_lengths(models["source"], models["turned"], 64, 1, 3, PLENTY) == ([64, 4096], [])


def test_what_costs_too_much_is_left_out_and_said(
    models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, turned = models["source"], models["turned"]
    needed = cost(turned, 1024, 1, 3).operations
    monkeypatch.setattr(lengths, "MAX_OPERATIONS", 1.1 * needed)
    found, left = default_lengths(source, turned, 64, 1, 3, PLENTY)
    assert found == [64, 1024]
    assert "4,096 of them, the model's longest, were not run" in left[0]
    assert "--lengths max does it" in left[0]
    found, left = default_lengths(source, turned, 64, 1, 3, 1000)
    assert found == [64]
    assert len(left) == 1


def test_costs_grow_with_the_length(models: dict[str, nn.Module]) -> None:
    short, long = (cost(models["source"], n, 2, 3) for n in (64, 4096))
    assert long.operations > 64 * short.operations
    assert long.num_bytes >= 64 * short.num_bytes
    assert long.stream_bytes == 64 * short.stream_bytes == 16 * 4096 * 24 * 3


def test_lengths_that_are_asked_for(models: dict[str, nn.Module]) -> None:
    source = models["source"]
    assert checked_lengths([8, "max", 8], source) == [8, 4096]
    for wrong, message in (
        ([0], "expected whole numbers from 1, or max, found 0"),
        (["long"], "found 'long'"),
        ([True], "found True"),
        ([4097], "4,097 positions, and the model reads at most 4,096; ask for max"),
        ([], "none is named"),
    ):
        with pytest.raises(RequestError, match=message):
            checked_lengths(wrong, source)


def test_default_dtypes() -> None:
    assert checked_dtypes(None, [{"float32"}, {"float32"}]) == ["float32"]
    assert checked_dtypes(None, [{"bfloat16"}, {"bfloat16"}]) == ["float32", "bfloat16"]
    assert checked_dtypes(None, [{"bfloat16", "int64"}, {"bfloat16"}]) == ["float32", "bfloat16"]
    assert checked_dtypes(None, [{"float32"}, {"bfloat16"}]) == ["bfloat16"]
    assert checked_dtypes(["float16", "float16"], [{"float32"}, {"float32"}]) == ["float16"]
    with pytest.raises(RequestError, match="unknown dtype 'float8': expected float32, bfloat16, float16"):
        checked_dtypes(["float8"], [set(), set()])
    with pytest.raises(RequestError, match="no dtype is named"):
        checked_dtypes([], [set(), set()])


# Memory.


def test_memory_that_is_free(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  900 kB\nMemAvailable:     500 kB\n")
    assert available_bytes(tmp_path) == 500 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert available_bytes(tmp_path) == 500 * 1024
    (group / "memory.max").write_text("91000\n")
    assert available_bytes(tmp_path) == 90_000
    (group / "memory.current").write_text("99000\n")
    assert available_bytes(tmp_path) == 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    source = saved(llama, folder / "source")
    growformer.grow_checkpoint(source, folder / "grown", num_hidden_layers=4, hidden_size=30, init="noise")
    return source, folder / "grown"


def verify(folders: tuple[Path, Path], **options: Any) -> Verification:
    return growformer.verify(*folders, **{"checks": ["outputs"], "lengths": [12], **options})


def test_models_that_do_not_fit_run_from_disk(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    plain = verify(folders, generate=2)
    monkeypatch.setattr(run_outputs, "available_bytes", lambda: 100_000)
    found = verify(folders, progress=told.append)
    assert found.ok
    assert any("the models ran layer by layer from disk" in note for note in found.all_notes())
    assert "the source in float64 on 12 positions of random tokens: model.layers.0, 2 of 6" in told
    assert "the grown model in float32 on 12 positions of random tokens: model.layers.3, 5 of 7" in told
    assert plain.outputs is not None
    assert found.outputs is not None
    assert found.outputs.comparisons == plain.outputs.comparisons
    assert found.outputs.cache == plain.outputs.cache
    forced = verify(folders, from_disk=False)
    assert not any("from disk" in note for note in forced.all_notes())


def test_from_disk_by_request(folders: tuple[Path, Path]) -> None:
    plain, found = (verify(folders, from_disk=how, generate=2, dtypes=["float32", "bfloat16"]) for how in (False, True))
    assert plain.outputs == found.outputs
    with pytest.raises(RequestError, match="only model folders run from disk"):
        growformer.verify(llama(), llama(), from_disk=True)


def test_what_cannot_run_is_left_out_unless_it_is_asked_for(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run_outputs, run_trainability):
        monkeypatch.setattr(module, "available_bytes", lambda: 100_000)

    def refuse(*_: Any) -> None:
        raise run_outputs.Unrunnable("it uses other weights")

    monkeypatch.setattr(run_outputs, "compare_outputs", lambda *_, **__: refuse())
    found = growformer.verify(*folders)
    assert found.constraints is not None
    assert found.outputs is None
    assert found.trainability is None
    assert found.notes[0] == "outputs were not compared: it uses other weights"
    assert found.notes[1].startswith("trainability was not checked: it takes about")
    with pytest.raises(growformer.SourceError, match="it uses other weights"):
        growformer.verify(*folders, checks=["outputs"])


def test_memory_that_runs_out_is_said(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def runs_out(*_: Any, progress: Any, **__: Any) -> None:
        progress("the source in float64 on 12 positions")
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 34359738368 bytes.")

    monkeypatch.setattr(run_outputs, "compare_outputs", runs_out)
    with pytest.raises(
        growformer.SourceError,
        match=r"memory ran out with the source in float64 on 12 positions, .* less than 12 positions",
    ):
        verify(folders)
    monkeypatch.setattr(run_outputs, "compare_outputs", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        verify(folders)


def test_a_mask_takes_memory_too(models: dict[str, nn.Module]) -> None:
    """Sliding windows need one, which attention turns into numbers: 34 GB at 65,536 positions."""
    shorter, longer = (cost(models["source"], length, 1, 0).num_bytes for length in (1 << 15, 1 << 16))
    assert longer - 2 * shorter >= 8 * (1 << 31)


# Dtypes.


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Return checkpoints in bfloat16: one with more layers, and one whose gains are rescaled."""
    folder = tmp_path_factory.mktemp("halves")
    llama().to(torch.bfloat16).save_pretrained(folder / "source")
    for name, sizes in {"deeper": {"num_hidden_layers": 4}, "wider": {"hidden_size": 30}}.items():
        growformer.grow_checkpoint(folder / "source", folder / name, init="noise", **sizes)
    return {name: (folder / "source", folder / name) for name in ("deeper", "wider")}


def dtypes_of(found: Verification) -> set[str]:
    assert found.outputs is not None
    return {c.dtype for c in found.outputs.comparisons}


def test_what_was_rounded_when_it_was_stored_is_not_measured_in_float32(
    halves: dict[str, tuple[Path, Path]],
) -> None:
    deeper = verify(halves["deeper"])
    assert deeper.ok
    assert dtypes_of(deeper) == {"float32", "bfloat16"}
    wider = verify(halves["wider"])
    assert wider.ok
    assert dtypes_of(wider) == {"bfloat16"}
    (note,) = (note for note in wider.all_notes() if "not compared in float32" in note)
    assert "layers.0.input_layernorm.weight, say, holds source values times a factor" in note
    measured = verify(halves["wider"], dtypes=["float32"])
    assert not measured.ok  # it is there, and shows where it is asked for


def test_without_a_plan_a_note_says_what_float32_may_measure(halves: dict[str, tuple[Path, Path]]) -> None:
    source, grown = (run_outputs.load_folder(growformer.storage.folder.open_folder(f)) for f in halves["wider"])
    found = growformer.verify(source.to(torch.bfloat16), grown.to(torch.bfloat16), lengths=[12])
    assert not found.ok
    assert any(note.startswith("in bfloat16, in which both are stored, outputs agree") for note in found.all_notes())
    broken = grown.to(torch.bfloat16)
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight.mul_(2)
    found = growformer.verify(source, broken, lengths=[12])
    assert not found.ok
    assert not any("outputs agree" in note for note in found.all_notes())


def test_a_mixture_of_experts_in_half_precision(tmp_path: Path) -> None:
    """Rounding sends some tokens to other experts; a weight that is off is seen all the same."""
    config = transformers.MixtralConfig(
        vocab_size=61, hidden_size=24, intermediate_size=36, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
        num_hidden_layers=3, num_local_experts=8, num_experts_per_tok=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * (1 if p.ndim < 2 else p.shape[-1] ** -0.5))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "source")
    growformer.grow_checkpoint(tmp_path / "source", tmp_path / "grown", hidden_size=30, init="noise")
    for seed in range(3):
        found = growformer.verify(tmp_path / "source", tmp_path / "grown", checks=["outputs"], seed=seed)
        assert found.ok, found
    assert any("the position in the middle is judged" in note for note in found.all_notes())
    grown = transformers.MixtralForCausalLM.from_pretrained(tmp_path / "grown", dtype=torch.bfloat16)
    with torch.no_grad():
        grown.model.layers[1].self_attn.v_proj.weight.mul_(1.1)
    plan = growformer.load_provenance(tmp_path / "grown").plan
    source = transformers.MixtralForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.bfloat16)
    assert not growformer.verify(source, grown, plan=plan, checks=["outputs"]).ok


def test_more_tokens_to_choose_from_are_no_growth() -> None:
    source = llama()
    other = llama()
    other.resize_token_embeddings(source.config.vocab_size + 3)
    found = growformer.verify(source, other, lengths=[12])
    assert not found.ok


def test_inputs_that_a_class_cannot_run_on_are_said(folders: tuple[Path, Path]) -> None:
    ids = torch.full((1, 5), 10_000)
    says = "the source in float64 on 5 positions of given inputs: the class cannot run on this: IndexError"
    with pytest.raises(growformer.SourceError, match=says):
        growformer.verify(*folders, checks=["outputs"], inputs={"input_ids": ids})
