"""How a grown model came to be, as far as a check needs to know: by its plan, or by what both models show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growformer.errors import PlanError, RequestError, SourceError
from growformer.verification.recorded import Recorded

if TYPE_CHECKING:
    from growformer.architecture.declaration import Architecture
    from growformer.planning.plan import Plan
    from growformer.verification.inference.infer import Inferred

INFERRED = "inferred"
FILE = "growformer.json"
WITHOUT = "--record inferred asks the two checkpoints instead"


@dataclass(frozen=True, slots=True)
class Growth:
    """What is known of a growth: one of plan and inferred.

    Attributes:
        said_by: ``plan``, ``growformer.json``, another file, or ``inferred``.
        plan: what it was grown by.
        inferred: what both models show, where there is no plan. A claim, which the constraints check tests.
        twice: heads that the grown folder stores beside the table that they are tied to, with the same bytes.
    """

    said_by: str
    plan: Plan | None = None
    inferred: Inferred | None = None
    twice: tuple[tuple[str, str], ...] = ()

    def recorded(self) -> Recorded:
        """Return it as the checks read it."""
        if self.inferred is not None:
            return self.inferred.record
        assert self.plan is not None
        return Recorded.read(json.loads(self.plan.to_json()))


def in_a_folder(model: Any) -> Any:
    """Return where a model of the hub lies on this machine, downloaded if it has to be; all else as it is.

    Raises:
        SourceError: there is no such model, or it cannot be read safely.
    """
    if not isinstance(model, str) or Path(model).exists():
        return model
    from growformer.storage.folder import open_folder

    return open_folder(model).path


def has_record(grown: Any) -> bool:
    """Tell whether a grown model is a folder with a growformer.json."""
    return isinstance(grown, (str, Path)) and (Path(grown) / FILE).is_file()


def find_growth(
    source: Any,
    grown: Any,
    plan: Plan | None = None,
    record: str | Path | None = None,
    architecture: Architecture | None = None,
) -> Growth:
    """Return how a model was grown.

    Args:
        source: model folder, or live model.
        grown: likewise.
        plan: how it was grown; by default, what ``record`` says.
        record: ``inferred``: from both models. A file: a growformer.json, or a plan's JSON. By default a grown folder's
            own growformer.json, or inferred where there is none.
        architecture: the declaration of an own model, for what is inferred.

    Raises:
        SourceError: a record or a checkpoint cannot be read, or nothing can be inferred.
        UnknownArchitectureError: there is no record, and no declaration describes the source.
    """
    if plan is not None:
        return Growth("plan", plan)
    if record is None and has_record(grown):
        from growformer.execute.provenance import load_provenance

        return Growth(FILE, load_provenance(grown).plan)
    if record is not None and record != INFERRED:
        if not isinstance(record, (str, Path)):
            raise RequestError(f"record: expected {INFERRED!r} or a file, got {type(record).__name__}")
        return Growth(str(record), _plan_in(Path(record)))
    from growformer.verification.inference.infer import infer
    from growformer.verification.sides import describe_side, open_side, stored_twice

    with ExitStack() as stack:
        before, after = open_side(source, stack), open_side(grown, stack)
        found, described = describe_side(before, architecture)
        if after.config is None:
            raise SourceError(
                "the grown model has no config with to_dict(): pass plan=..., the plan that it was grown by"
            )
        _check_not_smaller(found, described.config, after.config)
        inferred = infer(found, described, after.config, before.tensors, after.tensors)
        twice = stored_twice(after, found) if described.tied else {}
    return Growth(INFERRED, inferred=inferred, twice=tuple(twice.items()))


def _check_not_smaller(architecture: Architecture, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse two models of one type of which the second is smaller.

    Raises:
        RequestError: it is, in a size that growth could only have made larger.
    """
    if before.get("model_type") != after.get("model_type"):
        return
    own, other = architecture.resolve_config(before), architecture.resolve_config(after)
    sizes = [(name, own.get(name), other.get(name)) for name in architecture.size_fields()]
    smaller = [f"{n} {a} -> {b}" for n, a, b in sizes if isinstance(a, int) and isinstance(b, int) and b < a]
    if smaller:
        raise RequestError(
            f"the grown model is smaller than its source ({', '.join(smaller)}): name the source first, and then what "
            "it has become"
        )


def _plan_in(file: Path) -> Plan:
    from growformer.execute.provenance import load_provenance, read_record
    from growformer.planning.plan import Plan

    if file.is_dir():
        return load_provenance(file).plan
    if not file.exists():
        raise RequestError(f"{file}: no such record; expected {INFERRED!r}, a {FILE} or a plan's JSON file")
    data = read_record(file)
    try:
        return Plan.from_json(json.dumps(data.get("plan", data)))
    except PlanError as error:
        raise SourceError(f"{file}: neither a {FILE} nor a plan's JSON: {error}; {WITHOUT}") from None


__all__ = ["FILE", "INFERRED", "Growth", "find_growth", "has_record", "in_a_folder"]
