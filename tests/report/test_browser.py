"""The page in a real browser: Chromium, at the width of a phone and of a desk, light and dark.

``python3 scripts/test.py -m browser`` installs what this needs; the browser itself is Debian's ``chromium``, or
another one that is found, or Playwright's own (``python -m playwright install chromium``). Screenshots are left in
the tests' temporary folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.report.support import plan_of, verification, verified

from growformer.reporting.report import report_on
from growformer.reporting.subject import Subject

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = {"phone": 390, "desk": 1440}
FAMILIES = ("llama", "t5", "deepseek_v3")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install growformer[browser]")
    with playwright.sync_playwright() as running:
        found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        opened = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name in FAMILIES:
        subject = Subject.of_plan(
            plan_of(name), source="some-models/small-model", grown="a-rather-larger-model-of-the-same-kind"
        )
        report_on(subject, verified(verification(), claimed=("trainability",))).save(folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in FAMILIES}


class Opened:
    """A page with all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()


@pytest.mark.parametrize(
    ("family", "width", "scheme"),
    [*((FAMILIES[0], w, s) for w in WIDTHS for s in ("light", "dark")), *((f, "phone", "light") for f in FAMILIES[1:])],
)
def test_page(browser: Any, pages: dict[str, Path], tmp_path: Path, family: str, width: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with Opened(browser, pages[family], WIDTHS[width], scheme) as opened:
        page = opened.page
        page.screenshot(path=tmp_path / f"{family}-{width}-{scheme}.png", full_page=True)
        room = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(room) <= 0, "wider than the window"
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate(room) <= 0, "wider than the window once all is unfolded"
        found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert not [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found]
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith("data:")] == [pages[family].as_uri()]


def test_keys_and_pointer_tell_figures(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["llama"], 1440, "light") as opened:
        page, tip = opened.page, opened.page.locator("#tip")
        picture = page.locator("svg.matrix").first
        picture.scroll_into_view_if_needed()
        block = picture.locator(".mark").first.bounding_box()
        page.mouse.move(block["x"] + block["width"] / 2, block["y"] + block["height"] / 2)
        assert "values" in tip.inner_text()
        page.mouse.move(2, 2)
        assert not tip.is_visible()
        page.keyboard.press("Tab")
        picture.focus()
        page.keyboard.press("ArrowRight")
        first = tip.inner_text()
        page.keyboard.press("ArrowRight")
        assert tip.is_visible()
        assert tip.inner_text() != first
        page.keyboard.press("Escape")
        assert not tip.is_visible()


def test_the_theme_can_be_chosen(browser: Any, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["llama"], 1440, "light") as opened:
        colour = "getComputedStyle(document.body).backgroundColor"
        light = opened.page.evaluate(colour)
        opened.page.click("#theme")
        dark = opened.page.evaluate(colour)
        assert dark != light
        opened.page.click("#theme")
        assert opened.page.evaluate(colour) == light


def test_a_page_that_asks_for_something_is_caught(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    # The control of the tests above: what the policy forbids is seen to be forbidden.
    text = pages["llama"].read_text()
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("<main", '<img src="https://example.invalid/x.png"><script>1</script><main'))
    with Opened(browser, broken, 1440, "light") as opened:
        opened.page.wait_for_timeout(200)
        assert any("Content Security Policy" in said for said in opened.said)
        from axe_playwright_python.sync_playwright import Axe

        assert any(v["id"] == "image-alt" for v in Axe().run(opened.page).response["violations"])
