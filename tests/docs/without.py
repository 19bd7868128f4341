"""The code without a theorem: each page of docs/proofs/, what is taken out, and the test that must then fail.

As a pytest plugin (``-p tests.docs.without``) this file takes out what ``GROWFORMER_WITHOUT`` names, before any test is
imported. It also lets the package's own check look at every plan that is made, notes in ``GROWFORMER_NOTICED`` whether
it saw anything, and then does not let it refuse: a test has to fail by what it measures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

NAME, NOTICED = "GROWFORMER_WITHOUT", "GROWFORMER_NOTICED"


@dataclass(frozen=True, kw_only=True)
class Without:
    """One theorem, no longer applied.

    Attributes:
        page: of docs/proofs.
        what: is taken out, in a few words.
        test: must pass with the code as it is, and fail without that.
        take_out: replaces what applies it.
        noticed: whether the check of plans, which knows nothing of the planner, sees it too.
        refused: whether the planner then refuses what it should do, so that there is nothing to measure.
    """

    page: str
    what: str
    test: str
    take_out: Callable[[], None]
    noticed: bool = True
    refused: bool = False


THEOREM = "tests/theorems/test_numeric.py::test_preserves"
STATES = "tests/integration/test_preserved.py::test_hidden_states_of_every_source_layer"
FAMILY = "tests/families/test_families.py::test_model_type_is_verified"


# What can be taken out.


def free(names: str) -> Callable[[], None]:
    """Fill the blocks that must be zero, in the tensors of these names."""

    def take_out() -> None:
        from growformer.planning import rules
        from growformer.planning.blocks import Constant, Fill

        original = rules._value

        def value(name: str, source: str, segments: Any, *others: Any) -> Any:
            found = original(name, source, segments, *others)
            if isinstance(found, Constant) and re.search(names, name):
                return Fill(name, tuple(s.target for s in segments), "weight")
            return found

        rules._value = value

    return take_out


def everything_is_local(names: str = "") -> Callable[[], None]:
    """Treat what a new layer or head writes to others as its own business."""

    def take_out() -> None:
        from growformer.planning import rules

        original = rules._is_local
        rules._is_local = lambda plan, spec, index: bool(re.search(names, spec.template)) or original(plan, spec, index)

    return take_out


def scores_are_not_compensated() -> None:
    """Leave keys unscaled."""
    from growformer.planning import scales

    scales._scale_keys = lambda sizes, found: None


def gains_stay() -> None:
    """Copy the gains of norms."""
    from growformer.architecture.exact import ONE
    from growformer.planning import rules

    original = rules.gain
    rules.gain = lambda source, region, factor, offset, slope=ONE: original(source, region, ONE, offset, slope)


def epsilon_stays() -> None:
    """Write the source's epsilon into the target's config."""
    from growformer.planning import planner

    original = planner.finish_config
    planner.finish_config = lambda architecture, source, sizes, target, rho: original(
        architecture, source, sizes, target, {}
    )


def constants_are_taken_for_fields() -> None:
    """Use the gain form where the epsilon is a constant of the class."""
    from growformer.planning import scales

    scales._epsilon_factors = lambda sizes, norms, shrink: {name: shrink[name]({}) for name in norms}


def zeros_for_means() -> None:
    """Write zero in front of a LayerNorm, as in front of an RMSNorm."""
    from growformer.planning import rules
    from growformer.planning.blocks import Constant, Mean

    original = rules._value

    def value(*arguments: Any) -> Any:
        found = original(*arguments)
        return Constant(0.0) if isinstance(found, Mean) else found

    rules._value = value


def base_stays() -> None:
    """Leave the rotary base as it is."""
    from growformer.planning import rotary

    rotary._grown = lambda theta, ratio: theta


def new_coordinates_first() -> None:
    """Put new coordinates in front of the source's: harmless anywhere but where an angle belongs to an index."""
    from growformer.planning.axis_map import NEW, AxisMap

    def first(source_size: int, target_size: int) -> AxisMap:
        runs = [(NEW, target_size - source_size), (0, source_size)]
        return AxisMap(source_size, tuple(run for run in runs if run[1]))

    AxisMap.append = staticmethod(first)


def shares_are_quotients() -> None:
    """Write the rotated share as the quotient that it is, whatever the class makes of it."""
    from growformer.planning import resolve

    resolve.share_of = lambda rotated, size: rotated / size


def parts_are_whole() -> None:
    """Repeat the coordinates that should be split."""
    from growformer.planning import rules

    original = rules._split
    rules._split = lambda source, target: (original(source, target)[0], [Fraction(1)] * target)


def affine_stays() -> None:
    """Treat a new post-norm layer as a pre-norm one."""
    from growformer.planning import rules

    rules._post_norm = lambda *arguments: None


def copies_do_not_share() -> None:
    """Give every copy of a coordinate's reader the whole weight."""
    from growformer.planning.axis_map import AxisMap

    AxisMap.copies = property(lambda self: 1)


