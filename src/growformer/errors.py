"""Every error that growformer raises on purpose, in one tree.

    GrowformerError
    ├── ArchitectureError        a declaration is wrong: syntax, an unknown axis, a shape that disagrees
    │   └── UnknownArchitectureError   no declaration for this model
    ├── RequestError             the request cannot be met: smaller, indivisible, ambiguous, unknown
    │   └── NotPreservableError  no weights of the requested sizes compute the same function
    ├── PlanError                a plan that is broken, or does not belong to this source
    ├── SourceError              the source is incomplete, contradictory, quantised or unsafe to read
    ├── OutputError              the output cannot be written, or is there already
    └── VerificationError        a grown model does not compute what its source computes

A message says what failed, where, what was expected and found, the nearest valid values, and what to do next.
The command line prints it without a traceback and exits with 2 (``VerificationError``: 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GrowformerError(Exception):
    """Base class of every error that growformer raises on purpose."""


class ArchitectureError(GrowformerError):
    """A declaration is wrong, or disagrees with the tensors it describes."""


class UnknownArchitectureError(ArchitectureError):
    """No registered declaration describes this model."""


class RequestError(GrowformerError):
    """The requested growth cannot be met as it was asked for."""


class NotPreservableError(RequestError):
    """No weights of the requested sizes compute what the source computes."""


class PlanError(GrowformerError):
    """A plan is broken, or does not belong to the source it is applied to."""


class SourceError(GrowformerError):
    """The source is missing something, contradicts itself, or cannot be read safely."""


class OutputError(GrowformerError):
    """The output cannot be written."""


class VerificationError(GrowformerError):
    """A grown model does not compute what its source computes."""


def in_words(error: Exception) -> str:
    """Return what is wrong with data that was read as a structure which it does not have."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, (TypeError, AttributeError)):
        return f"an entry is of another kind than expected ({error})"
    return str(error)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
