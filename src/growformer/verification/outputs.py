"""The outputs check: both models on the same inputs, judged against the source's own rounding.

Let y be what the source computes in float64. The figure is ``|grown in dtype D - y| / |source in dtype D - y|``:
near 1, growth added nothing to the rounding that D has anyway. Where the source's error is zero, both must be equal.
The same is asked of every position, of the stream after every layer, and of decoding token by token with a KV cache.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from growformer.errors import GrowformerError, SourceError
from growformer.verification.output_errors import FLOOR, OutputErrors, Worst, errors_of
from growformer.verification.output_report import CacheComparison, LayerErrors, OutputComparison, OutputsReport
from growformer.verification.output_runs import (
    OUTPUTS,
    Held,
    Inputs,
    InputSet,
    Openable,
    Ran,
    convert,
    decode,
    decoded,
    decodes,
    default_dtype,
    frequencies_of,
    put_frequencies,
    run,
)
from growformer.verification.recorded import Recorded
from growformer.verification.shared_layers import SharedLayer, post_norm_allowance, shared_layers

RATIO_LIMIT = {"float32": 2.0, "bfloat16": 3.0, "float16": 3.0}
"""How much further from float64 than the source the grown model may be, per dtype."""

OTHERWISE = 10.0
"""How much further off than its forward a source's decoding may be: beyond, it is another function (XLM's mask)."""

Progress = Callable[[str], None]
"""Told what is being done."""


def compare_outputs(
    source: nn.Module | Openable,
    grown: nn.Module | Openable,
    inputs: Inputs | Sequence[InputSet],
    dtypes: Sequence[str] = ("float32",),
    *,
    generate: int = 0,
    frequencies: bool = False,
    record: Recorded | None = None,
    progress: Progress | None = None,
) -> OutputsReport:
    """Compare two models on the same inputs, at every position.

    Each model is converted once per dtype, the source to float64 too, one at a time; what float64 gave is kept for all.

    Args:
        source: the source; a copy is converted, it is not changed.
        grown: the grown model; likewise.
        inputs: keyword arguments of both, or several sets of them.
        dtypes: in which to compare.
        generate: how many tokens to decode with a KV cache.
        frequencies: give the grown model the source's rotary frequencies, where a base that is not a power of the
            source's has moved them by a float32 rounding (MATHEMATICS: rotary).
        record: what is recorded of the growth; the streams between layers are compared with it only.
        progress: told what is being run.

    Raises:
        SourceError: the models' outputs cannot be compared.
    """
    sets = tuple(inputs) if isinstance(inputs, Sequence) else (InputSet("given inputs", (inputs,)),)
    models = [Held(m) if isinstance(m, nn.Module) else m for m in (source, grown)]
    run_all = _Runs(sets, generate, record, progress or (lambda _: None))
    notes: list[str] = []
    allowance = 0.0
    if record is not None:
        allowance = post_norm_allowance(record)
        if allowance:
            notes.append(
                f"new post-norm layers change what they read by up to eps / (2 variance): errors up to {allowance:g}, "
                "that epsilon, count as preserved"
            )
        run_all.layers = shared_layers(record, models[0].looked_at(), models[1].looked_at())
        if not run_all.layers:
            notes.append(
                "the streams between layers were not compared: the class has no list of layers that share one, or its "
                "layers are not those that are recorded"
            )
    with models[0].opened(torch.float64) as opened:
        originals = frequencies_of(opened)
        reference = run_all.of(opened, "float64", "the source")
    comparisons, caches = [], []
    for dtype in dtypes:
        with models[0].opened(getattr(torch, dtype)) as opened:
            own = run_all.of(opened, dtype, "the source")
        with models[1].opened(getattr(torch, dtype)) as opened:
            if frequencies:
                put_frequencies(originals, opened)
            other = run_all.of(opened, dtype, "the grown model", grown=True)
        typical = dtype != "float32" and record is not None and bool(record.architecture.active)
        if typical:
            notes.append(
                f"in {dtype} the position in the middle is judged, not the one furthest off: rounding may send a token "
                "to another expert, in the source as in the grown model"
            )
        for at, given in enumerate(sets):
            three = [results.sets[at] for results in (reference, own, other)]
            found = _compare(dtype, given, run_all.layers if given.layers else [], allowance, *three, typical=typical)
            if math.isfinite(found.source_error):
                comparisons.append(found)
            else:
                notes.append(f"nothing is compared in {dtype}: the source itself overflows in it on {given.kind}")
        if own.decoded is not None and other.decoded is not None:
            exact, forward = (results.sets[run_all.cached][0].outputs["logits"] for results in (reference, own))
            decoding = _compare_caches(dtype, exact, own.decoded, other.decoded, allowance, typical=typical)
            whole = errors_of("logits", [exact], [forward], [forward]).source_error
            if decoding.source_error <= OTHERWISE * max(whole, FLOOR):
                caches.append(decoding)
            else:
                notes.append(
                    f"decoding with a KV cache was not compared in {dtype}: the source itself decodes something else "
                    f"than its forward gives (error {decoding.source_error:.1e} against {whole:.1e})"
                )
        elif own.cannot:
            notes.append(f"decoding with a KV cache was not compared in {dtype}: the source cannot ({own.cannot})")
        elif other.cannot and own.decoded is not None:
            notes.append(
                f"the grown model cannot decode with a KV cache in {dtype}, as the source can ({other.cannot})"
            )
            steps = own.decoded.shape[1]
            caches.append(CacheComparison(steps, False, dtype, 0.0, math.inf, math.inf, RATIO_LIMIT[dtype]))
        del own, other
    # One that failed says more than one that passed.
    cache = next((c for c in caches if not c.ok), caches[0] if caches else None)
    return OutputsReport(tuple(comparisons), cache, sum(s.num_positions for s in sets), tuple(notes))


@contextlib.contextmanager
def said_of(what: str) -> Iterator[None]:
    """Let a class's own errors say what was run.

    Raises:
        SourceError: the class cannot run on these inputs.
    """
    try:
        yield
    except (ValueError, IndexError, TypeError, KeyError, RuntimeError) as error:
        if isinstance(error, (torch.OutOfMemoryError, NotImplementedError)) or "allocate memory" in str(error):
            raise
        reason = next(iter(str(error).splitlines()), "")
        raise SourceError(f"{what}: the class cannot run on this: {type(error).__name__}: {reason}") from error


@dataclass(slots=True)
class _Results:
    """What one model gave in one dtype: per set of inputs and batch, and from decoding, or why it cannot decode."""

    sets: list[list[Ran]] = field(default_factory=list)
    decoded: torch.Tensor | None = None
    cannot: str = ""


@dataclass(slots=True)
class _Runs:
    """What models are run on."""

    sets: tuple[InputSet, ...]
    steps: int
    record: Recorded | None
    progress: Progress
    layers: list[SharedLayer] = field(default_factory=list)

    @property
    def cached(self) -> int:
        """The first set that is decoded."""
        return next((at for at, given in enumerate(self.sets) if given.cached), -1)

    def of(self, model: nn.Module, dtype: str, called: str, *, grown: bool = False) -> _Results:
        """Run a model on everything."""
        results, wanted = _Results(), getattr(torch, dtype)
        for given in self.sets:
            names = [pair.grown_module if grown else pair.module for pair in self.layers] if given.layers else []
            found = []
            for number, batch in enumerate(given.batches, 1):
                count = f", {number} of {len(given.batches)}" if len(given.batches) > 1 else ""
                self.progress(f"{called} in {dtype} on {given}{count}")
                with said_of(f"{called} in {dtype} on {given}{count}"):
                    found.append(run(model, batch, wanted, list(dict.fromkeys(names))))
            results.sets.append(found)
        if dtype != "float64" and self.cached >= 0 and decodes(model):
            batch = self.sets[self.cached].batches[0]
            name, first = decoded(batch), results.sets[self.cached][0].outputs.get("logits")
            tokens = batch[name] if name is not None else None
            if tokens is None or tokens.ndim != 2 or first is None or first.shape[:-1] != tokens.shape:
                return results
            steps = min(self.steps, tokens.shape[1] - 1)
            if steps > 0 and int(tokens.max()) < first.shape[-1]:
                self.progress(f"{called} in {dtype}, decoding {steps} tokens")
                try:
                    results.decoded = decode(model, batch, wanted, steps)
                except GrowformerError:
                    raise
                except Exception as error:
                    results.cannot = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return results


def _compare(
    dtype: str,
    given: InputSet,
    layers: Sequence[SharedLayer],
    allowance: float,
    reference: Sequence[Ran],
    own: Sequence[Ran],
    other: Sequence[Ran],
    *,
    typical: bool,
) -> OutputComparison:
    limit = RATIO_LIMIT[dtype]
    found = [_errors(name, reference, own, other, typical=typical) for name in own[0].outputs]
    overall = max(found, key=lambda e: math.inf if math.isnan(e.ratio) else e.ratio)
    with_positions = [e for e in found if e.by_position] or [overall]
    placed = max(with_positions, key=lambda e: _badness(e, limit))
    return OutputComparison(
        dtype=dtype,
        source_error=overall.source_error,
        grown_error=overall.grown_error,
        ratio=overall.ratio,
        largest=max(e.largest for e in found),
        greedy_equal=found[0].same,
        limit=limit,
        allowance=allowance,
        length=placed.by_position[-1].stop if placed.by_position else given.length,
        inputs=given.kind,
        output=overall.name,
        worst=_worst(placed, given),
        position_ratio=placed.position_ratio,
        position_limit=limit * placed.position_factor if placed.by_position else math.inf,
        by_position=placed.by_position,
        by_layer=tuple(_compare_layers(layers, reference, own, other, typical=typical)),
    )


def _badness(errors: OutputErrors, limit: float) -> float:
    """Return how an output's positions rank: the one furthest over its limit, else the most telling one."""
    ratio = errors.position_ratio / (limit * errors.position_factor)
    return math.inf if math.isnan(ratio) else ratio if ratio > 1 else 0.0


