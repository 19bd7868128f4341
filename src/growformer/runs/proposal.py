"""A schedule from published rules: for a target and tokens, what to start from, when to grow, and what that saves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from growformer.api import Inspection, Source, describe_source, plan
from growformer.architecture.declaration import Architecture
from growformer.errors import GrowformerError, RequestError
from growformer.planning.plan import Plan
from growformer.planning.resolve import write_field
from growformer.runs.planned import plan_schedule
from growformer.runs.rules import CAUTION, CHINCHILLA, FACTORS, INTERLEAVING, STACKING, STEADY, Remark, Rule, rule_of
from growformer.sizing.flops import Flops, count_flops
from growformer.storage.folder import read_json
from growformer.training.ledger import FlopsLedger
from growformer.training.schedule import GrowthSchedule, GrowthStage

_LONGEST = 4096
_TRIES = 9
"""Numbers of layers that are tried for a source, from the nearest on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A schedule, and what it would cost.

    Attributes:
        schedule: one growth.
        source_config: what to start from.
        plan: from there to the target, as things stand before the training.
        rule: the rule that says when.
        tokens: of the whole run.
        at_tokens: those before the growth.
        sequence_length: for attention's FLOPs.
        scratch: FLOPs of the target trained on all tokens.
        staged: ledger of the two stages.
        ceiling: the share of FLOPs that would be saved if a source smaller by the growth factor cost less by it: f (1 -
            1/g) for growth by g after a fraction f.
        growth_factor: g: of layers where the source was chosen here, of FLOPs per token otherwise.
        remarks: what to know, with sources.
    """

    schedule: GrowthSchedule
    source_config: Mapping[str, Any]
    plan: Plan
    rule: Rule
    tokens: int
    at_tokens: int
    sequence_length: int
    scratch: int
    staged: FlopsLedger
    ceiling: float
    growth_factor: float
    remarks: tuple[Remark, ...]

    @property
    def saving(self) -> float:
        """The share of scratch's FLOPs that the schedule saves on the same tokens."""
        assert self.staged.total is not None  # counted, or there is no proposal
        return 1 - self.staged.total / self.scratch


