"""The pages of docs/proofs/: formulas are TeX that GitHub renders; every link, symbol and test that they name exists.

``test_proofs_are_needed.py`` shows the rest: that the named tests fail where a theorem is not applied.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tests.docs.without import ENTRIES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "proofs"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))

#: The shape of every page but the index.
HEADINGS = ("Statement", "Proof", "Where it does not hold", "What learns, and when", "Finite precision", "Where it is")
LINES = range(50, 171)

#: What pages may use: the commands that latex2mathml, KaTeX and MathJax as GitHub sets it up all know. GitHub refuses
#: some that others take, such as ``operatorname``.
_COMMANDS = r"""
\alpha \beta \gamma \delta \varepsilon \epsilon \eta \theta \lambda \mu \pi \rho \sigma \tau \phi \varphi \omega
\Lambda \ell
\hat \bar \tilde \sqrt \frac \tfrac \dfrac \sum \prod \mathrm \mathbb \text \top \nabla \partial \infty
\le \ge \neq \approx \in \to \mapsto \subseteq \mid \colon \mathrel \cdot \times \odot \pm \ldots \cdots \dots
\left \right
\bigl \bigr \Bigl \Bigr \lVert \rVert \lvert \rvert \lfloor \rfloor \langle \rangle \begin \end \quad \qquad
\cos \sin \max \min \ln \log \exp
"""
COMMANDS = frozenset(re.findall(r"[A-Za-z]+", _COMMANDS))
ARGUMENTS = {"frac": 2, "tfrac": 2, "dfrac": 2, "sqrt": 1, "hat": 1, "bar": 1, "tilde": 1, "text": 1, "mathrm": 1}


# Reading Markdown as GitHub does.


@dataclass(frozen=True, kw_only=True)
class Link:
    text: str
    target: str


def tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def visible(token: Token) -> str:
    """The text of a paragraph, in which formulas stand between dollars; what Markdown took for itself shows."""
    parts = []
    for child in token.children or ():
        if child.type == "text":
            parts.append(child.content)
        elif child.type == "code_inline":
            parts.append(f"\0{child.content.replace('$', DOLLAR)}\0")
        elif child.type == "softbreak":
            parts.append("\n")
        else:
            parts.append("\1")
    return "".join(parts)


DOLLAR = "\2"
"""A dollar in code, which is none."""
INLINE = re.compile(r"\$\0(?P<safe>[^\0]*)\0\$|\$(?P<plain>[^$\0]+)\$")


def formulas(text: str) -> Iterator[str]:
    """Yield every formula of a page: ``$…$``, ``$`…`$`` and ```` ```math ````."""
    for token in tokens(text):
        if token.type == "fence" and token.info.strip() == "math":
            yield token.content.strip()
        elif token.type == "inline":
            for found in INLINE.finditer(visible(token)):
                yield found["safe"] if found["safe"] is not None else found["plain"]


def links(text: str) -> Iterator[Link]:
    for token in tokens(text):
        target, parts = None, []
        for child in token.children or ():
            if child.type == "link_open":
                target, parts = str(child.attrs["href"]), []
            elif child.type == "link_close":
                yield Link(text="".join(parts), target=str(target))
                target = None
            elif target is not None:
                parts.append(f"`{child.content}`" if child.type == "code_inline" else child.content)


def problem(formula: str) -> str | None:
    """Return what is wrong with a formula."""
    unknown = sorted(set(re.findall(r"\\([A-Za-z]+)", formula)) - COMMANDS)
    if unknown:
        return f"commands that not every renderer has: {', '.join(unknown)}"
    if "\1" in formula:
        return "Markdown takes a part of it for emphasis or a link: write $`…`$"
    depth = 0
    for mark in re.findall(r"\\.|[{}]", formula, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if depth < 0:
            break
    if depth:
        return "braces do not match"
    for command, count in ARGUMENTS.items():
        wanted = re.compile(r"\s*(\[[^]]*\])?" + count * r"\s*(\{|\\[A-Za-z]|[A-Za-z0-9])")
        for found in re.finditer(rf"\\{command}(?![A-Za-z])", formula):
            if not wanted.match(after(formula, found.end())):
                return f"\\{command} takes {count} arguments"
    try:
        mathml = ElementTree.fromstring(convert(formula))
    except Exception as error:  # its exceptions have no common base
        return f"{type(error).__name__}: {error}"
    left = [e.text for e in mathml.iter() if e.text and "\\" in e.text]
    return f"not understood: {', '.join(left)}" if left else None


def after(formula: str, start: int) -> str:
    """Return what follows a command, with each group in braces as the brace alone."""
    kept, depth = [], 0
    for mark in re.findall(r"\\[A-Za-z]+|\\.|.", formula[start:], re.DOTALL):
        if mark == "}":
            depth -= 1
        elif depth == 0:
            kept.append(mark)
        if mark == "{":
            depth += 1
        if depth < 0:
            break
    return "".join(kept)


# What is named in a page.


@functools.cache
def symbols(path: Path) -> frozenset[str]:
    """Return functions, classes, methods and constants of a file, as a reader would name them."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


CODE = re.compile(r"`(?P<file>[\w/]+\.py)` `(?P<symbol>[\w.]+)`$")
TEST = re.compile(r"`(?P<file>tests/[\w/]+\.py)::(?P<name>\w+)(?P<case>\[.*\])?`$")


def read(page: str) -> str:
    return (FOLDER / page).read_text(encoding="utf-8")


def rows(text: str) -> dict[str, str]:
    """Return the rows of a page's last table: what is said -> links, as they are written."""
    lines = [line for line in text.rstrip().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ", 1)] for line in lines]
    return {cell[0]: cell[1] for cell in cells if len(cell) == 2}


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_rendered(page: str) -> None:
    text = read(page)
    found = list(formulas(text))
    assert found, f"{page} has no formula"
    assert {formula: wrong for formula in found if (wrong := problem(formula))} == {}
    assert text.count("$$") == 0, "displays stand in ```math, which Markdown leaves alone"


