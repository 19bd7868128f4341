"""How many positions the outputs check runs: a short input always, and the longest where growth depends on positions.

A long input costs time and memory. What a default run leaves out for that is said in a note, and can be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from growformer.errors import RequestError
from growformer.verification.memory import SHARE, gigabytes
from growformer.verification.model_inputs import what_it_reads
from growformer.verification.output_runs import frequencies_of

SHORT = 64
_WINDOWS = ("sliding_window", "attention_window", "local_attention", "window_size", "attention_chunk_size")
MAX_OPERATIONS = 5e12
"""Of a default run, for all passes over a long input together: a minute or two on two cores."""
_PER_SCORE = 100
"""What masking and softmax of one score take, in operations of a matrix product of the same time."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an input of one length costs.

    Attributes:
        operations: multiplications and additions of all passes.
        num_bytes: of outputs that are kept and of what one pass needs besides weights.
        stream_bytes: of the streams between layers, if they are kept too.
    """

    operations: float
    num_bytes: int
    stream_bytes: int


def cost(model: nn.Module, length: int, num_dtypes: int, num_layers: int) -> Cost:
    """Estimate what one sequence costs: a pass in float64, and two in each dtype.

    Args:
        model: whose sizes are looked at; its weights may be on the meta device.
        length: of the sequence.
        num_dtypes: in how many dtypes models are compared.
        num_layers: after how many layers streams are compared.
    """
    reads = what_it_reads(model)
    hidden = int(reads.field("hidden_size", "n_embd", "d_model", default=1024))
    inner = int(reads.field("intermediate_size", "n_inner", "d_ff", default=4 * hidden))
    depth = int(reads.field("num_hidden_layers", "n_layer", "num_layers", default=max(num_layers, 1)))
    heads = int(reads.field("num_attention_heads", "n_head", "num_heads", default=16))
    spoken = getattr(model, "get_output_embeddings", lambda: None)() is not None
    width = int(reads.field("vocab_size", default=hidden)) if spoken else hidden
    parameters = sum(p.numel() for p in model.parameters())
    passes = 1 + 2 * num_dtypes
    operations = passes * (2.0 * parameters * length + length**2 * depth * (4.0 * hidden + _PER_SCORE * heads))
    eager = getattr(getattr(model, "config", None), "_attn_implementation", "eager") == "eager"
    # Of scores in float64, a few per head; without them a mask, where a window needs one, as truth values and numbers.
    scores = (3 * 8 * heads if eager else 2 + 8) * length**2
    kept = length * width * (8 + 4 + 4)
    return Cost(operations, kept + scores + 8 * length * (4 * inner + 2 * width), 16 * length * hidden * num_layers)


def positions_matter(source: nn.Module, grown: nn.Module) -> bool:
    """Tell whether rotary frequencies, windows or the number of positions differ: errors may depend on the position."""
    before, after = frequencies_of(source), frequencies_of(grown)
    if before.keys() != after.keys() or any(before[n].shape != after[n].shape for n in before):
        return True
    if any(not (before[n] == after[n]).all() for n in before):
        return True
    reads = what_it_reads(source), what_it_reads(grown)
    windows = [[r.field(name) for name in _WINDOWS] for r in reads]
    return reads[0].longest != reads[1].longest or windows[0] != windows[1]


def checked_lengths(lengths: Sequence[int | str], model: nn.Module) -> list[int]:
    """Return the lengths of a request; ``max`` is the model's longest.

    Raises:
        RequestError: one is no length, or more than the model can read.
    """
    longest = what_it_reads(model).longest
    found: list[int] = []
    for length in lengths:
        if length == "max":
            if longest is None:
                raise RequestError("lengths: the config says no longest input; name a number instead of max")
            found.append(longest)
        elif not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise RequestError(f"lengths: expected whole numbers from 1, or max, found {length!r}")
        elif longest is not None and length > longest:
            raise RequestError(f"lengths: {length:,} positions, and the model reads at most {longest:,}; ask for max")
        else:
            found.append(length)
    if not found:
        raise RequestError("lengths: none is named; expected whole numbers, or max")
    return list(dict.fromkeys(found))


def default_lengths(
    source: nn.Module, grown: nn.Module, short: int, num_dtypes: int, num_layers: int, free: int
) -> tuple[list[int], list[str]]:
    """Return the lengths that are run by default, and what was left out.

    Args:
        source: the source; its weights may be on the meta device.
        grown: the grown model; likewise.
        short: the length that is always run.
        num_dtypes: in how many dtypes models are compared.
        num_layers: after how many layers streams are compared.
        free: bytes for what is kept.
    """
    reads = what_it_reads(source)
    if not reads.is_text:
        return [short], []
    longest = min((n for n in (reads.longest, what_it_reads(grown).longest) if n is not None), default=None)
    if longest is None or longest <= short or not positions_matter(source, grown):
        return [short], []
    length = longest
    while length > short:
        needed = cost(grown, length, num_dtypes, num_layers)
        if needed.operations <= MAX_OPERATIONS and needed.num_bytes <= SHARE * free:
            break
        length = 1 << (length - 1).bit_length() - 1
    if length >= longest:
        return [short, longest], []
    whole = cost(grown, longest, num_dtypes, num_layers)
    left = (
        f"positions matter to this growth, and {longest:,} of them, the model's longest, were not run: about "
        f"{whole.operations:.0e} operations and {gigabytes(whole.num_bytes)} of memory; --lengths max does it"
    )
    return [short, length] if length > short else [short], [left]


__all__ = ["MAX_OPERATIONS", "SHORT", "Cost", "checked_lengths", "cost", "default_lengths", "positions_matter"]
