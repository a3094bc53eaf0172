"""A recipe that watches itself, evaluates on the way and merges back; and what `workbench runs` says of it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from tests.workbench.cli.test_train import end_turns
from workbench.cli import main
from workbench.cli.runs import spark
from workbench.store import Project

RECIPE = """\
recipe: toy
start: {home}/tiny
method: sft
mix:
  - {{name: domain, data: domain.jsonl, share: 0.75, max_epochs: 90}}
  - {{name: general, data: general.txt, share: 0.25, max_epochs: 90}}
tokens: 3000
sequence_length: 64
batch_tokens: 512
log_every: 1
schedule: {{learning_rate: 1e-3}}
dtype: float32
evaluation: {{tasks: [sample_anatomy_cloze, sample_general_cloze], limit: 20, every: 2}}
control:
  tasks: [sample_general_cloze]
  limit: 40
  every: 2
  on_forgetting: remix
  replay: {{general: [general]}}
  self_written: 12
merge: {{weights: [0.5], average_last: 2}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    save_tiny_checkpoint(folder / "tiny")
    end_turns(folder / "tiny")
    rows = [{"prompt": f"Where is bone {i}?", "completion": f"It is in place {i * i}."} for i in range(30)]
    (folder / "domain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "general.txt").write_text("He went to the market because the bread was gone. " * 40)
    (folder / "recipe.yaml").write_text(RECIPE.format(home=folder))
    return folder


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([*words, "--project", str(home / "p")])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def test_a_run_is_watched_evaluated_on_the_way_merged_back_and_decided(call: Any, home: Path) -> None:
    code, out, err = call("train", str(home / "recipe.yaml"), "--json")
    found = json.loads(out)
    steps = found["plan"]["steps"]
    assert found["decision"]["outcome"] == {0: "pass", 1: "fail", 3: "hold"}[code], err
    evaluated = [one["candidate_checkpoint"]["name"] for one in found["trajectory"]]
    assert evaluated == [f"toy/checkpoint-{step}" for step in sorted({*range(2, steps + 1, 2), steps})]
    # what was decided about is the chosen average, on the half that it was not chosen on
    assert found["comparison"]["part"] == "certify"
    assert found["comparison"]["candidate"] == found["frontier"]["best"]
    points = [(point["averaged"], point["weight"]) for point in found["frontier"]["points"]]
    assert points == [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)]
    store = Project.find(home / "p").store
    names = {checkpoint.name for checkpoint in store.checkpoints()}
    assert {one["name"] for one in found["checkpoints"]} <= names
    assert all(one["parent"] == found["checkpoints"][0]["parent"] for one in found["checkpoints"])


def test_runs_are_listed_with_how_far_they_came(call: Any, home: Path) -> None:
    code, out, _ = call("runs", "--json")
    (run,) = json.loads(out)["runs"]
    assert (code, run["name"], run["state"]) == (0, "toy", "done")
    assert run["step"] == run["steps"] and run["seconds_left"] is None and run["tokens"] >= 3000
    assert run["outcome"] in ("pass", "hold", "fail") and run["watched"]
    _, out, _ = call("runs")
    assert out.splitlines()[1].split("\t")[:2] == ["toy", "done"]


def test_one_run_is_shown_with_its_curves(call: Any, home: Path) -> None:
    _, out, _ = call("runs", "toy", "--json")
    found = json.loads(out)
    assert [line["step"] for line in found["log"]] == list(range(1, found["run"]["steps"] + 1))
    looks = [event for event in found["events"] if event["event"] == "evaluated"]
    assert {task["task"] for task in looks[0]["tasks"]} == {"sample_general_cloze", "self-written text"}
    code, out, _ = call("runs", "toy")
    assert code == 0 and "watched sample_general_cloze" in out and "loss" in out
    code, _, err = call("runs", "toi")
    assert code == 2 and 'did you mean "toy"' in err


def test_a_run_whose_process_is_gone_is_called_silent(call: Any, home: Path) -> None:
    store = Project.find(home / "p").store
    (run,) = store.runs()
    store.set_run_status(run.id, "running")
    _, out, _ = call("runs", "--json")
    assert json.loads(out)["runs"][0]["state"] == "running"
    for file in Path(run.folder).glob("*.json*"):
        os.utime(file, (time.time() - 4000, time.time() - 4000))
    _, out, _ = call("runs", "--json")
    assert json.loads(out)["runs"][0]["state"] == "silent"
    store.set_run_status(run.id, "done")


def test_a_run_that_its_own_gate_stopped_cannot_pass(call: Any, home: Path) -> None:
    """Whatever its full evaluation says, and whoever asks for a decision later."""
    words = ["--set", "recipe=stopped", "--set", "merge=null", "--set", "evaluation.every=end", "--set", "seed=1"]
    _, out, _ = call("train", str(home / "recipe.yaml"), *words, "--json")
    last = Path(json.loads(out)["checkpoints"][-1]["source"])
    mark = json.loads((last / "mixer.json").read_text())
    for change, outcome in (
        ({"stopped": "forgot: sample_general_cloze"}, "fail"),
        ({"hooks": {"sentinel": mark["hooks"]["sentinel"] | {"looks": 0}}}, "hold"),
        ({"hooks": {"sentinel": mark["hooks"]["sentinel"] | {"verdict": "ok"}}}, "pass"),
    ):
        (last / "mixer.json").write_text(json.dumps(mark | change))
        _, out, _ = call("gate", "stopped/" + last.name, "--json")
        decision = json.loads(out)["decision"]
        (rule,) = [one for one in decision["rules"] if one["rule"] == "gate inside training"]
        assert (rule["outcome"], rule["required"]) == (outcome, True)
        assert outcome == "pass" or decision["outcome"] != "pass"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["control.replay=[generall]"], 'no source of the mix; did you mean "general"'),
        (["control.replay=[]"], "remix raises replay; name the sources"),
        (["control.every=500"], "control.every: 500 never comes"),
        (["evaluation.every=500"], "evaluation.every: 500 never comes"),
        (["control.tasks=[sample_general_clozze]"], 'did you mean "sample_general_cloze"'),
        (["report_to=[mlflo]"], 'did you mean "mlflow"'),
        (["report_to=[comet_ml]"], "pip install comet-ml"),
        (["merge.weights=[1.5]"], "must be above 0 and at most 1"),
    ],
)
def test_what_cannot_be_watched_or_reported_is_refused_before_training(
    call: Any, home: Path, change: list[str], message: str
) -> None:
    words = [word for one in change for word in ("--set", one)]
    code, _, err = call("train", str(home / "recipe.yaml"), "--set", "recipe=refused", *words)
    assert code == 2 and message in err and "Traceback" not in err
    assert not (home / "p" / "runs" / "refused").exists()


def test_a_curve_fits_a_line() -> None:
    assert spark([1.0] * 5) == "▁▁▁▁▁"
    assert len(spark(list(range(500)))) == 48
    assert spark([]) == ""
