"""What is asked for: how what growth made, and what was there before, is updated from then on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from growformer.errors import RequestError, did_you_mean

POLICIES = ("raw", "function_space")
FADE_IN = 50
"""Steps over which copied layers fade in, where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class UpdateRules:
    """How what growth made is updated from then on.

    Attributes:
        bias_correction: whether new regions get the bias correction of their own age, in Adam and AdamW.
        new_rate: factor on the learning rate of new regions.
        ramp: steps over which new regions reach that rate, from 0 on, linearly.
        new_decay: factor on the decoupled weight decay of new regions.
        fade_in: steps over which new layers that are copies begin to add to the residual stream: what they write with,
            zero at growth, has come by then to what the layer that they copy has. 0: they learn it from zero. None: 50,
            and 0 where what is old is frozen or what is new is not trained. Depth that fades in ends where plain
            stacking ends, without its jump (docs/experiments.md).
        freeze_old: whether what comes from the source stays as it is.
        policy: ``raw``: rescaled weights get the optimizer's own update. ``function_space``: the update that moves the
            function as it would have moved without the rescaling: times s for Adam and its kind, s over the slope for
            SGD.
    """

    bias_correction: bool = True
    new_rate: float = 1.0
    ramp: int = 0
    new_decay: float = 1.0
    fade_in: int | None = None
    freeze_old: bool = False
    policy: str = "raw"

    def __post_init__(self) -> None:
        """Refuse rules that say nothing sensible."""
        if self.policy not in POLICIES:
            raise RequestError(
                f"unknown update policy {self.policy!r}: expected {', '.join(POLICIES)}"
                f"{did_you_mean(self.policy, POLICIES)}"
            )
        for name, value in (("bias_correction", self.bias_correction), ("freeze_old", self.freeze_old)):
            if not isinstance(value, bool):
                raise RequestError(f"{name} = {value!r}: expected True or False")
        for name, steps in (("ramp", self.ramp), ("fade_in", self.fade_steps)):
            if type(steps) is not int:
                raise RequestError(f"{name} = {steps!r}: expected a whole number of steps")
        for name, number in (("new_rate", self.new_rate), ("new_decay", self.new_decay)):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise RequestError(f"{name} = {number!r}: expected a number")
        numbers = {name: getattr(self, name) for name in ("ramp", "new_rate", "new_decay")}
        numbers["fade_in"] = self.fade_steps
        if not all(0 <= number < math.inf for number in numbers.values()):
            found = ", ".join(f"{name} = {number}" for name, number in numbers.items())
            raise RequestError(f"{found}: expected 0 or more")

    @property
    def fade_steps(self) -> int:
        """The steps over which copied layers fade in."""
        if self.fade_in is not None:
            return self.fade_in
        return 0 if self.freeze_old or self.new_rate == 0 else FADE_IN


__all__ = ["FADE_IN", "POLICIES", "UpdateRules"]
