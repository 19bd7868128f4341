"""What every family must hold: one function per property, each returning its problems as text; none means it holds.

They are used by ``test_families.py`` and by ``scripts/conformance.py``. Built models, plans and grown models are kept
per case and growth, so that checks share them; nothing may change them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tests.families.case import Case
from tests.families.defaults import check_defaults
from tests.families.growths import Growth, growths_of, make_plan
from tests.families.long import check_long
from tests.families.spellings import check_spellings
from torch import nn

import growformer
from growformer.planning.plan import Plan
from growformer.verification.oracles import check_declaration
from growformer.verification.outputs import compare_outputs, convert, put_frequencies

Problems = list[str]
LARGEST = 1e-4
"""Largest difference of float32 outputs, relative to the largest output, whatever the source's own error is."""


@functools.lru_cache(maxsize=64)
def planned(case: Case, growth: Growth) -> Plan:
    """Return the plan of a growth; shared."""
    return make_plan(case, growth)


@functools.lru_cache(maxsize=16)
def grown(case: Case, growth: Growth) -> nn.Module:
    """Return the grown model; shared, not to be changed."""
    return growformer.grow(case.source(growth.eps), plan=planned(case, growth))


def moves_frequencies(plan: Plan) -> bool:
    """Tell whether rotary frequencies move by a float32 rounding: their number grew by other than a power of two."""
    for rotary in plan.architecture.rotary:
        before, after = (
            plan.architecture.size(rotary.frequency, s, {}) for s in (plan.source_sizes, plan.target_sizes)
        )
        if before != after:
            return True
    return False


def post_norm_eps(plan: Plan) -> float:
    """Return the constant epsilon that new post-norm layers are exact up to (the plan says so); 0: there are none."""
    if not any("eps / (2 variance)" in note for note in plan.notes):
        return 0.0
    return max((a.eps for a in plan.architecture.arrows.values() if isinstance(a.eps, float)), default=0.0)


