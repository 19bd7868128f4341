"""``growformer report``, ``growformer plan --report`` and ``growformer plan --show``."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import transformers

import growformer
from growformer.verification.recorded import Recorded

GROWTH = (
    "--hidden-size", 36, "--intermediate-size", 53, "--num-attention-heads", 9, "--num-key-value-heads", 3,
    "--num-hidden-layers", 5,
)  # fmt: skip


@pytest.fixture
def grown(run, models: dict[str, Path], tmp_path: Path) -> Path:
    assert run("grow", models["llama"], tmp_path / "large", *GROWTH).code == 0
    return tmp_path / "large"


def words(page: Path) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.read_text())))


def test_report_checks_constraints_and_writes_one_page(run, models, grown: Path, tmp_path: Path) -> None:
    ran = run("report", models["llama"], grown, "-o", tmp_path / "page.html")
    assert (ran.code, ran.err) == (0, "")
    assert "constraints were checked for this page" in ran.out
    text = words(tmp_path / "page.html")
    assert "The weights preserve the function: constraints passed. Not checked: outputs and trainability." in text
    assert "hidden_size 24 36 × 1.50 asked for" in text
    assert growformer.load_provenance(grown).files["weights"]["model.safetensors"] in text
    assert sorted(f.name for f in tmp_path.iterdir()) == ["large", "page.html"]


def test_a_page_is_never_overwritten_unless_asked(run, models, grown: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    ran = run("report", models["llama"], grown, "-o", page)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {page}: exists already; choose another name, or say --force\n"
    assert page.read_text() == "mine"
    assert run("report", models["llama"], grown, "-o", page, "--force", "--no-verify").code == 0
    assert "Nothing was verified" in words(page)


def test_a_failure_is_reported_and_exits_with_1(run, models, grown: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(grown / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][30, 3] = 0.25
    save_file(tensors, grown / "model.safetensors", metadata={"format": "pt"})
    ran = run("report", models["llama"], grown, "-o", tmp_path / "page.html")
    assert ran.code == 1
    text = words(tmp_path / "page.html")
    assert "Not preserved: constraints failed." in text
    assert "model.layers.0.mlp.down_proj.weight" in text


def test_a_verification_that_is_given_is_shown_as_a_claim(run, models, grown: Path, tmp_path: Path) -> None:
    checks = tmp_path / "checks.json"
    found = run("verify", models["llama"], grown, "--checks", "constraints,outputs", "--json").json()
    checks.write_text(json.dumps(found))
    assert run("report", models["llama"], grown, "-o", tmp_path / "a.html", "--verification", checks).code == 0
    text = words(tmp_path / "a.html")
    assert "Said to compute the same: constraints and outputs passed, as checks.json says." in text
    assert "Not checked: trainability." in text
    assert "✓ passed" not in text
    found["outputs"]["comparisons"][0]["ratio"] = 99.0
    checks.write_text(json.dumps(found))
    ran = run("report", models["llama"], grown, "-o", tmp_path / "b.html", "--verification", checks)
    assert (ran.code, ran.out) == (2, "")
    assert "checks.json: contradicts itself: outputs is said to pass, but " in ran.err
    checks.write_text("{}")
    ran = run("report", models["llama"], grown, "-o", tmp_path / "b.html", "--verification", checks)
    assert ran.code == 2
    assert "nor a certificate: ok: " in ran.err
    ran = run("report", models["llama"], grown, "-o", tmp_path / "b.html", "--verification", tmp_path / "no.json")
    assert ran.code == 2
    assert "no such file" in ran.err
    ran = run("report", models["llama"], grown, "-o", tmp_path / "b.html", "--verification", checks, "--no-verify")
    assert "exclude each other" in ran.err
    assert not (tmp_path / "b.html").exists()


def test_a_certificate_of_other_files_is_refused(run, models, grown: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    options = ("--verification", file)
    assert run("verify", models["llama"], grown, "--checks", "outputs", "--certificate-to", file).code == 0
    assert run("report", models["llama"], grown, "-o", tmp_path / "a.html", *options).code == 0
    assert "outputs passed, as c.json says" in words(tmp_path / "a.html")
    assert run("grow", models["llama"], tmp_path / "other", "--intermediate-size", 64).code == 0
    ran = run("report", models["llama"], tmp_path / "other", "-o", tmp_path / "b.html", *options)
    assert (ran.code, ran.out) == (2, "")
    assert "The certificate is of other files: grown differ from what was checked" in ran.err
    assert not (tmp_path / "b.html").exists()


@pytest.mark.parametrize("change", ["nothing", "weights", "certificate", "config", "forged"])
def test_of_a_certificate_outputs_are_shown_as_claims_if_it_is_about_these_files(
    run, models, grown: Path, tmp_path: Path, change: str
) -> None:
    assert run("verify", models["llama"], grown, "--checks", "constraints,outputs").code == 0
    file = grown / "growformer.verify.json"
    certificate = json.loads(file.read_text())
    if change == "certificate":
        certificate["checks"]["outputs"]["comparisons"][0]["ratio"] = 99.0
        file.write_text(json.dumps(certificate))
    if change in ("weights", "forged"):
        data = bytearray((grown / "model.safetensors").read_bytes())
        data[-3] ^= 1
        (grown / "model.safetensors").write_bytes(data)
    if change == "config":
        (grown / "generation_config.json").write_text("{}")
    if change == "forged":  # the digests of the files as they are, with the figures of what they were
        of_these = growformer.verify(models["llama"], grown, checks=["constraints"])
        file.unlink()
        growformer.write_certificate(of_these, models["llama"], grown)
        forged = json.loads(file.read_text())
        file.write_text(json.dumps({**certificate, "grown": forged["grown"]}))
        assert run("verify", "--certificate", file).code == 0  # nothing in it shows that nobody measured it
    ran = run("report", models["llama"], grown, "-o", tmp_path / "page.html")
    text = words(tmp_path / "page.html")
    assert "constraints were checked for this page" in ran.out
    assert ran.code == (1 if change in ("weights", "forged") else 0)
    if change == "nothing":
        assert "growformer.verify.json, which anybody can write, says: Preserved" in ran.out
        assert "The weights preserve the function: constraints passed. Outputs passed as well, as growformer." in text
    elif change == "forged":
        assert "Not preserved: constraints failed." in text
    else:
        assert "growformer.verify.json was not used: " in ran.out
        assert "growformer.verify.json was not used: " in text


def test_rounding_to_another_dtype_is_said(run, models, tmp_path: Path) -> None:
    assert run("grow", models["llama"], tmp_path / "half", *GROWTH, "--dtype", "bfloat16").code == 0
    assert run("report", models["llama"], tmp_path / "half", "-o", tmp_path / "page.html").code == 0
    text = words(tmp_path / "page.html")
    assert "rounded once float32 to bfloat16" in text
    assert "the source's values, rounded to bfloat16" in text
    assert "the source's values, bit for bit" not in text


def test_another_source_is_refused(run, models, grown: Path, tmp_path: Path) -> None:
    ran = run("report", models["gpt2"], grown, "-o", tmp_path / "page.html")
    assert ran.code == 2
    assert "a model of type 'gpt2'; the plan was made for one of type 'llama'" in ran.err
    ran = run("report", models["llama"], models["gpt2"], "-o", tmp_path / "page.html")
    assert ran.code == 2
    assert "without growformer.json, source and grown model must be of one class" in ran.err
    assert not (tmp_path / "page.html").exists()


def test_the_command_on_the_page_grows_the_same(run, models, grown: Path, tmp_path: Path) -> None:
    from growformer.reporting.folders import subject_of_folders

    command = subject_of_folders(str(models["llama"]), str(grown)).command(str(tmp_path / "again"))
    assert command is not None
    program, *arguments = shlex.split(command)
    assert program == "growformer"
    assert run(*arguments).code == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (grown / "model.safetensors").read_bytes()


def test_the_code_on_the_page_trains_only_what_is_new(run, models, grown: Path, monkeypatch) -> None:
    from growformer.reporting.folders import subject_of_folders
    from growformer.reporting.training_section import training

    (snippet,) = (
        s for s in training(subject_of_folders(str(models["llama"]), str(grown))).snippets if "only" in s.title
    )
    space: dict = {}
    exec(snippet.code, space)
    model, optimizer = space["model"], space["optimizer"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        tokens = torch.randint(0, 61, (2, 16))
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
    regions = growformer.load_provenance(grown).new_regions
    changed = 0
    for name, parameter in model.named_parameters():
        is_new = torch.zeros_like(parameter, dtype=torch.bool)
        for region in regions[name]:
            is_new[torch.meshgrid(*(torch.cat([torch.arange(a, b) for a, b in r]) for r in region), indexing="ij")] = (
                True
            )
        moved = parameter.detach() != before[name]
        assert not (moved & ~is_new).any(), name
        changed += int((moved & is_new).any())
        assert not is_new.any() or (moved & is_new).any(), name
    assert changed > 10
    assert isinstance(model, transformers.LlamaForCausalLM)


def test_what_is_inferred_is_shown_as_that(models, grown: Path) -> None:
    from growformer.reporting.folders import subject_of_folders
    from growformer.reporting.report import report_on

    rec = Recorded.read(json.loads(growformer.load_provenance(grown).plan.to_json()))
    (grown / "growformer.json").unlink()
    subject = subject_of_folders(str(models["llama"]), str(grown), inferred=rec)
    text = re.sub(r"<[^>]+>", " ", report_on(subject).html)
    assert "inferred from the two checkpoints; no record lies beside them" in text
    assert "To do the same again" not in text
    assert "load_provenance" not in text
    assert subject.command("x") is None
    with pytest.raises(growformer.SourceError, match="missing"):
        subject_of_folders(str(models["llama"]), str(grown))


def test_from_python(models, grown: Path, tmp_path: Path) -> None:
    report = growformer.report(models["llama"], grown, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == report.html
    assert report.ok
    plan = growformer.load_provenance(grown).plan
    live = [transformers.LlamaForCausalLM.from_pretrained(path) for path in (models["llama"], grown)]
    found = growformer.verify(*live, plan=plan, checks=["constraints", "outputs"])
    page = growformer.report(*live, plan=plan, verification=found)
    assert "LlamaForCausalLM" in page.html
    assert "constraints and outputs passed" in page.html
    with pytest.raises(growformer.RequestError, match="add plan="):
        growformer.report(*live)
    with pytest.raises(growformer.RequestError, match="expected the grown checkpoint too"):
        growformer.report(models["llama"])
    assert "nothing was verified yet" in growformer.report(plan).html


def test_plan_writes_a_page(run, models, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    ran = run("plan", models["llama"], *GROWTH, "--report", page)
    assert ran.code == 0
    assert f"The page is in {page}" in ran.out
    text = words(page)
    assert "Planned: nothing was written, and nothing was verified yet." in text
    assert "✓ passed" not in text
    ran = run("plan", models["llama"], *GROWTH, "--report", page)
    assert ran.code == 2
    assert "exists already" in ran.err
    answer = run("plan", models["llama"], *GROWTH, "--report", tmp_path / "b.html", "--json").json()
    assert answer["report"] == str(tmp_path / "b.html")


def test_plan_shows_blocks(run, models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = run("plan", models["llama"], *GROWTH, "--show", "down_proj")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "layers.{layer}.mlp.down_proj.weight, layers 0–1, 3: 24 × 37 -> 36 × 53"
    picture = [line.strip() for line in lines if re.fullmatch(r"  [█·]+", line)]
    source = [row for row in picture if row.startswith("█")]
    assert len({len(row) for row in picture}) == 1
    assert source[0].count("█") / len(source[0]) == pytest.approx(37 / 53, abs=0.02)
    assert "  █ source 888 (46.5%)" in lines
    assert "  · zero 1,020 (53.5%)" in lines
    assert "layers 2, 4 (new)" in ran.out
    assert "rescaled: × 0.816497" in run("plan", models["llama"], *GROWTH, "--show", "input_layernorm").out


def test_names_of_tensors(run, models) -> None:
    from growformer.reporting.blocks import all_variants
    from growformer.reporting.terminal import matching

    plan = growformer.plan(models["llama"], hidden_size=36, num_attention_heads=9, num_key_value_heads=3)
    made = all_variants(Recorded.read(json.loads(plan.to_json())))
    q = ["layers.{layer}.self_attn.q_proj.weight"]
    for name in ("q_proj", "q_proj.weight", "self_attn.q_proj", "layers.0.self_attn.q_proj.weight", "*q_pro?", q[0]):
        assert matching(made, name) == q
    assert len(matching(made, "mlp.*")) == 3
    assert len(matching(made, "?_proj")) == 4
    ran = run("plan", models["llama"], "--hidden-size", 36, "--show", "q_porj")
    assert ran.code == 2
    assert "what becomes of each); did you mean 'q_proj'?" in ran.err
    assert run("plan", models["llama"], "--hidden-size", 36, "--show", "q_proj", "--json").code == 2
