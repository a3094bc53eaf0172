"""What a terminal and a pipe get to see."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.cli.output import (
    Column,
    Progress,
    cell_width,
    format_duration,
    print_json,
    print_table,
    to_plain,
    tone,
)
from workbench.errors import RunError
from workbench.records import Estimate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


COLUMNS = [Column("task"), Column("n", right=True), Column("accuracy", right=True), Column("95% interval")]
ROWS = [["arc-easy", 1663, 0.61, "0.59 to 0.63"], ["日本語", 7, None, ""]]


def test_json_carries_the_schema_version_and_plain_values(capsys):
    estimate = Estimate(metric="accuracy", value=0.5, low=None, high=None, n=2, method="none")
    print_json({"estimate": estimate, "path": Path("a/b"), "numpy": np.float32(0.25), "array": np.arange(2)})
    data = json.loads(capsys.readouterr().out)
    assert data["schema_version"] == 1
    assert data["estimate"]["low"] is None
    assert (data["path"], data["numpy"], data["array"]) == ("a/b", 0.25, [0, 1])


def test_a_list_stands_under_rows(capsys):
    print_json([1, 2])
    assert json.loads(capsys.readouterr().out)["rows"] == [1, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("nan")])
def test_json_never_holds_nan_and_says_where_it_stood(bad):
    with pytest.raises(RunError, match=r"output\.results\[1\]\.value"):
        to_plain({"results": [{}, {"value": bad}]})


def test_a_pipe_gets_tab_separated_lines():
    file = io.StringIO()
    print_table(COLUMNS, ROWS, file=file)
    assert file.getvalue().splitlines()[0] == "task\tn\taccuracy\t95% interval"
    assert file.getvalue().splitlines()[2] == "日本語\t7\t\t"


def test_a_cell_with_a_line_break_stays_one_cell():
    file = io.StringIO()
    print_table(["text"], [["two\nlines\tand a tab"]], file=file)
    assert file.getvalue() == "text\ntwo lines and a tab\n"


def test_a_narrow_terminal_drops_columns_from_the_right_and_says_so(capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    file = Terminal()
    print_table(COLUMNS, ROWS, file=file, width=24)
    assert file.getvalue().splitlines() == ["task         n  accuracy", "arc-easy  1663      0.61", "日本語       7"]
    assert "1 column does not fit: 95% interval" in capsys.readouterr().err


def test_columns_with_a_higher_number_are_dropped_before_those_to_the_right(capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    columns = [Column("task", drop=9), Column("metric", drop=1), Column("n", drop=2), Column("value"), Column("change")]
    shown = {}
    for width in (40, 27, 24, 17, 10, 3):
        file = Terminal()
        print_table(columns, [["arc", "acc", "1663", "0.610", "-0.123"]], file=file, width=width)
        shown[width] = file.getvalue().splitlines()[0].split()
    assert shown == {
        40: ["task", "metric", "n", "value", "change"],
        27: ["task", "metric", "value", "change"],
        24: ["task", "value", "change"],
        17: ["task", "value"],
        10: ["task"],
        3: ["task"],
    }
    assert "2 columns do not fit: metric, n" in capsys.readouterr().err


@given(st.lists(st.lists(st.text(max_size=12), min_size=3, max_size=3), max_size=6), st.integers(10, 60))
def test_no_line_of_a_table_is_wider_than_the_terminal(rows, width):
    file = Terminal()
    rows = [[cell[: width // 2 - 1] for cell in row] for row in rows]
    first = max([4, *(cell_width(row[0]) for row in rows)])
    print_table([Column("head"), Column("b"), Column("c")], rows, file=file, width=width)
    text = file.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert all(cell_width(line) <= max(width, first) for line in text.split("\n"))


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert tone("fail", "bad", file=Terminal()) == "\x1b[31mfail\x1b[0m"
    assert tone("fail", "bad", file=io.StringIO()) == "fail"
    monkeypatch.setenv("NO_COLOR", "1")
    assert tone("fail", "bad", file=Terminal()) == "fail"


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_in_a_pipe_is_a_line_every_ten_seconds_and_one_at_the_end():
    clock, file = Clock(), io.StringIO()
    with Progress("score", 100, file=file, clock=clock) as progress:
        for _ in range(100):
            clock.now += 0.25
            progress.advance()
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "score  40/100 items  4.0/s  0:15 left"
    assert lines[-1] == "score  100/100 items  4.0/s  in 0:25"


def test_progress_in_a_pipe_says_the_end_once():
    clock, file = Clock(), io.StringIO()
    with Progress("score", 1, file=file, clock=clock) as progress:
        clock.now += 20
        progress.advance()
    assert file.getvalue().count("1/1") == 1


def test_progress_on_a_terminal_rewrites_its_line():
    clock, file = Clock(), Terminal()
    with Progress("score", 2, file=file, clock=clock) as progress:
        clock.now += 1
        progress.advance()
    assert file.getvalue().startswith("\r\x1b[Kscore  1/2 items  1.0/s")
    assert file.getvalue().count("\n") == 1


def test_a_resumed_run_does_not_count_old_items_into_its_rate():
    clock = Clock()
    progress = Progress("score", 100, done=50, file=io.StringIO(), clock=clock)
    clock.now += 10
    progress.advance(10)
    assert progress.line(80) == "score  60/100 items  1.0/s  0:40 left"


@given(st.integers(1, 100))
def test_a_progress_line_never_exceeds_the_width(width):
    clock = Clock()
    progress = Progress("a label in 日本語", 12345, file=io.StringIO(), clock=clock)
    clock.now += 3
    progress.advance(77)
    assert cell_width(progress.line(width)) <= width


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (41, "0:41"), (725, "12:05"), (11400, "3:10:00")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text
