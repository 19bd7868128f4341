"""One entry of a grown tiny model is disturbed: which check sees it? Shared by a test and by scripts/detection.py."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import transformers
from tests.families.case import randomise
from torch import nn

import growformer
from growformer.architecture.registry import for_config
from growformer.planning.plan import Plan
from growformer.verification.constraints import ConstraintsReport, compare_checkpoints
from growformer.verification.held import take
from growformer.verification.outputs import compare_outputs
from growformer.verification.parts import describe
from growformer.verification.recorded import Recorded
from growformer.verification.regenerate import from_live
from growformer.verification.regions import count, spread
from growformer.verification.requirements import Free, requirements
from growformer.verification.structure import Index
from growformer.verification.tensors import Whole

KINDS = ("copy", "rescaled", "zero", "mean", "sum", "constant", "regenerated")
DISTURBANCES = ("one unit in the last place", "1e-3 relative", "sign")
DTYPES = ("float32", "bfloat16", "float16")
COMMON = {"vocab_size": 29, "tie_word_embeddings": False}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {
        "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-3,
    }, {"hidden_size": 36, "intermediate_size": 27, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 12,
        "num_hidden_layers": 3, "new_layers_at": [1]}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 24, "n_inner": 20, "n_layer": 2, "n_head": 4, "n_positions": 32},
             {"n_embd": 36, "n_inner": 27, "n_head": 6, "n_layer": 3, "new_layers_at": [1]}),
    "bert": ("BertModel", {
        "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 32, "layer_norm_eps": 1e-12,
    }, {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 27, "num_hidden_layers": 3,
        "new_layers_at": [2]}),
    "qwen3": ("Qwen3ForCausalLM", {
        "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-3,
    }, {"hidden_size": 36, "intermediate_size": 27, "head_dim": 12, "num_hidden_layers": 3, "new_layers_at": [1]}),
    "mixtral": ("MixtralForCausalLM", {
        "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "num_local_experts": 3, "num_experts_per_tok": 2, "rms_norm_eps": 1e-3,
    }, {"hidden_size": 36, "intermediate_size": 27, "num_hidden_layers": 3, "new_layers_at": [1]}),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Entries that are alike: a region of a declared tensor, of one kind."""

    kind: str
    template: str
    index: tuple[tuple[str, int], ...]
    region: tuple[Any, ...]


@dataclass
class Model:
    """A tiny model and what became of it, in one dtype."""

    source: nn.Module
    plan: Plan
    grown: nn.Module

    def __post_init__(self) -> None:
        self.rec = Recorded.read(json.loads(self.plan.to_json()))
        self.before = self.source.state_dict()
        self.places = list(self._places())

    def _places(self) -> Iterator[Place]:
        for spec, index in self.rec.specs():
            needed = requirements(self.rec, spec.template, index)
            at = spec.template, tuple(index.items())
            for use in needed.uses:
                for r in use:
                    if not isinstance(r.must, Free):
                        yield from (Place(describe(r)[0], *at, copy) for copy in r.copies if count(copy))
            yield from (Place("regenerated", *at, region) for region, _ in needed.free_regions() if count(region))

    def check(self, state: dict[str, torch.Tensor], place: Place, *, strict: bool) -> ConstraintsReport:
        """Compare the tensor of a place alone."""
        before, after = Whole(self.before.__getitem__), Whole(state.__getitem__)

        def only(template: str, index: Index) -> bool:
            return template == place.template and tuple(index.items()) == place.index

        regenerate = from_live(self.plan, self.rec, self.before.__getitem__, after)
        return compare_checkpoints(self.rec, before, after, regenerate=regenerate, strict=strict, only=only)

    def disturbed(self, place: Place, disturbance: str, seed: int) -> dict[str, torch.Tensor]:
        """Return the grown model's tensors, with one entry of a place changed."""
        state = dict(self.grown.state_dict())
        held = self.rec.target_held(self.rec.architecture.tensors[place.template], dict(place.index))
        state[held.stored] = state[held.stored].clone()
        tensor = take(state[held.stored], held.piece)
        random = np.random.default_rng(seed)
        at = tuple(int(random.choice(spread(along))) for along in place.region)
        tensor[at] = changed(tensor[at], disturbance, state[held.stored])
        return state


def changed(value: torch.Tensor, disturbance: str, among: torch.Tensor) -> torch.Tensor:
    """Return a disturbed value, never the same bits; a zero moves by what its neighbours would have."""
    if disturbance == "sign":
        return -value
    up = torch.nextafter(value, torch.tensor(float("inf"), dtype=value.dtype))
    if disturbance != "1e-3 relative":
        return up
    size = value if value != 0 else among.float().abs().mean().to(value.dtype) + up
    moved = (value.double() + 1e-3 * size.double()).to(value.dtype)
    return moved if moved != value else up


@lru_cache
def model(family: str, dtype: str) -> Model:
    """Return a tiny model of a family, all parameters random, grown in all that it can."""
    name, config, request = FAMILIES[family]
    made = transformers.AutoConfig.for_model(family, **COMMON, **config)
    made._experts_implementation = "eager"  # the others know no float64
    source = getattr(transformers, name)(made).eval()
    randomise(source, for_config({"model_type": family}), 0)
    source = source.to(getattr(torch, dtype))
    source.config.dtype = dtype
    plan = growformer.plan(source, init="noise", **request)
    return Model(source, plan, growformer.grow(source, plan=plan))


def trials(family: str, dtype: str, kind: str, number: int) -> list[Place]:
    """Return some places of a kind, spread over the tensors that have it."""
    found = [place for place in model(family, dtype).places if place.kind == kind]
    order = np.random.default_rng(KINDS.index(kind)).permutation(len(found))
    return [found[order[i % len(found)]] for i in range(number)] if found else []


def seen_by_outputs(made: Model, state: dict[str, torch.Tensor], dtype: str) -> bool:
    """Tell whether the outputs check fails for the grown model with other tensors."""
    broken = copy.deepcopy(made.grown)
    broken.load_state_dict(state)
    ids = torch.randint(0, COMMON["vocab_size"], (2, 24), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return not compare_outputs(made.source, broken, inputs, [dtype]).ok
