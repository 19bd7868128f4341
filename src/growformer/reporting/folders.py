"""From two checkpoints to what a report is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from growformer.errors import SourceError
from growformer.execute.provenance import FILE, read_record
from growformer.execute.side_files import TRAINER_STATE
from growformer.planning.plan import Plan
from growformer.reporting.subject import Subject, model_name
from growformer.storage.folder import ModelFolder, open_headers
from growformer.verification.growth import Growth
from growformer.verification.recorded import Recorded
from growformer.verification.same_source import check_source


def subject_of_folders(
    source: str, grown: str, revision: str | None = None, inferred: Recorded | None = None
) -> Subject:
    """Return the growth of one checkpoint into another; reads headers, configs and the record.

    Args:
        source: a folder, or a hub id.
        grown: a folder that growformer wrote.
        revision: of a hub source.
        inferred: what was inferred from the two; by default, the record beside the grown weights says it.

    Raises:
        SourceError: one cannot be read, or how the second was made is not recorded.
        PlanError: the source is not the one that the record is about.
    """
    target, before = open_headers(grown), open_headers(source, revision)
    both: dict[str, Any] = {
        "source": source,
        "grown": grown,
        "names": (model_name(source), model_name(grown)),
        "dtype": _only_dtype(target),
        "num_bytes": (_num_bytes(before), _num_bytes(target)),
        "is_trainer": (target.path / TRAINER_STATE).exists(),
    }
    if inferred is not None:
        return Subject(rec=inferred, basis="inferred", facts=(("source", source), ("grown", grown)), **both)
    record = read_record(target.path / FILE)
    plan = record.get("plan")
    if not isinstance(plan, Mapping):
        raise SourceError(f"{target.path / FILE}: not a record of growformer: it holds no plan")
    check_source(Growth(FILE, Plan.from_json(json.dumps(plan))), before)
    rec = Recorded.read({**plan, "target_config": target.config})
    return Subject(rec=rec, basis=FILE, plan=plan, facts=tuple(_facts(source, grown, record)), **both)


def _num_bytes(folder: ModelFolder) -> int:
    return sum(entry.end - entry.start for entry in folder.entries.values())


def _only_dtype(folder: ModelFolder) -> str | None:
    found = {entry.dtype for entry in folder.entries.values()}
    return next(iter(found)) if len(found) == 1 else None


def _facts(source: str, grown: str, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    made_from = record.get("source")
    made_from = made_from if isinstance(made_from, Mapping) else {}
    files = record.get("files")
    weights = files.get("weights") if isinstance(files, Mapping) else None
    rows = [("source", source)]
    for name, title in (
        ("location", "grown from"),
        ("revision", "revision"),
        ("digest", "digest of the source's config and headers"),
    ):
        if made_from.get(name) and made_from[name] != source:
            rows.append((title, str(made_from[name])))
    rows.append(("grown", grown))
    if isinstance(weights, Mapping) and weights:
        shown = [f"{file}: {digest}" for file, digest in list(weights.items())[:4]]
        more = f" and {len(weights) - 4} more files" if len(weights) > 4 else ""
        rows.append(("digests of the grown weights", ", ".join(shown) + more))
    rows.append(("grown by", f"growformer {record.get('growformer', 'of an unknown version')}"))
    dropped = record.get("dropped")
    if isinstance(dropped, Mapping) and dropped:
        rows += [(f"left behind: {name}", str(why)) for name, why in list(dropped.items())[:12]]
    return rows


__all__ = ["subject_of_folders"]
