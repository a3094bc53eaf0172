"""The pages in a real Chromium, over a small real project: what only a browser shows."""

import itertools
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dashboards.pages import existing_pages
from tests.dashboards.making import HOSTILE, add_hostile
from tests.workbench.publish.test_browser import NAMES, SWITCHES
from workbench.cli.dashboard import _free_port, server_command

PAGES = [page for page in existing_pages() if page.name != "review"]  # has tests of its own
WAIT = 60_000
IGNORED = ("_stcore/health", "_stcore/host-config")
"""On a deep link Streamlit looks for its server below the page's own address first, and it is not there."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        program = str(own) if own.exists() else next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip("no Chromium on this machine: apt-get install chromium, or: playwright install chromium")
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=[*SWITCHES, *root])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(made_small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address of a dashboard over a copy of the small project, and the id of a hostile comparison in it."""
    root = tmp_path_factory.mktemp("served") / "p"
    shutil.copytree(made_small, root, ignore=shutil.ignore_patterns("checkpoint-*"))
    hostile = add_hostile(root)
    port = _free_port("127.0.0.1")
    words = server_command(root, host="127.0.0.1", port=port, read_only=False)
    with (root.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=root, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url, hostile
    finally:
        process.terminate()
        process.wait(20)
    log = (root.parent / "server.log").read_text()
    assert "Traceback" not in log, log


class Visit:
    """A window in which pages are opened, and what the browser complained of."""

    def __init__(self, browser: Browser, url: str, scheme: Any, width: int) -> None:
        self.url = url
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self._asked(request.url))

    def _asked(self, address: str) -> None:
        if not address.startswith((self.url, "data:", "blob:", self.url.replace("http", "ws"))):
            self.foreign.append(address)

    def _heard(self, message: Any) -> None:
        where = str(message.location.get("url", ""))
        if message.type == "error" and not any(name in where for name in IGNORED):
            self.complaints.append(message.text)

    def open(self, address: str) -> Page:
        self.page.goto(f"{self.url}/{address}")
        self.settle()
        return self.page

    def settle(self) -> None:
        expect(self.page.locator("h1")).to_have_count(1, timeout=WAIT)
        expect(self.page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=WAIT)
        expect(self.page.locator('[data-stale="true"]')).to_have_count(0, timeout=WAIT)


@pytest.fixture
def visit(browser: Browser, served: tuple[str, str]) -> Iterator[Any]:
    made: list[Visit] = []

    def open_window(scheme: str = "light", width: int = 1280) -> Visit:
        made.append(Visit(browser, served[0], scheme, width))
        return made[-1]

    yield open_window
    for one in made:
        one.page.context.close()


def headings(page: Page) -> list[int]:
    return page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")


def assert_sound(window: Visit, name: str) -> None:
    page = window.page
    expect(page.get_by_test_id("stException")).to_have_count(0)
    levels = headings(page)
    assert levels[0] == 1 and levels.count(1) == 1, (name, levels)
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), (name, levels)
    wide = page.evaluate(
        "(() => { const m = document.querySelector('[data-testid=stMain]'); return m.scrollWidth - m.clientWidth; })()"
    )
    assert wide <= 1, (name, wide)
    assert window.complaints == [], (name, window.complaints)
    assert window.foreign == [], (name, window.foreign)


def test_every_page_is_reached_by_the_navigation_and_answers_its_question(visit: Any) -> None:
    window = visit()
    window.open("")
    asked = set()
    for row in PAGES:
        window.page.get_by_test_id("stSidebarNav").get_by_role("link", name=row.title, exact=True).click()
        expect(window.page).to_have_url(re.compile(f"/{row.name}$|:[0-9]+/$"), timeout=WAIT)
        window.settle()
        expect(window.page.locator("h1")).not_to_have_text(list(asked)[-1] if asked else "-", timeout=WAIT)
        asked.add(window.page.locator("h1").inner_text())
        assert_sound(window, row.name)
    assert len(asked) == len(PAGES)


@pytest.mark.parametrize("row", PAGES, ids=lambda row: row.name)
def test_a_deep_link_to_a_page_is_sound_on_a_telephone_in_the_dark(row: Any, visit: Any) -> None:
    window = visit("dark", 400)
    page = window.open("" if row is PAGES[0] else row.name)  # the first page is the start, without a name
    assert_sound(window, row.name)
    ground = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    assert ground == "rgb(15, 20, 25)"


def test_text_of_others_is_shown_as_text(visit: Any, served: tuple[str, str]) -> None:
    window = visit()
    page = window.open(f"items?comparison={served[1][:16]}")
    main = page.get_by_test_id("stMain")
    expect(main.get_by_text("<img src=x onerror=alert(1)>").first).to_be_visible(timeout=WAIT)
    expect(main.get_by_text("⟨U+202E⟩").first).to_be_visible()
    assert page.locator("img[src='x'], a[href*='example.org'], strong, em, .katex").count() == 0
    for name in ("compare", "", "gate", "lineage"):
        window.open(name)
        assert page.locator("img[src='x'], a[href*='example.org'], strong, em, .katex").count() == 0, name
    assert window.complaints == []
    assert HOSTILE.startswith("<img")


def test_a_choice_stands_in_the_address_and_a_link_leads_back_to_it(visit: Any, served: tuple[str, str]) -> None:
    window = visit()
    page = window.open(f"items?comparison={served[1][:16]}&kind=★+gained")
    expect(page.get_by_text("No answer that changed fits this choice.")).to_be_visible(timeout=WAIT)
    page = window.open(f"items?comparison={served[1][:16]}")
    first = page.get_by_text("acc 1 → 0").first
    expect(first).to_be_visible(timeout=WAIT)


def test_pages_are_reached_by_keyboard_alone(visit: Any) -> None:
    window = visit()
    page = window.open("")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText || ''").strip().endswith("Compare"):
            break
    else:
        raise AssertionError("no link to Compare by Tab")
    before = page.locator("h1").inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).not_to_have_text(before, timeout=WAIT)
    window.settle()


def test_charts_are_told_in_words_to_who_does_not_see_them(visit: Any) -> None:
    window = visit()
    page = window.open("compare")
    expect(page.get_by_test_id("stVegaLiteChart").first).to_be_visible(timeout=WAIT)
    told = page.evaluate(
        "[...document.querySelectorAll('[aria-label]')].map(e => e.getAttribute('aria-label')).join(' | ')"
    )
    assert "intervals" in told


def test_an_answer_is_sent_to_review_and_waits_there(visit: Any, served: tuple[str, str]) -> None:
    window = visit()
    page = window.open(f"items?comparison={served[1][:16]}")
    page.get_by_role("button", name="Send to review").click()
    expect(page.get_by_text("It waits for a reviewer.")).to_be_visible(timeout=WAIT)
    page = window.open("queue")
    expect(page.get_by_text("1 item waits")).to_be_visible(timeout=WAIT)
