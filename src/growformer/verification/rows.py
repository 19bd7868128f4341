"""How a verdict is shown: in one line, and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Row = tuple[str, str, str, bool]
"""Check, what was compared, result, whether it passed."""


def verdict_of(made: Iterable[str], failed: Sequence[str]) -> str:
    """Return the verdict in one line.

    Args:
        made: names of the checks that were made.
        failed: of those that failed. What does not learn is no breach of preservation, and still a failure.
    """
    made = list(made)
    if not made:
        return "Nothing was checked"
    if not failed:
        return f"Preserved: {', '.join(made)}"
    if list(failed) == ["trainability"]:
        others = [name for name in made if name != "trainability"]
        preserved = f"Preserved ({', '.join(others)}), but " if others else ""
        return f"{preserved}NOT all that is new learns: trainability failed"
    return f"NOT preserved: {', '.join(failed)} failed"


__all__ = ["Row", "verdict_of"]
