"""`workbench task new` and `workbench task check`, run as people run them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.cli import main

ROOT = Path(__file__).parents[3]
HEADER = "stem,A,B,C,D,key,topic\n"


def run(capsys, *args):
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as left:
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def rows(n):
    return "".join(
        f"In aisle {i} of the old shop what stands on top?,tea {i},rice {i},oil {i},soap {i},{'ABCD'[i % 4]},t{i % 2}\n"
        for i in range(n)
    )


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "questions.csv"
    path.write_text(HEADER + rows(60))
    return path


def test_new_writes_a_folder_and_says_the_next_command(tmp_path, capsys, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "task", "new", "shopping", "--from", source)
    assert code == 0
    assert out.splitlines() == ["entry\tquestions\tshots", "shopping_cloze\t55\t5", "shopping_letter\t55\t5"]
    assert "answers read as letters" in err
    assert err.rstrip().endswith("next: workbench eval MODEL --tasks shopping --include-path tasks/shopping")
    assert (tmp_path / "tasks" / "shopping" / "suite.yaml").is_file()


def test_new_prints_one_json_object(tmp_path, capsys, source):
    code, out, _ = run(capsys, "task", "new", "shopping", "--from", source, "--out", tmp_path / "x", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["schema_version"], told["made"], told["shots"]) == (1, True, 5)
    assert told["entries"] == {"shopping_cloze": 55, "shopping_letter": 55}
    assert told["lint"]["key"][0]["counts"] == [15, 15, 15, 15]


def test_new_tells_every_fault_and_leaves_with_2(tmp_path, capsys, source):
    source.write_text(HEADER + rows(3) + "Bad?,a,b,c,d,,t\n,a,b,c,d,A,t\n")
    code, out, err = run(capsys, "task", "new", "shopping", "--from", source, "--out", tmp_path / "x")
    assert (code, out) == (2, "")
    assert f"{source}: row 5, answer: no answer" in err
    assert f"{source}: row 6, question: empty question" in err
    assert "2 faults; mend them, or leave the rows out with --drop-faulty" in err
    assert not (tmp_path / "x").exists()
    code, out, _ = run(capsys, "task", "new", "shopping", "--from", source, "--out", tmp_path / "x", "--json")
    assert code == 2
    assert [fault["row"] for fault in json.loads(out)["faults"] if fault["level"] == "error"] == [5, 6]
    code, _, _ = run(capsys, "task", "new", "shopping", "--from", source, "--out", tmp_path / "x", "--drop-faulty")
    assert code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--field", "stem=question"], 'OURS=COLUMN is needed, known: '),
        (["--field", "questoin=stem"], 'did you mean "question"?'),
        (["--type", "rank"], 'did you mean "ranking"?'),
        (["--answers", "letters"], 'did you mean "letter"?'),
        (["--encoding", "utf-9"], "unknown encoding"),
    ],
)  # fmt: skip
def test_new_refuses_bad_options_in_one_line(tmp_path, capsys, source, options, message):
    code, _, err = run(capsys, "task", "new", "x", "--from", source, "--out", tmp_path / "x", *options)
    assert code == 2
    assert message in err


def test_check_finds_training_text_that_holds_the_questions(tmp_path, capsys, source):
    run(capsys, "task", "new", "shopping", "--from", source, "--out", tmp_path / "x", "--shots", "0")
    train = tmp_path / "train.jsonl"
    goods = ["tea", "rice", "oil", "soap"]
    pairs = [(f"In aisle {i} of the old shop, what stands on top?", f"{goods[i % 4]} {i}") for i in range(15)]
    train.write_text("".join(json.dumps({"q": question, "a": answer}) + "\n" for question, answer in pairs))
    found = ["task", "check", "shopping", "--include-path", tmp_path / "x", "--against", train]
    code, out, _ = run(capsys, *found, "--json")
    told = json.loads(out)["contamination"]
    assert code == 0
    assert (told["items"], told["checked"], told["rows"]) == (60, 60, 15)
    assert told["found"] == told["whole"] == told["with_answer"] == 0.25
    assert sorted(hit["row"] for hit in told["hits"]) == list(range(1, 16))
    code, out, err = run(capsys, *found, "--fail-above", "0.2")
    assert code == 1
    assert "training text\tfound\t25.0% of 60" in out
    assert "25.0% of the questions stand in the training text, more than 20.0%" in err
    assert run(capsys, *found, "--fail-above", "0.3")[0] == 0


def test_check_reads_a_file_of_questions_too(capsys, source):
    code, out, _ = run(capsys, "task", "check", source)
    assert code == 0
    assert f"{source}\tkey of 4 choices\tA 25% B 25% C 25% D 25% (p = 1)" in out


def test_our_own_sample_questions_pass_the_check(capsys):
    for name in ("sample_anatomy_cloze", "sample_general_letter"):
        code, out, err = run(capsys, "task", "check", name, "--json")
        told = json.loads(out)
        assert code == 0, err
        assert told["faults"] == []
        assert told["lint"]["repeats"] == []
        assert told["lint"]["key"][0]["p_value"] > 0.01


def test_check_of_an_unknown_task_names_near_ones(capsys):
    code, _, err = run(capsys, "task", "check", "sample_anatomy_clos")
    assert code == 2
    assert '"sample_anatomy_cloze"' in err


def test_help_costs_no_heavy_import():
    program = (
        "import sys; from workbench.cli import main\n"
        "try: main(['task', 'new', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'lm_eval', 'datasets', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"
