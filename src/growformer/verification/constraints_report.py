"""What the constraints check found: how many values of each kind were compared, and everything that does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from growformer.verification.rows import Row
from growformer.verification.violations import Violation

KINDS = ("copy", "rescaled", "zero", "mean", "sum", "constant", "regenerated", "unchecked")
"""What values are compared with; the last two are of free regions."""
_SAYS = {
    "copy": "equal to the source's, bit by bit",
    "rescaled": "the source's times an exact factor",
    "zero": "zero",
    "mean": "means of the source's",
    "sum": "copies that add up to the source's",
    "constant": "constants",
    "regenerated": "free, as the initialisation gives them",
    "unchecked": "free, only looked at for what would overflow",
}
_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintsReport:
    """What the comparison found.

    Attributes:
        violations: everything that does not hold.
        tensors: how many tensors of the target were compared.
        values: kind -> how many values were compared with that; see ``KINDS``.
        record: how it is known what became of what: ``growformer.json``, ``plan``, or ``inferred``.
        strict: whether bits had to be equal wherever mathematics makes them.
        roundings: ``float32 to bfloat16``: where the grown model is stored in a dtype that cannot hold the source's
            values, which were compared after one such rounding.
        num_bytes: of the tensors that were read, on both sides.
        seconds: what it took.
        notes: what was inferred, and what was tried.
    """

    violations: tuple[Violation, ...] = field(default=())
    tensors: int = 0
    values: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    record: str = "growformer.json"
    strict: bool = False
    roundings: tuple[str, ...] = ()
    num_bytes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.violations

    @property
    def checked(self) -> int:
        """How many values are constrained, and were compared with the source."""
        return sum(self.values.values()) - self.regenerated - self.free

    @property
    def regenerated(self) -> int:
        """How many free values were compared with the initialisation."""
        return self.values["regenerated"]

    @property
    def free(self) -> int:
        """How many free values were looked at for what would overflow only."""
        return self.values["unchecked"]

    def __str__(self) -> str:
        looked = f"{self.tensors} tensors, {self.checked:,} values constrained"
        if self.regenerated:
            looked += f", {self.regenerated:,} regenerated"
        if self.free or not self.regenerated:
            looked += f", {self.free:,} free and unchecked"
        if self.ok:
            return f"all constraints hold ({looked})"
        more = f", and {len(self.violations) - 1} more" if len(self.violations) > 1 else ""
        return f"constraints do NOT hold ({looked}): {self.violations[0]}{more}"

    def rows(self) -> list[Row]:
        """Return one row per kind of value with how many there are, and one per violation, the first few of each kind.

        What is wrong with the record itself, not with a kind of value, has rows of its own.
        """
        found: list[Row] = []
        free = "regenerated" if self.regenerated else "unchecked"
        for kind in KINDS:
            wrong = [v for v in self.violations if v.kind == kind or (kind == free and v.kind in ("free", "dead"))]
            number = self.values[kind]
            if not number and not wrong:
                continue
            says = f"{kind} ({number:,} values)"
            found += [("constraints", says, str(v), False) for v in wrong[:_SHOWN]]
            if len(wrong) > _SHOWN:
                found.append(("constraints", says, f"and {len(wrong) - _SHOWN} more", False))
            if not wrong:
                found.append(("constraints", says, self._said(kind), True))
        others = [v for v in self.violations if v.kind not in (*KINDS, "free", "dead")]
        found += [("constraints", v.kind, str(v), False) for v in others[:_SHOWN]]
        if len(others) > _SHOWN:
            found.append(("constraints", "others", f"{len(others) - _SHOWN} more", False))
        return found or [("constraints", "tensors", "none", True)]

    def _said(self, kind: str) -> str:
        """Return what holds of the values of a kind."""
        if not self.roundings or kind not in ("copy", "rescaled", "mean", "sum"):
            return _SAYS[kind]
        rounded = f"rounded once, from {', '.join(self.roundings)}"
        return f"equal to the source's, {rounded}" if kind == "copy" else f"{_SAYS[kind]}, {rounded}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "ok": self.ok,
            "verdict": str(self),
            "tensors": self.tensors,
            "checked": self.checked,
            "regenerated": self.regenerated,
            "free": self.free,
            "values": dict(self.values),
            "record": self.record,
            "strict": self.strict,
            "roundings": list(self.roundings),
            "num_bytes": self.num_bytes,
            "seconds": self.seconds,
            "violations": [violation.to_json() for violation in self.violations],
            "notes": list(self.notes),
        }


__all__ = ["KINDS", "ConstraintsReport"]