def heads_are_appended() -> None:
    """Put new heads behind the source's, whatever their slopes."""
    from growformer.planning import planner
    from growformer.planning.axis_map import AxisMap

    planner.place_heads = lambda alibi, sizes, source, target: AxisMap.append(source, target)


def latent_norms_are_not_compensated() -> None:
    """Forget that a mean square shrinks where the epsilon is a constant."""
    from growformer.planning import scales

    original = scales._shrink
    scales._shrink = lambda sizes, new, arrow: (
        original(sizes, new, arrow) if isinstance(arrow.eps, str) else lambda index: Fraction(1)
    )


def kinds_do_not_settle() -> None:
    """Leave the fields by which a class says which layers have experts."""
    from growformer.planning import resolve

    resolve.settle_kinds = lambda *arguments: []


def groups_of_heads() -> None:
    """Declare query heads the other way round: new ones then come after all others."""
    from growformer.architecture.families import parts

    original = parts.attention

    def attention(head: str = parts.HALVES, **options: Any) -> Any:
        from growformer.architecture.declaration import linear

        found = original(head, **options)
        at = f"{parts.LAYER}.self_attn"
        bias = options.get("bias", False)
        found[f"{at}.q_proj"] = linear(f"normed -> q:(group kv_heads {head})", bias=bias)
        found[f"{at}.o_proj"] = linear("attended:(group kv_heads value) -> stream", bias=options.get("out", False))
        return found

    parts.attention = attention


def ties_are_not_scaled() -> None:
    """Forget that a tied head reads with the table that was scaled or repeated."""
    from growformer.planning import scales

    scales._scale_tied = lambda sizes, new, found: None


def factors_do_not_grow() -> None:
    """Forget that a class multiplies by a function of a size."""
    from growformer.architecture.exact import ONE
    from growformer.planning import scales

    scales._growth_of_factor = lambda sizes, add: ONE


def noise_does_not_cancel() -> None:
    """Draw the noise on each copy by itself."""
    from growformer.planning.initialisation import COPY_NOISE, Initialisation, standard_normal

    Initialisation.cancelling = lambda self, noise: (
        standard_normal(self.seed, f"{noise.tensor}#{noise.copy}", noise.coordinates).astype("float64")
        * (COPY_NOISE * self.std)
    )


def weights_are_rounded_twice() -> None:
    """Multiply in the dtype of the weights, by a factor that was rounded to it."""
    import torch

    from growformer.execute import values

    original = values._affine

    def affine(value: Any, read: Any, dtype: Any) -> Any:
        if value.is_copy or value.shift:
            return original(value, read, dtype)
        selected = values.select(read(value.tensor), value.region)
        return (selected * torch.tensor(float(value.scale), dtype=selected.dtype)).to(dtype)

    values._affine = affine


def any_ratio_will_do() -> None:
    """Compare outputs, and set no limit."""
    from growformer.verification import outputs

    for dtype in outputs.RATIO_LIMIT:
        outputs.RATIO_LIMIT[dtype] = float("inf")


def moments_stay() -> None:
    """Copy the moments of rescaled weights."""
    from growformer.architecture.exact import ONE
    from growformer.execute import slots

    slots._power = lambda root, power: ONE


def zero_on_both_sides() -> None:
    """Fill free weights with zero as well."""
    from growformer.planning.initialisation import Initialisation

    Initialisation.pointwise = lambda self, fill: 0.0


