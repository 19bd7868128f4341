"""``growformer grow``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.cli.support import MODELS, contents, set_config

from growformer.execute.fill import BandFiller
from growformer.execute.layout import Band

REQUESTS = {
    "llama": ["--hidden-size", 36, "--num-attention-heads", 9, "--num-key-value-heads", 3, "--num-hidden-layers", 4],
    "gpt2": ["--hidden-size", 28, "--set", "n_inner=53", "--num-hidden-layers", 3],
    "bert": ["--hidden-size", 40, "--intermediate-size", 31, "--num-hidden-layers", 3],
}


def load(path: Path) -> torch.nn.Module:
    name = transformers.AutoConfig.from_pretrained(path).architectures[0]
    return getattr(transformers, name).from_pretrained(path, dtype=torch.float64).eval()


@pytest.mark.parametrize("family", list(MODELS))
def test_the_outputs_stay(run, models: dict[str, Path], tmp_path: Path, family: str) -> None:
    out = tmp_path / "out"
    ran = run("grow", models[family], out, *REQUESTS[family])
    assert ran.code == 0
    assert ran.err == ""
    tokens = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        before, after = load(models[family])(tokens)[0], load(out)(tokens)[0]
    # Weights that growth rescales or averages are rounded to float32 once.
    torch.testing.assert_close(after[..., : before.shape[-1]], before, rtol=0, atol=1e-6 * float(before.abs().max()))


def test_the_summary_and_what_next(run, models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = run("grow", models["llama"], out, "--hidden-size", 36, "--num-hidden-layers", 4).out
    assert text.startswith(f"{out} has ")
    assert "30 tensors grown, 0 carried bit by bit, 9 in new layers" in text
    assert "all constraints hold" in text
    assert f"transformers.LlamaForCausalLM.from_pretrained('{out}')" in text
    assert f"growformer verify {models['llama']} {out}" in text
    loaded = eval(text.split("Load it\n")[1].splitlines()[0], {"transformers": transformers})
    assert loaded.config.hidden_size == 36


def test_json(run, models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = run("grow", models["gpt2"], out, *REQUESTS["gpt2"], "--json").json()
    assert found["path"] == str(out)
    assert found["verification"]["ok"] is True
    assert found["bytes"] == found["plan"]["weight_bytes"]["target"]
    assert found["files"]["generation_config.json"] == "carried"
    found = run("grow", models["gpt2"], tmp_path / "b", *REQUESTS["gpt2"], "--json", "--no-verify").json()
    assert found["verification"] is None


def test_plan_then_grow_is_grow(run, models: dict[str, Path], tmp_path: Path) -> None:
    request = [*REQUESTS["llama"], "--init", "copy", "--seed", 11, "--new-layers-at", "end"]
    how = ["--max-shard-size", "20KB", "--dtype", "bfloat16"]
    assert run("grow", models["llama"], tmp_path / "one", *request, *how).code == 0
    assert run("plan", models["llama"], *request, "-o", tmp_path / "plan.json").code == 0
    assert run("grow", models["llama"], tmp_path / "two", "--plan", tmp_path / "plan.json", *how).code == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(list((tmp_path / "two").glob("*.safetensors"))) > 1
    # Not vacuous: another seed gives other bytes.
    request[-3] = 12
    assert run("grow", models["llama"], tmp_path / "other", *request, *how).code == 0
    assert contents(tmp_path / "one") != contents(tmp_path / "other")


def test_plan_refuses_a_changed_source(run, llama: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert run("plan", llama, "--hidden-size", 36, "-o", plan).code == 0
    set_config(llama, rope_theta=None, rms_norm_eps=1e-5)
    before = sorted(p.name for p in tmp_path.iterdir())
    ran = run("grow", llama, tmp_path / "out", "--plan", plan)
    assert (ran.code, ran.out) == (2, "")
    assert "differ from the source that the plan was made for" in ran.err
    assert ran.err.rstrip().endswith("plan again")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_plan_goes_without_a_request(run, models: dict[str, Path], tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    ran = run("grow", models["llama"], tmp_path / "out", "--plan", plan, "--hidden-size", 36, "--seed", 3)
    assert ran.code == 2
    assert ran.err.startswith("error: --plan goes without --hidden-size, --seed: ")
    ran = run("grow", models["llama"], tmp_path / "out", "--plan", plan)
    assert ran.err.startswith(f"error: {plan}: no such plan; make one with growformer plan ")
    plan.write_text('{"hello": 1}')
    ran = run("grow", models["llama"], tmp_path / "out", "--plan", plan)
    assert ran.err == f"error: {plan}: not a growformer plan: it has no 'format'\n"
    plan.write_bytes(b"\xff\xfe\x00")
    assert run("grow", models["llama"], tmp_path / "out", "--plan", plan).code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.json"]


def test_a_plan_of_another_model_is_refused(run, models: dict[str, Path], tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert run("plan", models["gpt2"], *REQUESTS["gpt2"], "-o", plan).code == 0
    ran = run("grow", models["bert"], tmp_path / "out", "--plan", plan)
    assert ran.code == 2
    assert "a model of type 'bert'; the plan was made for one of type 'gpt2'" in ran.err


def test_a_failed_check_is_exit_code_1(
    run, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = BandFiller.fill

    def disturb(self: BandFiller, band: Band, out: Any, scratch: Any) -> None:
        fill(self, band, out, scratch)
        if band.stored.name.endswith("1.self_attn.o_proj.weight"):
            out ^= 1 << 30

    monkeypatch.setattr(BandFiller, "fill", disturb)
    ran = run("grow", models["llama"], tmp_path / "out", "--hidden-size", 36)
    assert ran.code == 1
    assert "NOT preserved: constraints failed" in ran.out
    assert "Do not train on" in ran.out
    assert "Load it" not in ran.out
    ran = run("grow", models["llama"], tmp_path / "two", "--hidden-size", 36, "--json")
    assert ran.code == 1
    assert ran.json()["verification"]["ok"] is False
    assert run("grow", models["llama"], tmp_path / "three", "--hidden-size", 36, "--no-verify").code == 0


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (OSError(28, "No space left on device"), 2, "cannot be written: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted; nothing unfinished was left behind"),
    ],
)
def test_a_failure_halfway_leaves_nothing_behind(
    run, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    failure: BaseException, code: int, message: str,
) -> None:  # fmt: skip
    fill, seen = BandFiller.fill, []

    def fail(self: BandFiller, band: Band, out: Any, scratch: Any) -> None:
        seen.append(band)
        if len(seen) == 5:
            assert [p.name for p in tmp_path.iterdir()] == [".out.partial"]
            raise failure
        fill(self, band, out, scratch)

    monkeypatch.setattr(BandFiller, "fill", fail)
    ran = run("grow", models["llama"], tmp_path / "out", "--hidden-size", 36)
    assert ran.code == code
    assert ran.out == ""
    assert message in ran.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_grow_is_refused(run, models: dict[str, Path], tmp_path: Path) -> None:
    for options in ([], ["--hidden-size", 24]):
        ran = run("grow", models["llama"], tmp_path / "out", *options)
        assert ran.code == 2
        assert ran.err.startswith("error: nothing grows: no size is asked for, or the source has them all.")
        assert "--hidden-size 48" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_config_alone_cannot_grow(run, models: dict[str, Path], tmp_path: Path) -> None:
    ran = run("grow", models["llama"] / "config.json", tmp_path / "out", "--hidden-size", 36)
    assert ran.code == 2
    assert "a config alone has no weights to grow; pass the model's folder" in ran.err
