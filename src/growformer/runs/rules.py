"""Published rules on when and by how much to grow: what each says, where it was measured, and what speaks against it.

A rule is a number and its source. None is a promise: each was measured with its own operator, data and learning-rate
schedule, and no rule here was measured with the paper's six transformations (arXiv:2308.06103) themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from growformer.errors import RequestError, did_you_mean

STACKING = "arXiv:2405.15319"
"""Stacking Your Transformers."""
ONE_LAYER = "arXiv:2511.04981"
"""Progressive training from one layer, grown late."""
INTERLEAVING = "arXiv:2510.08008"
"""Recycling pretrained checkpoints."""
NO_GAIN = "arXiv:2307.06440"
"""No train no gain."""
CHINCHILLA = 20
"""Tokens per parameter that spend a budget best on one model (arXiv:2203.15556)."""
FACTORS = (2, 4)
"""Growth factors for which stacking was found to do well (arXiv:2405.15319, section 4)."""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to know, and where it comes from.

    Attributes:
        text: a sentence.
        source: its paper; empty where it follows from the numbers at hand.
    """

    text: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A published rule.

    Attributes:
        name: ``early`` or ``late``.
        source: its paper.
        factor: by how much depth grows where nothing else is asked for; None: from one layer.
        remarks: what was measured with it.
    """

    name: str
    source: str
    factor: float | None
    remarks: tuple[Remark, ...]

    def tokens(self, parameters: int, tokens: int) -> int:
        """Return after how many tokens to grow.

        Args:
            parameters: of the target, all of them.
            tokens: of the whole run.

        Raises:
            RequestError: the run is too short for this rule.
        """
        if self.name == "late":
            return round(LATE * tokens)
        exact = stacking_tokens(parameters, 6 * parameters * tokens)
        found = round(exact, 3 - len(str(exact)))  # a fit is not better than that
        if found >= tokens:
            raise RequestError(
                f"the rule of {self.source} is to grow {parameters:,} parameters after {found:,} tokens, and the run "
                f"has {tokens:,}: it was fitted on longer runs; take more tokens, or the rule 'late'"
            )
        return found


LATE = 0.8
"""The share of tokens after which the rule ``late`` grows."""


def stacking_tokens(parameters: int, flops: int) -> int:
    """Return after how many tokens to stack: log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74.

    N counts all parameters of the target, and C = 6 N D is the FLOPs of training it on D tokens: so read, the law gives
    11.11, 15.84 and 42.48 billion tokens for 7, 13 and 70 billion parameters and two trillion tokens.

    Args:
        parameters: N.
        flops: C.
    """
    return round(10 ** (0.88 * math.log10(parameters) + 163.27 / math.log10(flops) - 5.74))


RULES = {
    "early": Rule(
        "early",
        STACKING,
        4.0,
        (
            Remark(
                "With it, 7B parameters came after 194B tokens to the loss of 300B tokens from scratch: 35 % fewer "
                "tokens (a speedup of 54.6 %). The gain is that the grown model learns faster, on top of the FLOPs "
                "saved above.",
                STACKING,
            ),
            Remark(
                "It was measured with plain stacking, which changes what the model computes and makes the loss jump at "
                "growth. Copies that leave the function as it is, as here, did nearly as well there (speedups of "
                "46.6 % and 49.1 %, from 400M to 1.1B parameters).",
                STACKING,
            ),
            Remark("Growth in width alone did worse than training from scratch there.", STACKING),
        ),
    ),
    "late": Rule(
        "late",
        ONE_LAYER,
        None,
        (
            Remark(
                "Grown from one layer after 80 % of the tokens, models of 124M and 7B parameters came within 0.5 % of "
                "the loss from scratch, for about a fifth of the FLOPs; quoted from a secondary source, and it holds "
                "for a learning rate that stays constant through the growth (warm-up, stable, decay).",
                ONE_LAYER,
            ),
        ),
    ),
}
CAUTION = Remark(
    "Some of the gains of such methods vanish against a baseline whose learning rate has decayed to its end: compare "
    "with one that is tuned for itself, and count the FLOPs of all stages.",
    NO_GAIN,
)
STEADY = Remark(
    "Let the learning rate be the same before and after the growth: warm-up, stable, decay, with the decay at the end.",
    ONE_LAYER,
)


def rule_of(name: str) -> Rule:
    """Return a rule by its name.

    Raises:
        RequestError: there is none of that name.
    """
    if name not in RULES:
        raise RequestError(f"unknown rule {name!r}: expected {' or '.join(RULES)}{did_you_mean(name, RULES)}")
    return RULES[name]


__all__ = ["CAUTION", "CHINCHILLA", "FACTORS", "INTERLEAVING", "RULES", "STEADY", "Remark", "Rule", "rule_of"]
