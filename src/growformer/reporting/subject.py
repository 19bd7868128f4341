"""What a report is about: a growth as it is recorded, and what two checkpoints cost."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.architecture.source import SourceInfo, TensorInfo
from growformer.reporting.blocks import Variant, all_variants
from growformer.sizing.cache import count_cache
from growformer.sizing.flops import Flops, count_flops
from growformer.verification.recorded import Recorded

if TYPE_CHECKING:
    from growformer.planning.plan import Plan

_OPTIONS = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "num_hidden_layers",
)  # fmt: skip
_HOLDS = {
    "float64": ("float64", "float32", "float16", "bfloat16"), "float32": ("float32", "float16", "bfloat16"),
}  # fmt: skip
"""Dtype -> those whose every value it holds; any other holds its own."""
_ROTARY = "keeps the angle of every source frequency"


def model_name(location: str) -> str:
    """Return what a model is called in a headline: a folder by its last part, a hub id as a whole."""
    path = Path(location)
    is_hub = len(path.parts) == 2 and not path.is_absolute() and not location.startswith(".") and not path.exists()
    return location if is_hub else path.resolve().name if path.name in ("", "..", ".") else path.name


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one of the two models has and costs.

    Attributes:
        parameters: tied ones count once.
        weight_bytes: of all tensors on disk.
        flops: per token in a forward pass; None where the declaration does not say.
        cached: numbers that a cache keeps per token; None where there is no cache.
        dtypes: of its tensors, by how many bytes each has.
    """

    parameters: int
    weight_bytes: int
    flops: Flops | None
    cached: int | None
    dtypes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A growth to be shown.

    Attributes:
        rec: the record.
        source, grown: where the two are; nothing where it is not known.
        names: what they are called.
        basis: how it is known what became of what: ``plan``, ``growformer.json``, ``inferred``.
        plan: the plan as plain data; empty where there is none.
        dtype: of the result, where it changes.
        facts: where the two come from, in rows of a table.
        num_bytes: of both checkpoints' tensors as they lie on disk, where they do.
        is_trainer: whether the grown checkpoint has a training state.
    """

    rec: Recorded
    source: str
    grown: str
    names: tuple[str, str]
    basis: str
    plan: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    facts: tuple[tuple[str, str], ...] = ()
    num_bytes: tuple[int | None, int | None] = (None, None)
    is_trainer: bool = False

    @staticmethod
    def of_plan(plan: Plan, *, source: str | None = None, grown: str = "", dtype: str | None = None) -> Subject:
        """Return what a plan would do."""
        data = json.loads(plan.to_json())
        where = source or plan.source.location or str(plan.source.config.get("model_type", plan.architecture.name))
        facts = (("source", where), ("digest of the source's config and headers", plan.source.digest))
        return Subject(
            rec=Recorded.read(data),
            source=where,
            grown=grown,
            names=(model_name(where), model_name(grown) if grown else ""),
            basis="plan",
            plan=data,
            dtype=dtype,
            facts=facts,
        )

    @cached_property
    def variants(self) -> dict[str, list[Variant]]:
        """Template -> its makings."""
        return all_variants(self.rec)

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """Costs before and after."""
        from growformer.storage.header import DTYPES

        width = dict(DTYPES.values())
        rec = self.rec
        info = SourceInfo(
            config=dict(rec.source_config),
            tensors={n: TensorInfo(t.stored, t.shape, t.dtype) for n, t in rec.tensors.items()},
            templates=rec.present,
            tied=rec.tied,
        )
        before: dict[str, int] = {}
        for tensor in rec.tensors.values():
            before[tensor.dtype] = before.get(tensor.dtype, 0) + prod(tensor.shape)
        after: dict[str, int] = {}
        fallback = max(before, key=lambda name: before[name], default="float32")
        for variant in (v for made in self.variants.values() for v in made):
            dtype = self.dtype or variant.dtype or fallback
            after[dtype] = after.get(dtype, 0) + variant.size * len(variant.instances)
        sides = []
        for counts, config, known in zip(
            (before, after), (rec.source_config, rec.target_config), self.num_bytes, strict=True
        ):
            sides.append(
                Side(
                    parameters=sum(counts.values()),
                    weight_bytes=known if known is not None else sum(n * width[d] for d, n in counts.items()),
                    flops=count_flops(rec.architecture, info, config),
                    cached=count_cache(rec.architecture, info, config),
                    dtypes=tuple(sorted(counts, key=lambda d: -counts[d])),
                )
            )
        return sides[0], sides[1]

    @property
    def rounded_to(self) -> str | None:
        """The dtype of the result, where it cannot hold every value of the source; None where it can."""
        if self.dtype is None:
            return None
        held = _HOLDS.get(self.dtype, (self.dtype,))
        return None if all(d in held for d in self.sides[0].dtypes if "float" in d) else self.dtype

    @cached_property
    def entries(self) -> dict[str, int]:
        """Kind of block -> values in the whole target."""
        found: dict[str, int] = {}
        for variant in (v for made in self.variants.values() for v in made):
            for kind, number in variant.entries.items():
                found[kind] = found.get(kind, 0) + number * len(variant.instances)
        return found

    @property
    def depth(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Axis of layers -> per target layer the source layer (-1: new), and the one that it comes from or copies."""
        rec = self.rec
        found = {}
        for axis in rec.index_axes:
            if not rec.size_indices[axis] and () in rec.maps[axis]:
                origin = tuple(rec.maps[axis][()].source.tolist())
                found[axis] = (origin, tuple(rec.templates.get(axis, {}).get((), origin)))
        return found

    @cached_property
    def changes(self) -> list[tuple[str, Any, Any, str]]:
        """Config fields that differ: name, before, after, why."""
        rec = self.rec
        sizes, requested = rec.architecture.size_fields(), self.plan.get("requested") or ()
        names = dict.fromkeys([*sizes, *rec.written])
        bases = {n for r in rec.architecture.rotary for n in (r.parameters, r.legacy_theta, *r.legacy.values())}
        spelled_twice = set()
        if any(r.parameters in rec.written for r in rec.architecture.rotary):
            spelled_twice = {n for n in ("rope_scaling", *bases) if rec.source_config.get(n) is None}
        found = []
        for name in names:
            before, after = rec.source_config.get(name), rec.target_config.get(name)
            if before == after or name in rec.architecture.inferred or name in spelled_twice:
                continue
            if isinstance(before, Mapping) and isinstance(after, Mapping):
                found += [
                    (f"{name}.{key}", before.get(key), after[key], _ROTARY)
                    for key in after
                    if before.get(key) != after[key] and not isinstance(after[key], Mapping)
                ]
                continue
            if name in rec.epsilon_factors:
                why = f"× {rec.epsilon_factors[name]}, so that every norm stays exact over more coordinates"
            elif name in requested:
                why = "asked for"
            elif name in sizes:
                why = "follows from the other sizes" if requested else "a size"
            elif name in bases:
                why = _ROTARY
            elif name in rec.architecture.layer_lists:
                why = "every source layer keeps its own entry"
            else:
                why = "follows"
            found.append((name, before, after, why))
        return found

    def command(self, out: str) -> str | None:
        """Return the command that would grow the same again; None where no plan is recorded, or none can say it."""
        if not self.plan or not isinstance(self.plan.get("init"), Mapping):
            return None
        words = ["growformer", "grow", self.source, out]
        rec = self.rec
        for name in self.plan.get("requested", ()):
            value = rec.target_config.get(name)
            if name in _OPTIONS:
                words += [f"--{name.replace('_', '-')}", str(value)]
            else:
                words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        layers = [at for axis, at in self.depth.items() if -1 in at[0]]
        if len(layers) == 1:
            origin, copied = layers[0]
            new = [i for i, at in enumerate(origin) if at < 0]
            words += ["--new-layers-at", ",".join(map(str, new))]
            if all(copied[i] < 0 for i in new):
                words += ["--new-layers", "random"]
        init = self.plan["init"]
        if init.get("name") not in ("normal", "copy", "orthogonal"):
            return None
        if init["name"] != "normal":
            words += ["--init", init["name"]]
        if init.get("seed"):
            words += ["--seed", str(init["seed"])]
        if self.dtype:
            words += ["--dtype", self.dtype]
        return shlex.join(words)


__all__ = ["Side", "Subject", "model_name"]
