"""The record of rows: any step to its rows, any row to its steps, truthful after a kill."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_tokenizer
from training.ledger import Ledger, find_keys, find_row, find_text, last_step, rows_of_step, seen_rows
from training.mixing import Span
from training.rows import row_key
from training.sources import RowDocuments
from workbench.errors import RunError, StoreError

POST = "This is the post that its author deleted later."
ROWS: list[dict[str, Any]] = [
    {"text": "The heart pumps."},
    {"text": f"A thread of three.\n{POST}\nAnd an answer to it."},
    {"text": POST},
]


def documents(rows: list[dict[str, Any]] = ROWS) -> dict[str, RowDocuments]:
    return {"own": RowDocuments(name="own", rows=rows, tokenizer=tiny_tokenizer(), method="pretrain")}


def write(folder: Path, steps: dict[int, list[int]], rows: list[dict[str, Any]] = ROWS) -> None:
    """Each step sees the given rows, each in a packed row of its own."""
    ledger = Ledger(folder, documents(rows))
    ledger.forget_after(min(steps) - 1)
    for step, seen in steps.items():
        ledger.record(step, [(Span("own", row, step // 3, 0, 5),) for row in seen])
    ledger.close()


def test_a_step_leads_to_its_rows_and_a_row_to_its_steps(tmp_path: Path) -> None:
    write(tmp_path, {1: [0, 1], 2: [2], 3: [0]})
    assert [(seen.packed, seen.row) for seen in rows_of_step(tmp_path, 1)] == [(0, 1), (1, 2)]
    (found,) = find_row(tmp_path, "own", 1)
    assert (found.steps, found.epochs) == ((1, 3), 2)
    assert rows_of_step(tmp_path, 9) == find_row(tmp_path, "own", 9) == []


def test_a_text_is_found_as_a_row_and_as_a_line_of_one_whatever_its_case_and_space(tmp_path: Path) -> None:
    write(tmp_path, {1: [0, 1], 2: [2]})
    found = find_text(tmp_path, f"  {POST.upper()}\n")
    assert [(one.row, one.steps) for one in found] == [(2, (1,)), (3, (2,))]
    assert find_text(tmp_path, POST[:-5]) == []


def test_a_row_is_found_by_what_it_says_when_it_stands_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, {1: [0, 1, 2]})
    moved = documents([{"text": "New first row."}, *ROWS])["own"]
    assert [one.row for one in find_keys(tmp_path, [moved.key(1)])] == [1]
    assert find_keys(tmp_path, [row_key(["New first row."])]) == []


def test_steps_that_come_again_are_not_there_twice_and_rows_that_only_they_saw_were_not_seen(tmp_path: Path) -> None:
    write(tmp_path, {1: [0], 2: [1], 3: [2]})
    write(tmp_path, {2: [0], 3: [1]})  # from a checkpoint after step 1
    assert [(seen.step, seen.row) for seen in seen_rows(tmp_path)] == [(1, 1), (2, 1), (3, 2)]
    assert find_row(tmp_path, "own", 3) == []
    assert [one.row for one in find_text(tmp_path, POST)] == [2]
    assert last_step(tmp_path) == 3


def test_rows_bear_the_number_of_their_file(tmp_path: Path) -> None:
    found = documents()
    found["own"].leave_out({0: "repeated"})
    ledger = Ledger(tmp_path, found)
    ledger.record(1, [(Span("own", 0, 0, 0, 3),)])
    ledger.close()
    assert [seen.row for seen in seen_rows(tmp_path)] == [2]


def test_a_run_without_a_record_and_a_damaged_one_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="recorded no rows"):
        seen_rows(tmp_path)
    (tmp_path / "rows.sqlite").write_bytes(b"no database" * 200)
    with pytest.raises(StoreError, match="cannot be read"):
        seen_rows(tmp_path)


def test_a_full_disk_is_told_with_the_way_on(small_disk: Path) -> None:
    rows = [{"text": f"{number} " + "word " * 50} for number in range(40_000)]
    ledger = Ledger(small_disk, documents(rows))
    with pytest.raises(RunError, match="make room on the disk"):
        for step in range(1, 41):
            ledger.record(step, [tuple(Span("own", step * 999 + i, 0, 0, 5) for i in range(999))])
    ledger.close()
    seen = seen_rows(small_disk)  # whole steps only
    assert len(seen) == 999 * len({one.step for one in seen})