def enough(case: Case, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return inputs with so many outputs that the ratio of two errors is more than chance."""
    one_each = re.search(
        r"For(Sequence|Image|Audio|Video)Classification|ForMultipleChoice|BertForPreTraining", case.model
    )
    return case.make_inputs(model.config, batch=24 if one_each else 2)


def check_oracles(case: Case) -> Problems:
    """The declaration agrees with the class: shapes, ties, memory order, who reads and writes what."""
    return check_declaration(case.architecture, case.oracle_config, case.make_model, case.oracle_inputs, **case.options)


def check_growths(case: Case) -> Problems:
    """Something grows; and no plan is made that the package's own check of plans then rejects."""
    growths = growths_of(case)
    problems = [] if "all" in growths.accepted else ["nothing grows"]
    for field, messages in (*growths.refused.items(), *growths.tried.items()):
        for request, message in messages.items():
            if message.startswith("this would change what the model computes"):
                why = " ".join(message.splitlines()[1:2]).strip()
                problems.append(f"{field}: a plan for {request} was made that its check rejects: {why}")
    return problems


def check_outputs(case: Case, growth: Growth, dtype: str = "float32") -> Problems:
    """The grown model's outputs are as close to the exact ones as the source's (MATHEMATICS 11)."""
    source = case.source(growth.eps, smooth=dtype != "float32")
    if dtype == "float32":
        plan, larger = planned(case, growth), grown(case, growth)
    else:
        source = convert(source, getattr(torch, dtype))
        plan = growformer.plan(source, init="noise", **growth.request)
        larger = growformer.grow(source, plan=plan)
    report = compare_outputs(source, larger, enough(case, source), [dtype], frequencies=moves_frequencies(plan))
    comparison = report.comparisons[0]
    problems = []
    if not report.ok and comparison.largest > post_norm_eps(plan):
        problems.append(
            f"{dtype}: error {comparison.grown_error:.1e}, the source's own {comparison.source_error:.1e}: "
            f"ratio {comparison.ratio:.2f}, limit {comparison.limit:g}"
        )
    if dtype == "float32" and not comparison.largest < LARGEST:
        problems.append(f"float32: the largest difference is {comparison.largest:.1e} of the largest output")
    return problems


def check_disturbed(case: Case, growth: Growth) -> Problems:
    """Negative control: with one matrix that the stream reads from disturbed, the outputs check fails."""
    source, plan = case.source(growth.eps), planned(case, growth)
    broken = copy.deepcopy(grown(case, growth))
    tensors = dict(broken.named_parameters())
    from growformer.planning.blocks import Constant

    # A new layer writes nothing: what it reads may be disturbed without a trace, as what no output comes from.
    old = [t for t in plan.tensors() if not plan.is_new(dict(t.index)) and len(t.shape) >= 2]
    old = [t for t in old if t.template not in case.unused]
    zeroed = [t for t in old if any(isinstance(b.value, Constant) and b.value.value == 0 for b in t.blocks)]
    others = [t for t in old if "embed" not in t.name]
    names = (n for t in (*zeroed, *others) for n in tensors if n.endswith(t.name))
    chosen = next(names, None) or next(n for n, p in tensors.items() if p.ndim >= 2 and "embed" not in n)
    with torch.no_grad():
        p = tensors[chosen]
        p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    report = compare_outputs(source, broken, enough(case, source), ["float32"], frequencies=moves_frequencies(plan))
    return [f"{chosen} disturbed by 0.1, and the outputs check passes"] if report.ok else []


def check_disk(case: Case, growth: Growth) -> Problems:
    """Grown on disk equals grown in memory, bit by bit, and stock classes load it without a word."""
    source = case.source(growth.eps)
    problems: Problems = []
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "source"), Path(folder, "grown")
        source.save_pretrained(before, max_shard_size="60KB")  # type: ignore[operator]
        growformer.grow_checkpoint(before, after, init="noise", max_shard_bytes=90_000, **growth.request)
        with said() as messages:
            loaded, info = case.load(after)
        if messages:  # what the source's own config calls for is not growth's
            with said() as usual:
                case.model_class.from_pretrained(before)
            problems += [f"loading says: {message}" for message in messages if message not in usual]
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[key]:
                problems.append(f"{key}: {sorted(map(str, info[key]))[:4]}")
        expected, found = grown(case, growth).state_dict(), loaded.state_dict()
        if set(found) != set(expected):
            problems.append(f"other tensors than in memory: {sorted(set(found) ^ set(expected))[:4]}")
        differing = [n for n in expected if n in found and not torch.equal(found[n], expected[n])]
        if differing:
            problems.append(f"{len(differing)} tensors differ from those grown in memory: {differing[:4]}")
        ignored = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
        configs = [_plain(m.config.to_dict(), ignored) for m in (grown(case, growth), loaded)]  # type: ignore[operator,union-attr]
        fields = [n for n in {**configs[0], **configs[1]} if configs[0].get(n) != configs[1].get(n)]
        if fields:
            problems.append(f"the config on disk differs: {fields}")
        for record in (None, "inferred"):
            result = growformer.verify(before, after, checks=["constraints"], record=record, strict=True)
            if record is not None and is_not_inferred(case, growth):
                if result.ok:
                    problems.append("what could not be inferred can be now: take it out of NOT_INFERRED")
                continue
            if not result.ok:
                problems.append(f"constraints, record {record or 'of growformer.json'}: {result}")
    return problems


NOT_INFERRED = {"albert": ("inner_group_num",)}
"""Model type -> sizes whose growth is not inferred from tensors: layers that are numbered inside of groups."""


def is_not_inferred(case: Case, growth: Growth) -> bool:
    """Tell whether a growth is one that must be recorded to be verified."""
    return all(name in growth.request for name in NOT_INFERRED.get(case.model_type, ("",)))


def check_dtypes(case: Case, growth: Growth) -> Problems:
    """In 16 bits too, constraints hold to the bit, with the plan and with a record that is inferred."""
    problems: Problems = []
    for dtype in ("bfloat16", "float16"):
        source = convert(case.source(growth.eps), getattr(torch, dtype))
        plan = growformer.plan(source, init="noise", **growth.request)
        larger = growformer.grow(source, plan=plan)
        for options in ({"plan": plan}, {"record": "inferred"}):
            if "record" in options and is_not_inferred(case, growth):
                continue
            result = growformer.verify(source, larger, checks=["constraints"], strict=True, **options)
            if not result.ok:
                problems.append(f"{dtype}, {next(iter(options))}: {result}")
    return problems


def _plain(value: Any, ignored: tuple[str, ...]) -> Any:
    """Return a config without the fields that saving and loading write, at any depth."""
    if isinstance(value, dict):
        return {k: _plain(v, ignored) for k, v in value.items() if k not in ignored}
    if isinstance(value, (list, tuple)):
        return [_plain(v, ignored) for v in value]
    return value


