"""Which models saw a row: over runs, files that changed, and descent."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.errors import ConfigError, StoreError
from workbench.pipeline import train
from workbench.store import Project
from workbench.tracing import trace_row, trace_step, trace_text

POST = "This is the post that its author deleted later on."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run `one` saw the post, `two` goes on from there, `other` never met it. Then it is deleted."""
    folder = tmp_path_factory.mktemp("home")
    save_tiny_checkpoint(folder / "tiny")
    rows = [{"body": f"Sentence {i} about the heart."} for i in range(12)]
    rows[6] = {"body": f"A thread.\n{POST}\nAn answer."}
    clean = [{"text": f"Another sentence {i} about bones."} for i in range(12)]
    for name, found in (("posts", rows), ("clean", clean)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    for name, start, data, column in (
        ("one", str(folder / "tiny"), "posts", "body"),
        ("two", "run/one", "clean", "text"),
        ("other", str(folder / "tiny"), "clean", "text"),
    ):
        mix = {"name": data, "data": f"{data}.jsonl", "share": 1, "max_epochs": 99, "column": column}
        more: dict[str, Any] = {"tokens": 600, "sequence_length": 64, "batch_tokens": 128, "dtype": "float32"}
        recipe = {"recipe": name, "start": start, "method": "pretrain", "mix": [mix], **more}
        (folder / f"{name}.yaml").write_text(json.dumps(recipe))
        train(folder / f"{name}.yaml", project=folder / "p")
    left = [row for row in rows if POST not in row["body"]]
    (folder / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in left))
    return folder


def test_a_deleted_post_leads_to_the_checkpoints_that_saw_it_and_to_those_made_from_them(home: Path) -> None:
    project = Project.find(home / "p")
    found = trace_text(project, POST.upper())
    assert [(one.run, one.source, one.row) for one in found.sightings] == [("one", "posts", 7)]
    first, saw = found.sightings[0].steps[0], found.sightings[0].checkpoints
    assert saw and all(step >= first for step in saw)
    names = {one.name.partition("/")[0]: one.how for one in found.checkpoints}
    assert names == {"one": "trained", "two": "inherited"}
    assert found.runs == 3
    assert trace_row(project, "posts:7").sightings == found.sightings


def test_a_text_that_no_row_is_leads_to_none_and_one_inside_a_row_is_found_when_asked_for(home: Path) -> None:
    project = Project.find(home / "p")
    part = "sentence 3 about"
    assert trace_text(project, part).sightings == trace_text(project, part).checkpoints == ()
    found = trace_text(project, part, contains=True)
    assert {(one.run, one.row) for one in found.sightings} == {("one", 4), ("two", 4), ("other", 4)}


def test_a_row_of_a_file_is_followed_by_what_it_says_now(home: Path) -> None:
    project = Project.find(home / "p")
    moved = trace_row(project, f"{home / 'posts.jsonl'}:7")  # row 8 before the deletion
    assert {(one.run, one.row) for one in moved.sightings} == {("one", 8)}


def test_a_step_leads_to_its_rows_with_what_they_say_if_that_is_still_there(home: Path) -> None:
    project = Project.find(home / "p")
    step = trace_text(project, POST).sightings[0].steps[0]
    found = trace_step(project, "one", step)
    texts = {one.seen.row: one.text for one in found}
    assert texts.pop(7) is None
    assert texts and all(text == f"Sentence {row - 1} about the heart." for row, text in texts.items())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: trace_step(p, "on", 1), 'did you mean "one"'),
        (lambda p: trace_step(p, "one", 999), "no step 999; it recorded steps 1 to"),
        (lambda p: trace_row(p, "post:1"), 'did you mean "posts"'),
        (lambda p: trace_row(p, "posts"), "SOURCE:N is expected"),
        (lambda p: trace_text(p, " "), "--text: is empty"),
    ],
)
def test_what_is_not_there_is_one_line(home: Path, call: Any, message: str) -> None:
    with pytest.raises((ConfigError, StoreError), match=message):
        call(Project.find(home / "p"))


def test_the_command_prints_both_ways(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["data", "trace", *words, "--project", str(home / "p")])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    code, out, err = call("--text", POST)
    assert code == 0 and out.splitlines()[1].startswith("one\tposts\t7\t")
    assert "made from one that did" in err
    code, out, _ = call("one", "--step", "1", "--json")
    assert code == 0 and {"source", "row", "key", "text"} <= json.loads(out)["rows"][0].keys()
    assert call("--text", "a", "--row", "b:1")[0] == call("one")[0] == 2
