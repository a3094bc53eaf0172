"""A window on the review queue, on a real queue with a clock that the tests turn."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dashboards.review_session import AWAY_S, FIRST_LOOK, SETTLE_S, Desk
from safety.policy import load_policy
from safety.review.queue import Claim, Member, ReviewQueue
from tests.safety.review.people import OPERATOR, START, People, entry, plain_queue
from workbench.store.database import Database


@dataclass
class Room:
    """A queue, its people, and the time."""

    queue: ReviewQueue
    people: People
    passed_s: float = 0.0
    desks: list[Desk] = field(default_factory=list)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed_s)

    def desk(self, member: Member, **options: Any) -> Desk:
        values: dict[str, Any] = {
            "place": "default/default",
            "kind": "opinion",
            "session": f"s{len(self.desks)}",
        } | options
        made = Desk(queue=self.queue, member=member, clock=lambda: self.passed_s, now=self.now, **values)
        self.desks.append(made)
        return made

    def shown(self, desk: Desk, later_s: float = 1.0) -> str:
        """The next item, read for a while; its token."""
        if desk.held is None:
            desk.take()
        desk.displayed()
        self.passed_s += later_s
        assert desk.held is not None
        return desk.held.token

    def labels(self, member: Member) -> list[tuple[str, str]]:
        return [(one.item, one.decision) for one in self.queue.own_labels(member)]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    database = Database(f"sqlite:///{tmp_path / 'q.sqlite'}", folder=tmp_path, busy_timeout_s=0.3)
    queue = ReviewQueue.over(database, tmp_path)
    queue.add(OPERATOR, [entry(number, priority=10.0 - number) for number in range(5)])
    plain_queue(queue)
    yield Room(queue, People(queue))
    database.close()


def test_a_second_press_meant_for_the_item_before_labels_nothing(room: Room) -> None:
    ada = room.people("ada")
    desk = room.desk(ada)
    first = room.shown(desk)
    desk.judge(first, "violates")
    desk.judge(first, "violates")  # the browser had not drawn the next item yet
    desk.displayed()
    assert desk.held is not None
    room.passed_s += SETTLE_S - 0.1
    desk.judge(desk.held.token, "violates")  # it had, a moment ago
    assert len(room.labels(ada)) == 1
    assert "only just come up" in desk.notices[-1].text
    room.passed_s += 0.2
    desk.judge(desk.held.token, "allowed")
    assert [decision for _, decision in room.labels(ada)] == ["allowed", "violates"]


def test_a_press_before_the_item_is_drawn_labels_nothing(room: Room) -> None:
    ada = room.people("ada")
    desk = room.desk(ada)
    desk.take()
    room.passed_s += 60
    assert desk.held is not None
    desk.judge(desk.held.token, "allowed")
    assert room.labels(ada) == []


def test_a_severe_text_is_hidden_then_begun_then_shown_whole_and_gets_no_label_unseen(room: Room) -> None:
    ada = room.people("ada")
    room.queue.add(OPERATOR, [entry(90, severity="critical", priority=99.0, text="word " * 200)])
    desk = room.desk(ada)
    token = room.shown(desk)
    assert desk.hidden and desk.visible() == ("", 1000)
    desk.judge(token, "allowed")
    assert room.labels(ada) == [] and "hidden" in desk.notices[-1].text
    desk.look(token)
    begun, rest = desk.visible()
    assert 0 < len(begun) <= FIRST_LOOK and len(begun) + rest == 1000
    desk.look(token)
    assert desk.visible() == ("word " * 200, 0)
    desk.judge(token, "allowed")
    assert len(room.labels(ada)) == 1
    assert desk.last is not None and desk.last.start == ""  # not shown again in the list of labels


def test_a_label_shows_what_the_model_said_and_whether_it_differs(room: Room) -> None:
    room.queue.add(OPERATOR, [entry(90, priority=99.0, probability=0.9)])
    desk = room.desk(room.people("ada"))
    desk.judge(room.shown(desk), "allowed")
    assert desk.last is not None and desk.last.model is not None
    assert desk.last.model.probability == 0.9 and desk.last.agreement == "differs"


def test_of_an_item_that_others_label_too_the_model_stays_hidden(room: Room) -> None:
    room.queue.configure(OPERATOR, "default", double_severities=("low",))
    room.queue.add(OPERATOR, [entry(90, priority=99.0, probability=0.9)])
    desk = room.desk(room.people("ada"))
    desk.judge(room.shown(desk), "allowed")
    assert desk.last is not None and desk.last.model is None and desk.last.agreement == "unknown"


def test_undo_brings_the_item_back_and_what_was_at_hand_after_it(room: Room) -> None:
    ada = room.people("ada")
    desk = room.desk(ada)
    first = desk_item(desk, room)
    desk.judge(room.shown(desk), "violates")
    second = desk_item(desk, room)
    desk.undo()
    assert desk_item(desk, room) == first and room.labels(ada) == [] and not desk.labelled
    desk.judge(room.shown(desk), "allowed")
    assert desk_item(desk, room) == second
    assert room.labels(ada) == [(first, "allowed")]


def desk_item(desk: Desk, room: Room) -> str:
    room.shown(desk)
    assert desk.view is not None
    return desk.view.id


def test_what_was_labelled_before_a_reload_can_still_be_undone(room: Room) -> None:
    ada = room.people("ada")
    desk = room.desk(ada)
    desk.judge(room.shown(desk), "violates")
    held = desk_item(desk, room)
    again = room.desk(ada, session=desk.session)
    again.remember()
    again.take()
    assert desk_item(again, room) == held and [one.decision for one in again.labelled] == ["violates"]
    again.undo(again.labelled[0].label)
    assert room.labels(ada) == []


def test_a_lease_that_ran_out_is_told_and_the_other_persons_work_stands(room: Room) -> None:
    ada, bob = room.people("ada"), room.people("bob")
    desk = room.desk(ada)
    token = room.shown(desk)
    item = desk_item(desk, room)
    room.passed_s += 3600
    other = room.desk(bob)
    assert desk_item(other, room) == item
    desk.judge(token, "violates")
    assert desk.held is None and "no longer yours" in desk.lost
    assert room.labels(ada) == []
    other.judge(room.shown(other), "allowed")
    assert room.labels(bob) == [(item, "allowed")]
    desk.take()
    assert not desk.lost and desk.held is not None


def test_the_lease_is_kept_while_somebody_is_there_and_left_to_run_out_when_nobody_is(room: Room) -> None:
    desk = room.desk(room.people("ada"))
    token = room.shown(desk)
    for _ in range(10):
        room.passed_s += 60
        assert desk.renew()
    assert desk.left_s() > 500
    room.passed_s = AWAY_S + 120
    before = desk.left_s()
    assert desk.renew() and desk.is_away and desk.left_s() == before
    desk.keep(token)
    assert not desk.is_away and desk.left_s() == 600


def test_a_heartbeat_that_comes_too_late_says_that_the_item_is_lost(room: Room) -> None:
    desk = room.desk(room.people("ada"))
    room.shown(desk)
    room.passed_s += 3000
    bob = room.desk(room.people("bob"))
    room.shown(bob)
    desk.touched_at = room.passed_s  # somebody pressed a key, and the machine had slept
    assert not desk.renew() and desk.lost


def test_a_rule_that_changed_is_read_again_before_anything_is_written(room: Room) -> None:
    ada, approver = room.people("ada"), room.people("grace", "policy_approver")
    policy = load_policy("moderation")
    desk = room.desk(ada)
    token = room.shown(desk)
    room.queue.put_guideline(OPERATOR, policy)
    room.queue.swap_policy(approver, "default", old="p" * 64, new=policy.hash)
    desk.judge(token, "violates")
    assert room.labels(ada) == [] and "rule has changed" in desk.notices[-1].text
    assert desk.view is not None and desk.view.policy_hash == policy.hash
    desk.judge(room.shown(desk), "violates")
    assert len(room.labels(ada)) == 1


def test_skip_and_escalate_take_the_note_along_and_go_on(room: Room) -> None:
    ada, senior = room.people("ada"), room.people("grace", "senior")
    desk = room.desk(ada)
    skipped = desk_item(desk, room)
    desk.skip(room.shown(desk))
    escalated = desk_item(desk, room)
    assert escalated != skipped
    desk.noted("needs Finnish")
    desk.escalate(room.shown(desk))
    assert desk.note == "" and desk_item(desk, room) not in (skipped, escalated)
    settles = room.desk(senior, kind="adjudication")
    assert desk_item(settles, room) == escalated
    settles.judge(room.shown(settles), "allowed")
    assert settles.last is not None and settles.last.state == "decided"


def test_stopping_gives_the_item_back_at_once(room: Room) -> None:
    desk, other = room.desk(room.people("ada")), room.desk(room.people("bob"))
    item = desk_item(desk, room)
    desk.stop()
    assert desk.held is None and not desk.lost
    assert desk_item(other, room) == item


def test_near_duplicates_get_the_verdict_only_when_asked_for(room: Room) -> None:
    ada = room.people("ada")
    alike = [entry(number, priority=99.0 - number, cluster="watches") for number in range(80, 84)]
    room.queue.add(OPERATOR, alike)
    desk = room.desk(ada)
    item = desk_item(desk, room)
    desk.judge(room.shown(desk), "violates")
    assert desk.offer is not None and desk.offer.similar == 3 and desk.held is None
    assert len(room.labels(ada)) == 1
    desk.apply_to_similar()
    assert "Applied to 3" in desk.notices[-1].text
    assert desk_item(desk, room) not in {one.id for one in alike}
    desk.undo()  # takes it back from all of them
    assert desk.view is not None and desk.view.id == item


def test_near_duplicates_come_one_by_one_when_that_is_wanted(room: Room) -> None:
    alike = [entry(number, priority=99.0 - number, cluster="watches") for number in range(80, 82)]
    room.queue.add(OPERATOR, alike)
    desk = room.desk(room.people("ada"))
    desk.judge(room.shown(desk), "violates")
    assert desk.offer is not None and desk.offer.similar == 1
    desk.take()
    assert desk.offer is None and desk_item(desk, room) in {one.id for one in alike}


def test_an_appeal_goes_to_a_senior_who_had_no_part(room: Room) -> None:
    senior, other = room.people("grace", "senior"), room.people("hal", "senior")
    desk = room.desk(senior)
    item = desk_item(desk, room)
    desk.judge(room.shown(desk), "violates")
    desk.appeal(item, "it is a quotation")
    mine, theirs = room.desk(senior, kind="adjudication"), room.desk(other, kind="adjudication")
    mine.take()
    assert mine.idle is not None
    room.shown(theirs)
    assert theirs.view is not None and theirs.view.context["appeal"] == "it is a quotation"


def test_a_break_and_the_end_of_a_budget_are_told_as_what_they_are(room: Room) -> None:
    ada = room.people("ada")
    room.queue.configure(OPERATOR, "default", break_after_severe=1, daily_budget=7.0, break_s=60)
    severe = [entry(number, severity="high", priority=99.0) for number in range(90, 94)]
    room.queue.add(OPERATOR, severe)
    desk = room.desk(ada)
    token = room.shown(desk)
    desk.look(token)
    desk.judge(token, "allowed")
    assert desk.idle is not None and desk.idle.reason == "break"
    assert 0 < desk.until_s(desk.idle.until) <= 60
    room.passed_s += 61
    desk.take()
    assert desk.idle is None and isinstance(desk.held, Claim)


def test_no_key_labels_while_a_note_is_typed(room: Room) -> None:
    desk = room.desk(room.people("ada"))
    room.shown(desk)
    desk.ask("note")
    assert desk.asking == "note"
    desk.noted(" looks like a quotation ")
    assert desk.asking == "" and desk.note == "looks like a quotation"


def test_a_database_that_is_busy_keeps_the_item_at_hand(room: Room, tmp_path: Path) -> None:
    ada = room.people("ada")
    desk = room.desk(ada)
    token = room.shown(desk)
    other = sqlite3.connect(tmp_path / "q.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    desk.judge(token, "violates")
    other.execute("ROLLBACK")
    other.close()
    assert "Not written" in desk.notices[-1].text and desk.held is not None and desk.held.token == token
    desk.judge(token, "violates")
    assert len(room.labels(ada)) == 1
