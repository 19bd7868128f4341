"""Every registered model type does what is promised: the quick checks for all, and the full sweep behind a marker.

python3 scripts/test.py tests/families                # quick
python3 scripts/test.py tests/families -m families    # everything
"""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from tests.families import checks
from tests.families.case import all_cases, declaration_key, declarations
from tests.families.growths import growths_of
from tests.families.mutations import INVISIBLE, a_few, mutations_of, unseen

import growformer
from growformer.architecture.arrows import Arrow
from growformer.architecture.registry import architectures

MODEL_TYPES = sorted({model_type for a in architectures().values() for model_type in a.model_types})
CASES = {str(case): case for case in all_cases()}
MAIN = {case.model_type: case for case in reversed(all_cases())}
"""The first case of each model type."""
DECLARATIONS = declarations()
MISTAKES = 4
"""How many wrong versions of a declaration the quick run tries, each of another kind."""


# Every model type and declaration is tried


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_model_type_is_verified(model_type: str) -> None:
    """Its own class is built, grown in all its sizes, compared in float32, and grown on disk to the same.

    Its config's defaults are the declared ones.
    """
    if model_type not in MAIN:
        pytest.fail(f"{model_type} has no case in tests/families/cases")
    case = MAIN[model_type]
    assert type(case.source()).__name__ in own_classes(model_type)
    growth = growths_of(case).accepted["all"]
    assert checks.check_defaults(case) == []
    assert checks.check_growths(case) == []
    assert checks.check_outputs(case, growth) == []
    assert checks.check_disk(case, growth) == []


def own_classes(model_type: str) -> set[str]:
    """Return the classes that take the model type's own config, or that transformers builds for it automatically."""
    from transformers.models.auto import modeling_auto

    found: set[str] = set()
    for name, mapping in vars(modeling_auto).items():
        if name.endswith("_MAPPING_NAMES"):
            classes = dict(mapping).get(model_type, ())
            found |= {classes} if isinstance(classes, str) else set(classes)
    config = type(transformers.AutoConfig.for_model(model_type))
    case = MAIN[model_type]
    return found | ({type(case.source()).__name__} if type(case.source()).config_class is config else set())


def test_every_case_is_of_a_registered_model_type() -> None:
    assert {case.model_type for case in all_cases()} == set(MODEL_TYPES)


def test_every_declaration_has_a_case() -> None:
    covered = {declaration_key(case.architecture) for case in all_cases()}
    assert [name for name, a in architectures().items() if declaration_key(a) not in covered] == []


def test_every_arrow_is_in_a_case() -> None:
    """A declaration that takes over an arrow from another one, unchanged, need not show it again.

    An optional head (of classification, say) need not be shown by every declaration that has one of its name.
    """
    seen = {(name, case.architecture.arrows[name]) for case in all_cases() for name in case.arrows}
    names_seen = {name for name, _ in seen}

    def is_shown(name: str, arrow: Arrow) -> bool:
        if arrow.kind == "carried" or not arrow.gain:  # tensors of the source alone; norms without any tensor
            return True
        return name in names_seen if arrow.optional else (name, arrow) in seen

    left = {
        declared: [n for n, arrow in a.arrows.items() if not is_shown(n, arrow)]
        for declared, a in architectures().items()
    }
    assert {declared: names for declared, names in left.items() if names} == {}


# Every distinct declaration


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_declaration_holds(declaration: str) -> None:
    assert checks.check_oracles(DECLARATIONS[declaration][0]) == []


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_a_disturbed_block_is_noticed(declaration: str) -> None:
    case = DECLARATIONS[declaration][0]
    assert checks.check_disturbed(case, growths_of(case).accepted["all"]) == []


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_mistakes_are_seen(declaration: str) -> None:
    cases = DECLARATIONS[declaration]
    assert unseen(cases, a_few(cases, MISTAKES)) == []


