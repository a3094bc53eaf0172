"""The HTML page in a real Chromium, offline: what only a browser shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.workbench.publish import samples
from workbench.publish.html import comparison_html, decision_html

SIZES = [(scheme, width) for scheme in ("light", "dark") for width in (400, 1280)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    flips = [samples.flip(n, "lost" if n % 2 else "gained", prompt=samples.LONG) for n in range(6)]
    made = {
        "decision": decision_html(samples.decision(), samples.comparison(), flips=flips),
        "comparison": comparison_html(samples.comparison(samples.KEPT, samples.INCONCLUSIVE)),
        "hostile": decision_html(
            samples.hostile_decision(), samples.hostile_comparison(), flips=[samples.HOSTILE_FLIP, *flips]
        ),
    }
    for name, text in made.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


class Visit:
    """A page that was opened with nothing but its file, all foldings open, and what the browser complained of."""

    def __init__(self, browser: Browser, file: Path, scheme: str, width: int):
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.failed: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.page: Page = context.new_page()
        self.page.set_default_timeout(5_000)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        self.page.on("requestfailed", lambda request: self.failed.append(str(request.failure)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


@pytest.fixture
def visit(browser, pages) -> Iterator:
    made: list[Visit] = []

    def open_page(name: str, scheme: str = "light", width: int = 1280) -> Visit:
        made.append(Visit(browser, pages[name], scheme, width))
        return made[-1]

    yield open_page
    for one in made:
        one.page.context.close()


@pytest.mark.parametrize(("scheme", "width"), SIZES)
@pytest.mark.parametrize("name", ["decision", "comparison", "hostile"])
def test_the_page_opens_offline_without_complaints_and_never_scrolls_sideways(visit, name, scheme, width):
    seen = visit(name, scheme, width)
    assert seen.complaints == []
    assert [url for url in seen.asked if not url.startswith("file:")] == []
    assert len(seen.asked) == 1
    assert seen.page.evaluate("document.documentElement.scrollWidth") == width
    assert seen.page.get_by_role("heading", level=1).is_visible()
    assert seen.page.locator("svg.forest").first.is_visible()


def test_hostile_text_is_text_and_runs_nothing(visit):
    seen = visit("hostile")
    assert seen.complaints == []
    assert seen.page.locator("script, img, a, iframe").count() == 0
    assert "<script>alert(1)</script>" in "".join(seen.page.locator(".prompt").all_inner_texts())
    assert "⟨U+202E⟩" in seen.page.locator(".answer").inner_text()


def test_even_a_hole_in_the_escaping_could_not_run_or_load(visit):
    seen = visit("comparison")
    seen.page.evaluate(
        """() => { const s = document.createElement('script');
        s.textContent = 'window.ran = 1'; document.body.append(s);
        const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i); }"""
    )
    seen.page.wait_for_timeout(50)
    assert seen.page.evaluate("window.ran") is None
    assert seen.failed == ["csp"]  # refused by the page's own policy, before any network
    assert len(seen.complaints) == 2 and all("Content Security Policy" in text for text in seen.complaints)


def test_dark_and_light_differ_and_the_ground_is_dark_where_asked(visit):
    def ground(scheme: str) -> list[int]:
        text = visit("decision", scheme).page.evaluate("getComputedStyle(document.body).backgroundColor")
        return [int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(",")]

    assert max(ground("dark")) < 40 < 240 < min(ground("light"))


@pytest.mark.parametrize("width", [400, 1280])
def test_labels_of_the_plot_lie_beside_each_other_within_the_page(visit, width):
    page = visit("decision", "light", width).page
    for row in page.locator("svg.forest > g").all():
        name, verdict = (row.locator(f"text.{kind}").bounding_box() for kind in ("task", "verdict"))
        assert name and verdict
        assert name["x"] >= 0 and name["x"] + name["width"] < verdict["x"]
        assert verdict["x"] + verdict["width"] <= width


@pytest.mark.parametrize("name", ["decision", "hostile"])
def test_nothing_of_a_flip_leaves_its_frame_on_a_telephone(visit, name):
    beyond = """() => [...document.querySelectorAll('.flip')].flatMap(flip => [...flip.querySelectorAll('*')].filter(
        one => one.getBoundingClientRect().right > flip.getBoundingClientRect().right).map(one => one.tagName))"""
    assert visit(name, "light", 400).page.evaluate(beyond) == []


def test_everything_can_be_reached_and_unfolded_by_keyboard(visit):
    page = visit("decision").page
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.slice(0, 12)")
        )
    assert {"Table of tasks", "Table of rules", "Question"} <= reached
    assert any("Digests" in str(text) for text in reached)
