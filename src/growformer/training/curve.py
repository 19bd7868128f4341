"""A loss curve of bounded size: means over spans of steps, which double when there are too many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MOST = 2048
"""Points that are kept: enough for a plot as wide as any screen."""


class LossCurve:
    """Keeps the loss of a run as at most ``MOST`` points, each the mean over ``span`` steps.

    What it holds depends on the losses alone: a resumed run has the curve of one that was not stopped.
    """

    def __init__(self) -> None:
        self.span = 1
        self._points: list[tuple[int, float]] = []
        self._sum = 0.0
        self._steps = 0

    def add(self, step: int, loss: float, steps: int = 1) -> None:
        """Take the loss of a step, or the mean over several that end with it; not if it is not finite."""
        if not math.isfinite(loss):
            return
        self._sum += loss * steps
        self._steps += steps
        if self._steps < self.span:
            return
        self._points.append((step, self._sum / self._steps))
        self._sum, self._steps = 0.0, 0
        if len(self._points) == MOST:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(after, (a + b) / 2) for (_, a), (after, b) in pairs]
            self.span *= 2

    def points(self) -> list[tuple[int, float]]:
        """Return (step at its end, mean loss) of every whole span; the steps since the last one make the next point."""
        return list(self._points)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        points = [[step, loss] for step, loss in self._points]
        return {"span": self.span, "points": points, "sum": self._sum, "steps": self._steps}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> LossCurve:
        """Read what ``to_json`` wrote."""
        made = LossCurve()
        made.span, made._sum, made._steps = int(data["span"]), float(data["sum"]), int(data["steps"])
        made._points = [(int(step), float(loss)) for step, loss in data["points"]]
        return made


__all__ = ["LossCurve"]