@contextlib.contextmanager
def said() -> Iterator[list[str]]:
    """Collect warnings, and what transformers logs as one."""
    import transformers

    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler, logger = Collect(logging.WARNING), logging.getLogger("transformers")
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
        found += [str(w.message) for w in caught]
    finally:
        logger.removeHandler(handler)
        transformers.logging.set_verbosity(level)


def check_gradients(case: Case, growth: Growth) -> Problems:
    """Every new value learns within two steps, no two new units stay equal, no new gradient is out of scale."""
    source = case.source(growth.eps, smooth=True)
    problems: Problems = []
    for new_layers in ("copy", "random") if "new_layers_at" in growth.request else ("copy",):
        plan = growformer.plan(source, **{**growth.request, "init": "normal", "new_layers": new_layers})
        larger = growformer.grow(source, plan=plan)
        for name, p in larger.named_parameters():
            if case.untrained and re.search(case.untrained, name):
                p.requires_grad_(False)  # what cannot learn is not looked at
        result = growformer.verify(
            source, larger, plan=plan, checks=["trainability"], inputs=covering(case, larger)
        ).trainability
        assert result is not None
        problems += [f"new_layers={new_layers}: {what}: {found}" for _, what, found, ok in result.rows() if not ok]
    return problems


def covering(case: Case, model: nn.Module) -> dict[str, torch.Tensor]:
    """Return inputs in which every token occurs, as far as they fit, so that no row is left out for want of input."""
    inputs = case.make_inputs(model.config)
    vocabulary = getattr(model.config, "vocab_size", None)
    if case.inputs == "tokens" and isinstance(vocabulary, int):
        shape = inputs["input_ids"].shape
        ids = torch.arange(shape.numel()) % (vocabulary - 2) + 2
        inputs["input_ids"] = ids.reshape(shape)
    return inputs


def check_generation(case: Case, growth: Growth) -> Problems:
    """Greedy generation with a KV cache gives the same tokens."""
    if not case.continues:
        return []
    source, plan = case.source(growth.eps), planned(case, growth)
    larger = grown(case, growth)
    if moves_frequencies(plan):
        larger = copy.deepcopy(larger)
        put_frequencies(source, larger)
    inputs = case.make_inputs(source.config, length=9, batch=1)
    inputs = {n: t for n, t in inputs.items() if not n.startswith("decoder_")}
    if "input_ids" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    settings = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    expected, found = (m.generate(**inputs, **settings) for m in (source, larger))  # type: ignore[operator]
    if torch.equal(expected, found):
        return []
    same = int((expected == found).long().cumprod(-1).sum())
    return [f"generation differs after {same} of {expected.shape[-1]} tokens"]


def check_twice(case: Case, growth: Growth) -> Problems:
    """A model that was grown grows again: the first growth is another, after which this one can still be asked for."""
    source = case.source(growth.eps)
    others = [g for g in growths_of(case).accepted.values() if g is not growth]
    refused: Problems = []
    for first in others or [growth]:
        eps = min(first.eps, growth.eps)
        source = case.source(eps)
        once = grown(case, first) if first.eps == eps else growformer.grow(source, init="noise", **first.request)
        try:
            plan = growformer.plan(once, init="noise", **growth.request)
            break
        except growformer.RequestError as error:
            refused.append(f"after {first.request}: {error}")
    else:
        return refused
    twice = growformer.grow(once, plan=plan)
    moved = moves_frequencies(plan) or moves_frequencies(planned(case, first))
    report = compare_outputs(source, twice, enough(case, source), ["float32"], frequencies=moved)
    allowed = max(post_norm_eps(plan), post_norm_eps(planned(case, first)))
    fits = report.ok or report.comparisons[0].largest <= allowed
    return [] if fits else [f"after {first.request}: {report.comparisons[0]}"]


Check = Callable[[Case, Growth], Problems]
PER_GROWTH: dict[str, Check] = {
    "outputs": check_outputs,
    "bfloat16": functools.partial(check_outputs, dtype="bfloat16"),
    "disk": check_disk,
    "dtypes": check_dtypes,
    "gradients": check_gradients,
    "generation": check_generation,
    "twice": check_twice,
    "control": check_disturbed,
}
"""Checks of one growth, by name."""
DECLARED: dict[str, Callable[[Case], Problems]] = {"oracles": check_oracles, "defaults": check_defaults}
"""Checks of a case's declaration, by name."""
PER_CASE: dict[str, Check] = {"spellings": check_spellings, "long": check_long}
"""Checks of one growth of each case, ``all``, by name."""
FAST = ("outputs", "disk", "control")
"""Those that the quick run makes, of the growth ``all``."""
