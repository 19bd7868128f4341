"""One line of a verdict's table: check, what was compared, result, whether it passed."""

from __future__ import annotations

Row = tuple[str, str, str, bool]

__all__ = ["Row"]
