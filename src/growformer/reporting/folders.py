"""From two checkpoints to what a report is about, and the verification that lies beside the grown one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from growformer.errors import RequestError, SourceError
from growformer.execute.checkpoint import check_same_source
from growformer.execute.provenance import CERTIFICATE, FILE, read_record
from growformer.execute.side_files import TRAINER_STATE
from growformer.planning.plan import Plan
from growformer.reporting.subject import Subject, model_name
from growformer.storage.folder import ModelFolder, open_headers
from growformer.verification.certificate_check import check_certificate
from growformer.verification.recorded import Recorded


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
    check_same_source(Plan.from_json(json.dumps(plan)), before)
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


def read_verification(path: str | Path) -> dict[str, Any]:
    """Read what ``growformer verify --json`` printed, or a certificate.

    Raises:
        RequestError: there is no such file.
        SourceError: it is no JSON object.
    """
    file = Path(path)
    if not file.is_file():
        raise RequestError(f"{file}: no such file; make one with growformer verify MODEL OUT --json > {file}")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{file}: not what growformer verify --json prints: {error}") from None
    if not isinstance(data, dict):
        raise SourceError(f"{file}: not what growformer verify --json prints: expected an object")
    return data


def certificate_beside(source: str, grown: str) -> tuple[dict[str, Any] | None, str | None]:
    """Return the certificate beside a grown checkpoint if it is about these very files, and a note on what was decided.

    Reads all weights, to compare their digests; without a certificate, nothing. One that says that a check failed is
    used as well; one that contradicts itself is not.

    Raises:
        SourceError: a folder cannot be read.
    """
    file = Path(grown) / CERTIFICATE
    if not file.is_file():
        return None, None
    try:
        checked = check_certificate(file, source if Path(source).is_dir() else None, grown)
    except SourceError as error:
        return None, f"{CERTIFICATE} was not used: {error}"
    if checked.contradictions or "differs" in (checked.source.state, checked.grown.state):
        return None, f"{CERTIFICATE} was not used: {checked.verdict}"
    return read_verification(file), f"verified by {CERTIFICATE}: {checked.verdict}"


__all__ = ["certificate_beside", "read_verification", "subject_of_folders"]