ENTRIES: dict[str, Without] = {
    "never-both": Without(
        page="README.md", what="free weights are zero as well", noticed=False, take_out=zero_on_both_sides,
        test="tests/theorems/test_gradients.py::test_every_new_entry_has_a_gradient_within_two_steps[3.1-random-SGD]",
    ),
    "mlp": Without(
        page="mlp-expansion.md", what="new rows of W2 are not zero", test=f"{THEOREM}[3.1-paper]",
        take_out=free(r"mlp\.down\.weight"),
    ),
    "heads": Without(
        page="head-addition.md", what="W_O of new heads is not zero", test=f"{THEOREM}[3.2-paper]",
        take_out=everything_is_local(r"heads\.\{head\}\.output"),
    ),
    "values": Without(
        page="heads-expansion.md", what="new rows of W_O are not zero", test=f"{THEOREM}[3.3-paper]",
        take_out=free(r"heads\.\d+\.output"),
    ),
    "key-scale": Without(
        page="attention-expansion.md", what="keys are not scaled", test=f"{THEOREM}[3.4-paper]",
        take_out=scores_are_not_compensated,
    ),
    "key-zero": Without(
        page="attention-expansion.md", what="new columns of W_K are not zero", test=f"{THEOREM}[3.4-paper]",
        take_out=free(r"heads\.\d+\.key"),
    ),
    "gains": Without(
        page="hidden-dimension-expansion.md", what="gains are not scaled", test=f"{THEOREM}[3.5-no epsilon]",
        take_out=gains_stay,
    ),
    "stream-zero": Without(
        page="hidden-dimension-expansion.md", what="what writes the stream is not zero", test=f"{THEOREM}[3.5-paper]",
        take_out=free(r"embedding|positions|output|down"),
    ),
    "layers": Without(
        page="layer-addition.md", what="the last tensor before the stream is not zero", test=f"{THEOREM}[3.6-paper]",
        take_out=everything_is_local(),
    ),
    "epsilon": Without(
        page="epsilon.md", what="the epsilon stays", test=f"{THEOREM}[3.5-paper]", take_out=epsilon_stays,
    ),
    "constant-epsilon": Without(
        page="epsilon.md", what="the gain form is used for a constant epsilon", test=f"{FAMILY}[opt]",
        take_out=constants_are_taken_for_fields,
    ),
    "mean": Without(
        page="layer-norm.md", what="zeros stand for means", test=f"{STATES}[gpt2-1]", take_out=zeros_for_means,
    ),
    "base": Without(page="rotary.md", what="the base stays", test=f"{STATES}[llama-2]", take_out=base_stays),
    "frequencies": Without(
        page="rotary.md", what="new frequencies come first", test=f"{STATES}[llama-2]", take_out=new_coordinates_first,
    ),
    "share": Without(
        page="rotary.md", what="the share is a quotient that rounds down by one", take_out=shares_are_quotients,
        test="tests/integration/test_partial_rotary.py::test_a_share_that_rounds_down_by_one_is_not_written",
        noticed=False, refused=True,
    ),
    "split": Without(
        page="query-key-norms.md", what="coordinates are repeated whole", test=f"{FAMILY}[qwen3]",
        take_out=parts_are_whole,
    ),
    "affine": Without(
        page="post-norm.md", what="norms keep their affine", test=f"{STATES}[bert-3]", take_out=affine_stays,
    ),
    "shares": Without(
        page="post-norm.md", what="copies do not share the weight of their readers", test=f"{STATES}[bert-1]",
        take_out=copies_do_not_share,
    ),
    "slopes": Without(
        page="alibi.md", what="heads are appended", test=f"{FAMILY}[bloom]", take_out=heads_are_appended,
    ),
    "latent": Without(
        page="latent-attention.md", what="latent norms are not made up for", test=f"{FAMILY}[youtu]",
        take_out=latent_norms_are_not_compensated,
    ),
    "latent-keys": Without(
        page="latent-attention.md", what="keys are not scaled", test=f"{FAMILY}[youtu]",
        take_out=scores_are_not_compensated,
    ),
    "experts": Without(
        page="experts.md", what="new columns of down_proj are not zero", test=f"{FAMILY}[mixtral]",
        take_out=free(r"experts\.\d+\.down_proj"),
    ),
    "kinds": Without(
        page="experts.md", what="fields that place experts stay", test=f"{FAMILY}[qwen3_moe]",
        take_out=kinds_do_not_settle, noticed=False, refused=True,
    ),
    "groups": Without(
        page="grouped-queries.md", what="new query heads come after all others", test=f"{STATES}[llama-1]",
        take_out=groups_of_heads, noticed=False,
    ),
    "ties": Without(
        page="ties-and-constants.md", what="a tied head is not scaled",
        test="tests/integration/test_traps.py::test_a_head_tied_in_memory_although_the_config_says_untied",
        take_out=ties_are_not_scaled,
    ),
    "embedding-factor": Without(
        page="ties-and-constants.md", what="the root of the size is taken for a constant", test=f"{FAMILY}[gemma]",
        take_out=factors_do_not_grow,
    ),
    "noise": Without(
        page="alternatives-to-zero.md", what="noise does not cancel", test=f"{STATES}[bert-1]",
        take_out=noise_does_not_cancel, noticed=False,
    ),
    "once": Without(
        page="finite-precision.md", what="factors and products are both rounded", noticed=False,
        test="tests/execution/test_fill.py::test_disk_and_memory_agree_bit_by_bit[plain-normal]",
        take_out=weights_are_rounded_twice,
    ),
    "ratio": Without(
        page="finite-precision.md", what="the ratio has no limit", noticed=False,
        test="tests/integration/test_traps.py::test_the_outputs_check_sees_another_head", take_out=any_ratio_will_do,
    ),
    "moments": Without(
        page="optimizer-moments.md", what="moments are copied", noticed=False,
        test="tests/training/test_continuation.py::test_slots_hold_powers_of_the_slope", take_out=moments_stay,
    ),
}  # fmt: skip
"""By name."""


# The plugin.


def pytest_configure() -> None:
    name = os.environ.get(NAME)
    if not name:
        return
    ENTRIES[name].take_out()
    let_the_check_only_look(Path(os.environ[NOTICED]))


def let_the_check_only_look(into: Path) -> None:
    """Write what the check of plans says of every plan that is made, and refuse none."""
    from growformer import api
    from growformer.planning import planner
    from growformer.verification.plan_check import check

    original = planner.plan_resolved

    def plan_resolved(*arguments: Any, **options: Any) -> Any:
        plan = original(*arguments, **options)
        found = [] if into.exists() else check(plan)
        if found:
            into.write_text("\n".join(map(str, found)), encoding="utf-8")
        return plan

    planner.plan_resolved = plan_resolved
    api._violations = lambda made: ""
