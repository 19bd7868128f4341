"""The blocks that a page shows are those of the tensors as they are grown, and pictures have their true areas."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import transformers
from tests.report.support import CASES, CLASSES, config_of, plan_of

import growformer
from growformer.reporting.blocks import all_variants, instances_in_words, ranges
from growformer.reporting.matrix_picture import can_draw, draw, drawn_dims, scale_of
from growformer.reporting.strips import boxes, grid
from growformer.verification.recorded import Recorded
from growformer.verification.regions import spread

KEPT = {"copy", "rescaled", "mean", "sum", "constant"}


def record(plan: growformer.Plan) -> Recorded:
    return Recorded.read(json.loads(plan.to_json()))


def marked(variant) -> np.ndarray:
    """Return the kind of every value of one instance, by its blocks."""
    found = np.full(variant.shape, "", dtype=object)
    for block in variant.blocks:
        at = np.ix_(*(spread(along) for along in block.region))
        assert (found[at] == "").all(), "blocks overlap"
        found[at] = block.kind
    assert (found != "").all(), "blocks leave something out"
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5", "vit", "mixtral"])
def test_blocks_are_what_growth_makes(name: str) -> None:
    # Two growths that differ in their seed alone tell by themselves what is free; the rest is zero or the source's.
    kind = getattr(transformers, CLASSES[name])
    model = kind(transformers.AutoConfig.for_model(CASES[name][0], **CASES[name][1])).eval()
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.5)
    options = {**CASES[name][2], "init": "noise", "new_layers": "random"}
    plans = [growformer.plan(model, seed=seed, **options) for seed in (1, 2)]
    grown = [dict(growformer.grow(model, plan=p).state_dict()) for p in plans]
    rec = record(plans[0])
    seen = set()
    for template, made in all_variants(rec).items():
        for variant in made:
            kinds = marked(variant)
            for index in variant.instances:
                held = rec.target_held(variant.spec, index)
                both = [
                    g.get(held.stored, g.get(held.stored.removeprefix(f"{rec.architecture.prefix}."))) for g in grown
                ]
                if both[0] is None or tuple(both[0].shape) != variant.shape:
                    continue  # live models of this class store several of these together
                values, others = (t.numpy() for t in both)
                free, zero = kinds == "free", kinds == "zero"
                assert (values[free] != others[free]).mean() > 0.99 if free.any() else True, template
                assert (values[~free] == others[~free]).all(), template
                assert (values[zero] == 0).all(), template
                assert (values[~zero & ~free] != 0).all(), template
                seen.add(template)
    assert len(seen) > len(rec.present) / 2


@pytest.mark.parametrize("name", CASES)
def test_every_value_lies_in_one_block(name: str) -> None:
    rec = record(plan_of(name))
    total = 0
    for made in all_variants(rec).values():
        instances = [tuple(i.items()) for v in made for i in v.instances]
        assert len(instances) == len(set(instances))
        for variant in made:
            marked(variant)
            assert sum(variant.entries.values()) == variant.size
            total += variant.size * len(variant.instances)
    assert total == plan_of(name).num_parameters()[1]


def areas(svg: str) -> dict[str, float]:
    """Return pixels of every kind of block in a picture."""
    found: dict[str, float] = {}
    for d, kind in re.findall(r'<path d="([^"]*)" class="k-(\w+)"', svg):
        for width, height in re.findall(r"M[\d.]+ [\d.]+h([\d.]+)v([\d.]+)h-[\d.]+z", d):
            found[kind] = found.get(kind, 0) + float(width) * float(height)
    return found


@pytest.mark.parametrize("name", CASES)
def test_areas_are_true(name: str) -> None:
    drawn = 0
    for made in all_variants(record(plan_of(name))).values():
        shown = [v for v in made if can_draw(v)]
        for variant in shown:
            found = areas(draw(variant, scale_of(shown), "a tensor").svg)
            total = sum(found.values())
            assert found.keys() == variant.entries.keys()
            for kind, number in variant.entries.items():
                assert found[kind] / total == pytest.approx(number / variant.size, abs=2e-3), variant.spec.template
            drawn += 1
    assert drawn > 5


def test_areas_are_true_where_heads_are_finer_than_pixels() -> None:
    config = {**config_of("llama"), "num_attention_heads": 96, "num_key_value_heads": 96, "hidden_size": 96}
    rec = record(growformer.plan(config, head_dim=14))
    (variant,) = (v for v in all_variants(rec)["layers.{layer}.self_attn.q_proj.weight"] if not v.is_new)
    picture = draw(variant, scale_of([variant]), "queries")
    assert any("several together" in note for note in picture.notes)
    found = areas(picture.svg)
    for kind, number in variant.entries.items():
        assert found[kind] / sum(found.values()) == pytest.approx(number / variant.size, abs=2e-3)
    assert len(picture.svg) < 20_000


def test_a_wrong_block_changes_the_picture() -> None:
    # The control of the tests above: rows that change places are seen.
    rec = record(plan_of("llama"))
    (variant,) = (v for v in all_variants(rec)["layers.{layer}.mlp.down_proj.weight"] if not v.is_new)
    blocks = list(variant.blocks)
    shape = tuple(variant.shape[d] for d in drawn_dims(variant))
    made = boxes(grid(blocks, (shape[0], shape[1]), (200.0, 200.0)))
    kinds = marked(variant)
    for number, where in made.items():
        for x, y, width, height in where:
            row, column = int((y + height / 2) * shape[0] / 200), int((x + width / 2) * shape[1] / 200)
            assert kinds[row, column] == blocks[number].kind
    assert {b.kind for b in blocks} == {"copy", "zero"}
    assert kinds[0, 0] == "copy"
    assert kinds[-1, 0] == kinds[0, -1] == "zero"


def test_sizes_stand_beside_what_they_measure() -> None:
    def sizes(plan: growformer.Plan, template: str) -> list[str]:
        (variant,) = (v for v in all_variants(record(plan))[template] if not v.is_new)
        return re.findall(r'class="size(?: middle)?">([^<]*)<', draw(variant, scale_of([variant]), "it").svg)

    assert sizes(plan_of("llama"), "layers.{layer}.mlp.down_proj.weight") == ["37", "+16", "24", "+12"]
    # Rotated heads interleave: no first so many rows are the source's, wherever their boundaries lie.
    q = sizes(growformer.plan(config_of("llama"), head_dim=14), "layers.{layer}.self_attn.q_proj.weight")
    assert q == ["24", "84"]
    norm = sizes(growformer.plan(config_of("qwen3"), head_dim=16), "layers.{layer}.self_attn.q_norm.weight")
    assert norm == ["16"]


def test_layers_that_are_alike_are_shown_once() -> None:
    rec = record(plan_of("llama", num_hidden_layers=6, new_layers_at=[1, 2, 5]))
    made = all_variants(rec)["layers.{layer}.mlp.down_proj.weight"]
    assert [(v.is_new, instances_in_words(rec, v)) for v in made] == [(False, "layers 0, 3–4"), (True, "layers 1–2, 5")]
    assert ranges(list(range(0, 60, 2))).endswith("… 58")
