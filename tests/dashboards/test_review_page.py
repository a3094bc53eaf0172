"""The review page as Streamlit runs it, on a real queue: every state that a moderator meets, and what was written."""

import getpass
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dashboards import review_session
from safety.policy import load_policy
from safety.review.queue import Answer, Claim, Grant, Member, ReviewQueue
from tests.dashboards.making import HOSTILE
from tests.safety.review.people import OPERATOR, entry, plain_queue
from workbench.store import Project

POLICY = load_policy("moderation")
RULE = next(iter(POLICY.categories.values()))


class Room:
    """A project with a queue; the account that runs the tests is a reviewer and senior in it."""

    def __init__(self, project: Project, open_page: Callable[..., Any]) -> None:
        self.root, self.queue = project.root, ReviewQueue.open(project)
        self.queue.put_guideline(OPERATOR, POLICY)
        self.me = self.queue.local_member(getpass.getuser())
        self._open_page = open_page

    def add(self, number: int, **changes: Any) -> str:
        values = {"policy_hash": POLICY.hash, "category": RULE.id, "priority": 100.0 - number} | changes
        made = entry(number, **values)
        self.queue.add(OPERATOR, [made])
        plain_queue(self.queue)
        return made.id

    def other(self, name: str, role: str = "reviewer") -> Member:
        return self.queue.add_member(OPERATOR, name, [Grant(role=role)]).member  # type: ignore[arg-type]

    def open(self, *flags: str, **params: str) -> Any:
        return self._open_page(self.root, "review", *flags, **params)

    def start(self, **params: str) -> Any:
        return click(self.open(**params), "start")

    def labels(self) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(one.item, one.decision, one.categories) for one in self.queue.own_labels(self.me)]


