"""The pages in a real browser: Debian's chromium, driven by Playwright. Wide and narrow, light and dark, on paper."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from limbeck.run.compare import compare_command
from limbeck.run.report import write_report
from tests.run.fakes import KD_CARD, outcome

LONG = "a_name_without_any_place_to_break_it_" * 3

CASES: dict[str, dict[str, Any]] = {
    "ten": {},
    "one seed": {"seeds": 1},
    "loss": {"skill": 0.85, "notes": ["Controls were taken from the cache."]},
    "hundred": {"classes": 100},
    "no teacher": {"teacher": False},
    "long names": {
        "method": LONG,
        "card": {**KD_CARD, "title": LONG, "authors": LONG, "notes": LONG, "url": f"https://example.org/{LONG}"},
        "values": {LONG: LONG},
        "command": f"limbeck run {LONG} --out {LONG}",
        "environment": {LONG: LONG},
        "classes": 10,
    },
}


@pytest.fixture(scope="module")
def chromium() -> Generator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None and "CI" not in os.environ:
        pytest.skip("no chromium here: apt-get install chromium")
    assert path is not None, "CI must have a chromium: apt-get install chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every case's page, and a comparison of some."""
    folder = tmp_path_factory.mktemp("pages")
    made: dict[str, Path] = {}
    for name, how in CASES.items():
        found = outcome(**{"images": 900, **how})
        if name == "long names":
            found = found.model_copy(update={"classes": [LONG + str(k) for k in range(10)]})
        made[name] = write_report(found, folder / name)
    compare_command([made[name].parent for name in ("ten", "loss", "long names")], as_json=True, out=folder)
    return {**made, "compare": folder / "compare.html"}


class Visit:
    """A page that is open, with what it asked for and what it complained about."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **context)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


# Contrast as WCAG 2 defines it, of every piece of text that can be seen, against what lies behind it.
CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.slice(0, 3).map(linear);
                       return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c;
      if (c[3] !== 0) throw new Error('translucent background'); }
    throw new Error('nothing behind the text'); };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walk.nextNode();) {
    const e = node.parentElement, style = getComputedStyle(e);
    if (!node.data.trim() || !e.checkVisibility() || ['title', 'desc'].includes(e.localName)) continue;
    const ink = rgb(e.closest('svg') ? style.fill : style.color), back = behind(e);
    const [a, b] = [light(ink), light(back)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    found.push([node.data.trim().slice(0, 40), (a + .05) / (b + .05), large ? 3 : 4.5]);
  }
  return found;
}"""

# Marks against the cards they are drawn on: WCAG 1.4.11 asks for 3.
MARKS = """() => {
  const style = getComputedStyle(document.documentElement), canvas = document.createElement('canvas').getContext('2d');
  const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = name => { canvas.fillStyle = style.getPropertyValue(name); canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(linear);
    return .2126 * r + .7152 * g + .0722 * b; };
  const card = light('--card');
  return ['--method', '--control', '--teacher', '--focus'].map(name => {
    const [a, b] = [light(name), card].sort((x, y) => y - x); return [name, (a + .05) / (b + .05)]; });
}"""

NAME = """e => e.getAttribute('aria-label') || e.getAttribute('aria-labelledby').split(' ')
  .map(id => document.getElementById(id).textContent).join(' ')"""

FOCUS = """() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
  const inside = r.top >= 0 && r.bottom <= innerHeight + 1 || r.height > innerHeight;
  return [e.localName, s.outlineStyle, parseFloat(s.outlineWidth), inside]; }"""


