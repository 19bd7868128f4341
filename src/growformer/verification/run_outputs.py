"""What the outputs check runs on: both models, in memory or from disk, inputs of several kinds and lengths, dtypes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from growformer.errors import PlanError, RequestError, SourceError, did_you_mean
from growformer.storage.folder import ModelFolder, open_folder
from growformer.verification.from_disk import FromDisk, Unrunnable, class_of, skeleton
from growformer.verification.input_files import Inputs as InputFiles
from growformer.verification.lengths import SHORT, checked_lengths, cost, default_lengths
from growformer.verification.memory import SHARE, available_bytes, gigabytes
from growformer.verification.model_inputs import NoDefaultInputs, random_inputs, what_it_reads
from growformer.verification.output_report import OutputsReport
from growformer.verification.output_runs import Held, InputSet, Openable, cast, frequencies_of, moved
from growformer.verification.outputs import RATIO_LIMIT, Progress, compare_outputs
from growformer.verification.recorded import Recorded
from growformer.verification.requirements import first_rounded
from growformer.verification.shared_layers import shared_layers

if TYPE_CHECKING:
    pass

STEPS = 16
"""How many tokens are decoded with a KV cache; from disk, each reads all weights."""
STEPS_FROM_DISK = 2
SAFELY = {"use_safetensors": True, "trust_remote_code": False}
"""How a folder is loaded: no pickle is read, and no code beside it is run or asked about."""
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model", "tokenizer.model", "vocab.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputsRequest:
    """How outputs are compared.

    Attributes:
        dtypes: in which; None: float32, and the dtype of the checkpoint.
        inputs: arguments of both models, instead of random ones.
        files: the user's own inputs, in addition.
        prompt: a text, in addition.
        seed: of random inputs.
        lengths: how many positions, or ``max``; None: a short input, and a long one where positions matter.
        generate: how many tokens are decoded with a KV cache; None: as many as is usual.
        frequencies: whether the grown model gets the source's rotary frequencies; None: where their number grew by
            other than a power of two.
        from_disk: whether models run layer by layer from disk; None: where they do not fit in memory.
        progress: told what is being run.
    """

    dtypes: Sequence[str] | None = None
    inputs: Mapping[str, torch.Tensor] | None = None
    files: Sequence[str | Path] = ()
    prompt: str | None = None
    seed: int = 0
    lengths: Sequence[int | str] | None = None
    generate: int | None = None
    frequencies: bool | None = None
    from_disk: bool | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class InMemory:
    """A folder that is loaded whole, as its own class, whenever it is opened."""

    folder: ModelFolder

    def looked_at(self) -> nn.Module:
        """Return the model without weights."""
        return skeleton(self.folder)

    @contextlib.contextmanager
    def opened(self, dtype: torch.dtype) -> Iterator[nn.Module]:
        """Give the model; it is loaded in the precision that is stored, at least float32, and converted in place."""
        yield cast(load_folder(self.folder), dtype)


def load_folder(folder: ModelFolder) -> nn.Module:
    """Load a folder as its own class, in float32, or float64 where it is stored so.

    Raises:
        SourceError: transformers has no such class, or it cannot load the folder.
    """
    stored = {entry.dtype for entry in folder.entries.values()}
    dtype = torch.float64 if "float64" in stored else torch.float32
    try:
        return class_of(folder).from_pretrained(folder.path, dtype=dtype, **SAFELY).eval()  # type: ignore[no-any-return]
    except (OSError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if "ignore_mismatched_sizes" in reason:  # of transformers, which says in its log what it found
            reason = "tensors have other shapes than its config says; --checks constraints names them"
        raise SourceError(f"{folder.path}: {class_of(folder).__name__} cannot load it: {reason}") from None


def load_model(model: Any, other: Any = None) -> nn.Module:
    """Load a folder as its own class, in float32; a live model is returned as it is.

    Args:
        model: a folder, or a live model.
        other: of which the class is taken where the folder names none.

    Raises:
        SourceError: the folder cannot be read, or transformers has no such class.
    """
    folder, beside = (open_folder(m) if isinstance(m, (str, Path)) else None for m in (model, other))
    return load_folder(_named_as(folder, beside)) if folder is not None else model


def _named_as(folder: ModelFolder, other: ModelFolder | None) -> ModelFolder:
    """Return a folder that names a class in its config: that of the other where it names none itself."""
    named = other.config.get("architectures") if other is not None else None
    if folder.config.get("architectures") or not named:
        return folder
    return replace(folder, config={**folder.config, "architectures": named})


def run_outputs(source: Any, grown: Any, request: OutputsRequest, record: Recorded | None = None) -> OutputsReport:
    """Compare the outputs of two models, folders or live ones, on random inputs and the user's own.

    Args:
        source: the source.
        grown: what it was grown into.
        request: how.
        record: what is recorded of the growth; without it, streams between layers are not compared.

    Raises:
        RequestError: an unknown dtype, a length that the model does not read, or inputs that it cannot be given.
        SourceError: a model cannot be read, holds no floating point, cannot run on the inputs, or layer by layer where
            that was asked for.
    """
    folders = [open_folder(m) if isinstance(m, (str, Path)) else None for m in (source, grown)]
    for folder in (folder for folder in folders if folder is not None):
        _check_floating(folder)
    folders = [f and _named_as(f, other) for f, other in zip(folders, reversed(folders), strict=True)]
    looked_at = [
        skeleton(folder) if folder is not None else model
        for folder, model in zip(folders, (source, grown), strict=True)
    ]
    dtypes = checked_dtypes(request.dtypes, [_dtypes_of(f, m) for f, m in zip(folders, (source, grown), strict=True)])
    notes = [] if request.dtypes is None else _stored_in_fewer_bits(folders, dtypes)
    if request.dtypes is None and len(dtypes) > 1 and record is not None:
        dtypes = _without_stored_rounding(dtypes, record, notes)
    tell = _Tell(request.progress or (lambda _: None))
    free = available_bytes()
    layers = len(shared_layers(record, looked_at[0], looked_at[1])) if record is not None else 0
    from_disk = _from_disk(request.from_disk, folders, looked_at, free, notes)
    room = free - (0 if from_disk else _weights(looked_at))
    sets = _input_sets(request, folders[0], looked_at, len(dtypes), layers, max(room, 0), notes)
    rotated = _rotary_ratio(looked_at)
    frequencies = request.frequencies
    if frequencies is None:
        frequencies = rotated is not None and rotated not in (1, 2, 4, 8)
    if frequencies and rotated is not None:
        angle = moved(*map(frequencies_of, looked_at)) * max(s.length for s in sets)
        notes.append(
            f"outputs are compared with the source's rotary frequencies: head_dim grew by {rotated:g}, and its own, "
            f"rounded to float32, turn the last position by up to {angle:.1e} radians more or less"
        )
    steps = request.generate if request.generate is not None else STEPS_FROM_DISK if from_disk else STEPS
    opened: list[Openable] = [
        Held(model) if folder is None else FromDisk(folder, tell.part) if from_disk else InMemory(folder)
        for folder, model in zip(folders, (source, grown), strict=True)
    ]
    with _memory_errors(tell, sets):
        found = compare_outputs(
            opened[0], opened[1], sets, dtypes,
            generate=steps, frequencies=frequencies, record=record, progress=tell.step,
        )  # fmt: skip
    if request.dtypes is None and record is None:
        notes += _may_be_rounded(found)
    found = replace(found, notes=(*notes, *found.notes))
    return _with_text(found, folders[0])


def outputs_or_why_not(
    source: Any, grown: Any, request: OutputsRequest, record: Recorded | None, *, required: bool
) -> tuple[OutputsReport | None, list[str]]:
    """Run the check; where it is not required and cannot be run, for want of memory or inputs, say so instead.

    Raises:
        As ``run_outputs``, where the check is required or the request itself is wrong.
    """
    asked = request.inputs is not None or request.files or request.prompt is not None or request.lengths is not None
    try:
        found = run_outputs(source, grown, request, record)
    except (Unrunnable, NoDefaultInputs) as error:
        if required or asked or request.from_disk:
            raise
        return None, [f"outputs were not compared: {error}"]
    return found, []


@dataclass(slots=True)
class _Tell:
    """Progress in two levels: what runs, and which of its parts."""

    say: Progress
    now: str = field(default="")

    def step(self, text: str) -> None:
        """Say what runs from now on."""
        self.now = text
        self.say(text)

    def part(self, at: str) -> None:
        """Say which part of it runs."""
        self.say(f"{self.now}: {at}")


# Dtypes.


def checked_dtypes(dtypes: Sequence[str] | None, stored: Sequence[set[str]]) -> list[str]:
    """Return the dtypes to compare in.

    By default float32 and the one in which the source is stored; only the grown model's where that is another, since
    in any other the two are rounded apart.

    Args:
        dtypes: as asked for.
        stored: the dtypes of the source and of the grown model.

    Raises:
        RequestError: outputs are not compared in one of them.
    """
    if dtypes is None:
        source, grown = ([d for d in RATIO_LIMIT if d in found] for found in stored)
        if len(grown) == 1 and grown != source:
            return grown
        return list(dict.fromkeys(["float32", *source]))
    for dtype in dtypes:
        if dtype not in RATIO_LIMIT:
            hint = did_you_mean(dtype, RATIO_LIMIT)
            raise RequestError(f"unknown dtype {dtype!r}: expected {', '.join(RATIO_LIMIT)}{hint}")
    if not dtypes:
        raise RequestError(f"no dtype is named: expected {', '.join(RATIO_LIMIT)}")
    return list(dict.fromkeys(dtypes))


def _check_floating(folder: ModelFolder) -> None:
    found = _dtypes_of(folder, None)
    if not any("float" in dtype for dtype in found):
        raise SourceError(
            f"{folder.path}: its weights are {', '.join(sorted(found))}: no class runs on these; expected values in "
            "floating point"
        )


def _dtypes_of(folder: ModelFolder | None, model: Any) -> set[str]:
    if folder is not None:
        return {entry.dtype for entry in folder.entries.values()}
    return {str(p.dtype).removeprefix("torch.") for p in model.parameters()}


def _stored_in_fewer_bits(folders: Sequence[ModelFolder | None], dtypes: Sequence[str]) -> list[str]:
    """Say where the grown checkpoint was stored in fewer bits than it is compared in."""
    if folders[0] is None or folders[1] is None:
        return []
    stored = [{d for d in _dtypes_of(f, None) if "float" in d} for f in folders]
    rounded = sorted(stored[1] - stored[0])
    if not rounded or set(dtypes) <= stored[1]:
        return []
    return [
        f"the grown checkpoint is stored as {', '.join(rounded)}, the source is not: what is measured in "
        f"{', '.join(d for d in dtypes if d not in stored[1])} is that rounding; compare in {', '.join(rounded)}"
    ]


def _without_stored_rounding(dtypes: list[str], record: Recorded, notes: list[str]) -> list[str]:
    """Return dtypes without float32, where source values were rounded to fewer bits when they were stored."""
    try:
        example = first_rounded(record)
    except PlanError:  # the constraints check says what is wrong
        return dtypes
    if example is None:
        return dtypes
    stored = dtypes[-1]
    notes.append(
        f"outputs were not compared in float32: {example}, say, holds source values times a factor, or means of them, "
        f"rounded to {stored}, in which both checkpoints are stored, and float32 would measure that rounding; grow "
        f"with --dtype float32 keeps it out, and verify with --dtype float32,{stored} shows it"
    )
    return [dtype for dtype in dtypes if dtype != "float32"]


def _may_be_rounded(found: OutputsReport) -> list[str]:
    """Say why float32 alone may fail where no record says whether values were rounded when they were stored."""
    failed, passed = ({c.dtype for c in found.comparisons if c.ok is ok} for ok in (False, True))
    if failed != {"float32"} or not passed - failed:
        return []
    stored = ", ".join(sorted(passed - failed))
    return [
        f"in {stored}, in which both are stored, outputs agree: if values were multiplied by a factor and rounded to "
        "it, float32 measures that rounding. Give the plan, from which this follows"
    ]


# Memory.


def _weights(models: Sequence[nn.Module]) -> int:
    """Return how many bytes of weights lie in memory at most: one model as it was loaded, and as it is converted.

    Those of the source in float32 and float64 at once; of live models beside both as they are.
    """
    source, grown = (sum(p.numel() for p in model.parameters()) for model in models)
    return max(13 * source, 9 * grown)  # measured: benchmarks/verify_outputs.py


@contextlib.contextmanager
def _memory_errors(tell: _Tell, sets: Sequence[InputSet]) -> Iterator[None]:
    """Say of memory that cannot be had what takes less.

    Raises:
        Unrunnable: the comparison takes more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        longest = max(given.length for given in sets)
        raise Unrunnable(
            f"memory ran out with {tell.now}, {gigabytes(available_bytes())} being free; ask for less than {longest:,} "
            "positions (--lengths), or run layer by layer (--from-disk)"
        ) from None