@pytest.mark.parametrize("page", PAGES)
def test_markdown_leaves_formulas_alone(page: str) -> None:
    """Backslashes in front of punctuation, and underscores, are Markdown's where they do not stand in code."""
    for token in tokens(read(page)):
        if token.type != "inline":
            continue
        raw = re.sub(r"(`+)(.*?)\1", lambda m: f"\0{m[2].replace('$', DOLLAR)}\0", token.content, flags=re.DOTALL)
        written = [f["plain"] for f in INLINE.finditer(raw) if f["plain"]]
        shown = [f["plain"] for f in INLINE.finditer(visible(token)) if f["plain"]]
        assert written == shown
        assert not [formula for formula in written if "\n" in formula], "a formula goes over the end of a line"
        around = [raw[max(f.start() - 1, 0) : f.end() + 1] for f in INLINE.finditer(raw)]
        assert [text for text in around if not re.fullmatch(r"[\s(]?\$.*\$[\s).,;:]?", text, re.DOTALL)] == []
        odd = re.sub(INLINE, "", visible(token))
        assert "$" not in re.sub("\0[^\0]*\0", "", odd), f"a dollar without its other: {odd}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(read(page)):
        if link.target.startswith(("https://", "#")):
            continue
        path = (FOLDER / link.target.partition("#")[0]).resolve()
        assert path.exists(), link
        code, test = CODE.match(link.text), TEST.match(link.text)
        if code is not None:
            assert path in (ROOT / "src" / "growformer" / code["file"], ROOT / code["file"]), link
            assert code["symbol"] in symbols(path), link
        if test is not None:
            assert path == ROOT / test["file"], link
            assert test["name"] in symbols(path), link


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_pages_have_one_shape(page: str) -> None:
    text = read(page)
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == HEADINGS
    assert len(text.splitlines()) in LINES


@pytest.mark.parametrize("page", PAGES)
def test_what_is_named_is_what_is_taken_out(page: str) -> None:
    """The rows at the end of a page are the entries of ``without.py``, no more and no less."""
    found = rows(read(page))
    wanted = {f"fails if {entry.what}": entry.test for entry in ENTRIES.values() if entry.page == page}
    assert wanted, f"nothing shows that {page} is needed"
    said = {what: cell for what, cell in found.items() if what.startswith("fails if ")}
    assert set(said) == set(wanted)
    for what, test in wanted.items():
        assert [link.text for link in links(said[what])] == [f"`{test}`"], what
    for what in ("applied by", "checked by"):
        assert what in found, what
        assert all(CODE.match(link.text) for link in links(found[what])), found[what]
        assert list(links(found[what])), what


def test_the_index_is_complete() -> None:
    linked = {
        link.target for link in links(read("README.md")) if "/" not in link.target and link.target.endswith(".md")
    }
    assert linked == set(PAGES) - {"README.md"}


# The checks can fail.


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (r"\frac{a}", r"\frac takes 2 arguments"),
        (r"\frac{a}{b", "braces do not match"),
        (r"a}{b", "braces do not match"),
        (r"\left( a", "ExtraLeftOrMissingRightError: "),
        (r"\operatorname{rms}(x)", "commands that not every renderer has: operatorname"),
        (r"\nothing", "commands that not every renderer has: nothing"),
        (r"\sqrt", r"\sqrt takes 1 arguments"),
        (r"\frac{a}{b} + \sqrt{x} + \tfrac12 \hat W_{\text{new}}", None),
    ],
)
def test_wrong_formulas_are_noticed(formula: str, message: str | None) -> None:
    found = problem(formula)
    assert found == message or (message is not None and found is not None and found.startswith(message))


def test_formulas_are_found() -> None:
    text = "a $x_1$ and $`\\{y\\}`$ and `$z$`\n\n```math\n\\sum_i w_i\n```\n\n```python\n'$u$'\n```\n"
    assert list(formulas(text)) == ["x_1", r"\{y\}", r"\sum_i w_i"]


def test_emphasis_inside_of_a_formula_is_noticed() -> None:
    (token,) = [t for t in tokens("$W^{*}a$ and $b^{*}$ and $\\{x\\}$") if t.type == "inline"]
    assert "\1" in visible(token) or "\\{" not in visible(token)


def test_symbols_are_found() -> None:
    found = symbols(ROOT / "src" / "growformer" / "planning" / "axis_map.py")
    assert {"AxisMap", "AxisMap.append", "NEW", "origin_of"} <= found
    assert "nothing" not in found
