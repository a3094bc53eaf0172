"""The ledger: keys that cannot collide, numbers that never change, on both databases."""

import itertools
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import RunError
from workbench.store import LedgerEntry, Store, ledger_key


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    with Store.open(store_url, folder=tmp_path) as opened:
        yield opened


def key(number: int, fingerprint: str = "a" * 64) -> bytes:
    return ledger_key(fingerprint, "e" * 64, "transformers/1", "score", ((1, 2, number), (7,)))


ENTRIES = [
    LedgerEntry(logprob=-0.1 - 1 / 3, is_greedy=True, tokens=1),
    LedgerEntry(logprob=-5e-324, is_greedy=False, tokens=2),
    LedgerEntry(logprob=-math.inf, is_greedy=False, tokens=3),
    LedgerEntry(logprob=-0.0, is_greedy=True, tokens=0),
    LedgerEntry(text="two\nlines, NUL \x00, lone \ud83d, whole 🙂", tokens=9, finish="stop"),
    LedgerEntry(text="", tokens=0, finish="length"),
]


def test_entries_read_back_to_the_last_bit(store: Store) -> None:
    pairs = {key(number): entry for number, entry in enumerate(ENTRIES)}
    store.ledger.put_many(pairs)
    found = store.ledger.get_many([*pairs, key(99)])
    assert found == pairs
    # SQLite would lose the sign of zero and PostgreSQL keep it: a resumed run must not differ from an undisturbed one.
    assert [str(entry.logprob) for entry in (pairs[key(3)], found[key(3)])] == ["0.0", "0.0"]


def test_a_number_once_paid_for_never_changes(store: Store) -> None:
    store.ledger.put_many({key(1): LedgerEntry(logprob=-1.0, is_greedy=True, tokens=1)})
    store.ledger.put_many({key(1): LedgerEntry(logprob=-2.0, is_greedy=False, tokens=1), key(2): ENTRIES[0]})
    assert store.ledger.get_many([key(1)])[key(1)].logprob == -1.0
    assert store.ledger.count() == 2


def test_a_nan_is_refused_and_nothing_of_its_tile_is_written(store: Store) -> None:
    tile = {key(1): ENTRIES[0], key(2): LedgerEntry(logprob=math.nan, is_greedy=False, tokens=1)}
    with pytest.raises(RunError, match="NaN"):
        store.ledger.put_many(tile)
    assert store.ledger.count() == 0


def test_counting_and_forgetting_touch_one_checkpoint_only(store: Store) -> None:
    for fingerprint in ("a" * 64, "b" * 64):
        store.ledger.put_many((key(number, fingerprint), ENTRIES[0]) for number in range(5))
    assert store.ledger.counts(["a" * 64, "b" * 64, "c" * 64]) == {"a" * 64: 5, "b" * 64: 5, "c" * 64: 0}
    assert store.ledger.forget("a" * 64) == 5
    assert store.ledger.counts(["a" * 64, "b" * 64]) == {"a" * 64: 0, "b" * 64: 5}


def test_asking_for_nothing_and_writing_nothing_is_fine(store: Store) -> None:
    assert store.ledger.get_many([]) == {}
    store.ledger.put_many({})
    assert store.ledger.count() == 0


def test_a_hundred_thousand_keys_are_looked_up_in_seconds(store: Store) -> None:
    keys = [os.urandom(48) for _ in range(100_000)]
    paid = keys[::2]
    store.ledger.put_many((k, ENTRIES[0]) for k in paid)
    began = time.process_time()
    found = store.ledger.get_many(keys)
    assert found.keys() == set(paid)
    # Processor time, so that a busy machine does not fail the test. Measured: about 1 s.
    assert time.process_time() - began < 5


Part = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)


def shape(part: Any) -> Any:
    """A value with its types: 1, True and 1.0 are equal in Python, but not the same question."""
    return [shape(member) for member in part] if isinstance(part, tuple) else (type(part).__name__, repr(part))


