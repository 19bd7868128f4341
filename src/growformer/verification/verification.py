"""One verdict from several checks: constraints (block by block), outputs (both models run), gradients (what learns)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import RequestError, SourceError, VerificationError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import nn

    from growformer.planning.plan import Plan
    from growformer.verification.constraints import ConstraintsReport
    from growformer.verification.gradients import GradientsReport, Regions
    from growformer.verification.held import Shelf
    from growformer.verification.outputs import OutputsReport
    from growformer.verification.recorded import Recorded
    from growformer.verification.regions import Region

CHECKS = ("constraints", "outputs", "gradients")
Row = tuple[str, str, str, bool]


@dataclass(frozen=True, slots=True)
class Verification:
    """What the checks found; those that were not asked for are None."""

    constraints: ConstraintsReport | None = None
    outputs: OutputsReport | None = None
    gradients: GradientsReport | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in (self.constraints, self.outputs, self.gradients) if check is not None)

    @property
    def verdict(self) -> str:
        """One line."""
        failed = [name for name, what, result, ok in self.rows() if not ok]
        if failed:
            return f"NOT preserved: {', '.join(dict.fromkeys(failed))} failed"
        return "Preserved: " + ", ".join(dict.fromkeys(name for name, *_ in self.rows()))

    def rows(self) -> list[Row]:
        """Return one row per finding: check, what was compared, result, whether it passed."""
        rows: list[Row] = []
        if self.constraints is not None:
            report = self.constraints
            rows.append(("constraints", "blocks against the source", str(report), report.ok))
        if self.outputs is not None:
            for c in self.outputs.comparisons:
                what = f"{self.outputs.num_tokens} positions in {c.dtype}"
                result = (
                    f"error {c.grown_error:.2e}, the source's own {c.source_error:.2e}, ratio {c.ratio:.2f} "
                    f"(limit {c.limit:g})"
                )
                rows.append(("outputs", what, result, c.ok))
            if self.outputs.cache_equal is not None:
                same = "same tokens" if self.outputs.cache_equal else "different tokens"
                rows.append(("outputs", "greedy generation with a KV cache", same, self.outputs.cache_equal))
        if self.gradients is not None:
            g = self.gradients
            result = f"{len(g.regions) - len(g.dead)} of {len(g.regions)} new regions learn within {g.steps} steps"
            if g.dead:
                result += f"; dead: {', '.join(sorted({r.tensor for r in g.dead})[:4])}"
            rows.append(("gradients", "new parameters", result, g.ok))
        return rows

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"  {c}: {what}: {result}" for c, what, result, _ in self.rows())])

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            **{
                name: None if check is None else check.to_json()
                for name, check in zip(CHECKS, (self.constraints, self.outputs, self.gradients), strict=True)
            },
            "notes": list(self.notes),
        }

    def raise_if_failed(self) -> None:
        """Raise VerificationError with the findings unless every check passed."""
        if not self.ok:
            raise VerificationError(str(self))


def verify(
    source: Any,
    grown: Any,
    *,
    checks: Sequence[str] | None = None,
    plan: Plan | None = None,
    dtypes: Sequence[str] = ("float32",),
    inputs: Mapping[str, torch.Tensor] | None = None,
    prompt: str | None = None,
    seed: int = 0,
    length: int = 64,
    generate: int | None = None,
    frequencies: bool | None = None,
) -> Verification:
    """Check that a grown model computes what its source computes.

    Args:
        source: model folder, or live model.
        grown: likewise. A folder's growformer.json says how it was grown.
        checks: any of ``constraints``, ``outputs``, ``gradients``; by default the first two, of live models without a
            plan the second.
        plan: how a live model was grown; folders bring their own.
        dtypes: in which outputs are compared.
        inputs: what both models are run on; by default random tokens.
        prompt: a text to run both on, with the source folder's tokenizer.
        seed: of random tokens.
        length: how many random tokens per sequence.
        generate: how many tokens a decoder continues with a KV cache; by default 16.
        frequencies: compare with the source's rotary frequencies in the grown model; by default where head_dim has
            grown by other than a factor of two, whose float32 rounding is stated apart.

    Raises:
        RequestError: an unknown check or dtype.
        SourceError: a model cannot be read, or the record of the growth is missing.
    """
    if checks is None:
        checks = ("constraints", "outputs") if plan is not None or _is_folder(grown) else ("outputs",)
    for name in checks:
        if name not in CHECKS:
            raise RequestError(f"unknown check {name!r}: expected {', '.join(CHECKS)}{did_you_mean(name, CHECKS)}")
    made = plan
    if made is None and _is_folder(grown) and ("constraints" in checks or "gradients" in checks):
        from growformer.execute.provenance import load_provenance

        made = load_provenance(grown).plan
    if made is None and ("constraints" in checks or "gradients" in checks):
        raise SourceError("constraints and gradients of live models need plan=..., the plan that they were grown by")
    constraints = _constraints(source, grown, made) if made is not None and "constraints" in checks else None
    outputs, gradients, notes = None, None, []
    if "outputs" in checks or "gradients" in checks:
        models = [_load(m) for m in (source, grown)]
        run_on = dict(inputs) if inputs is not None else _inputs(source, models[0], prompt, seed, length)
        if "outputs" in checks:
            notes += _stored_dtypes(source, grown, dtypes)
            from growformer.verification.outputs import RATIO_LIMIT, compare_outputs

            for dtype in dtypes:
                if dtype not in RATIO_LIMIT:
                    raise RequestError(f"unknown dtype {dtype!r}: expected {', '.join(RATIO_LIMIT)}")
            rotated = _rotary_ratio(models)
            if frequencies is None:
                frequencies = rotated is not None and rotated not in (1, 2, 4, 8)
            if frequencies:
                notes.append(f"outputs are compared with the source's rotary frequencies: head_dim grew by {rotated:g}")
            count = generate if generate is not None else (16 if _generates(models) else 0)
            outputs = compare_outputs(models[0], models[1], run_on, dtypes, generate=count, frequencies=frequencies)
        if "gradients" in checks and made is not None:
            from growformer.verification.gradients import gradient_reach, steps_to_learn

            regions, steps = _live_regions(made, models[1]), steps_to_learn(made)
            gradients = gradient_reach(models[1], regions, run_on, steps=steps, seed=seed)
    return Verification(constraints, outputs, gradients, tuple(notes))


def _is_folder(model: Any) -> bool:
    return isinstance(model, (str, Path))


def _constraints(source: Any, grown: Any, plan: Plan) -> ConstraintsReport:
    from contextlib import ExitStack

    from growformer.execute.checkpoint import check_same_source
    from growformer.storage.folder import open_folder
    from growformer.verification.constraints import compare_checkpoints
    from growformer.verification.held import Shelf
    from growformer.verification.recorded import Recorded

    record = json.loads(plan.to_json())
    names = None
    with ExitStack() as stack:
        if _is_folder(source):
            folder = open_folder(source)
            check_same_source(plan, folder)
            read_stored = stack.enter_context(folder.reader())
        else:
            read_stored = source.state_dict().__getitem__
        if _is_folder(grown):
            target = open_folder(grown)
            record["target_config"] = target.config
            names = target.entries.keys()
            read_grown = stack.enter_context(target.reader())
        else:
            read_grown = grown.state_dict().__getitem__

        rec = Recorded.read(record)
        regenerate = None
        if plan.init.can_regenerate:
            regenerate = _regenerator(plan, rec, Shelf(read_stored), Shelf(read_grown))
        return compare_checkpoints(
            rec,
            read_stored,
            read_grown,
            target_names=names,
            regenerate=regenerate,
        )


def _regenerator(plan: Plan, rec: Recorded, source: Shelf, target: Shelf) -> Callable[[str, Region], torch.Tensor]:
    """Return what gives the initialisation's values of a free region: the tensor grown again from the seed."""
    import torch

    from growformer.execute.values import materialise
    from growformer.planning.rules import tensor_plan

    planned = {spec.name(index): (spec, index) for spec, index in plan.specs()}
    latest: dict[str, torch.Tensor] = {}

    def read(canonical: str) -> torch.Tensor:
        return source.tensor(rec.source_held(canonical))

    def regenerate(name: str, region: Region) -> torch.Tensor:
        if name not in latest:
            latest.clear()
            tensor = tensor_plan(plan, *planned[name])
            latest[name] = materialise(tensor, plan.init, read, target.tensor(rec.target_held(*planned[name])).dtype)
        found = latest[name]
        for dim, along in enumerate(region):
            if isinstance(along, slice):
                found = found.narrow(dim, along.start, along.stop - along.start)
            else:
                found = found.index_select(dim, torch.from_numpy(along))
        return found

    return regenerate


