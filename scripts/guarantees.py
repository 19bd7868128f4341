"""Writes docs/guarantees.md: declaration × transformation → exact, rescaled or refused, and why. Derived, never typed.

    python scripts/guarantees.py            # write the table
    python scripts/guarantees.py --check    # exit 1 if the file differs from what the code gives

Each cell plans the transformation on a small model of the declaration and looks at the blocks: *exact* if every value
that the source's function needs is a bitwise copy, *rescaled* if some are multiplied by an exact factor and rounded,
*averaged* or *repeated* where means or copies stand in, *refused* with the first sentence of the error otherwise.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "guarantees.md"

COLUMNS = {
    "MLP expansion (3.1)": "mlp",
    "head addition (3.2)": "heads",
    "heads expansion (3.3)": "value",
    "attention expansion (3.4)": "key",
    "hidden dimension expansion (3.5)": "hidden",
    "layer addition (3.6)": "layers",
}


def requests(role: str, sizes: dict[str, Any], architecture: Any) -> list[Any]:
    """Return small growths of one kind, those that ask most of the family first."""
    import growformer as g

    fields = architecture.roles
    if role == "mlp":
        return [g.MLPExpansion(intermediate_size=sizes[fields["mlp"]] + 5)]
    if role == "heads":
        return [g.HeadAddition(num_attention_heads=2 * sizes[fields["heads"]])]
    if role == "value":
        return [g.HeadsExpansion(value_dim=sizes.get(fields.get("value", ""), 8) + 6)]
    if role == "key":
        return [g.AttentionExpansion(key_dim=sizes.get(fields.get("key", ""), 8) + 6)]
    if role == "hidden":
        heads = sizes[fields["heads"]]
        heads = max(heads) if isinstance(heads, (list, tuple)) else heads
        unit = math.lcm(heads, max(sizes[fields["hidden"]] // heads, 1))
        wanted = (
            sizes[fields["hidden"]] * 3 // 2,
            sizes[fields["hidden"]] // unit * unit + unit,
            2 * sizes[fields["hidden"]],
        )
        return [g.HiddenDimensionExpansion(hidden_size=size) for size in wanted]
    return [g.LayerAddition(positions=[1])]


def cell(case: Any, role: str) -> tuple[str, str]:
    """Return the guarantee for a case's declaration, and its reason."""
    from tests.families.growths import growths_of

    import growformer
    from growformer.planning.blocks import Affine, Constant, Mean, Sum

    architecture, source = case.architecture, case.source()
    sizes = architecture.resolve_config(source.config.to_dict())
    refusal, plan = "", None
    size = sizes.get(architecture.roles.get(role, ""))
    try:
        if isinstance(size, (list, tuple)):  # one per stage
            found = growths_of(case).accepted.get(architecture.roles[role])
            wanted = [] if found is None else [found.request]
            refusal = "" if wanted else "sizes that differ per stage do not grow alone"
        else:
            wanted = requests(role, sizes, architecture)
    except KeyError as error:
        return "refused", f"no field for it ({str(error).strip(chr(39))})"
    for request in wanted:
        try:
            plan = growformer.plan(source, **request) if isinstance(request, dict) else growformer.plan(source, request)
            break
        except growformer.RequestError as error:
            refusal = refusal or str(error)
    if plan is None:
        return "refused", in_general(refusal, architecture)
    reason = in_general("; ".join(plan.notes), architecture)
    if any("copy" in state.new.values() for state in plan.spaces.values()):
        return "repeated, whole multiples only" if refusal else "repeated", reason
    values = [b.value for t in plan.tensors() if not plan.is_new(dict(t.index)) for b in t.blocks]
    kinds = []
    if role == "layers" and any(isinstance(v, Constant) and v.value for v in values):
        kinds.append("exact up to eps")
    if any(isinstance(v, Mean) for v in values):
        kinds.append("averaged")
    if any(isinstance(v, Sum) for v in values):
        kinds.append("repeated")
    if any(isinstance(v, Affine) and not v.is_copy for v in values):
        kinds.append("rescaled")
    return " and ".join(kinds) or "exact", reason


def in_general(message: str, architecture: Any) -> str:
    """Return a message about one small model as it reads for all of its family: common field names, N for numbers."""
    common = {own: alias for alias, own in architecture.aliases.items()}
    usual = {
        "hidden": "hidden_size", "mlp": "intermediate_size", "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads", "layers": "num_hidden_layers",
    }  # fmt: skip
    common |= {architecture.roles[role]: name for role, name in usual.items() if role in architecture.roles}
    advice = (" Complete the request", "; sizes that it has", "; sizes that can grow", "; nearest")
    first = min((message.split(words)[0] for words in advice), key=len)
    words = re.sub(r"[A-Za-z_][\w.]*", lambda m: common.get(m.group(), m.group()), first)
    words = words.replace(f"{architecture.name} has", "it has").replace(f"growing {architecture.name}", "growing it")
    numbered = re.sub(r"\b\d+(\.\d+)?(e[-+]?\d+)?(?=$|[^\w/)])", "N", words)
    return numbered.splitlines()[0] if numbered else ""


def page() -> str:
    """Return the page's text."""
    from tests.families.case import declarations

    rows: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for cases in declarations().values():
        names: dict[str, list[str]] = {}
        for case in cases:
            names.setdefault(case.architecture.name, [])
            if case.model_type not in names[case.architecture.name]:
                names[case.architecture.name].append(case.model_type)
        cells = tuple(cell(cases[0], role) for role in COLUMNS.values())
        rows.setdefault(cells, []).extend(
            name if types == [name] else f"{name} ({', '.join(sorted(types))})" for name, types in names.items()
        )
    lines = [
        "# What is guaranteed",
        "",
        "Generated by `python scripts/guarantees.py` from the declarations and the small models in `tests/families`,",
        "which measure what stands here. A row lists the declarations that share it, each with its model types where",
        "they are called otherwise.",
        "",
        "*exact*: every source value is taken over bit by bit; outputs differ by the order of sums at most.",
        "*rescaled*: some values are multiplied by an exact factor and rounded once. *averaged*: new coordinates hold",
        "means. *repeated*: the stream is duplicated, and readers share their weight between the copies. *exact up to",
        "eps*: a post-norm layer's new norms change what they read by eps / (2 variance). *refused*: see below.",
        "",
        "| families | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    reasons: list[str] = []
    for cells, names_of in sorted(rows.items(), key=lambda row: (-len(row[1]), row[1])):
        shown = []
        for guarantee, reason in cells:
            mark = ""
            if reason:
                if reason not in reasons:
                    reasons.append(reason)
                mark = f" [{reasons.index(reason) + 1}]"
            shown.append(guarantee + mark)
        lines.append(f"| {', '.join(sorted(names_of))} | " + " | ".join(shown) + " |")
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)), ""]
    return "\n".join(lines)


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is out of date; run python scripts/guarantees.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
