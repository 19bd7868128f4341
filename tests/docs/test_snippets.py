"""The Python in the README and in docs/ runs.

Each file's ```` ```python ```` blocks run in the order they stand in, in one namespace and one empty folder. A block
that must not run has ``<!-- not run: the reason -->`` on the line before it. Every file must run at least one block,
unless it is listed in ``WITHOUT_CODE``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

#: Files, relative to the root, that are prose: name → the reason.
WITHOUT_CODE: dict[str, str] = {
    "docs/guarantees.md": "a generated table",
    "docs/experiments.md": "a log",
    "docs/detection.md": "a generated table",
    "docs/consumers.md": "what tests/consumers measures, and shell commands",
    **{str(path.relative_to(ROOT)): "a decision record" for path in ROOT.glob("docs/decisions/*.md")},
}

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>\S*)(?P<rest>.*)$")
SKIP = re.compile(r"^\s*<!-- not run:(?P<reason>.*)-->\s*$")


@dataclass(frozen=True, kw_only=True)
class Snippet:
    line: int  # of its first line of code, counted from 1
    code: str
    not_run: str | None  # the reason, possibly empty


def snippets(text: str) -> list[Snippet]:
    """Return the Python blocks of a Markdown ``text``."""
    found = []
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        opening = FENCE.match(lines[index])
        if not opening:
            index += 1
            continue
        first = index + 1
        closing = re.compile(rf"^ *`{{{len(opening['ticks'])},}} *$")
        index = first
        while index < len(lines) and not closing.match(lines[index]):
            index += 1
        if index == len(lines):
            raise ValueError(f"line {first}: the block that opens here is not closed")
        if opening["language"] in ("python", "py"):
            before = next((line for line in reversed(lines[: first - 1]) if line.strip()), "")
            skip = SKIP.match(before)
            indent = len(opening["indent"])
            code = "\n".join(line[indent:] for line in lines[first:index])
            found.append(Snippet(line=first + 1, code=code, not_run=skip["reason"].strip() if skip else None))
        index += 1
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_snippets_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = snippets(path.read_text(encoding="utf-8"))
    name = str(path.relative_to(ROOT))
    if name in WITHOUT_CODE:
        assert not blocks, f"{name} is listed as prose ({WITHOUT_CODE[name]}) and has Python in it"
        return
    assert not [block.line for block in blocks if block.not_run == ""], "a block that does not run needs the reason"
    to_run = [block for block in blocks if block.not_run is None]
    assert to_run, f"{name} runs no Python: give it a snippet, or list it in WITHOUT_CODE with the reason"
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in to_run:
        padded = "\n" * (block.line - 1) + block.code  # so that a traceback names the file's own lines
        exec(compile(padded, str(path), "exec"), namespace)


def test_listed_prose_exists() -> None:
    assert not [name for name in WITHOUT_CODE if not (ROOT / name).is_file()]


def test_blocks_are_found() -> None:
    text = (
        "```python\na = 1\n```\n\n<!-- not run: needs a GPU -->\n\n```python\nb\n```\n"
        "```console\n$ c\n```\n````markdown\n```python\nd\n```\n````\n1. x\n   ```python\n   e\n   ```\n"
        "<!-- not run: -->\n```python\nf\n```\n"
    )
    found = [(block.line, block.code, block.not_run) for block in snippets(text)]
    assert found == [(2, "a = 1", None), (8, "b", "needs a GPU"), (20, "e", None), (24, "f", "")]


def test_an_open_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 2: the block that opens here is not closed"):
        snippets("text\n```python\na = 1\n")
