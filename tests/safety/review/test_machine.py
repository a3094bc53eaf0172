"""Whatever people do in whatever order: nobody gets what another holds, and the books are right after every step."""

import itertools
import shutil
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from safety.review.queue import Answer, Claim, Grant, ReviewQueue
from safety.review.verify import verify
from tests.safety.review.people import OPERATOR, START, entry
from workbench.errors import ReviewError
from workbench.store.database import Database

PEOPLE = ("ana", "ben", "cat", "sam", "kim")
ALLOWED_REFUSALS = {"lease_lost", "key_reused", "too_late", "too_many", "invalid", "unknown", "forbidden"}


class Day(RuleBasedStateMachine):
    opened: Callable[[], ReviewQueue]

    @initialize(need=st.integers(1, 3), double=st.sampled_from([0.0, 0.5]))
    def begin(self, need, double):
        self.queue = self.opened()
        self.now = START
        self.leases: dict[tuple[str, int], tuple[str, str, datetime]] = {}  # slot -> person, token, until
        self.tokens: list[tuple[str, str, tuple[str, int]]] = []
        self.labelled: set[tuple[str, str]] = set()
        self.decided: list[str] = []
        self.members = {}
        for name in PEOPLE:
            roles = ["reviewer", *(["senior"] if name in ("cat", "sam", "kim") else [])]
            granted = [Grant(role=role) for role in roles]
            self.members[name] = self.queue.add_member(OPERATOR, name, granted).member
        self.queue.configure(OPERATOR, "default", need=need, double_share=double, skips_to_senior=2)
        self.count = 0
        self.more(3)

    def teardown(self):
        if hasattr(self, "queue"):
            self.queue.database.close()

    @rule(count=st.integers(1, 3))
    def more(self, count):
        clusters = ["", "", "c1", "c2"]
        rows = []
        for _ in range(count):
            self.count += 1
            severity = ("low", "medium", "critical")[self.count % 3]
            rows.append(entry(self.count, cluster=clusters[self.count % 4], severity=severity))
        self.queue.add(OPERATOR, rows)

    @rule(minutes=st.sampled_from([0.5, 4, 11]))
    def time_goes_by(self, minutes):
        self.now += timedelta(minutes=minutes)

    @rule(name=st.sampled_from(PEOPLE), kind=st.sampled_from(["opinion", "opinion", "adjudication"]))
    def claim(self, name, kind):
        got = self.try_to(lambda: self.queue.claim(self.members[name], "default", self.now, kind=kind))
        if not isinstance(got, Claim):
            return
        slot = (got.view.id, got.view.n)
        holder = self.leases.get(slot)
        if holder is not None and holder[2] > self.now:
            assert holder[0] == name, "a slot was given to a second person"
            assert got.resumed
        assert not got.resumed or holder is not None
        assert (name, got.view.id) not in self.labelled, "a person was given an item again"
        others = [
            person for (item, _), (person, _, until) in self.leases.items() if item == slot[0] and until > self.now
        ]
        assert others.count(name) <= 1
        self.leases[slot] = (name, got.token, self.now + timedelta(minutes=10))
        self.tokens.append((name, got.token, slot))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), decision=st.sampled_from(["violates", "violates", "allowed", "unsure"]))
    def submit(self, data, decision):
        name, token, slot = data.draw(st.sampled_from(self.tokens))
        mine = self.leases.get(slot, ("", "", self.now))[1] == token
        done = self.try_to(lambda: self.queue.submit(self.members[name], token, Answer(decision=decision), self.now))
        if done is None or done.replayed:
            return
        assert mine, "a label was taken for a slot that somebody else had been given"
        self.labelled.add((name, slot[0]))
        del self.leases[slot]
        if done.state == "decided":
            self.decided.append(slot[0])

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), act=st.sampled_from(["skip", "escalate", "hand_back", "heartbeat"]))
    def do_something_else(self, data, act):
        name, token, slot = data.draw(st.sampled_from(self.tokens))
        mine = self.leases.get(slot, ("", "", self.now))[1] == token
        moment = () if act == "hand_back" else (self.now,)
        if act == "heartbeat":
            until = self.try_to(lambda: self.queue.heartbeat(self.members[name], token, *moment))
            if until is not None:
                assert mine
                self.leases[slot] = (name, token, self.now + timedelta(minutes=10))
            return
        call = {"skip": self.queue.skip, "escalate": self.queue.escalate}.get(act)
        member = self.members[name]
        done = self.try_to(lambda: call(member, token, "", self.now) if call else self.queue.hand_back(member, token))
        if done is not None:
            assert mine
            del self.leases[slot]

    @rule(name=st.sampled_from(PEOPLE))
    def undo(self, name):
        back = self.try_to(lambda: self.queue.undo(self.members[name], now=self.now))
        if back is None:
            return
        self.labelled.discard((name, back.view.id))
        slot = (back.view.id, back.view.n)
        self.leases[slot] = (name, back.token, self.now + timedelta(minutes=10))
        self.tokens.append((name, back.token, slot))

    @precondition(lambda self: self.decided)
    @rule(data=st.data(), name=st.sampled_from(PEOPLE), act=st.sampled_from(["appeal", "apply_to_cluster"]))
    def follow_up(self, data, name, act):
        item = data.draw(st.sampled_from(self.decided))
        call = self.queue.appeal if act == "appeal" else self.queue.apply_to_cluster
        self.try_to(lambda: call(self.members[name], item, now=self.now))

    @invariant()
    def the_books_are_right(self):
        assert verify(self.queue.database, self.queue.anchors).faults == ()

    def try_to(self, act):
        """What was given back; None where the queue refused, for one of the reasons that it may have."""
        self.now += timedelta(seconds=1)
        try:
            return act()
        except ReviewError as error:
            assert error.code in ALLOWED_REFUSALS
            return None


@pytest.fixture
def empty(store_url, tmp_path, request) -> Callable[[], ReviewQueue]:
    """A function that opens a queue on an empty database, a new one each time: examples must not know each other."""
    numbers = itertools.count()
    if store_url.startswith("sqlite"):
        Database(store_url, folder=tmp_path).close()

        def opened() -> ReviewQueue:
            folder = tmp_path / f"{next(numbers)}"
            folder.mkdir()
            shutil.copy(tmp_path / "workbench.sqlite", folder / "workbench.sqlite")
            return ReviewQueue.over(Database("sqlite:///workbench.sqlite", folder=folder), folder)

        return opened
    import psycopg

    server = request.getfixturevalue("postgres_server")

    def opened_there() -> ReviewQueue:
        name, folder = f"machine_{uuid.uuid4().hex}", tmp_path / f"{next(numbers)}"
        folder.mkdir()
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return ReviewQueue.over(Database(f"{server}&options=-csearch_path%3D{name}"), folder)

    return opened_there


def test_the_books_are_right_after_every_step_of_any_day(empty, store_url):
    Day.opened = staticmethod(empty)
    run_state_machine_as_test(
        Day,
        settings=settings(
            max_examples=25 if store_url.startswith("sqlite") else 4,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
