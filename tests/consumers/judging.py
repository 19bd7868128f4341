"""Runs a case in a consumer, and judges the grown checkpoint by the consumer's own rounding.

Let y be what the source computes in float64, in transformers. The figure is |consumer(grown) - y| against
|consumer(source) - y|, as in ``growformer.verification.outputs``. It says something only where the second is small,
so that is checked too: a consumer that ignores a part of the config would be equally wrong on both.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from tests.consumers.cases import CASES, Case, disturb
from tests.consumers.consumers import CONSUMERS, Consumer, Decoded

import growformer
from growformer.verification.outputs import RATIO_LIMIT

PROMPT, NEW_TOKENS = 12, 24
"""How many tokens of a decoder's input are the prompt, and by how many it is continued."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How far a consumer is from the source in float64, relative (Frobenius norms), and what it continued.

    Attributes:
        transformers: transformers' own error, in float32 on the source.
        source, grown: the consumer's.
        drift: what the consumer gives for the grown checkpoint against what it gives for the source.
        greedy: whether the continuations of both equal transformers'; None of an encoder.
        own_limit: the largest ``source`` from which anything can be concluded.
    """

    case: str
    consumer: str
    transformers: float
    source: float
    grown: float
    drift: float
    greedy: bool | None
    own_limit: float

    @property
    def ratio(self) -> float:
        """How much further from float64 the grown checkpoint is than the source."""
        return self.grown / self.source

    @property
    def ok(self) -> bool:
        """Whether growth added nothing to the consumer's own rounding."""
        return self.source <= self.own_limit and self.ratio <= RATIO_LIMIT["float32"] and self.greedy is not False


def error(values: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the relative error in the Frobenius norm; coordinates past the reference's are a grown encoder's new."""
    values = values.double()[..., : reference.shape[-1]]
    return float((values - reference).norm() / reference.norm())


class Bench:
    """Checkpoints, references and results of every case, each made once.

    Args:
        folder: an empty folder for the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cache  # noqa: B019 (one bench lives as long as the tests)
    def checkpoint(self, name: str, which: str) -> Path:
        """Return the folder of a case's source, grown or disturbed checkpoint."""
        case = CASES[name]
        folder = self._folder / name.replace(" ", "-") / which
        folder.parent.mkdir(exist_ok=True)
        if which == "source":
            return case.source(folder)
        if which == "grown":
            growformer.grow_checkpoint(self.checkpoint(name, "source"), folder, init="noise", **case.growth)
            return folder
        return disturb(self.checkpoint(name, "grown"), folder)

    @functools.cache  # noqa: B019
    def reference(self, name: str, consumer: str, dtype: torch.dtype) -> torch.Tensor:
        """Return what the source gives in transformers, as the consumer means it."""
        return reference(CASES[name], self.checkpoint(name, "source"), CONSUMERS[consumer], dtype)

    @functools.cache  # noqa: B019
    def continuation(self, name: str) -> list[int]:
        """Return transformers' greedy continuation of the source."""
        case = CASES[name]
        model = case.load(self.checkpoint(name, "source"), torch.float32)
        prompt = torch.tensor([case.inputs()[0][:PROMPT]])
        settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
        output = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        tokens: list[int] = output[0, PROMPT:].tolist()
        return tokens

    @functools.cache  # noqa: B019
    def run(self, name: str, consumer: str, which: str) -> Decoded:
        """Return what a consumer gives for a checkpoint; an encoder's states stand for logits."""
        new_tokens = NEW_TOKENS if which != "disturbed" else 0
        return run(CASES[name], self.checkpoint(name, which), CONSUMERS[consumer], new_tokens)

    def figures(self, name: str, consumer: str, which: str = "grown") -> Figures:
        """Return the figures of a grown, or of a disturbed, checkpoint."""
        exact = self.reference(name, consumer, torch.float64)
        source, grown = self.run(name, consumer, "source"), self.run(name, consumer, which)
        greedy = None
        if CASES[name].kind == "decoder" and which == "grown":
            greedy = source.continuation == grown.continuation == self.continuation(name)
        return Figures(
            case=name,
            consumer=consumer,
            transformers=error(self.reference(name, consumer, torch.float32), exact),
            source=error(source.logits, exact),
            grown=error(grown.logits, exact),
            drift=error(grown.logits, source.logits.double()),
            greedy=greedy,
            own_limit=CONSUMERS[consumer].own_error[CASES[name].kind],
        )


def run(case: Case, folder: Path, consumer: Consumer, new_tokens: int = 0) -> Decoded:
    """Run a consumer on a case's inputs; an encoder's states stand for logits."""
    inputs = case.inputs()
    if case.kind == "decoder":
        return consumer.decode(folder, inputs[0], inputs[0][:PROMPT], new_tokens)
    return Decoded(logits=consumer.encode(folder, inputs), continuation=[])


@torch.inference_mode()
def reference(case: Case, folder: Path, consumer: Consumer, dtype: torch.dtype) -> torch.Tensor:
    """Return what transformers gives for a checkpoint, in the shape in which the consumer gives it, as float64."""
    model = case.load(folder, dtype)
    consumer.adapt(model)
    rows = [model(torch.tensor([tokens]))[0][0].double() for tokens in case.inputs()]
    if case.kind == "encoder" and consumer.pooled:
        return torch.stack([row.mean(dim=0) for row in rows])
    return torch.cat(rows)