def _errors(
    name: str, reference: Sequence[Ran], own: Sequence[Ran], other: Sequence[Ran], *, typical: bool
) -> OutputErrors:
    grown = []
    for before, after in zip(own, other, strict=True):
        if name not in after.outputs:
            raise SourceError(f"the grown model does not return {name}, as the source does")
        a, b = before.outputs[name], after.outputs[name]
        if b.shape[-1] < a.shape[-1] or b.shape[:-1] != a.shape[:-1]:
            raise SourceError(
                f"for the same inputs the source gives {name} of shape {list(a.shape)}, and the grown model of "
                f"{list(b.shape)}: these are not one model before and after growth"
            )
        if "logits" in name and b.shape[-1] > a.shape[-1]:  # more tokens or labels to choose from than the source has
            b = torch.full_like(a, math.inf)
        grown.append(_rows(b[..., : a.shape[-1]]))
    exact, mine = ([_rows(ran.outputs[name]) for ran in rans] for rans in (reference, own))
    return errors_of(name, exact, mine, grown, typical=typical)


def _rows(output: torch.Tensor) -> torch.Tensor:
    """Return an output as ``(sequence, position, value)``; one of two dimensions has no positions."""
    return output.flatten(2) if output.ndim > 3 else output


def _worst(errors: OutputErrors, given: InputSet) -> Worst | None:
    if errors.worst is None:
        return None
    sequence, position, source_error, grown_error = errors.worst
    return Worst(sequence, position, _token(given, sequence, position), None, errors.name, source_error, grown_error)


