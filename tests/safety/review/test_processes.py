"""Real processes at one queue: killed in mid-write nothing is lost or double, at once nobody gets what another has."""

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from multiprocessing.connection import Connection

import pytest
import sqlalchemy as sa

from safety.review.queue import Answer, Claim, ReviewQueue
from safety.review.verify import verify
from tests.safety.review.people import OPERATOR, START, People, entry
from workbench.errors import ReviewError
from workbench.store.database import Database
from workbench.store.review_schema import review_labels

FORK = multiprocessing.get_context("fork")
KILLS = 20


def work(url: str, folder: str, member: str, seed: int, pipe: Connection, until_empty: bool) -> None:
    """A moderator at full speed; says what is done only after the queue has said so."""
    try:
        database = Database(url)
        queue = ReviewQueue.over(database, folder)
        chance = random.Random(seed)
        number = seed * 1_000_000
        while True:
            if not until_empty:
                number += 1
                queue.add(OPERATOR, [entry(number)])
                pipe.send(("item", entry(number).id))
            got = queue.claim(member, session=f"{seed}")
            if not isinstance(got, Claim):
                break
            if not got.resumed:
                pipe.send(("claim", (got.view.id, got.view.n, member)))
            if not until_empty and chance.random() < 0.1:
                queue.escalate(member, got.token)
                continue
            done = queue.submit(member, got.token, Answer(decision=chance.choice(["violates", "allowed"])))
            pipe.send(("label", done.label))
            if not until_empty and chance.random() < 0.2:
                back = queue.undo(member)
                pipe.send(("undone", done.label))
                queue.hand_back(member, back.token)
        pipe.send(("end", None))
    except ReviewError as error:
        pipe.send(("refused", str(error)))


def start(url, folder, member, seed, *, until_empty=False):
    mine, theirs = FORK.Pipe()
    arguments = (url, folder, member, seed, theirs, until_empty)
    process = FORK.Process(target=work, args=arguments, daemon=True)
    process.start()
    theirs.close()
    return process, mine


def read_all(pipe) -> list[tuple[str, object]]:
    said = []
    try:
        while True:
            said.append(pipe.recv())
    except (EOFError, ConnectionResetError):
        return said


@pytest.fixture
def place(store_url, tmp_path):
    database = Database(store_url, folder=tmp_path)
    url = store_url
    queue = ReviewQueue.over(database, tmp_path)
    yield queue, url, tmp_path
    database.close()


def test_twenty_kills_in_mid_write_lose_nothing_and_double_nothing(place):
    queue, url, folder = place
    people = People(queue)
    queue.configure(OPERATOR, "default", double_share=0.5, break_after_severe=10**9, max_leases=10**6)
    members = [people(name).id for name in ("ana", "ben")]
    moment = random.Random(7)
    said: list[tuple[str, object]] = []
    for kill in range(KILLS):
        queue.database.close()  # the child opens its own
        process, pipe = start(url, folder, members[kill % 2], kill)
        said += [pipe.recv() for _ in range(moment.randint(3, 12))]
        time.sleep(moment.uniform(0.0, 0.03))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        said += read_all(pipe)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert verify(queue.database, queue.anchors).faults == ()
    counted = Counter(kind for kind, _ in said)
    assert counted["label"] > KILLS and counted["undone"] > 0 and "refused" not in counted
    with queue.database.read() as connection:
        rows = connection.execute(sa.select(review_labels.c.id, review_labels.c.retracted_at)).all()
        items = set(connection.scalars(sa.text("SELECT id FROM review_items")))
    there = {row.id: row.retracted_at for row in rows}
    assert {what for kind, what in said if kind == "label"} <= set(there)
    assert all(there[what] is not None for kind, what in said if kind == "undone")
    assert {what for kind, what in said if kind == "item"} <= items


def test_four_processes_at_once_never_get_the_same_slot_and_leave_nothing(place):
    queue, url, folder = place
    people = People(queue)
    queue.configure(OPERATOR, "default", double_share=0.5, break_after_severe=10**9, hint_share=0.0)
    queue.add(OPERATOR, [entry(n, priority=float(n % 3)) for n in range(90)])
    wanted = queue.stats(OPERATOR, now=START).slots["opinion open"]
    names = ("ana", "ben", "cat", "cat")  # one of them works in two windows
    members = [people(name).id for name in dict.fromkeys(names)]
    queue.database.close()
    running = [start(url, folder, members[min(n, 2)], n, until_empty=True) for n in range(4)]
    said = [one for _, pipe in running for one in read_all(pipe)]
    for process, _ in running:
        process.join()
    assert Counter(kind for kind, _ in said)["end"] == 4, [what for kind, what in said if kind == "refused"]
    slots = Counter((item, n) for kind, what in said if kind == "claim" for item, n, _ in [what])
    persons = Counter((item, who) for kind, what in said if kind == "claim" for item, _, who in [what])
    assert (max(slots.values()), max(persons.values()), len(slots)) == (1, 1, wanted)
    found = verify(queue.database, queue.anchors)
    assert (found.faults, found.labels) == ((), wanted)
