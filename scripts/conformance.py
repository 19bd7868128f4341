"""Checks model types against their declarations: shapes, growth, outputs, disk, gradients, generation.

    python3 scripts/conformance.py llama bert       # the quick checks of every case of these model types
    python3 scripts/conformance.py llama --full     # every transformation alone, and every check
    python3 scripts/conformance.py --list           # which model types and declarations are verified, and their lines

A case is a small model of a stock class: see tests/families/case.py; a new family adds a module to
tests/families/cases. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import environment

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ROOT / "src" / "growformer" / "architecture" / "families"
ORDINARY = 60
"""Lines that an ordinary declaration does with."""
Row = dict[str, Any]


def main() -> int:
    """Run the checks, and return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_types", nargs="*", metavar="MODEL_TYPE", help="all of them if left out")
    parser.add_argument("--full", action="store_true", help="every growth alone, and every check")
    parser.add_argument("--list", action="store_true", help="count model types and declarations, and run nothing")
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument("--json", action="store_true", help="one JSON object per check, and one with the counts")
    parser.add_argument("--verbose", action="store_true", help="show the sizes of every growth, and every refusal")
    arguments = parser.parse_args()
    if importlib.util.find_spec("growformer") is None:
        return environment.run(environment.ensure("dev"), __file__, *sys.argv[1:])
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(ROOT))
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    return _list(arguments.json) if arguments.list else _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from tests.families.case import all_cases

    known = sorted({case.model_type for case in all_cases()})
    unknown = sorted(set(arguments.model_types) - set(known))
    if unknown:
        print(f"no case of {', '.join(unknown)}; there are cases of {', '.join(known)}", file=sys.stderr)
        return 2
    wanted = arguments.model_types or known
    cases = [case for case in all_cases() if case.model_type in wanted and (arguments.case or "") in str(case)]
    start, rows = time.perf_counter(), []
    for case in cases:
        for row in _checks(case, arguments):
            rows.append(row)
            _show(row, arguments)
    failed = [row for row in rows if row["problems"]]
    seconds = time.perf_counter() - start
    counts = {
        "model_types": len({case.model_type for case in cases}),
        "declarations": len({id(case.architecture) for case in cases}),
        "cases": len(cases),
        "checks": len(rows),
        "failed": len(failed),
        "seconds": round(seconds, 1),
    }
    if arguments.json:
        print(json.dumps(counts))
    else:
        print(
            f"{counts['model_types']} model types, {counts['declarations']} declarations, {counts['cases']} cases, "
            f"{counts['checks']} checks, {counts['failed']} failed, {seconds:.1f} s"
        )
    return 1 if failed else 0


def _checks(case: Any, arguments: argparse.Namespace) -> Iterator[Row]:
    from tests.families import checks
    from tests.families.growths import growths_of

    for check, declared in checks.DECLARED.items():
        yield _timed(case, check, "", lambda f=declared: f(case))  # type: ignore[misc]
    row = _timed(case, "growths", "", lambda: checks.check_growths(case))
    try:
        growths = growths_of(case)
    except Exception:  # said above
        yield row
        return
    row["refused"] = {name: dict(messages) for name, messages in growths.refused.items()}
    row["omitted"] = dict(growths.omitted)
    row["accepted"] = {name: growth.request for name, growth in growths.accepted.items()}
    row["tried"] = {name: dict(messages) for name, messages in growths.tried.items()}
    yield row
    for name, growth in growths.accepted.items():
        if name != "all" and not arguments.full:
            continue
        for check, function in checks.PER_GROWTH.items():
            if arguments.full or check in checks.FAST or check in ("gradients", "generation"):
                yield _timed(case, check, name, lambda f=function, g=growth: f(case, g))  # type: ignore[misc]
    for check, function in checks.PER_CASE.items() if arguments.full and "all" in growths.accepted else ():
        growth = growths.accepted["all"]
        yield _timed(case, check, "all", lambda f=function, g=growth: f(case, g))  # type: ignore[misc]


def _timed(case: Any, check: str, growth: str, function: Callable[[], list[str]]) -> Row:
    start = time.perf_counter()
    try:
        problems = function()
    except Exception as error:  # a check that cannot be made has failed, and the others go on
        problems = [f"{type(error).__name__}: {error}"]
    seconds = time.perf_counter() - start
    return {"case": str(case), "check": check, "growth": growth, "problems": problems, "seconds": round(seconds, 2)}


def _show(row: Row, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(row), flush=True)
        return
    mark = "FAIL" if row["problems"] else "ok"
    print(f"{mark:4} {row['case']:40} {row['check']:12} {row['growth']:28} {row['seconds']:6.2f} s", flush=True)
    for problem in row["problems"]:
        print("       " + problem.replace("\n", "\n       "))
    for name, request in row.get("accepted", {}).items() if arguments.verbose else ():
        print(f"       {name}: {request}")
    for name, messages in row.get("refused", {}).items():
        shown = list(messages.items()) if arguments.verbose else list(messages.items())[:1]
        for request, message in shown:
            print(f"       {name} does not grow: {request}: {message.splitlines()[0]}")
    for name, message in row.get("omitted", {}).items():
        print(f"       all is without {name}: {message.splitlines()[0]}")


def _list(as_json: bool) -> int:
    from tests.families.case import all_cases

    from growformer.architecture.registry import architectures

    cases = all_cases()
    verified = sorted({case.model_type for case in cases})
    used = {case.architecture.name for case in cases}
    registered = sorted({model_type for a in architectures().values() for model_type in a.model_types})
    missing = {
        "model types without a case": sorted(set(registered) - set(verified)),
        "declarations without a case": sorted(set(architectures()) - used),
    }
    counts = {"model_types": len(verified), "declarations": len(used), "cases": len(cases)}
    files = {path.stem: _lines_of(path) for path in sorted(FAMILIES.glob("[!_]*.py"))}
    if as_json:
        print(json.dumps({**counts, "verified": verified, **missing, "lines": files}))
    else:
        for name, (lines, declared) in files.items():
            each = ", ".join(f"{what} {count}" for what, count in declared.items())
            print(f"{FAMILIES.name}/{name}.py: {lines} lines{f', of which {each}' if each else ''}")
        for name in sorted(used):
            types = sorted({case.model_type for case in cases if case.architecture.name == name})
            print(f"{name}: {', '.join(types)}")
        print(f"{len(verified)} model types verified, by {len(used)} declarations and {len(cases)} cases")
        sizes = [count for _, declared in files.values() for count in declared.values()]
        print(
            f"a declaration has {min(sizes)} to {max(sizes)} lines, {statistics.median(sizes):g} in the middle; "
            f"{sum(count <= ORDINARY for count in sizes)} of {len(sizes)} have at most {ORDINARY}"
        )
        for what, names in missing.items():
            if names:
                print(f"{what}: {', '.join(names)}")
    return 1 if any(missing.values()) else 0


def _lines_of(path: Path) -> tuple[int, dict[str, int]]:
    """Return a family file's lines, and those of every declaration that it writes down."""
    text = path.read_text(encoding="utf-8")
    found = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            called = statement.value.func
            name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
            if name in ("extend", "Architecture"):
                found[ast.unparse(statement.targets[0])] = (statement.end_lineno or 0) - statement.lineno + 1
    return len(text.splitlines()), found


if __name__ == "__main__":
    sys.exit(main())
