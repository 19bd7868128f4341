"""Several processes that write one output: what they need to say to each other. torch.distributed is the engine.

Every exchange carries errors too: if one rank fails, all raise, and none waits for ever.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from growformer.errors import GrowformerError, OutputError

T = TypeVar("T")
_PATIENCE = timedelta(hours=12)
"""How long a rank waits for the slowest, which may have a 5 GB shard of a slow disk to write."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that write together.

    Attributes:
        rank: which of them this is; the first one makes and publishes the output.
        size: how many they are.
        consequence: of a failure on one of them, for the others' messages.
        failure: what the others raise then.
    """

    rank: int = 0
    size: int = 1
    consequence: str = "nothing was published"
    failure: type[GrowformerError] = OutputError

    @property
    def first(self) -> bool:
        """Whether this is the one that does what is done once."""
        return self.rank == 0

    def together(self, action: Callable[[], T]) -> list[T]:
        """Do something on every rank, and return what each one's gave, by rank.

        Raises:
            The own error, or one that names the rank that failed.
        """
        if self.size == 1:
            return [action()]
        import torch.distributed as dist

        outcome: T | None = None
        error: BaseException | None = None
        try:
            outcome = action()
        except BaseException as raised:
            error = raised
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, (outcome, None if error is None else _said(error)))
        if error is not None:
            raise error
        for rank, (_, trouble) in enumerate(said):
            if trouble is not None:
                raise self.failure(f"rank {rank} failed, so {self.consequence}: {trouble}")
        return [found for found, _ in said]

    def on_first(self, action: Callable[[], T]) -> T:
        """Do something on the first rank, and return what it gave on all."""
        found: list[T | None] = self.together(lambda: action() if self.first else None)
        return found[0]  # type: ignore[return-value]


def from_environment() -> Ranks:
    """Join the processes that torchrun started; alone, there is nothing to join and torch is not imported."""
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if size <= 1:
        return Ranks()
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_PATIENCE)
        atexit.register(_leave)
    return Ranks(dist.get_rank(), dist.get_world_size())


def current(consequence: str, failure: type[GrowformerError]) -> Ranks:
    """Return the processes of a group that exists already; alone, where there is none."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size(), consequence, failure)


def _leave() -> None:
    """End the group's threads before the interpreter ends, which would abort with them alive."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _said(error: BaseException) -> str:
    if isinstance(error, (GrowformerError, OSError)):
        return str(error)
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"


__all__ = ["Ranks", "current", "from_environment"]
