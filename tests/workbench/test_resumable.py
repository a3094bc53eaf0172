"""Lines of a run outlast a crash, and lines of two runs never stand in one file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import ConfigError
from workbench.resumable import ResumableLines

HEADER = {"model": "m", "chunk": 2}


def test_what_was_appended_is_there_when_it_is_opened_again(tmp_path):
    first = ResumableLines(tmp_path / "a" / "out.jsonl", HEADER)
    first.append([{"id": "1", "text": "\u2028\ud83d"}])
    again = ResumableLines(tmp_path / "a" / "out.jsonl", HEADER)
    assert list(again.lines()) == [{"id": "1", "text": "\u2028\ud83d"}]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 200))
def test_a_torn_line_is_cut_off_wherever_it_was_torn(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("torn") / "out.jsonl"
    rows = [{"id": str(n), "text": "x" * n} for n in range(6)]
    whole = ResumableLines(path, HEADER)
    whole.append(rows)
    data = path.read_bytes()
    path.write_bytes(data[: min(cut, len(data))])
    again = ResumableLines(path, HEADER)
    kept = list(again.lines())
    assert kept == rows[: len(kept)]
    again.append(rows[len(kept) :])
    assert path.read_bytes() == data


def test_lines_of_another_run_are_refused_and_told(tmp_path):
    ResumableLines(tmp_path / "out.jsonl", HEADER).append([{"id": "1"}])
    with pytest.raises(ConfigError, match='model was "m" and is "n"'):
        ResumableLines(tmp_path / "out.jsonl", HEADER | {"model": "n"})
    anew = ResumableLines(tmp_path / "out.jsonl", HEADER | {"model": "n"}, restart=True)
    assert list(anew.lines()) == []


def test_a_file_of_which_nothing_is_known_is_not_written_over(tmp_path):
    (tmp_path / "out.jsonl").write_text("precious\n")
    with pytest.raises(ConfigError, match="nothing tells"):
        ResumableLines(tmp_path / "out.jsonl", HEADER)
    assert (tmp_path / "out.jsonl").read_text() == "precious\n"


def test_a_line_that_is_no_json_is_named(tmp_path):
    ResumableLines(tmp_path / "out.jsonl", HEADER).append([{"id": "1"}])
    with (tmp_path / "out.jsonl").open("a") as file:
        file.write("oh\n")
    with pytest.raises(ConfigError, match=r"out\.jsonl:2: no JSON"):
        list(ResumableLines(tmp_path / "out.jsonl", HEADER).lines())


def test_a_file_that_was_taken_away_is_begun_anew(tmp_path):
    ResumableLines(tmp_path / "out.jsonl", HEADER).append([{"id": "1"}])
    (tmp_path / "out.jsonl").unlink()
    other = ResumableLines(tmp_path / "out.jsonl", HEADER | {"chunk": 3})
    other.append([{"id": "2"}])
    assert list(ResumableLines(tmp_path / "out.jsonl", HEADER | {"chunk": 3}).lines()) == [{"id": "2"}]
