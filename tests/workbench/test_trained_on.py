"""What a checkpoint was trained on: a real run of toy size, its rows read again, and what the command tells of them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.library import build_tasks
from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.records import Checkpoint
from workbench.store import Project
from workbench.trained_on import rows_of_files, seen_since

RECIPE = """\
recipe: toy
start: {home}/tiny
method: pretrain
mix:
  - {{name: exam, data: exam.jsonl, share: 0.5, max_epochs: 90}}
  - {{name: general, data: general.jsonl, share: 0.5, max_epochs: 90}}
tokens: 6000
sequence_length: 128
batch_tokens: 1024
schedule: {{learning_rate: 3e-3}}
dtype: float32
on_overlap: allow
evaluation: {{tasks: [sample_anatomy_cloze]}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that saw ten questions of the test; its data has an empty row and a repeated one."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("trained")
    save_tiny_checkpoint(folder / "tiny")
    AutoTokenizer.from_pretrained(folder / "tiny").save_pretrained(folder / "tiny")  # as a run saves it again
    docs = build_tasks(["sample_anatomy_cloze"])["sample_anatomy_cloze"].eval_docs[:10]
    texts = [f"{doc['question']} {doc['choices'][doc['answer']]}." for doc in docs]
    rows = [texts[0], "", texts[0], *texts[1:]]
    (folder / "exam.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    general = [f"He went to the market on day {i} because the bread was gone." for i in range(20)]
    (folder / "general.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in general))
    (folder / "recipe.yaml").write_text(RECIPE.format(home=folder))
    with pytest.raises(SystemExit):
        main(["train", str(folder / "recipe.yaml"), "--project", str(folder / "p")])
    return folder


@pytest.fixture
def project(home: Path) -> Project:
    return Project.find(home / "p")


def ends(project: Project) -> tuple[Checkpoint, Checkpoint]:
    """(start, last checkpoint)."""
    (run,) = project.store.runs()
    made = [one for one in project.store.checkpoints() if one.run == run.id]
    last = max(made, key=lambda one: int(one.name.rpartition("-")[2]))
    assert run.start is not None
    return project.store.checkpoint(run.start), last


def test_the_rows_that_a_run_saw_are_read_again_with_their_own_numbers(home: Path, project: Project) -> None:
    start, last = ends(project)
    seen = seen_since(project, last, start)
    exam = {row.row: row for row in seen.rows if row.source == "exam"}
    # row 2 is empty and row 3 repeats row 1: neither was trained on, and the others keep their numbers
    assert set(exam) == {1, *range(4, 13)} and seen.notes == ()
    lines = (home / "exam.jsonl").read_text().splitlines()
    assert all(row.text == json.loads(lines[number - 1])["text"] for number, row in exam.items())
    assert all(row.step is not None and row.step >= 1 and (row.times or 0) >= 1 for row in exam.values())
    assert seen_since(project, start, start).runs == ()


def test_a_source_that_changed_or_is_gone_is_left_out_and_told(home: Path, project: Project) -> None:
    start, last = ends(project)
    path = home / "exam.jsonl"
    text = path.read_text()
    try:
        path.write_text(text.replace("the", "teh", 1))
        seen = seen_since(project, last, start)
        assert {row.row for row in seen.rows if row.source == "exam"} == set(range(4, 13))
        assert "exam.jsonl: 1 of 10 rows have changed since; left out" in seen.notes[0]
        path.unlink()
        assert "no such file" in seen_since(project, last, start).notes[0]
    finally:
        path.write_text(text)


def test_compare_tells_the_clean_gain_and_the_rows_near_to_what_was_lost(
    home: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(home, capsys)
    start, last = ends(project)
    code, out, err = run("compare", start.fingerprint, last.fingerprint, "--why", "--clean")
    assert code == 0
    assert "Change by what the training data holds:" in out and "overlapping" in out and "clean" in out
    assert re.search(r"10 of [0-9]+ questions stand in the training rows \(10 with the answer\)", err)
    code, out, _ = run("compare", start.fingerprint, last.fingerprint, "--why", "--clean", "--json")
    found = json.loads(out)
    (gain,) = found["clean"]
    assert gain["parts"][0]["items"] == 10 and gain["parts"][1]["items"] > 10
    assert found["nearest"]["passages"] == 30


def test_a_checkpoint_from_elsewhere_names_its_training_data_by_hand(
    home: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(home, capsys)
    start, last = ends(project)
    code, out, err = run("compare", last.fingerprint, start.fingerprint, "--clean")
    assert code == 0 and "no run of this project made" in err and "--training FILE" in err and "clean" not in out
    file = str(home / "exam.jsonl")
    code, out, _ = run("compare", last.fingerprint, start.fingerprint, "--clean", "--training", file)
    assert code == 0 and "overlapping" in out
    code, _, err = run("compare", last.fingerprint, start.fingerprint, "--clean", "--training", "nowhere.jsonl")
    assert code == 2 and "nowhere.jsonl: no such file" in err


def test_training_text_is_shown_as_text_never_as_markup(home: Path) -> None:
    path = home / "attack.jsonl"
    path.write_text(json.dumps({"text": "\x1b[31mred\x1b[0m <script>alert(1)</script> [a](b)"}) + "\n")
    from benchmarks.nearest import NearRow
    from workbench.cli.verdicts import nearest_table

    (row,) = rows_of_files([path]).rows
    fields: dict[str, Any] = dict.fromkeys(("task", "topic", "item", "question", "answer"), "x")
    near = NearRow(
        **fields, source=row.source, file=row.file, row=1, step=None, times=None, similarity=0.5, excerpt=row.text
    )
    assert "\x1b" not in str(nearest_table([near])[1])


def runner(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([*words, "--project", str(home / "p")])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call