def _from_disk(
    asked: bool | None, folders: Sequence[ModelFolder | None], models: Sequence[nn.Module], free: int, notes: list[str]
) -> bool:
    """Decide whether models run from disk, and say so where it was not asked for.

    Raises:
        RequestError: it is asked for, of a live model.
    """
    live = any(folder is None for folder in folders)
    if asked and live:
        raise RequestError("only model folders run from disk; of live models, leave from_disk out")
    needed = _weights(models)
    if asked is not None or live or needed <= SHARE * free:
        return bool(asked)
    notes.append(
        f"the models ran layer by layer from disk: loaded and converted, weights take {gigabytes(needed)} of memory, "
        f"and {gigabytes(free)} are free"
    )
    return True


# Inputs.


def _input_sets(
    request: OutputsRequest,
    folder: ModelFolder | None,
    models: Sequence[nn.Module],
    num_dtypes: int,
    num_layers: int,
    free: int,
    notes: list[str],
) -> list[InputSet]:
    if request.inputs is not None:
        return [InputSet("given inputs", (dict(request.inputs),))]
    source = models[0]
    files = InputFiles(source, folder.path if folder is not None else None)
    own = [files.prompt(request.prompt)] if request.prompt is not None else []
    own += files.read(request.files)
    notes += files.notes
    if request.lengths is not None:
        lengths = checked_lengths(request.lengths, source)
    else:
        lengths, left = default_lengths(source, models[1], SHORT, num_dtypes, num_layers, free)
        notes += left
    sets: list[InputSet] = []
    for length in lengths:
        try:
            given = random_inputs(source, length, request.seed)
        except RequestError as error:
            if not own:
                raise
            notes.append(f"random inputs were not run: {error}")
            break
        sets.append(_affordable(given, length, models[1], num_dtypes, num_layers, free, notes))
        if not what_it_reads(source).is_text:
            break
    return [*sets, *own]