def _token(given: InputSet, sequence: int, position: int) -> int | None:
    for batch in given.batches:
        name = decoded(batch)
        count = next(iter(batch.values())).shape[0]
        if sequence < count:
            tokens = batch[name] if name is not None else None
            inside = tokens is not None and tokens.ndim == 2 and position < tokens.shape[1]
            return int(tokens[sequence, position]) if tokens is not None and inside else None
        sequence -= count
    return None


def _compare_layers(
    layers: Sequence[SharedLayer],
    reference: Sequence[Ran],
    own: Sequence[Ran],
    other: Sequence[Ran],
    *,
    typical: bool,
) -> list[LayerErrors]:
    found = []
    for pair in layers:
        streams: list[list[torch.Tensor]] = [[], [], []]
        for a, b, c in zip(reference, own, other, strict=True):
            three = (
                pair.of_source(a.hidden.get(pair.module)),
                pair.of_source(b.hidden.get(pair.module)),
                pair.of_grown(c.hidden.get(pair.grown_module)),
            )
            if any(t is None for t in three) or three[1].shape != three[2].shape:  # type: ignore[union-attr]
                break
            for stream, one in zip(streams, three, strict=True):
                stream.append(one.flatten(0, -2))  # type: ignore[union-attr]
        else:
            errors = errors_of("stream", *_by_coordinate(*streams), typical=typical)
            found.append(
                LayerErrors(
                    pair.layer, pair.grown_layer, pair.first_grown, pair.stack, errors.source_error, errors.grown_error
                )
            )
    return found


def _by_coordinate(*streams: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield streams with every coordinate in units of its own root mean square in the first, the reference.

    In trained models one coordinate of one token may be thousands of times as large as all others. Its rounding, a
    single number, would then be all that a norm over the stream sees, and the ratio of two such numbers means nothing.
    """
    scale = torch.cat([one.double() for one in streams[0]]).square().mean(0).sqrt()
    scale = torch.where((scale > 0) & scale.isfinite(), scale, 1.0)
    for stream in streams:
        yield [one.double() / scale for one in stream]


def _compare_caches(
    dtype: str, exact: torch.Tensor, own: torch.Tensor, other: torch.Tensor, allowance: float, *, typical: bool
) -> CacheComparison:
    steps = own.shape[1]
    wanted = exact[:, -steps:]
    errors = errors_of("logits", [wanted], [own], [other[..., : own.shape[-1]]], typical=typical)
    differ = own.argmax(-1) != other[..., : own.shape[-1]].argmax(-1)
    margin = None
    if differ.any():
        best = wanted[differ].topk(min(2, wanted.shape[-1]), dim=-1).values
        margin = float((best[..., 0] - best[..., -1]).max() / wanted.abs().max())
    limit = RATIO_LIMIT[dtype]
    return CacheComparison(
        steps,
        not bool(differ.any()),
        dtype,
        errors.source_error,
        errors.grown_error,
        errors.ratio,
        limit,
        margin,
        allowance,
    )


__all__ = [
    "OUTPUTS", "RATIO_LIMIT", "CacheComparison", "InputSet", "OutputComparison", "OutputsReport", "Progress",
    "compare_outputs", "convert", "default_dtype", "put_frequencies",
]  # fmt: skip
