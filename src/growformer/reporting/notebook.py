"""How a plan and a verification show themselves in a notebook: a small table each, no style of their own, no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from growformer.reporting.numbers import count

if TYPE_CHECKING:
    from growformer.planning.plan import Plan
    from growformer.verification.verification import Verification

MOST_STEPS = 40


def plan_html(plan: Plan) -> str:
    """Return a plan: headline, sizes, notes, and behind a fold what becomes of the weights."""
    from growformer.planning.explain import changes, steps

    before, after = plan.num_parameters()
    name = plan.source.location or plan.architecture.name
    rows = [(c.field, _short(c.before), _short(c.after), c.why) for c in changes(plan)]
    rows.append(("parameters", f"{before:,}", f"{after:,}", f"× {after / before:.2f}" if before else ""))
    lines = list(steps(plan))
    more = [f"… and {len(lines) - MOST_STEPS} more; print(plan.explain()) shows all"] if len(lines) > MOST_STEPS else []
    return "".join(
        (
            f"<p><strong>Plan: {escape(name)}</strong> ({escape(plan.architecture.name)}), ",
            f"{count(before)} → {count(after)} parameters. Nothing was written.</p>",
            _table(("", "source", "target", ""), rows),
            _list(plan.notes),
            f"<details><summary>What becomes of the weights</summary>{_list([*lines[:MOST_STEPS], *more])}</details>"
            if lines
            else "",
        )
    )


def verification_html(found: Verification) -> str:
    """Return a verification: its verdict, and one row per finding."""
    rows = [(check, "✓ ok" if ok else "✗ FAILED", what, result) for check, what, result, ok in found.rows()]
    sign = "✓" if found.ok else "✗"
    verdict = f"<p><strong>{sign} {escape(found.verdict)}</strong></p>"
    return verdict + _table(("check", "", "what", "result"), rows) + _list(found.notes)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _short(value: object) -> str:
    if isinstance(value, (list, dict)) and len(value) > 4:
        return f"{len(value)} entries"
    return f"{value:.8g}" if isinstance(value, float) else "–" if value is None else str(value)


__all__ = ["plan_html", "verification_html"]
