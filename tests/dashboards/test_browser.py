"""The pages in a real Chromium, over a small real project: what only a browser shows."""

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from dashboards.pages import existing_pages
from tests.dashboards.browsing import WAIT, Visit, serve
from tests.dashboards.making import HOSTILE, add_hostile, add_recipe

PAGES = [page for page in existing_pages() if page.name != "review"]  # has tests of its own


@pytest.fixture(scope="module")
def served(made_small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address of a dashboard over a copy of the small project, and the id of a hostile comparison in it."""
    root = tmp_path_factory.mktemp("served") / "p"
    shutil.copytree(made_small, root, ignore=shutil.ignore_patterns("checkpoint-*"))
    add_recipe(root)
    hostile = add_hostile(root)
    with serve(root) as url:
        yield url, hostile


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all: what a browser has fetched and compiled once it need not again."""
    made = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield made
    made.close()


@pytest.fixture
def window(context: BrowserContext, served: tuple[str, str]) -> Iterator[Visit]:
    made = Visit(context, served[0])
    yield made
    made.page.close()


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


def test_every_page_is_reached_by_the_navigation_and_is_sound_in_light_and_dark_wide_and_on_a_telephone(
    window: Visit,
) -> None:
    window.open("")
    asked: list[str] = []
    for row in PAGES:
        window.look("light", 1280)
        window.page.get_by_test_id("stSidebarNav").get_by_role("link", name=row.title, exact=True).click()
        expect(window.page).to_have_url(re.compile(f"/{row.name}$|:[0-9]+/$"), timeout=WAIT)
        expect(window.page.locator("h1")).not_to_have_text(asked[-1] if asked else "-", timeout=WAIT)
        window.settle()
        asked.append(window.page.locator("h1").inner_text())
        assert_sound(window, row.name)
        window.look("dark", 400)
        assert_sound(window, row.name)
        ground = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
        assert window.page.evaluate(ground) == "rgb(15, 20, 25)", row.name
    assert len(set(asked)) == len(PAGES)


def test_text_of_others_is_shown_as_text(window: Visit, served: tuple[str, str]) -> None:
    page = window.open(f"items?comparison={served[1][:16]}")
    main = page.get_by_test_id("stMain")
    expect(main.get_by_text("<img src=x onerror=alert(1)>").first).to_be_visible(timeout=WAIT)
    expect(main.get_by_text("⟨U+202E⟩").first).to_be_visible()
    assert page.locator("img[src='x'], a[href*='example.org'], strong, em, .katex").count() == 0
    for row in PAGES:
        window.open("" if row is PAGES[0] else row.name)
        assert page.locator("img[src='x'], a[href*='example.org'], .katex").count() == 0, row.name
    assert window.complaints == []
    assert HOSTILE.startswith("<img")


def test_a_page_of_another_site_cannot_talk_to_the_dashboard(served: tuple[str, str]) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    address = served[0].replace("http", "ws") + "/_stcore/stream"
    with connect(address, subprotocols=["streamlit"], origin=served[0], proxy=None):  # type: ignore
        pass
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, subprotocols=["streamlit"], origin=origin, proxy=None)  # type: ignore


def test_a_choice_stands_in_the_address_and_a_link_leads_back_to_it(window: Visit, served: tuple[str, str]) -> None:
    page = window.open(f"items?comparison={served[1][:16]}&kind=★+gained")
    expect(page.get_by_text("No answer that changed fits this choice.")).to_be_visible(timeout=WAIT)
    page = window.open(f"items?comparison={served[1][:16]}")
    first = page.get_by_text("acc 1 → 0").first
    expect(first).to_be_visible(timeout=WAIT)


def test_pages_are_reached_by_keyboard_alone(window: Visit) -> None:
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


def test_charts_are_told_in_words_to_who_does_not_see_them(window: Visit) -> None:
    page = window.open("compare")
    expect(page.get_by_test_id("stVegaLiteChart").first).to_be_visible(timeout=WAIT)
    told = page.evaluate(
        "[...document.querySelectorAll('[aria-label]')].map(e => e.getAttribute('aria-label')).join(' | ')"
    )
    assert "intervals" in told


def test_an_answer_is_sent_to_review_and_waits_there(window: Visit, served: tuple[str, str]) -> None:
    page = window.open(f"items?comparison={served[1][:16]}")
    page.get_by_role("button", name="Send to review").click()
    expect(page.get_by_text("It waits for a reviewer.")).to_be_visible(timeout=WAIT)
    page = window.open("queue")
    expect(page.get_by_text("1 item waits")).to_be_visible(timeout=WAIT)