def _load(model: Any) -> nn.Module:
    if not _is_folder(model):
        return model  # type: ignore[no-any-return]
    import torch
    import transformers

    from growformer.storage.folder import open_folder

    folder = open_folder(model)
    heads = folder.config.get("architectures") or []
    model_class = getattr(transformers, heads[0], None) if heads else transformers.AutoModel
    if model_class is None:
        raise SourceError(f"{folder.path}: transformers has no class {heads[0]!r}; load the models and pass them")
    return model_class.from_pretrained(folder.path, dtype=torch.float32).eval()  # type: ignore[no-any-return]


def _inputs(source: Any, model: nn.Module, prompt: str | None, seed: int, length: int) -> dict[str, torch.Tensor]:
    import torch

    if prompt is not None:
        from transformers import AutoTokenizer

        if not _is_folder(source):
            raise RequestError("a prompt needs a model folder with a tokenizer; pass inputs=... for live models")
        encoded = dict(AutoTokenizer.from_pretrained(source)(prompt, return_tensors="pt"))
        if not encoded["input_ids"].numel():
            raise RequestError(f"the prompt {prompt!r} has no tokens; give a text, or none for random tokens")
        return encoded
    config = getattr(model, "config", None)
    vocabulary = int(getattr(config, "vocab_size", 256))
    longest = getattr(config, "max_position_embeddings", None) or length
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(0, vocabulary, (2, min(length, longest)), generator=generator)}


