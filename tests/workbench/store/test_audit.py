"""The audit only grows, and shows what was done behind its back; review items are there once."""

import dataclasses
import threading

import pytest
import sqlalchemy as sa

from workbench.errors import WorkbenchError
from workbench.store.audit import AuditEvent, append_audit, audit_rows, verify_audit
from workbench.store.database import Database
from workbench.store.reviews import ReviewEntry, add_reviews, review_items

ENTRY = ReviewEntry(
    tenant="acme",
    source="uncertain",
    surface="user_input",
    category="hate",
    severity="high",
    action="log",
    probability=0.5,
    uncertainty=1.0,
    policy_hash="p" * 64,
    model="tiny",
    content_sha="c" * 64,
    text="a text with\x00 a NUL and \U0001f600",
)


@pytest.fixture
def database(store_url, tmp_path):
    database = Database(store_url, folder=tmp_path)
    yield database
    database.close()


def event(number: int) -> AuditEvent:
    return AuditEvent(kind="guard", actor="acme", document={"number": number, "text": "a\x00b"})


def test_rows_come_back_in_order_and_the_chain_holds(database):
    append_audit(database, [event(1), event(2)])
    append_audit(database, [event(3)])
    assert [row.document["number"] for row in audit_rows(database)] == [1, 2, 3]
    assert [row.seq for row in audit_rows(database, after=1, limit=1)] == [2]
    assert audit_rows(database, kind="override") == []
    assert verify_audit(database) is None


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"])
def test_a_row_is_neither_changed_nor_removed(database, statement):
    append_audit(database, [event(1)])
    with pytest.raises(WorkbenchError, match="append-only"), database.write() as connection:
        connection.execute(sa.text(statement))
    assert len(audit_rows(database)) == 1


def test_tampering_behind_the_triggers_shows(tmp_path):
    database = Database("sqlite:///audit.sqlite", folder=tmp_path)
    append_audit(database, [event(n) for n in range(5)])
    with database.write() as connection:
        connection.execute(sa.text("DROP TRIGGER audit_no_update"))
        connection.execute(sa.text("DROP TRIGGER audit_no_delete"))
        connection.execute(sa.text("UPDATE audit SET actor = 'someone else' WHERE seq = 4"))
    assert verify_audit(database) == 4
    with database.write() as connection:
        connection.execute(sa.text("DELETE FROM audit WHERE seq = 2"))
    assert verify_audit(database) == 2
    database.close()


def test_writers_at_the_same_time_make_one_chain(database):
    def write(start: int) -> None:
        for number in range(start, start + 20):
            append_audit(database, [event(number)])

    threads = [threading.Thread(target=write, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(audit_rows(database)) == 80
    assert verify_audit(database) is None


def test_the_same_text_under_the_same_policy_is_one_item_seen_more_often(database):
    other_policy = dataclasses.replace(ENTRY, policy_hash="q" * 64, text=None)
    for entries in ([ENTRY], [ENTRY, other_policy], [ENTRY]):
        with database.write(counts=False) as connection:
            add_reviews(connection, entries)
    first, second = review_items(database)
    assert (first.seen, first.state, first.entry) == (3, "open", ENTRY)
    assert (second.seen, second.entry) == (1, other_policy)
    assert review_items(database, state="decided") == []