@pytest.mark.parametrize("case", [*CASES, "compare"])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_the_page_opens_quietly_and_fits(chromium: Any, pages: dict[str, Path], case: str, width: int) -> None:
    with Visit(chromium, pages[case], width, offline=True) as visit:
        assert visit.complaints == []
        assert [url for url in visit.requests if not url.startswith("data:")] == [pages[case].as_uri()]
        for details in visit.page.locator("details").all():
            details.evaluate("e => e.open = true")
        # What scrolls by itself may be wider than the page; nothing else sticks out of it.
        out = visit.page.evaluate(
            """() => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, .sr') &&
            e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.outerHTML.slice(0, 80))"""
        )
        assert out == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("case", ["ten", "loss", "compare"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out(chromium: Any, pages: dict[str, Path], case: str, scheme: str) -> None:
    with Visit(chromium, pages[case], color_scheme=scheme) as visit:
        visit.page.evaluate("for (const e of document.querySelectorAll('details')) e.open = true")
        found = visit.page.evaluate(CONTRAST)
        assert len(found) > 40
        assert [row for row in found if row[1] < row[2]] == []
        assert [row for row in visit.page.evaluate(MARKS) if row[1] < 3] == []
        background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        level = sum(int(part) for part in background[4:-1].split(",")) / 3
        assert level < 60 if scheme == "dark" else level > 200


@pytest.mark.parametrize("case", [*CASES, "compare"])
def test_what_assistive_technology_meets(chromium: Any, pages: dict[str, Path], case: str) -> None:
    with Visit(chromium, pages[case]) as visit:
        page = visit.page
        for role in ("banner", "main", "contentinfo"):
            assert page.get_by_role(role).count() == 1
        assert page.get_by_role("heading", level=1).count() == 1
        headings = page.get_by_role("heading", level=2)
        regions = page.locator("section[aria-labelledby]")
        assert headings.count() == regions.count() >= 2
        for k in range(regions.count()):
            name = headings.nth(k).inner_text()
            assert page.get_by_role("region", name=name).count() >= 1
        images = page.get_by_role("img")
        assert images.count() == page.locator("svg").count() >= 1
        for image in images.all():
            assert image.evaluate(NAME).strip()
        for table in page.get_by_role("table").all():
            assert table.locator("caption").inner_text().strip()
        if case != "compare":
            assert page.get_by_role("navigation", name="On this page").get_by_role("link").count() >= 7


@pytest.mark.parametrize("case", ["ten", "compare"])
def test_the_keyboard_reaches_everything_and_is_seen(chromium: Any, pages: dict[str, Path], case: str) -> None:
    with Visit(chromium, pages[case], 390) as visit:
        page = visit.page
        page.keyboard.press("Tab")
        skip = page.locator("a.skip")
        assert skip.evaluate("e => e === document.activeElement")
        box = skip.bounding_box()
        assert box is not None and box["x"] >= 0 and box["y"] >= 0
        reachable = page.locator("a[href], summary, [tabindex='0']").count()
        for _ in range(reachable):
            seen = page.evaluate(FOCUS)
            assert seen[0] != "body" and seen[1] == "solid" and seen[2] >= 2 and seen[3], seen
            page.keyboard.press("Tab")
        skip.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


def test_details_open_by_keyboard_and_hold_the_numbers(chromium: Any, pages: dict[str, Path]) -> None:
    with Visit(chromium, pages["ten"]) as visit:
        table = visit.page.get_by_role("table", name="Held-out accuracy by step")
        assert table.count() == 0
        visit.page.locator("#curves-s summary").focus()
        visit.page.keyboard.press("Enter")
        assert table.get_by_role("row").count() == 21


@pytest.mark.parametrize("case", ["ten", "compare"])
def test_nothing_moves(chromium: Any, pages: dict[str, Path], case: str) -> None:
    """Nobody who asks for less motion has to: there is none."""
    with Visit(chromium, pages[case]) as visit:
        moving = """() => [...document.querySelectorAll('*')].map(e => getComputedStyle(e)).filter(s =>
            s.transitionDuration !== '0s' || s.animationName !== 'none' || s.scrollBehavior !== 'auto').length"""
        assert visit.page.evaluate(moving) == 0


@pytest.mark.parametrize("case", ["ten", "hundred", "compare"])
def test_it_prints_light_and_without_the_navigation(chromium: Any, pages: dict[str, Path], case: str) -> None:
    with Visit(chromium, pages[case], color_scheme="dark") as visit:
        visit.page.emulate_media(media="print", color_scheme="dark")
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not visit.page.locator("nav").first.is_visible() if case != "compare" else True
        assert [row for row in visit.page.evaluate(CONTRAST) if row[1] < row[2]] == []
        paper = visit.page.pdf(format="A4")
        sheets = paper.count(b"/Type /Page\n") or paper.count(b"/Type /Page ") or paper.count(b"/Type /Page/")
        assert paper.startswith(b"%PDF") and 1 <= sheets <= 8, sheets


def test_a_script_from_outside_never_runs(chromium: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    made = outcome(images=200, seeds=1, notes=[evil], command=evil, card={**KD_CARD, "title": evil})
    path = write_report(made.model_copy(update={"classes": [evil] * 10}), tmp_path)
    with Visit(chromium, path) as visit:
        assert "owned" not in visit.page.title() and visit.complaints == []
        assert "document.title='owned'" in visit.page.inner_text("main")
        # Even if markup got through, the page's own policy would stop it.
        visit.page.evaluate("e => document.body.insertAdjacentHTML('beforeend', e)", evil)
        visit.page.wait_for_timeout(100)
        assert "owned" not in visit.page.title() and any("Content Security Policy" in c for c in visit.complaints)
