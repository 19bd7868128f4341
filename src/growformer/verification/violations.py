"""One thing that does not hold, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that does not hold.

    Attributes:
        kind: what was checked. Of a record: ``axis map``, ``space``, ``norm``, ``contraction``, ``add``, ``tie``,
            ``layers``, ``rotary``, ``alibi``, ``config``, or ``dead`` (inert on both sides: preserved, but it never
            learns). Of a plan: ``coverage``, ``block``. Of tensors: ``copy``, ``rescaled``, ``zero``, ``mean``,
            ``sum``, ``constant``, ``free``. Of both: ``missing``, ``left over``, ``shape``.
        where: the tensor by its stored name (and the part of it that a declared tensor is), or the space, axis or
            config field.
        expected, found: in words and numbers.
        region: the part of the tensor.
        deviation: the largest absolute deviation in it, where numbers were compared.
        explanation: what stands there instead, where it was recognised.
    """

    kind: str
    where: str
    expected: str
    found: str
    region: str = ""
    deviation: float | None = None
    explanation: str = ""

    def __str__(self) -> str:
        largest = f" (largest deviation {self.deviation:.3g})" if self.deviation is not None else ""
        why = f"; {self.explanation}" if self.explanation else ""
        return f"{self.where}{self.region}: expected {self.expected}, found {self.found}{largest}{why}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def at_instance(name: str, index: Mapping[str, int]) -> str:
    """Name one instance of a space or module; indices of a template that are not given stay as they are."""
    if all("{" + axis + "}" in name for axis in index):
        for axis, at in index.items():
            name = name.replace("{" + axis + "}", str(at))
        return name
    return f"{name}[{', '.join(f'{axis} {at}' for axis, at in index.items())}]"


__all__ = ["Violation", "at_instance"]
