"""Each part imports only what stands above it, checks import no growth code, and nothing heavy comes early."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import growformer

ROOT = Path(growformer.__file__).parent
FILES = {
    ".".join(("growformer", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

#: Part → the parts that it may import besides itself.
ABOVE = {
    "errors": set[str](),
    "architecture": {"errors"},
    "storage": {"errors"},
    "reference": {"architecture", "errors"},
    "planning": {"architecture", "errors"},
    "sizing": {"architecture", "planning", "errors"},
    "execute": {"architecture", "planning", "storage", "errors"},
    "verification": {"architecture", "planning", "execute", "storage", "errors"},
    "reporting": {"architecture", "planning", "sizing", "execute", "verification", "storage", "errors"},
    "training": {"architecture", "planning", "sizing", "execute", "storage", "errors"},
    "drafting": {"architecture", "verification", "errors"},
    "api": {
        "training",
        "drafting",
        "architecture",
        "planning",
        "sizing",
        "execute",
        "verification",
        "storage",
        "errors",
    },
    "api_sizing": {"api", "architecture", "planning", "sizing", "execute", "storage", "errors"},
    "api_report": {"api", "planning", "verification", "reporting", "errors"},
    "runs": {
        "api",
        "api_sizing",
        "architecture",
        "planning",
        "sizing",
        "execute",
        "training",
        "storage",
        "errors",
    },
    "cli": {
        "",
        "api",
        "api_report",
        "api_sizing",
        "runs",
        "reporting",
        "architecture",
        "planning",
        "sizing",
        "execute",
        "training",
        "verification",
        "storage",
        "errors",
    },
    "__main__": {"cli"},
    "": {
        "api",
        "api_report",
        "api_sizing",
        "runs",
        "reporting",
        "architecture",
        "planning",
        "sizing",
        "execute",
        "training",
        "verification",
        "errors",
    },
}
#: (module, what it imports) that goes against the flow → the reason.
EXCEPTIONS = {
    (
        "growformer.planning.plan",
        "growformer.verification.plan_check",
    ): "Plan.check(), where users look for it; imported by the call",
    (
        "growformer.planning.plan",
        "growformer.reporting.notebook",
    ): "_repr_html_, which notebooks look for on the object itself; imported by the call",
    (
        "growformer.verification.verification",
        "growformer.reporting.notebook",
    ): "_repr_html_, likewise",
}
#: Checks that must not share a mistake with the planner, directly or through what they import.
INDEPENDENT = (
    "growformer.verification.constraints",
    "growformer.verification.inference.infer",
    "growformer.verification.oracles",
)
#: Part → third-party packages that it may import at all.
PACKAGES = {
    "errors": set[str](),
    "architecture": {"numpy"},
    "planning": {"numpy"},
    "sizing": {"numpy"},
}


def imports(name: str) -> set[str]:
    """Return the modules that a module imports, in functions as well; what is only for type checkers left out."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(FILES[name].read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide where they lead"
            assert node.module is not None
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module in FILES else node.module for module in inner}
        pending += ast.iter_child_nodes(node)
    return found


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def reached(module: str) -> set[str]:
    """Return the modules of the package that a module imports, directly or not."""
    found: set[str] = set()
    pending = [module]
    while pending:
        for name in imports(pending.pop()):
            if name in FILES and name not in found:
                found.add(name)
                pending.append(name)
    return found


@pytest.mark.parametrize("module", FILES)
def test_imports_flow_one_way(module: str) -> None:
    assert part(module) in ABOVE, f"{module}: say in ABOVE what a new part may import"
    inside = {name for name in imports(module) if name.split(".")[0] == "growformer"}
    inside -= {name for importer, name in EXCEPTIONS if importer == module}
    assert inside <= set(FILES)
    assert {part(name) for name in inside} <= ABOVE[part(module)] | {part(module)}


@pytest.mark.parametrize("module", [name for name in FILES if part(name) in PACKAGES])
def test_pure_parts_import_no_framework(module: str) -> None:
    outside = {name.split(".")[0] for name in imports(module)} - {"growformer"}
    assert outside - sys.stdlib_module_names <= PACKAGES[part(module)]


@pytest.mark.parametrize("module", INDEPENDENT)
def test_checks_import_no_growth_code(module: str) -> None:
    assert {part(name) for name in reached(module)} <= {"architecture", "errors", "verification"}


def test_imports_are_found() -> None:
    assert "growformer.architecture.exact" in imports("growformer.architecture.declaration")
    assert "growformer.architecture.families" in imports("growformer.architecture.registry")
    assert "torch" in imports("growformer.verification.oracles")
    assert "growformer.architecture.language" in reached("growformer.verification.oracles")
    assert len(FILES) > 20


@pytest.mark.parametrize("module", ["growformer", "growformer.cli", "growformer.cli.main"])
def test_nothing_heavy_is_imported_early(module: str) -> None:
    heavy = {"torch", "transformers", "numpy", "safetensors", "huggingface_hub", "pydantic"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert result.stdout.split() == []