def _stored_dtypes(source: Any, grown: Any, dtypes: Sequence[str]) -> list[str]:
    """Say where the grown checkpoint was stored in fewer bits than it is compared in."""
    if not (_is_folder(source) and _is_folder(grown)):
        return []
    from growformer.storage.folder import open_folder

    stored = [{e.dtype for e in open_folder(m).entries.values() if "float" in e.dtype} for m in (source, grown)]
    rounded = sorted(stored[1] - stored[0])
    if not rounded or set(dtypes) <= stored[1]:
        return []
    return [
        f"the grown checkpoint is stored as {', '.join(rounded)}, the source is not: what is measured in "
        f"{', '.join(d for d in dtypes if d not in stored[1])} is that rounding; compare in {', '.join(rounded)}"
    ]


def _generates(models: Sequence[nn.Module]) -> bool:
    return all(getattr(m, "can_generate", lambda: False)() for m in models)


def _rotary_ratio(models: Sequence[nn.Module]) -> float | None:
    found = [next((b.numel() for n, b in m.named_buffers() if n.endswith("inv_freq")), None) for m in models]
    return found[1] / found[0] if found[0] and found[1] else None


def _live_regions(plan: Plan, model: nn.Module) -> dict[str, Regions]:
    """Return what is new in every parameter of a live model, which may store tensors otherwise than its source."""
    from growformer.architecture.source import stored_name
    from growformer.execute.provenance import new_regions
    from growformer.planning.rules import tensor_plan
    from growformer.verification.held import LiveNames, held_tensor, parts_of, ranges_inside

    architecture, names = plan.architecture, model.state_dict().keys()
    base = f"{architecture.prefix}."
    prefix = base if architecture.prefix and any(name.startswith(base) for name in names) else ""
    live = LiveNames(architecture, prefix, plan.source.spelling, tuple(architecture.packed))
    inside = {name: held for name, held in parts_of(live, plan.target_sizes) if held.stored in names}
    found: dict[str, Regions] = {}
    for spec, index in plan.specs():
        canonical = spec.name(index)
        held = inside.get(canonical) or held_tensor(live, spec, index)
        stored = held.stored if held.stored in names else stored_name(architecture, prefix, canonical)
        regions = [ranges_inside(region, held.piece) for region in new_regions(tensor_plan(plan, spec, index))]
        found.setdefault(stored, []).extend(regions)
    return found