def test_mistakes_are_of_every_kind() -> None:
    kinds = {m.kind for cases in DECLARATIONS.values() for m in mutations_of(cases[:1])}
    assert kinds == {
        "order", "space", "axis", "norm", "bias", "kind", "missing", "size", "attention", "adds", "rotary", "tie",
    }  # fmt: skip
    assert set(INVISIBLE) == {"scale"}


# Everything


@pytest.mark.families
@pytest.mark.parametrize("check", checks.DECLARED)
@pytest.mark.parametrize("name", CASES)
def test_every_declaration(name: str, check: str) -> None:
    assert checks.DECLARED[check](CASES[name]) == []


@pytest.mark.families
@pytest.mark.parametrize("name", CASES)
def test_no_plan_is_rejected(name: str) -> None:
    assert checks.check_growths(CASES[name]) == []


@pytest.mark.families
@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_all_mistakes_are_seen(declaration: str) -> None:
    cases = DECLARATIONS[declaration]
    assert unseen(cases, mutations_of(cases)) == []


@pytest.mark.families
@pytest.mark.parametrize("check", checks.PER_GROWTH)
@pytest.mark.parametrize("name", CASES)
def test_every_growth(name: str, check: str) -> None:
    case = CASES[name]
    growths = growths_of(case).accepted
    assert "all" in growths
    found = {g: checks.PER_GROWTH[check](case, growth) for g, growth in growths.items()}
    assert {g: problems for g, problems in found.items() if problems} == {}


@pytest.mark.families
@pytest.mark.parametrize("check", checks.PER_CASE)
@pytest.mark.parametrize("name", CASES)
def test_every_case(name: str, check: str) -> None:
    case = CASES[name]
    assert checks.PER_CASE[check](case, growths_of(case).accepted["all"]) == []


# The checks can fail


LLAMA = CASES["llama-LlamaForCausalLM"]


def disturb(model: torch.nn.Module, name: str) -> None:
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[-1] += 0.1


def test_the_disk_check_compares_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    growth = growths_of(LLAMA).accepted["intermediate_size"]
    wrong = copy.deepcopy(checks.grown(LLAMA, growth))
    disturb(wrong, "model.layers.1.mlp.up_proj.weight")
    monkeypatch.setattr(checks, "grown", lambda case, growth: wrong)
    assert checks.check_disk(LLAMA, growth) == [
        "1 tensors differ from those grown in memory: ['model.layers.1.mlp.up_proj.weight']"
    ]


def test_the_spellings_check_compares_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    growth = growths_of(LLAMA).accepted["intermediate_size"]
    wrong = copy.deepcopy(checks.grown(LLAMA, growth))
    disturb(wrong, "model.norm.weight")
    monkeypatch.setattr(checks, "grown", lambda case, growth: wrong)
    assert checks.PER_CASE["spellings"](LLAMA, growth) == ["config of transformers 4: ['model.norm.weight'] differ"]


def test_the_generation_and_output_checks_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    growth = growths_of(LLAMA).accepted["intermediate_size"]
    wrong = copy.deepcopy(checks.grown(LLAMA, growth))
    with torch.no_grad():
        wrong.get_parameter("lm_head.weight").mul_(-1)
    monkeypatch.setattr(checks, "grown", lambda case, growth: wrong)
    for check in (checks.check_generation, checks.check_outputs):
        assert check(LLAMA, growth) != []


def test_the_long_check_sees_another_rotary_base(monkeypatch: pytest.MonkeyPatch) -> None:
    growth = growths_of(LLAMA).accepted["head_dim"]
    grow = growformer.grow

    def wrong(model: torch.nn.Module, **options: object) -> torch.nn.Module:
        grown = grow(model, **options)  # type: ignore[arg-type]
        grown.get_buffer("model.rotary_emb.inv_freq").mul_(1.001)
        return grown

    monkeypatch.setattr(growformer, "grow", wrong)
    problems = checks.PER_CASE["long"](LLAMA, growth)
    assert any("more than float32 rounds: another base" in problem for problem in problems)
