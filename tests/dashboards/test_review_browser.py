"""Moderators at work in a real browser, by keyboard alone: what only a browser shows."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, BrowserContext, Page, expect

from safety.policy import load_policy
from safety.review.queue import Grant, Member, ReviewQueue
from tests.safety.review.people import OPERATOR, entry
from workbench.store import Project
from workbench.store.review_schema import review_labels

POLICY = load_policy("moderation")
ATTACK = (
    '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"> **b** [l](http://x.example)'
)
SLOW = 60_000


class House:
    """A project that is served, and its queue."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.project = Project.find(root)
        self.queue = ReviewQueue.open(self.project)

    def fill(self, queue: str, count: int, **severe: object) -> None:
        """Texts in a queue of their own, the first of them the first to come; before them a severe one, if asked."""
        common = {"queue": queue, "policy_hash": POLICY.hash, "community": "r/gardening"}
        numbered = [
            entry(number, **common, priority=100.0 - number, text=f"{queue} text {number}") for number in range(count)
        ]
        if severe:
            numbered.append(entry(900, **common | severe, priority=200.0, text=f"{queue} text severe"))
        self.queue.configure(OPERATOR, queue, double_share=0.0, double_severities=(), hint_share=0.0)
        self.queue.add(OPERATOR, numbered)

    def labels(self, queue: str) -> list[tuple[str, str, str]]:
        """(name, text, decision), in the order they were given."""
        table = review_labels.c
        query = sa.select(review_labels).where(table.queue == f"default/{queue}", table.retracted_at.is_(None))
        with self.queue.database.read() as connection:
            rows = connection.execute(query.order_by(table.created_at)).mappings().all()
        auditor = self.member("auditor", "auditor")
        texts = {row["item_id"]: self.queue.item(auditor, row["item_id"]).entry.text for row in rows}
        return [(self.queue.member(row["member"]).name, str(texts[row["item_id"]]), row["decision"]) for row in rows]

    def member(self, name: str, *roles: str) -> Member:
        grants = [Grant(role=role) for role in roles]  # type: ignore[arg-type]
        return self.queue.add_member(OPERATOR, name, grants).member


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house") / "p"
    with Project.init(root) as project:
        ReviewQueue.open(project).put_guideline(OPERATOR, POLICY)
    words = [
        sys.executable,
        "-m",
        "workbench.cli",
        "review",
        "open",
        "--project",
        str(root),
        "--port",
        "0",
        "--no-open",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    url = next(line for line in process.stdout if line.startswith("http://")).strip()
    made = House(root, url)
    made.member("ada", "reviewer")
    made.member("bob", "reviewer")
    made.member("grace", "senior")
    yield made
    made.project.close()
    process.terminate()
    process.communicate(timeout=20)


class Moderator:
    """A person before a screen, who has a keyboard and no mouse."""

    def __init__(
        self, browser: Browser, house: House, name: str, queue: str, *, width: int = 1280, scheme: str = "light"
    ):
        self.house, self.name, self.queue = house, name, queue
        self.complaints: list[str] = []
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(SLOW)
        expect.set_options(timeout=SLOW)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.goto(f"{house.url}?queue=default/{queue}")

    def sign_in(self) -> None:
        """Say who one is, in local mode: the number before the name."""
        expect(self.page.get_by_role("button", name=self.name)).to_be_visible()
        names = [one.name for one in self.house.queue.members(OPERATOR)]
        self.press(str(names.index(self.name) + 1))
        expect(self.page.get_by_text(f"{self.name}: You have labelled").first).to_be_visible()

    def start(self) -> None:
        self.press("Enter")
        expect(self.page.get_by_role("button", name="Allow")).to_be_visible()

    def press(self, key: str) -> None:
        """A person reads for a moment first, once the page has been drawn; it listens to keys a little after that."""
        self.page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
        self.page.wait_for_timeout(700)
        self.page.keyboard.press(key)

    def reads(self, text: str) -> None:
        expect(self.page.get_by_text(text, exact=True).first).to_be_visible()

    def sees(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible()

    def item(self) -> str:
        """The text at hand."""
        found = self.page.get_by_text(f"{self.queue} text ").filter(visible=True).first
        expect(found).to_be_visible()
        return found.inner_text()

    def leave(self) -> None:
        self.context.close()
        assert self.complaints == []


def test_a_moderators_day_by_keyboard_alone(browser: Browser, house: House) -> None:
    house.fill("day", 6, category="violent_crime", severity="critical")
    ada = Moderator(browser, house, "ada", "day")
    ada.sign_in()
    expect(ada.page.get_by_text("local mode")).to_be_visible()
    ada.start()
    ada.sees("critical severity: hidden")
    ada.press("a")  # a hidden text gets no label
    ada.press("v")
    ada.reads("day text severe")
    ada.press("x")  # label
    ada.sees("Your last label: violates")
    ada.sees("with the model")
    ada.reads("day text 0")
    ada.press("2")
    ada.reads("day text 1")
    ada.press("n")  # a note, in which letters are letters
    ada.page.get_by_role("dialog").wait_for()
    ada.page.keyboard.type("axe")
    ada.page.wait_for_timeout(500)
    assert len(house.labels("day")) == 2
    ada.press("Tab")
    ada.page.keyboard.type("a saxophone")
    ada.page.keyboard.press("Enter")
    ada.reads("Note: a saxophone")
    ada.press("e")  # escalate
    ada.reads("day text 2")
    ada.press("s")  # skip
    ada.reads("day text 3")
    ada.press("a")
    ada.reads("day text 4")
    ada.press("u")  # undo
    ada.reads("day text 3")
    ada.press("d")
    ada.reads("day text 4")
    ada.page.reload()  # the same text after a reload
    ada.reads("day text 4")
    ada.press("b")  # stop
    expect(ada.page.get_by_role("button", name="Start")).to_be_visible()
    ada.leave()
    assert [(text, decision) for _, text, decision in house.labels("day")] == [
        ("day text severe", "violates"), ("day text 0", "violates"), ("day text 3", "unsure"),
    ]  # fmt: skip

    grace = Moderator(browser, house, "grace", "day&work=settle")
    grace.sign_in()
    grace.start()
    grace.sees("Said so far")
    for _ in range(2):
        grace.press("a")
        grace.sees("It is decided.")
        grace.page.wait_for_timeout(500)
    grace.sees("Nothing is left for you here.")
    grace.leave()
    decided = [one for one in house.labels("day") if one[0] == "grace"]
    assert sorted(text for _, text, _ in decided) == ["day text 1", "day text 3"]


def test_two_browsers_at_once_never_get_the_same_item(browser: Browser, house: House) -> None:
    house.fill("pair", 6)
    people = [Moderator(browser, house, name, "pair") for name in ("ada", "bob")]
    for one in people:
        one.sign_in()
        one.start()
    for _ in range(3):
        seen = [one.item() for one in people]
        assert len(set(seen)) == 2
        for one in people:
            one.press("a")
        for one, before in zip(people, seen, strict=True):
            expect(one.page.get_by_text(before, exact=True).filter(visible=True)).to_have_count(0)
    for one in people:
        one.sees("Nothing is left for you here.")
        one.leave()
    given = house.labels("pair")
    assert len(given) == 6 and len({text for _, text, _ in given}) == 6
    assert {name for name, _, _ in given} == {"ada", "bob"}


def test_a_key_held_down_labels_one_item(browser: Browser, house: House) -> None:
    house.fill("fast", 4)
    ada = Moderator(browser, house, "ada", "fast")
    ada.sign_in()
    ada.start()
    ada.page.wait_for_timeout(700)
    for _ in range(3):
        ada.page.keyboard.press("x")
    ada.reads("fast text 1")
    ada.page.wait_for_timeout(1500)
    ada.leave()
    assert [text for _, text, _ in house.labels("fast")] == ["fast text 0"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_hostile_text_is_text_on_a_narrow_screen(browser: Browser, house: House, scheme: str) -> None:
    queue = f"narrow-{scheme}"
    long = f"{ATTACK} {'w' * 300} \u202egnp.exe"
    house.queue.add(OPERATOR, [
        entry(1, queue=queue, policy_hash=POLICY.hash, text=long, context={"title": ATTACK, "<b>": ATTACK})
    ])  # fmt: skip
    ada = Moderator(browser, house, "ada", queue, width=400, scheme=scheme)
    ada.sign_in()
    ada.start()
    ada.sees("⟨U+202E⟩gnp.exe")
    expect(ada.page.get_by_text(ATTACK).first).to_be_visible()
    assert ada.page.title() != "owned"
    assert ada.page.locator("img[src='x']").count() == 0 and ada.page.locator("a[href*='x.example']").count() == 0
    assert ada.page.evaluate("document.documentElement.scrollWidth") <= 400
    ada.leave()
