"""The FLOPs of a run that grows, added up over its stages: each stage's tokens at what a token cost then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from growformer.errors import RequestError
from growformer.sizing.flops import Flops


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStage:
    """What one stage has cost.

    Attributes:
        parameters: of the model; tied ones count once.
        flops: what a token costs in a forward pass; None where the declaration does not say.
        tokens: seen in this stage.
    """

    parameters: int
    flops: Flops | None
    tokens: int = 0

    def training(self, sequence_length: int) -> int | None:
        """Return the FLOPs of forward and backward passes; None where they are not known."""
        return None if self.flops is None else self.flops.training(self.tokens, sequence_length)


class FlopsLedger:
    """Adds up what the stages of a run cost, forward and backward, attention included.

    Args:
        sequence_length: tokens that attend to each other, for attention.
    """

    def __init__(self, sequence_length: int) -> None:
        if isinstance(sequence_length, bool) or not isinstance(sequence_length, int) or sequence_length < 1:
            raise RequestError(f"sequence_length = {sequence_length!r}: expected a whole number from 1 on")
        self.sequence_length = sequence_length
        self.stages: list[LedgerStage] = []

    def begin(self, parameters: int, flops: Flops | None, tokens: int = 0) -> None:
        """Begin a stage."""
        self.stages.append(LedgerStage(parameters=parameters, flops=flops, tokens=tokens))

    def count(self, tokens: int) -> None:
        """Count tokens towards the stage at hand.

        Raises:
            RequestError: no stage has begun.
        """
        if not self.stages:
            raise RequestError("tokens without a stage: begin one first")
        self.stages[-1] = replace(self.stages[-1], tokens=self.stages[-1].tokens + tokens)

    @property
    def tokens(self) -> int:
        """Tokens seen in all stages."""
        return sum(stage.tokens for stage in self.stages)

    @property
    def total(self) -> int | None:
        """FLOPs of all stages; None where those of one are not known."""
        costs = [stage.training(self.sequence_length) for stage in self.stages]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"sequence_length": self.sequence_length, "stages": [asdict(stage) for stage in self.stages]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> FlopsLedger:
        """Read what ``to_json`` wrote."""
        made = FlopsLedger(data["sequence_length"])
        for stage in data["stages"]:
            said = stage["flops"]
            flops = Flops(**{name: int(cost) for name, cost in said.items()}) if said is not None else None
            made.begin(int(stage["parameters"]), flops, int(stage["tokens"]))
        return made


__all__ = ["FlopsLedger", "LedgerStage"]