@settings(max_examples=300, deadline=None)
@given(st.lists(Part, max_size=4).map(tuple), st.lists(Part, max_size=4).map(tuple))
def test_two_questions_share_a_key_only_if_they_are_the_same(one: tuple[Any, ...], two: tuple[Any, ...]) -> None:
    keys = [ledger_key("f", "t", "s", "score", payload) for payload in (one, two)]
    assert (keys[0] == keys[1]) == (shape(one) == shape(two))


def test_no_part_of_a_key_can_pass_for_its_neighbour() -> None:
    calls: list[tuple[Any, ...]] = [
        ("ab", "c", "s", "score", ((1, 2), (3,))),
        ("a", "bc", "s", "score", ((1, 2), (3,))),
        ("ab", "c", "s", "generate", ((1, 2), (3,))),
        ("ab", "c", "s", "score", ((1,), (2, 3))),
        ("ab", "c", "s", "score", ((1, 2, 3), ())),
        ("ab", "c", "s", "score", ((), (1, 2, 3))),
        ("ab", "c", "s", "score", (1, 2, 3)),
        ("ab", "c", "s", "score", ("12", "3")),
        ("ab", "c", "s", "score", ("1", "23")),
        ("ab", "c", "s", "score", (True, 2, 3)),
        ("ab", "c", "s", "score", (1.0, 2, 3)),
        ("ab", "c", "s", "score", ((True, 2), (3,))),
    ]
    keys = [ledger_key(*call) for call in calls]
    assert all(one != two for one, two in itertools.combinations(keys, 2))
    assert {len(k) for k in keys} == {48}


def test_lists_and_tuples_are_the_same_tokens() -> None:
    assert ledger_key("f", "t", "s", "score", [[1, 2], [3]]) == ledger_key("f", "t", "s", "score", ((1, 2), (3,)))


def test_a_key_is_the_same_on_every_machine_and_for_ever() -> None:
    # Changing how keys are made would make everybody pay for their baselines again.
    made = ledger_key("a" * 64, "e" * 64, "transformers/1", "score", ((1, 2, 70_000), (7,), None, "x", 0.5, True))
    assert (
        made.hex() == "ffe054fe7ae0cb6dc65c3af9b61d52099ff2a92846172728b14ede0a2e8e973d3c4f1b201b8e15df9b8db4d5ecae9d0c"
    )


def test_a_run_that_was_begun_and_not_ended_sets_out_for_the_same_again(store: Store) -> None:
    questions = [key(n) for n in range(20)]
    assert store.ledger.begin(questions, range(3, 20)) == frozenset(range(3, 20))
    # killed here; in the meantime more was paid for
    assert store.ledger.begin(questions, range(10, 20)) == frozenset(range(3, 20))
    store.ledger.end(questions)
    assert store.ledger.begin(questions, range(10, 20)) == frozenset(range(10, 20))


def test_a_run_whose_paid_answers_were_forgotten_is_new(store: Store) -> None:
    questions = [key(n) for n in range(20)]
    store.ledger.begin(questions, [17])
    assert store.ledger.begin(questions, range(20)) == frozenset(range(20))
    store.ledger.forget("a" * 64)
    assert store.ledger.begin(questions, [1]) == frozenset([1])


def test_runs_of_other_questions_do_not_know_each_other(store: Store) -> None:
    store.ledger.begin([key(1), key(2)], [0, 1])
    assert store.ledger.begin([key(1), key(2), key(3)], [2]) == frozenset([2])


def test_a_run_of_no_questions_begins_and_ends(store: Store) -> None:
    assert store.ledger.begin([], []) == frozenset()
    store.ledger.end([])


def test_the_same_run_begun_by_several_at_once_is_begun_once(store: Store) -> None:
    questions = [key(number) for number in range(50)]
    start = threading.Barrier(6)
    answers: list[object] = []

    def begin() -> None:
        start.wait()
        try:
            answers.append(store.ledger.begin(questions, range(10, 50)))
        except BaseException as error:
            answers.append(error)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [frozenset(range(10, 50))] * 6