@pytest.fixture
def room(tmp_path: Path, open_page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setattr(review_session, "SETTLE_S", 0.0)  # a machine presses faster than a person reads
    with Project.init(tmp_path / "p") as project:
        yield Room(project, open_page)


def click(shown: Any, key: str) -> Any:
    """Press the button with this key, or with the one that begins so and ends in an item's token."""
    found = [button for button in shown.button if button.key == key or str(button.key).startswith(f"{key}-")]
    found = [button for button in found if button.key == key] or found
    assert len(found) == 1, [button.key for button in shown.button]
    assert not found[0].disabled, key
    found[0].click().run()
    assert not shown.exception, shown.exception[0].value
    return shown


def told(shown: Any) -> str:
    parts = [shown.text, shown.caption, shown.markdown, shown.subheader, shown.warning, shown.toast, shown.info]
    return "\n".join(str(one.value) for part in parts for one in part)


def test_an_empty_queue_says_so_kindly(room: Room) -> None:
    item = room.add(1)
    shown = click(room.start(), "allowed")
    assert room.labels() == [(item, "allowed", ())]
    assert "Nothing is left for you here." in told(shown) and not shown.exception


def test_nothing_is_claimed_before_somebody_starts(room: Room) -> None:
    room.add(1)
    shown = room.open()
    assert "1 waits" in told(shown) and "text 1" not in told(shown)
    assert isinstance(room.queue.claim(room.other("bob")), Claim)


def test_an_item_stands_beside_its_rule_with_what_it_is_not_and_examples(room: Room) -> None:
    room.add(1, text=HOSTILE, community="r/<b>bees</b>", context={"title": HOSTILE, "author": {"posts": 2}})
    shown = room.start()
    said = told(shown)
    for part in (RULE.definition, *RULE.not_this, "in r/<b>bees</b>", "posts: 2"):
        assert part in said, part
    assert [text.value for text in shown.text].count(HOSTILE.replace("\u202e", "⟨U+202E⟩")) == 2  # text and title
    assert not any("onerror" in one.value for one in [*shown.markdown, *shown.caption])


def test_the_models_view_is_hidden_until_the_label_is_in(room: Room) -> None:
    room.add(1, probability=0.87)
    room.add(2, probability=0.13)
    shown = room.start()
    assert "87%" not in told(shown)
    shown = click(shown, "allowed")
    assert "87%" in told(shown) and "differs from the model" in told(shown) and "13%" not in told(shown)


def test_a_hint_is_shown_where_chance_lets_it_be_shown(room: Room) -> None:
    room.add(1, probability=0.87)
    room.queue.configure(OPERATOR, "default", hint_share=1.0)
    assert "87%" in told(room.start())


def test_a_severe_text_is_hidden_and_cannot_be_labelled_unseen(room: Room) -> None:
    room.add(1, severity="critical", text="something dreadful", context={"title": "dreadful as well"})
    shown = room.start()
    assert "dreadful" not in told(shown)
    assert [one.key.split("-")[0] for one in shown.button if one.disabled][:4] == [
        "allowed", "violates", "unsure", "cannot_judge",
    ]  # fmt: skip
    shown = click(shown, "reveal")
    assert "something dreadful" in told(shown)
    click(shown, "violates")
    assert len(room.labels()) == 1


def test_a_digit_says_which_other_rule_is_violated(room: Room) -> None:
    item, other = room.add(1), list(POLICY.categories)[2]
    click(room.start(), f"category-{other}")
    assert room.labels() == [(item, "violates", (other,))]


def test_several_rules_are_chosen_together(room: Room) -> None:
    item, (one, two) = room.add(1), list(POLICY.categories)[:2]
    shown = click(room.start(), "several")
    for name in (one, two):
        next(box for box in shown.checkbox if box.key == f"rule-{name}").check().run()
    click(shown, "several-done")
    assert room.labels() == [(item, "violates", tuple(sorted((one, two))))]


def test_a_sample_without_a_rule_in_question_is_allowed_or_gets_a_number(room: Room) -> None:
    item = room.add(1, category="")
    shown = room.start()
    assert next(one for one in shown.button if one.key.startswith("violates")).disabled
    assert all(category.definition in told(shown) for category in POLICY.categories.values())
    click(shown, f"category-{RULE.id}")
    assert room.labels() == [(item, "violates", (RULE.id,))]


def test_a_note_goes_with_the_label_to_the_senior_who_settles(room: Room) -> None:
    room.add(1)
    shown = click(room.start(), "note")
    shown.text_input(key="note-text").input("quotes **somebody**").run()
    assert "Note: quotes **somebody**" in told(shown)
    shown = click(shown, "unsure")
    bob = room.other("bob", "senior")
    got = room.queue.claim(bob, kind="adjudication")
    assert isinstance(got, Claim) and got.view.opinions[0].note == "quotes **somebody**"


def test_undo_brings_the_item_back(room: Room) -> None:
    room.add(1)
    room.add(2)
    shown = click(click(room.start(), "violates"), "undo")
    assert "text 1" in told(shown) and room.labels() == []


def test_a_senior_sees_what_was_said_without_names_and_decides(room: Room) -> None:
    item = room.add(1, need=2)
    for name, decision in (("bobby-tables", "allowed"), ("carla-tables", "violates")):
        other = room.other(name)
        got = room.queue.claim(other)
        assert isinstance(got, Claim)
        room.queue.submit(other, got.token, Answer(decision=decision, note=f"{decision}, I think"))  # type: ignore
    shown = room.open()
    shown.radio(key="review_kind").set_value("adjudication").run()
    shown = click(shown, "start")
    said = told(shown)
    assert "Opinion 1: allowed" in said and "Opinion 2: violates" in said and "violates, I think" in said
    assert "tables" not in said
    assert next(one for one in shown.button if one.key.startswith("escalate")).disabled
    assert shown.query_params["work"] == "settle"
    shown = click(shown, "violates")
    assert "It is decided." in told(shown) and room.labels() == [(item, "violates", (RULE.id,))]


def test_a_break_says_until_when_and_lets_nobody_go_on_before(room: Room) -> None:
    room.add(1, severity="high")
    room.add(2)
    room.queue.configure(OPERATOR, "default", break_after_severe=1, spread=0)
    shown = click(click(room.start(), "reveal"), "allowed")
    assert "Time for a break." in told(shown) and "10 min left" in told(shown)
    assert shown.button(key="next").disabled
    assert "text 2" not in told(shown)


def test_the_end_of_the_days_budget_is_told(room: Room) -> None:
    for number in (1, 2):
        room.add(number, severity="critical")
    room.queue.configure(OPERATOR, "default", daily_budget=10.0)
    shown = click(click(room.start(), "reveal"), "allowed")
    assert "enough hard material for today" in told(shown)


def test_categories_that_somebody_does_not_look_at_stay_away_and_nobody_asks_why(room: Room) -> None:
    room.add(1)
    shown = room.open()
    shown.multiselect(key="review_opt_out").set_value([RULE.id]).run()
    assert room.queue.member(room.me.id).opt_out == (RULE.id,)
    assert "categories that you do not look at" in told(click(shown, "start"))


def test_a_lost_lease_is_told_and_nothing_is_written(room: Room) -> None:
    room.add(1)
    room.add(2)
    shown = room.start()
    later = datetime.now(UTC) + timedelta(hours=1)
    assert isinstance(room.queue.claim(room.other("bob"), now=later), Claim)
    shown = click(shown, "violates")
    assert "no longer yours" in told(shown) and room.labels() == []
    assert "text 2" in told(click(shown, "next"))


def test_a_page_that_is_loaded_again_has_the_same_text_and_the_same_labels_to_undo(room: Room) -> None:
    for number in (1, 2, 3):
        room.add(number)
    shown = click(room.start(), "allowed")
    session = shown.query_params["session"]
    again = room.open(session=session)
    assert "text 2" in told(again) and "Your last 1 label" in [one.label for one in again.expander]
    elsewhere = click(room.open(), "start")
    assert "text 3" in told(elsewhere)


def test_near_duplicates_wait_for_a_word(room: Room) -> None:
    for number in (1, 2, 3):
        room.add(number, cluster="same")
    shown = click(room.start(), "violates")
    assert "2 near-duplicates of this text wait" in told(shown)
    shown = click(shown, "similar")
    assert "Nothing is left" in told(shown) and room.queue.stats(room.me).items == {"decided": 3}


def test_a_text_that_may_not_be_kept_is_told_to_be_so(room: Room) -> None:
    room.add(1, text=None, context=None)
    assert "does not let this text be kept" in told(room.start())


def test_who_is_not_a_member_is_told_how_to_become_one(room: Room) -> None:
    room.add(1)
    shown = room.open()
    shown.text_input(key="local_name").set_value("mallory").run()
    assert any("workbench review members add mallory" in one.value for one in shown.code)
    assert not any(one.key == "start" for one in shown.button)


def test_a_viewer_may_look_and_not_label(room: Room) -> None:
    room.add(1)
    room.other("vera", "viewer")
    shown = room.open()
    shown.text_input(key="local_name").set_value("vera").run()
    assert "takes the role reviewer or senior" in told(shown) and not any(one.key == "start" for one in shown.button)


def test_the_first_person_of_a_project_signs_in_by_an_act_of_their_own(
    tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    with Project.init(tmp_path / "fresh") as project:
        queue = ReviewQueue.open(project)
        queue.add(OPERATOR, [entry(1)])
        shown = open_page(project.root, "review")
        assert queue.members(OPERATOR) == []
        shown = click(shown, "first")
        assert [one.name for one in queue.members(OPERATOR)] == [getpass.getuser()]
        assert any(one.key == "start" for one in shown.button)


def test_a_read_only_dashboard_lets_nobody_label(room: Room) -> None:
    room.add(1)
    shown = room.open("--read-only")
    assert not any(one.key == "start" for one in shown.button) and not shown.exception
