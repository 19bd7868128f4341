"""Puts the page together: what a subject and a verification say, in the words and pictures of the template."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from growformer.reporting import depth_picture
from growformer.reporting.architecture_picture import draw as draw_architecture
from growformer.reporting.blocks import ranges
from growformer.reporting.checks_section import Check, checks
from growformer.reporting.findings import Findings
from growformer.reporting.numbers import count, num_bytes, times, whole
from growformer.reporting.schematic import schematic
from growformer.reporting.subject import Subject
from growformer.reporting.training_section import training
from growformer.reporting.verified import Verified
from growformer.reporting.weights_section import weights

if TYPE_CHECKING:
    from jinja2 import Environment

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def page(subject: Subject, verified: Verified) -> str:
    """Return the whole page as HTML: it loads nothing, and runs only its own script.

    Args:
        subject: the growth.
        verified: what was found and what is claimed, if anything, and what the reader should know about either.
    """
    style, script = (_part(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    sections = schematic(subject.rec)
    shown = checks(verified, _verify_command(subject))
    state = _state(subject, shown, verified.found)
    before, after = subject.sides
    return (
        _environment()
        .get_template("page.html")
        .render(
            policy=policy,
            style=style,
            script=script,
            names=(subject.names[0], subject.names[1] or "the grown model"),
            state=state,
            verdict=_verdict(state, shown),
            lede=_lede(state, subject),
            parameters=(count(before.parameters), count(after.parameters), times(before.parameters, after.parameters)),
            tiles=_tiles(subject, shown),
            notes=verified.notes,
            sizes=_sizes(subject),
            costs=_costs(subject),
            sections=sections,
            diagrams=_diagrams(subject, sections),
            depths=_depths(subject),
            weights=weights(subject, sections),
            checks=shown,
            training=training(subject),
            facts=_facts(subject),
            command=subject.command(subject.grown or "OUT"),
            plan_notes=tuple(map(str, subject.plan.get("notes", ()))),
            whole=whole,
        )
    )


@cache
def _part(name: str) -> str:
    return (files("growformer.reporting") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("growformer.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["slug"] = lambda text: re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")
    made.filters["first_upper"] = lambda text: text[:1].upper() + text[1:]
    made.filters["own"] = Markup  # this package's own style and script, never a reader's text
    return made


def _verify_command(subject: Subject) -> str:
    from shlex import quote

    return f"growformer verify {quote(subject.source)} {quote(subject.grown or 'OUT')}"


def _state(subject: Subject, shown: tuple[Check, ...], found: Findings | None) -> str:
    """Return what stands at the top: what was found for this page counts, and what is only claimed is called that."""
    states = {check.state for check in shown}
    if states == {"not checked"}:
        return "planned" if subject.basis == "plan" else "unverified"
    if "failed" in states or (found is not None and not found.ok):
        return "failed"
    return "passed" if any(c.state == "passed" and not c.claimed for c in shown) else "claimed"


def _verdict(state: str, shown: tuple[Check, ...]) -> str:
    if state == "planned":
        return "Planned: nothing was written, and nothing was verified yet."
    if state == "unverified":
        return "Nothing was verified: what follows is what the record says, not what was found."
    own = [c.name.lower() for c in shown if c.state == "passed" and not c.claimed]
    said = [c.name.lower() for c in shown if c.state == "passed" and c.claimed]
    failed = [c.name.lower() + (f" (as {c.claimed} says)" if c.claimed else "") for c in shown if c.state == "failed"]
    left = [c.name.lower() for c in shown if c.state == "not checked"]
    who = next((c.claimed for c in shown if c.claimed), "")
    if [c.name for c in shown if c.state == "failed"] == ["Trainability"]:  # is no breach of preservation
        same = f"{_finding(own)} ({_and(own or said)} passed), but not" if own or said else "Not"
        words, said = f"{same} all that is new learns.", said if own else []
    elif failed or state == "failed":
        words, said = f"Not preserved: {_and(failed)} failed.", []
    elif own:
        words = f"{_finding(own)}: {_and(own)} passed."
    else:
        return f"Said to compute the same: {_and(said)} passed, as {who} says. Nothing was checked for this page." + (
            f" Not checked: {_and(left)}." if left else ""
        )
    words += f" {_and(said).capitalize()} passed as well, as {who} says." if said else ""
    return words + (f" Not checked: {_and(left)}." if left else "")


def _finding(own: list[str]) -> str:
    """Return what checks show: constraints, what the weights would compute; outputs, what the models do compute."""
    return "Computes the same" if "outputs" in own else "The weights preserve the function"


def _lede(state: str, subject: Subject) -> str:
    """Return what the page is about, in a sentence that claims no more than is known."""
    if state == "failed":
        return "What does not hold stands under Verification; the pictures show what must hold."
    if subject.basis == "inferred":
        return (
            "No record says how it was made: what became of what is inferred from the two, and the pictures show what "
            "must hold if that is so."
        )
    return (
        "Larger, and built so that it computes what the source computes; what is new begins to count when training "
        "goes on."
    )


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "a check"


def _tiles(subject: Subject, shown: tuple[Check, ...]) -> list[tuple[str, str, str]]:
    """Return the figures under the headline: name, figure, what stands below it."""
    before, after = subject.sides
    tiles = [("parameters", count(after.parameters), f"from {count(before.parameters)}")]
    for axis, (origin, _) in subject.depth.items():
        if -1 in origin:
            new = sum(at < 0 for at in origin)
            tiles.append((f"{axis.replace('_', ' ')}s", str(len(origin)), f"{new} new"))
    total = sum(subject.entries.values())
    kept = sum(subject.entries.get(k, 0) for k in ("copy", "rescaled", "sum"))
    tiles.append(("from the source", f"{100 * kept / max(total, 1):.0f}%", "of all values"))
    done = sum(c.state == "passed" and not c.claimed for c in shown)
    said = sum(c.state == "passed" and bool(c.claimed) for c in shown)
    tiles.append(("checks passed", f"{done} of 3", f"{said} more as claimed" if said else "see Verification"))
    return tiles


def _value(found: Any) -> str:
    if found is None:
        return "–"
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, int):
        return whole(found)
    if isinstance(found, float):
        return f"{found:.8g}"
    if isinstance(found, (list, tuple)):
        distinct = list(dict.fromkeys(map(str, found)))
        return ", ".join(map(str, found)) if len(found) <= 4 else f"{len(found)} entries, {len(distinct)} different"
    return str(found)


def _sizes(subject: Subject) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for name, before, after, why in subject.changes:
        numbers = isinstance(before, int) and isinstance(after, int) and not isinstance(before, bool)
        rows.append((name, _value(before), _value(after), times(before, after) if numbers else "", why))
    return rows


def _costs(subject: Subject) -> list[tuple[str, str, str, str, str]]:
    """Return rows: what, before, after, ratio, what it means."""
    before, after = subject.sides
    rows = [
        (
            "parameters",
            whole(before.parameters),
            whole(after.parameters),
            times(before.parameters, after.parameters),
            "tied ones count once",
        )
    ]
    dtypes = ", ".join(after.dtypes)
    rows.append(
        (
            "weights on disk",
            num_bytes(before.weight_bytes),
            num_bytes(after.weight_bytes),
            times(before.weight_bytes, after.weight_bytes),
            f"in {dtypes}",
        )
    )
    if before.flops is not None and after.flops is not None:
        a, b = before.flops, after.flops
        rows.append(
            (
                "FLOPs per token",
                count(a.per_token),
                count(b.per_token),
                times(a.per_token, b.per_token),
                "forward pass, matrices; training takes three times that",
            )
        )
        a_context, b_context = a.per_token_of_context, b.per_token_of_context
        rows.append(
            (
                "FLOPs of attention",
                count(a_context),
                count(b_context),
                times(a_context, b_context),
                "per token, for every token of context",
            )
        )
    else:
        rows.append(("FLOPs per token", "–", "–", "", "the declaration does not say how many tokens meet every weight"))
    if before.cached is not None and after.cached is not None:
        width = _BYTES.get(after.dtypes[0], 2)
        old = _BYTES.get(before.dtypes[0], 2) * before.cached
        new = width * after.cached
        rows.append(
            (
                "KV cache per token",
                num_bytes(old),
                num_bytes(new),
                times(old, new),
                f"keys and values of all layers, in {after.dtypes[0]}",
            )
        )
    else:
        rows.append(("KV cache per token", "–", "–", "", "no decoder, or the config names no class"))
    return rows


def _diagrams(subject: Subject, sections: list[Any]) -> list[tuple[str, Any]]:
    return [
        (
            f"{side}: {name}" if name else f"{side} growth",
            draw_architecture(sections, after=after, label=f"Architecture {side.lower()} growth: {name or 'planned'}"),
        )
        for after, side, name in zip((False, True), ("Before", "After"), subject.names, strict=True)
    ]


def _depths(subject: Subject) -> list[dict[str, Any]]:
    found = []
    for axis, (origin, copied) in subject.depth.items():
        if (
            len(origin) < 2
            or len(origin) > 400
            or any(axis in subject.rec.index_of(name)[1:] for name in subject.rec.arrows)
        ):
            continue
        new = [i for i, at in enumerate(origin) if at < 0]
        name = axis.replace("_", " ")
        is_inferred = subject.basis == "inferred"
        nothing, fresh = ("not known", "what it starts from is not known") if is_inferred else ("fresh", "starts fresh")
        words = f"{name}s {ranges(new)} are new" if new else f"all {len(origin)} {name}s come from the source"
        label = f"Depth: {len(origin) - len(new)} {name}s of the source, {len(origin)} after growth; {words}"
        rows = [
            (
                str(i),
                str(at) if at >= 0 else "new",
                str(copied[i]) if at < 0 and copied[i] >= 0 else nothing if at < 0 else "–",
            )
            for i, at in enumerate(origin)
        ]
        found.append(
            {
                "name": name,
                "words": words,
                "wide": depth_picture.draw(origin, copied, name, label, depth_picture.WIDE, fresh),
                "narrow": depth_picture.draw(origin, copied, name, label, depth_picture.NARROW, fresh),
                "rows": rows,
            }
        )
    return found


def _facts(subject: Subject) -> list[tuple[str, str]]:
    basis = {
        "plan": "a plan; nothing was written yet",
        "growformer.json": "growformer.json beside the grown weights",
        "inferred": "inferred from the two checkpoints; no record lies beside them",
    }
    rows = [
        *subject.facts,
        ("known from", basis.get(subject.basis, subject.basis)),
        ("family", subject.rec.architecture.name),
    ]
    init = subject.plan.get("init")
    if isinstance(init, dict):
        rows.append(
            ("free values", f"{init.get('name')}, seed {init.get('seed')}, standard deviation {init.get('std')}")
        )
    return rows


__all__ = ["page"]
