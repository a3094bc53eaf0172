"""`workbench judge` and `workbench assess` as a user types them."""

import json
import random

import pytest

from workbench.cli import main


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out, err = capsys.readouterr()
    return left.value.code or 0, out, err


@pytest.fixture
def labels(tmp_path):
    generator = random.Random(0)
    bad, good = ["grunk", "vile", "filthy"], ["kind", "sunny", "calm"]
    filler = ["the", "river", "table", "walks", "under", "green", "morning"]
    rows = []
    for i in range(120):
        words = [*generator.choices(filler, k=6), generator.choice(bad if i % 2 else good)]
        rows.append({"text": " ".join(words) + f" {i}", "labels": {"hate": i % 2, "other": None if i % 3 else i % 2}})
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_judge_is_trained_measured_and_audited_without_a_pickle(capsys, labels, tmp_path):
    out = tmp_path / "judge"
    code, text, err = run(capsys, "judge", "train", "classifier", "--data", str(labels), "--out", str(out), "--json")
    assert code == 0, err
    trained = json.loads(text)
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "model.json", "card.json", "CARD.md"}
    assert trained["agreement"][0]["macro_f1"]["value"] > 0.9
    assert trained["agreement"][1]["n"] == 40  # missing labels are masked
    code, text, err = run(capsys, "judge", "audit", str(out), "--data", str(labels), "--json")
    assert code == 0, err
    (hate, _) = json.loads(text)["agreement"]
    assert hate["kappa"]["value"] > 0.9
    assert hate["sensitivity"]["low"] < hate["sensitivity"]["value"] <= hate["sensitivity"]["high"]


def test_the_refusal_detector_is_audited_on_own_labels(capsys, tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "I can't help with that.", "label": "full_refusal"} for i in range(8)]
    rows += [{"prompt": f"p{i}", "completion": f"Turn the key {i} times.", "label": "compliance"} for i in range(8)]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, text, _ = run(capsys, "judge", "audit", "refusal", "--data", str(path))
    assert code == 0
    assert text.splitlines()[1].startswith("refusal\t16\t8\t1.000")


def test_shipped_judges_are_listed_with_their_agreement(capsys):
    code, text, _ = run(capsys, "judge", "ls", "--json")
    assert code == 0
    listed = json.loads(text)
    assert {"classifier", "model", "refusal", "rules"} <= set(listed["kinds"])
    refusal = next(row for row in listed["shipped"] if row["judge"] == "refusal")
    assert refusal["n"] > 500 and refusal["kappa"]["low"] > 0.8


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"text": "x", "labels": {"hate": 2}}', "labels.hate: 2; 1, 0 or null"),
        ('{"text": "", "label": 1}', "expected a text"),
        ("{", "no JSON"),
    ],
)
def test_faulty_labels_are_named_with_their_line(capsys, tmp_path, row, said):
    path = tmp_path / "labels.jsonl"
    path.write_text(f'{{"text": "fine", "label": 0}}\n{row}\n')
    code, _, err = run(capsys, "judge", "train", "classifier", "--data", str(path), "--out", str(tmp_path / "o"))
    assert code == 2
    assert "labels.jsonl:2" in err and said in err
    assert "Traceback" not in err


def test_too_few_rows_of_a_kind_are_refused_before_training(capsys, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(f'{{"text": "text {i}", "labels": {{"hate": {int(i < 3)}}}}}\n' for i in range(50)))
    code, _, err = run(capsys, "judge", "train", "classifier", "--data", str(path), "--out", str(tmp_path / "o"))
    assert code == 2 and "3 violating" in err


def test_an_unknown_judge_is_named(capsys, labels):
    code, _, err = run(capsys, "judge", "audit", "refusl", "--data", str(labels))
    assert code == 2 and "refusal" in err


def test_a_dry_run_says_what_would_be_asked(capsys, tmp_path):
    project = str(tmp_path / "project")
    options = ("--policy", "default", "--probes", "identity_swap", "--attacks", "none", "--limit", "10", "--dry-run")
    code, text, err = run(capsys, "assess", "smollm2", *options, "--project", project, "--json")
    assert code == 0, err
    assert json.loads(text)["probes"] == [{"probe": "identity_swap", "asks": "benign", "questions": 10}]
