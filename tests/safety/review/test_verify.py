"""What was done behind the queue's back is found, whatever row it is."""

import sqlite3

import pytest
import sqlalchemy as sa

from safety.review.queue import Answer, ReviewQueue
from safety.review.verify import verify
from tests.safety.review.people import ALLOWED, OPERATOR, VIOLATES, People, at, claimed, entry, label, plain_queue
from workbench.store.anchors import Anchors
from workbench.store.audit import Head, append_audit, audit_rows, verify_audit
from workbench.store.database import Database
from workbench.store.schema import audit

TAMPERING = {
    "a label is turned": "UPDATE review_labels SET decision = 'allowed' WHERE decision = 'violates'",
    "a note is written": 'UPDATE review_labels SET detail = \'{"note":"x"}\'',
    "a label is given to another": "UPDATE review_labels SET member = 'm-other' WHERE n = 1",
    "a label is removed": "DELETE FROM review_labels WHERE retracted_at IS NULL",
    "an undone label is restored": "UPDATE review_labels SET retracted_at = NULL, n = 9 WHERE retracted_at IS NOT NULL",
    "a label is undone": "UPDATE review_labels SET retracted_at = 'now' WHERE retracted_at IS NULL",
    "a label is moved": "UPDATE review_labels SET item_id = 'elsewhere' || id",
    "a label of no item": "DELETE FROM review_items WHERE state = 'decided'",
    "a policy is changed on a label": "UPDATE review_labels SET policy_hash = 'q'",
    "an outcome is turned": "UPDATE review_outcomes SET decision = 'allowed' WHERE decision = 'violates'",
    "an outcome is removed": "DELETE FROM review_outcomes",
    "a slot is done by nobody": "UPDATE review_slots SET state = 'done', member = 'm-x' WHERE state = 'open'",
    "a slot has no holder": "UPDATE review_slots SET state = 'leased' WHERE state = 'open'",
    "a slot is lost": "DELETE FROM review_slots WHERE state = 'open'",
    "a cluster is cut": "DELETE FROM review_clusters",
    "a role is taken": "INSERT INTO review_grants VALUES ('m-x', 'admin', '*', '*')",
    "a role is lost": "DELETE FROM review_grants",
}


@pytest.fixture
def day(tmp_path) -> ReviewQueue:
    """A queue with a bit of everything in it."""
    queue = ReviewQueue.over(Database("sqlite:///workbench.sqlite", folder=tmp_path), tmp_path)
    plain_queue(queue)
    queue.add(OPERATOR, [entry(n, cluster="c" if n > 2 else "", priority=float(-n)) for n in range(6)])
    people = People(queue)
    ana, sam = people("ana"), people("sam", "senior")
    label(queue, ana, VIOLATES)
    label(queue, ana, ALLOWED, at(1))
    back = queue.undo(ana, now=at(2))
    queue.submit(ana, back.token, Answer(decision="unsure", note="hm"), at(3))
    label(queue, sam, VIOLATES, at(4), kind="adjudication")
    claimed(queue, ana, at(5))
    queue.anchors.add(Head(seq=(last := audit_rows(queue.database)[-1]).seq, hash=last.hash))
    assert verify(queue.database, queue.anchors).faults == ()
    return queue


def change(queue, *statements):
    queue.database.close()
    connection = sqlite3.connect(queue.database.where)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("statement", TAMPERING.values(), ids=TAMPERING)
def test_tampering_with_the_tables_is_found(day, statement):
    change(day, statement)
    assert verify(day.database, day.anchors).faults


def test_tampering_with_any_row_of_the_audit_is_found(day):
    rows = audit_rows(day.database)
    change(day, "DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete")
    for row in rows:
        for column in ("actor", "kind", "at", "document"):
            change(day, f"UPDATE audit SET {column} = {column} || ' ' WHERE seq = {row.seq}")
            assert f"audit row {row.seq}" in verify(day.database, day.anchors).faults[0]
            change(day, f"UPDATE audit SET {column} = substr({column}, 1, length({column}) - 1) WHERE seq = {row.seq}")
    assert verify(day.database, day.anchors).faults == ()
    change(day, f"DELETE FROM audit WHERE seq = {rows[-1].seq}")  # the chain itself does not show that its end is gone
    assert verify_audit(day.database) is None
    assert verify(day.database, day.anchors).faults


def test_a_chain_that_was_written_anew_is_told_by_the_anchors_alone(day, tmp_path):
    from workbench.store.audit import AuditEvent

    rows = audit_rows(day.database)
    change(day, "DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete", "DELETE FROM audit")
    forged = [AuditEvent(kind=row.kind, actor=row.actor, document=row.document) for row in rows]
    append_audit(day.database, forged)
    assert verify_audit(day.database) is None
    faults = verify(day.database, day.anchors).faults
    assert faults and all("when it was anchored" in fault for fault in faults)
    assert verify(day.database, Anchors(tmp_path / "elsewhere.jsonl")).faults  # the file taken away shows as well


def test_anchors_are_only_added_and_survive_half_a_line(day):
    anchors, damaged = day.anchors.read()
    assert len(anchors) >= 3 and damaged == []
    with day.anchors.path.open("ab") as file:
        file.write(b'{"seq": 3, "ha')
    queue = ReviewQueue.over(day.database, day.anchors.path.parent)
    People(queue)("kim", "senior")
    after, damaged = queue.anchors.read()
    assert (after[: len(anchors)], len(after), len(damaged)) == (anchors, len(anchors) + 1, 1)
    (fault,) = verify(queue.database, queue.anchors).faults
    assert "is no anchor" in fault


def test_verify_reads_one_state_while_people_work(store_url, tmp_path):
    database = Database(store_url, folder=tmp_path)
    queue = ReviewQueue.over(database, tmp_path)
    queue.add(OPERATOR, [entry(1)])
    label(queue, People(queue)("ana"), VIOLATES)
    found = verify(database, queue.anchors)
    assert (found.faults, found.labels, found.items) == ((), 1, 1)
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(audit)) == found.audit_rows
    database.close()
