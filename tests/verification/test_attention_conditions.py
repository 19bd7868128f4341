"""Scores as sums of products, keys that all heads share, and numbers per head."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from tests.verification.records import kinds_of, random_source, record, satisfying
from tests.verification.tiny import CONFIG, HEADS, TINY, half

from growformer.architecture import Attention, embedding, linear, parameter
from growformer.architecture.exact import Root
from growformer.verification.conditions import local_conditions
from growformer.verification.constraints import compare_checkpoints
from growformer.verification.recorded import Recorded
from growformer.verification.requirements import Free, requirements

#: MLA: a part of keys is shared by all heads.
LATENT = TINY.extend(
    "latent",
    sizes={"rope": "rope"},
    arrows={
        "{layer}.q": linear("normed -> (heads [q:key q_rope:rope])"),
        "{layer}.k": linear("normed -> k:(heads key)"),
        "{layer}.k_rope": linear("normed -> k_rope:rope"),
    },
    attention=(
        Attention(
            query=("q", "q_rope"), key=("k", "k_rope"), value="v", output="attended", over=("key", "rope"),
            scale="1 / sqrt(head + rope)",
        ),
    ),
)  # fmt: skip
LATENT_CONFIG = {**CONFIG, "rope": 2}
SINKS = TINY.extend(
    "sinks",
    sizes={"buckets": "buckets"},
    fixed={"buckets": "no"},
    arrows={"{layer}.sinks": parameter("-> sinks:heads"), "bias": embedding("buckets -> bias:heads")},
    attention=(replace(TINY.attention[0], per_head=("sinks", "bias")),),
)
SINKS_CONFIG = {**CONFIG, "buckets": 4}


def said(data: dict[str, Any]) -> list[str]:
    return [str(v) for v in local_conditions(data)]


def test_every_product_of_queries_and_keys_is_compensated_by_itself() -> None:
    target = {**LATENT_CONFIG, "head": 6, "rope": 3}
    new = {"q": {"key": "live"}, "k": {"key": "silent"}, "q_rope": {"rope": "live"}, "k_rope": {"rope": "silent"}}
    factor = Root(Fraction(9, 5))
    both = {"k": {(i,): factor for i in range(2)}, "k_rope": {(i,): factor for i in range(2)}}
    assert said(record(LATENT, LATENT_CONFIG, target, new=new, scales=both)) == []
    found = said(record(LATENT, LATENT_CONFIG, target, new=new, scales={"k": both["k"]}))
    assert found == [
        f"attention q_rope . k_rope scores[layer {i}]: expected scores times 1, found times sqrt(5/9)" for i in range(2)
    ]
    on_queries = {"q": both["k"], "q_rope": both["k_rope"]}
    assert said(record(LATENT, LATENT_CONFIG, target, new=new, scales=on_queries)) == []
    new = {**new, "k_rope": {"rope": "live"}}
    assert said(record(LATENT, LATENT_CONFIG, target, new=new, scales=both)) == [
        "attention q_rope . k_rope along rope: expected one silent side, or scores would change, found 'live' queries "
        "and 'live' keys"
    ]


def test_a_key_may_lack_the_axis_of_heads() -> None:
    heads = {**HEADS, "q_rope": {"heads": "live"}}
    assert said(record(LATENT, LATENT_CONFIG, {**LATENT_CONFIG, "heads": 3}, new=heads)) == []
    heads["attended"] = {"heads": "silent"}
    found = said(record(LATENT, LATENT_CONFIG, {**LATENT_CONFIG, "heads": 3}, new=heads))
    assert found == [
        "attention q . k + q_rope . k_rope along heads: expected 'live' coordinates in attended, found 'silent'"
    ]


def test_an_axis_of_one_side_alone_cannot_be_summed_over() -> None:
    wrong = LATENT.extend(
        "wrong",
        sizes={"other": "rope"},
        arrows={"{layer}.k_rope": linear("normed -> k_rope:other")},
    )
    found = said(
        record(wrong, LATENT_CONFIG, {**LATENT_CONFIG, "heads": 3}, new={**HEADS, "q_rope": {"heads": "live"}})
    )
    assert any("q_rope . k_rope along rope: expected an axis of queries and keys" in problem for problem in found)


NEW = {**HEADS, "sinks": {"heads": "live"}, "bias": {"heads": "live"}}
TARGET = {**SINKS_CONFIG, "heads": 3}


def test_numbers_of_new_heads_are_free() -> None:
    data = record(SINKS, SINKS_CONFIG, TARGET, new=NEW)
    assert said(data) == []
    rec = Recorded.read(data)
    (use,) = requirements(rec, "{layer}.sinks", {"layer": 0}).uses
    assert [(r.copies, isinstance(r.must, Free)) for r in use] == [
        (((slice(0, 2),),), False),
        (((slice(2, 3),),), True),
    ]
    (use,) = requirements(rec, "bias.weight", {}).uses
    assert [isinstance(r.must, Free) for r in use] == [False, True]


@pytest.mark.parametrize("word", ["silent", "copy", "mean", "split"])
def test_numbers_per_head_carry_no_other_word(word: str) -> None:
    data = record(SINKS, SINKS_CONFIG, TARGET, new={**NEW, "sinks": {"heads": word}})
    assert any(problem.startswith("sinks along heads: ") for problem in said(data))


def test_numbers_per_head_are_not_scaled() -> None:
    data = record(SINKS, SINKS_CONFIG, TARGET, new=NEW, scales={"bias": {(): half()}, "sinks": {(1,): half()}})
    found = said(data)
    assert "bias: expected no scale, as it enters the scores, found the scale 1/2" in found
    assert "sinks[layer 1]: expected no scale, as it enters the scores, found the scale 1/2" in found


def test_numbers_per_head_are_read() -> None:
    rec = Recorded.read(record(SINKS, SINKS_CONFIG, TARGET, new=NEW))
    assert not {"sinks", "bias"} & rec.outputs
    unread = replace(SINKS, attention=TINY.attention)
    assert {"sinks", "bias"} <= Recorded.read(record(unread, SINKS_CONFIG, TARGET, new=NEW)).outputs
    wrong = replace(SINKS, attention=(replace(SINKS.attention[0], per_head=("sinks", "mlp")),))
    found = said(record(wrong, SINKS_CONFIG, TARGET, new={**NEW, "bias": {"heads": "silent"}}))
    assert "mlp along mlp: expected an axis of the scores, found another" in found


def test_sinks_are_compared_block_by_block() -> None:
    data = record(SINKS, SINKS_CONFIG, TARGET, new=NEW)
    source = random_source(data)
    target = satisfying(data, source)
    assert compare_checkpoints(data, source.__getitem__, target.__getitem__, target_names=target).ok
    target["0.sinks"][0] += 1
    report = compare_checkpoints(data, source.__getitem__, target.__getitem__)
    assert kinds_of(report.violations) == {"copy"}
    assert report.violations[0].where == "0.sinks"


def test_what_reads_attention_weights_ignores_those_of_new_heads_and_layers() -> None:
    family = TINY.extend(
        "contacts",
        arrows={"contacts": linear("maps:(layer heads) -> contact:-")},
        attention=(replace(TINY.attention[0], maps="maps"),),
    )
    target = {**CONFIG, "heads": 3, "layers": 3}
    new = {**HEADS, "maps": {"heads": "live"}}
    data = record(family, CONFIG, target, new=new, positions={"layer": [0, -1, 1]})
    assert said(data) == []
    source = random_source(data)
    weight = satisfying(data, source)["contacts.weight"].reshape(3, 3)
    assert weight[1].tolist() == weight[:, 2].tolist() == [0, 0, 0]
    assert weight[[0, 2], :2].flatten().tolist() == source["contacts.weight"].flatten().tolist()
    for word in ("silent", "mean", "split"):
        wrong = {**HEADS, "maps": {"heads": word}}
        assert said(record(family, CONFIG, target, new=wrong, positions={"layer": [0, -1, 1]})) != []
    assert said(record(family, CONFIG, CONFIG, scales={"maps": {(): half()}})) != []


def test_what_the_model_returns_is_not_scaled_though_weights_read_it() -> None:
    family = replace(TINY, outputs=("stream",))
    data = record(TINY, CONFIG, CONFIG, scales={"stream": {(): half()}})
    assert not any(v.startswith("stream: expected no scale") for v in said(data))
    data = record(family, CONFIG, CONFIG, scales={"stream": {(): half()}})
    assert "stream: expected no scale, as the model returns it, found the scale 1/2" in said(data)