def _affordable(
    given: InputSet, length: int, model: nn.Module, num_dtypes: int, num_layers: int, free: int, notes: list[str]
) -> InputSet:
    """Return an input with one sequence where it is long, without streams between layers where they do not fit."""
    if length <= SHORT:
        return given
    needed = cost(model, length, num_dtypes, num_layers)
    fits = needed.num_bytes + needed.stream_bytes <= SHARE * free
    if not fits:
        notes.append(
            f"at {length:,} positions the streams between layers were not compared: they take "
            f"{gigabytes(needed.stream_bytes)} of memory"
        )
    first = {name: tensor[:1] for name, tensor in given.batches[0].items()}
    return InputSet(given.kind, (first,), layers=fits)


def _rotary_ratio(models: Sequence[nn.Module]) -> float | None:
    """Return by how much the number of rotary frequencies grew from the first model to the second; None without."""
    found = [next((b.numel() for b in frequencies_of(m).values()), None) for m in models]
    return found[1] / found[0] if found[0] and found[1] else None


# Texts of tokens.


def _with_text(report: OutputsReport, folder: ModelFolder | None) -> OutputsReport:
    """Return a report that says what the worst tokens stand for, where the source has a tokenizer."""
    if folder is None or not any((folder.path / name).is_file() for name in TOKENIZERS):
        return report
    if not any(c.worst is not None and c.worst.token is not None for c in report.comparisons):
        return report
    try:
        from transformers import AutoTokenizer

        decode: Callable[[list[int]], str] = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False).decode
    except Exception:
        return report  # what a tokenizer lacks takes nothing from the figures
    comparisons = [
        replace(c, worst=replace(c.worst, text=decode([c.worst.token])))
        if c.worst is not None and c.worst.token is not None
        else c
        for c in report.comparisons
    ]
    return replace(report, comparisons=tuple(comparisons))


__all__ = [
    "OutputsRequest", "checked_dtypes", "load_folder", "load_model", "outputs_or_why_not", "run_outputs",
]  # fmt: skip