def propose_schedule(
    target: Mapping[str, Any] | str | Path,
    tokens: int,
    *,
    source: Source | None = None,
    rule: str = "early",
    growth_factor: float | None = None,
    sequence_length: int | None = None,
) -> Proposal:
    """Propose when to grow, and from what, by a published rule; nothing is trained or written.

    Args:
        target: a config, or the path of one.
        tokens: of the whole run, before and after the growth.
        source: what to start from; None: the target with fewer layers.
        rule: ``early``: after the number of tokens that arXiv:2405.15319 fitted. ``late``: after 80 % of the tokens
            (arXiv:2511.04981).
        growth_factor: of the number of layers, where there is no source; by default the rule's own.
        sequence_length: tokens that attend to each other; by default the target's longest, at most 4,096.

    Raises:
        RequestError: no such source or growth, a run too short for the rule, or a family whose FLOPs are not known.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise RequestError(f"tokens = {tokens!r}: expected a whole number from 1 on")
    chosen = rule_of(rule)
    config = (
        dict(target) if isinstance(target, Mapping) else read_json(Path(target), "expected the target's config.json")
    )
    architecture, info = describe_source(config)
    if source is not None and growth_factor is not None:
        raise RequestError("the source says by how much it grows: leave out growth_factor, or the source")
    by_depth: float | None = None
    if source is not None:
        made = _from_source(source, config)
    else:
        made, by_depth = _from_fewer_layers(architecture, config, chosen, growth_factor)
    costs = [count_flops(made.architecture, made.source, sizes) for sizes in (made.source_sizes, made.target_sizes)]
    before, after = costs
    if before is None or after is None:
        raise RequestError(
            f"{architecture.name}: how many tokens meet every weight is not declared, and so its FLOPs are not known; "
            "a schedule can still be written by hand"
        )
    parameters = made.num_parameters()
    at_tokens = chosen.tokens(parameters[1], tokens)
    length = sequence_length or min(int(info.config.get("max_position_embeddings") or _LONGEST), _LONGEST)
    staged = FlopsLedger(length)
    staged.begin(parameters[0], before, at_tokens)
    staged.begin(parameters[1], after, tokens - at_tokens)
    factor = by_depth or after.forward(1, length) / before.forward(1, length)
    deeper = made.architecture.roles.get("layers") in made.requested
    late = at_tokens > CHINCHILLA * parameters[0]
    stage = GrowthStage(
        at_tokens=at_tokens,
        sizes={name: made.target_sizes[name] for name in made.requested},
        new_layers_at=("interleave" if late else "end") if deeper else None,
    )
    schedule = GrowthSchedule((stage,))
    (checked,) = plan_schedule(schedule, made.source.config)
    return Proposal(
        schedule=schedule,
        source_config=made.source.config,
        plan=checked,
        rule=chosen,
        tokens=tokens,
        at_tokens=at_tokens,
        sequence_length=length,
        scratch=after.training(tokens, length),
        staged=staged,
        ceiling=at_tokens / tokens * (1 - 1 / factor),
        growth_factor=factor,
        remarks=tuple(_remarks(checked, config, chosen, factor, deeper, late, (before, after))),
    )


def _from_source(source: Source, target: Mapping[str, Any]) -> Plan:
    made = plan(source, like=target)
    if not made.requested:
        raise RequestError("the source has the target's sizes already: nothing is left to grow")
    return made


def _from_fewer_layers(
    architecture: Architecture, target: Mapping[str, Any], rule: Rule, growth_factor: float | None
) -> tuple[Plan, float]:
    """Return the growth from the target with fewer layers, as near to the factor as the family allows."""
    resolved = architecture.resolve_config(target)
    name = architecture.roles.get("layers")
    layers = resolved.get(name) if name is not None else None
    if name is None or not isinstance(layers, int):
        raise RequestError(f"{architecture.name}: no one field sets its depth; name a source to start from")
    factor = growth_factor or rule.factor or float(layers)
    if not factor > 1:
        raise RequestError(f"growth_factor = {factor:g}: expected a number above 1")
    if layers < 2:
        raise RequestError(f"the target has {layers} layer: there is no shallower source; name one to start from")
    wanted = Fraction(layers) / Fraction(factor)
    trouble: GrowformerError | None = None
    for count in sorted(range(1, layers), key=lambda n: (abs(n - wanted), n))[:_TRIES]:
        try:
            source = _shallower(architecture, target, name, layers, count)
            found, info = describe_source(source)
            return plan(Inspection(info, found, {}, 0), like=target), layers / count
        except GrowformerError as error:
            trouble = trouble or error
    raise RequestError(f"no source with about {float(wanted):.3g} layers grows into the target: {trouble}")


def _shallower(
    architecture: Architecture, target: Mapping[str, Any], name: str, layers: int, count: int
) -> dict[str, Any]:
    source: dict[str, Any] = copy.deepcopy(dict(target))
    write_field(source, name, count)
    resolved = architecture.resolve_config(target)
    for field in architecture.layer_lists:
        values = resolved.get(field)
        if isinstance(values, list) and len(values) == layers and _holds(target, field):
            write_field(source, field, values[:count])
    return source


def _holds(config: Mapping[str, Any], field: str) -> bool:
    outer, _, inner = field.partition(".")
    value = config.get(outer)
    return value is not None if not inner else isinstance(value, Mapping) and value.get(inner) is not None


def _remarks(
    made: Plan,
    target: Mapping[str, Any],
    rule: Rule,
    factor: float,
    deeper: bool,
    late: bool,
    costs: tuple[Flops, Flops],
) -> list[Remark]:
    found = list(rule.remarks)
    if rule.factor is not None and not FACTORS[0] <= factor <= FACTORS[1]:
        found.append(Remark(f"It grows by {factor:.3g}; growth by 2 to 4 in one step did best there.", STACKING))
    if deeper and late:
        text = (
            f"New layers lie between the old ones: past {CHINCHILLA} tokens per parameter that did better than on top."
        )
        found.append(Remark(text, INTERLEAVING))
    differ = [name for name in made.architecture.layer_lists if _holds(target, name)]
    differ = [n for n in differ if made.target_sizes.get(n) != made.architecture.resolve_config(target).get(n)]
    if differ:
        found.append(
            Remark(f"The grown model differs from the target in {', '.join(differ)}, by where new layers lie.")
        )
    return [*found, STEADY, CAUTION]


__all__ = ["Proposal", "propose_schedule"]
