"""The page: one file that loads nothing, escapes everything, and tells in tables what its pictures show."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.report.support import CASES, Node, config_of, plan_of, read_page, verification, verified

import growformer
from growformer.errors import OutputError, SourceError
from growformer.reporting.findings import read_findings
from growformer.reporting.report import Report, report_on, report_on_plan
from growformer.reporting.schematic import schematic
from growformer.reporting.subject import Subject
from growformer.verification.outputs import OutputComparison, OutputsReport
from growformer.verification.recorded import Recorded
from growformer.verification.verification import Verification

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
MILLION = 1_000_000


def full(name: str) -> str:
    subject = Subject.of_plan(plan_of(name), source="small", grown="large")
    return report_on(subject, verified(verification())).html


@pytest.fixture(scope="module", params=CASES)
def page(request: pytest.FixtureRequest) -> Node:
    return read_page(full(request.param))


def test_it_loads_nothing(page: Node) -> None:
    for node in page.all():
        for name, value in node.attributes.items():
            assert not name.startswith("on"), node
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                assert value.startswith(("#", "data:,")), (node.tag, name, value)
            assert name != "style", "a style attribute needs a looser policy"
            assert not re.search(r"url\((?!#)", value)
    assert not re.search(r"url\((?!#)|@import", page.all("style")[0].words)
    policy = next(n for n in page.all("meta") if n.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy.attributes["content"]
    assert len(page.all("script")) == len(page.all("style")) == 1


def test_it_is_accessible(page: Node) -> None:
    ids = [n.attributes["id"] for n in page.all() if "id" in n.attributes]
    assert len(ids) == len(set(ids))
    for node in page.all("a"):
        assert node.attributes["href"][1:] in ids
    for node in page.all():
        for name in ("aria-labelledby", "aria-describedby"):
            assert node.attributes.get(name, ids[0]) in ids
    levels = [int(n.tag[1]) for n in page.all() if re.fullmatch("h[1-6]", n.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for tag in ("header", "nav", "main", "footer"):
        assert len(page.all(tag)) == 1
    assert page.all("html")[0].attributes["lang"] == "en"
    for heading in [*page.all("th"), *page.all("summary"), *page.all("figcaption"), *page.all("caption")]:
        assert heading.words.strip()


def test_every_picture_has_a_name_and_its_numbers_behind_it(page: Node) -> None:
    pictures = [n for n in page.all("svg") if n.attributes.get("role") == "img"]
    assert len(pictures) > 12
    for picture in pictures:
        assert picture.attributes["aria-label"].strip()
        assert picture.attributes["tabindex"] == "0"
        assert all(n.all("title")[0].words.strip() for n in picture.all(class_="mark"))
    others = [n for n in page.all("svg") if n.attributes.get("role") != "img"]
    assert all(n.attributes.get("aria-hidden") == "true" for n in others)
    for figure in page.all("figure"):
        if figure.all("svg") and not any("architecture" in n.classes for n in figure.all("svg")):
            (details,) = figure.all("details")
            assert details.all("summary")
            assert len(details.all("tr")) > 1
    architecture = next(n for n in page.all("section") if n.attributes.get("aria-labelledby") == "architecture")
    assert len(architecture.all("details")[0].all("tr")) > 4


def test_text_from_elsewhere_is_text() -> None:
    config = {**config_of("llama"), "architectures": [EVIL], "hidden_act": EVIL, EVIL: EVIL}
    data = json.loads(growformer.plan(config, hidden_size=36).to_json())
    data["target_config"][EVIL] = EVIL + "2"
    data["notes"] = [EVIL]
    data["init"]["name"] = EVIL
    subject = Subject(
        rec=Recorded.read(data),
        source=EVIL,
        grown=EVIL,
        names=(EVIL, EVIL),
        basis=EVIL,
        plan=data,
        facts=((EVIL, EVIL),),
    )
    found = verification(text=EVIL)
    found["notes"] = [EVIL]
    found["constraints"]["verdict"] = EVIL
    found["constraints"]["violations"] = [
        {"kind": EVIL, "where": EVIL, "region": EVIL, "expected": EVIL, "found": EVIL, "deviation": 0.5}
    ]
    found["trainability"]["reach"][0]["tensor"] = EVIL
    found["trainability"]["locked"] = [{"tensor": EVIL, "region": EVIL, "units": [[1, 2]]}]
    found["trainability"]["activations"][0]["module"] = EVIL
    found["trainability"]["dead"] = [{"tensor": EVIL, "region": EVIL}]
    found["trainability"]["out_of_scale"] = [{"tensor": EVIL, "region": EVIL, "ratio": 1e4}]
    html = report_on(subject, verified(found, (EVIL,), ("outputs",), EVIL)).html
    page = read_page(html)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(1)") > 12


def test_fragments_of_notebooks_are_text_too() -> None:
    html = replace(growformer.plan(config_of("llama"), hidden_size=36), notes=(EVIL,))._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<td>hidden_size</td><td>24</td><td>36</td>" in html
    assert read_page(html).all("table")
    outputs = OutputsReport((OutputComparison("float32", 1e-7, 1.1e-7, 1.1, 2e-7, 1.0, 2.0),), cache=None, num_tokens=3)
    html = Verification(outputs=outputs, notes=(EVIL,))._repr_html_()
    assert "✓ Preserved: outputs" in html
    assert "<script" not in html


def test_what_does_not_learn_is_no_breach_of_preservation() -> None:
    found = verification()
    found["trainability"]["ok"] = found["ok"] = False
    page = read_page(report_on(Subject.of_plan(plan_of("llama"), source="small", grown="large"), verified(found)).html)
    words = page.all(class_="verdict")[0].words
    assert "Computes the same (constraints and outputs passed), but not all that is new learns." in words


def test_what_was_not_checked_says_so() -> None:
    subject = Subject.of_plan(plan_of("llama"), source="small", grown="large")
    planned = read_page(report_on_plan(plan_of("llama"), source="small").html)
    assert "Planned: nothing was written, and nothing was verified yet." in planned.words
    assert planned.words.count("– not checked") == 3
    assert "✓ passed" not in planned.words
    partly = {**verification(), "outputs": None, "trainability": None}
    words = read_page(report_on(subject, verified(partly)).html).words
    assert "The weights preserve the function: constraints passed. Not checked: outputs and trainability." in words
    del partly["outputs"], partly["trainability"]  # as an older file has it
    assert read_page(report_on(subject, verified(partly)).html).words == words


def test_what_was_not_found_for_the_page_is_called_a_claim() -> None:
    subject = Subject.of_plan(plan_of("llama"), source="small", grown="large")
    page = read_page(report_on(subject, verified(verification(), claimed=("outputs", "trainability"))).html)
    said = page.all(class_="verdict")[0]
    assert "The weights preserve the function: constraints passed." in said.words
    assert "Outputs and trainability passed as well, as c.json says." in said.words
    assert "v-passed" in said.classes
    assert page.words.count("✓ passed") == 1
    assert page.words.count("? said to pass") == 2
    assert "1 of 3" in page.words
    claimed = ("constraints", "outputs", "trainability")
    page = read_page(report_on(subject, verified(verification(), claimed=claimed)).html)
    said = page.all(class_="verdict")[0]
    assert "v-claimed" in said.classes
    assert "Said to compute the same: constraints, outputs and trainability passed, as c.json says." in said.words
    assert "✓" not in page.words
    failed = verification()
    failed["outputs"]["ok"] = False  # and still says of the whole that it passes
    words = read_page(report_on(subject, verified(failed, claimed=("outputs",))).html).all(class_="verdict")[0]
    assert "Not preserved: outputs (as c.json says) failed." in words.words
    assert "v-failed" in words.classes


def test_a_failure_is_the_first_thing_that_is_said() -> None:
    subject = Subject.of_plan(plan_of("llama"), source="small", grown="large")
    found = verification()
    found["ok"] = found["constraints"]["ok"] = False
    found["constraints"]["violations"] = [
        {
            "kind": "zero",
            "where": "model.norm.weight",
            "region": "[3:5]",
            "expected": "zero",
            "found": "0.5",
            "deviation": 0.5,
        }
    ]
    report = report_on(subject, verified(found))
    assert not report.ok
    page = read_page(report.html)
    assert "Not preserved: constraints failed." in page.all(class_="verdict")[0].words
    assert "model.norm.weight[3:5]" in page.words
    assert "built so that it computes what the source computes" not in page.words


def test_errors_that_are_no_numbers_are_shown() -> None:
    found = json.loads(json.dumps(verification()))
    comparison = found["outputs"]["comparisons"][0]
    comparison.update(ratio=math.inf, grown_error=math.nan, ok=False)
    comparison["by_position"][3]["grown_error"] = math.nan
    comparison["by_layer"][0]["source_error"] = 0.0
    found["ok"] = found["outputs"]["ok"] = False
    html = report_on(Subject.of_plan(plan_of("llama"), grown="large"), verified(found)).html
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*" (y|cx|d)=', html)
    for shape in re.findall(r'\b(?:d|x|y|cx|cy|width|height)="([^"]*)"', html):
        assert not re.search(r"nan|inf", shape), shape
    assert "a ratio of inf" in html


def test_minimal_outputs_are_shown_without_plots() -> None:
    found = verification()
    del found["outputs"]["comparisons"][0]["by_position"], found["outputs"]["comparisons"][0]["by_layer"]
    del found["outputs"]["comparisons"][0]["worst"], found["outputs"]["cache"]
    words = read_page(report_on(Subject.of_plan(plan_of("llama"), grown="large"), verified(found)).html).words
    assert "Errors by position were not recorded." in words
    assert "Error by position: float32" not in words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ok": "perhaps"}, "ok: "),
        ({"constraints": {"ok": True, "tensors": EVIL}}, "constraints.tensors: "),
        ({"outputs": {"ok": True, "comparisons": [{"dtype": "float32"}]}}, "outputs.comparisons.0.source_error: "),
    ],
)
def test_a_verification_that_is_none_is_refused(change: dict, message: str) -> None:
    with pytest.raises(SourceError, match="not what growformer verify --json prints, nor a certificate") as caught:
        read_findings({**verification(), **change})
    assert message in str(caught.value)


def test_a_certificate_is_a_verification() -> None:
    assert read_findings({"format": 1, "checks": verification()}) == read_findings(verification())


@pytest.mark.parametrize(
    ("kind", "fields", "growth"),
    [
        (
            "llama",
            {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
             "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256},
            {"hidden_size": 10240, "num_attention_heads": 80, "num_key_value_heads": 10, "intermediate_size": 36864,
             "num_hidden_layers": 96},
        ),
        (
            "mixtral",
            {},
            {"hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 10, "num_hidden_layers": 40},
        ),
    ],
)  # fmt: skip
def test_large_models_have_small_pages(kind: str, fields: dict, growth: dict) -> None:
    import transformers

    config = transformers.AutoConfig.for_model(kind, **fields).to_dict()
    html = report_on_plan(growformer.plan(config, **growth)).html
    assert len(html.encode()) < 0.5 * MILLION  # the promise is two million
    assert len([n for n in read_page(html).all("svg") if "matrix" in n.classes]) < 60


def test_parts_of_an_architecture() -> None:
    def parts(name: str) -> list[tuple[str | None, str, list[tuple[str, object, object]]]]:
        sections = schematic(Recorded.read(json.loads(plan_of(name).to_json())))
        return [(s.axis, p.title, [(z.name, z.before, z.after) for z in p.sizes]) for s in sections for p in s.parts]

    llama = parts("llama")
    assert ("layer", "Attention", [("heads", 6, 9), ("kv heads", 2, 3), ("head size", 10, 14)]) in llama
    assert ("layer", "Gated MLP", [("width", 37, 53)]) in llama
    assert [title for axis, title, _ in parts("t5") if axis == "decoder_layer"] == [
        "Attention",
        "Cross-attention",
        "MLP",
    ]
    deepseek = {title: sizes for _, title, sizes in parts("deepseek_v3")}
    assert deepseek["Attention"] == [("heads", 4, 4), ("key size", 12, 12), ("value size", 6, 6)]
    assert deepseek["Experts"] == [("experts", 4, 4), ("per token", 2, 2), ("width", 17, 23)]
    assert "Shared expert" in deepseek
    assert [title for _, title, _ in parts("bert")].count("LayerNorm on the sum") == 2


def test_saving(tmp_path: Path) -> None:
    report = Report("<p>whole</p>")
    file = report.save(tmp_path / "page.html")
    assert file.read_text() == "<p>whole</p>"
    with pytest.raises(OutputError, match="exists already"):
        report.save(file)
    Report("other").save(file, force=True)
    assert file.read_text() == "other"
    with pytest.raises(OutputError, match="its parent folder"):
        report.save(tmp_path / "no" / "page.html")
    assert [f.name for f in tmp_path.iterdir()] == ["page.html"]
    assert "&lt;p&gt;whole" in report._repr_html_()
