"""When a loss has flattened: the mean over a window has not fallen by enough, several windows in a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from growformer.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class WhenFlat:
    """A trigger: the loss has flattened.

    The loss is averaged over windows that follow each other without overlap. A window improves if its mean lies more
    than ``min_delta`` below the best one before it; after ``patience`` windows in a row that do not, the loss is flat.

    Attributes:
        window: steps that a mean is taken over.
        patience: windows without an improvement.
        min_delta: what counts as one, in units of the loss.
        not_before: no growth before this step.
        not_after: growth at this step at the latest, flat or not.
    """

    window: int = 100
    patience: int = 3
    min_delta: float = 0.0
    not_before: int = 0
    not_after: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that say nothing sensible."""
        for name, least in {"window": 1, "patience": 1, "not_before": 0, "not_after": 1}.items():
            value = getattr(self, name)
            if value is None and name == "not_after":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RequestError(f"when_flat: {name} = {value!r}: expected a whole number from {least} on")
        if isinstance(self.min_delta, bool) or not isinstance(self.min_delta, (int, float)):
            raise RequestError(f"when_flat: min_delta = {self.min_delta!r}: expected a number")
        if not 0 <= self.min_delta < math.inf:
            raise RequestError(f"when_flat: min_delta = {self.min_delta!r}: expected 0 or more")
        if self.not_after is not None and self.not_after < self.not_before:
            raise RequestError(f"when_flat: not_after = {self.not_after} is before not_before = {self.not_before}")

    def __str__(self) -> str:
        return (
            f"when flat: {self.patience} windows of {self.window} steps without an improvement by more than "
            f"{self.min_delta:g}"
        )


class FlatLoss:
    """Watches a loss; what it says depends on the losses alone, so that a resumed run decides as one that was not.

    Args:
        rule: what counts as flat.
    """

    def __init__(self, rule: WhenFlat) -> None:
        self.rule = rule
        self._sum = 0.0
        self._steps = 0
        self._best = math.inf
        self._waited = 0

    def observe(self, loss: float, steps: int = 1) -> None:
        """Take a loss, or the mean over several steps; one that is not finite (a skipped step) says nothing."""
        if not math.isfinite(loss):
            return
        self._sum += loss * steps
        self._steps += steps
        if self._steps < self.rule.window:
            return
        mean = self._sum / self._steps
        self._sum, self._steps = 0.0, 0
        if mean < self._best - self.rule.min_delta:
            self._best, self._waited = mean, 0
        else:
            self._waited += 1

    @property
    def is_flat(self) -> bool:
        """Whether enough windows have gone by without an improvement."""
        return self._waited >= self.rule.patience

    def state_dict(self) -> dict[str, Any]:
        """Return plain data; no best mean yet is None, since JSON knows no infinity."""
        best = self._best if math.isfinite(self._best) else None
        return {"sum": self._sum, "steps": self._steps, "best": best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self._sum, self._steps = float(state["sum"]), int(state["steps"])
        self._best = math.inf if state["best"] is None else float(state["best"])
        self._waited = int(state["waited"])


__all__ = ["FlatLoss", "WhenFlat"]
