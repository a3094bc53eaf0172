"""`workbench mix plan`: arms, a choice, and a run that checks it, at toy size."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.store import Project

RECIPE = """\
recipe: toy
start: {home}/tiny
method: pretrain
mix:
  - {{name: domain, data: domain.txt, share: 0.9, max_epochs: 900}}
  - {{name: general, data: general.txt, share: 0.1, max_epochs: 900}}
tokens: 20000
sequence_length: 64
batch_tokens: 512
schedule: {{learning_rate: 1e-3}}
dtype: float32
evaluation: {{tasks: [sample_anatomy_cloze, sample_general_cloze], limit: 30}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    save_tiny_checkpoint(tmp_path / "tiny")
    (tmp_path / "domain.txt").write_text("The heart pumps blood through the arteries of the body. " * 40)
    (tmp_path / "general.txt").write_text("He went to the market because the bread was gone. " * 40)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(home=tmp_path))
    return tmp_path


def call(home: Path, capsys: Any, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["mix", "plan", str(home / "recipe.yaml"), *words, "--project", str(home / "p")])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_a_plan_trains_arms_chooses_a_share_and_checks_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--replay", "general", "--shares", "0,5,15,30", "--budget", "90pt", "--tokens", "1024", "--verify"]
    code, out, err = call(home, capsys, *words, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [arm["share"] for arm in found["arms"]] == [0, 0.05, 0.15, 0.3]
    store = Project.find(home / "p").store
    given = {run.document["recipe"]["recipe"]: run for run in store.runs()}
    assert len(given) == 5 and "toy-replay-15" in given
    mix = {source["name"]: source["share"] for source in given["toy-replay-15"].document["recipe"]["mix"]}
    assert mix == {"domain": 0.85, "general": 0.15}
    # a budget of 90 points is never overrun, so the domain alone decides
    gains = {point["share"]: point["change"] for point in found["curves"][0]["points"]}
    assert gains[found["share"]] == max(gains.values())
    assert found["shares"]["general"] == pytest.approx(found["share"])
    assert {check["task"] for check in found["checks"]} == {"sample_anatomy_cloze", "sample_general_cloze"}
    for check in found["checks"]:
        assert check["inside"] == (check["low"] <= check["got"] <= check["high"])
    assert json.loads((home / "p" / "mixes" / "toy.json").read_text())["share"] == found["share"]
    # a second call trains nothing again
    before = {path: path.stat().st_mtime_ns for path in (home / "p" / "runs").glob("*/checkpoint-*/model.safetensors")}
    code, out, _ = call(home, capsys, *words)
    assert code == 0 and "replay" in out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_what_cannot_be_planned_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        ([], "which sources are replay? name some of domain, general"),
        (["--replay", "generall"], 'did you mean "general"'),
        (["--replay", "general", "--replay", "domain"], "nothing new to learn"),
        (["--replay", "general", "--shares", "0,10"], "too few for a curve"),
        (["--replay", "general", "--shares", "0,a,2,3"], "a percentage is expected"),
    ):
        code, _, err = call(home, capsys, *words)
        assert code == 2 and message in err and "Traceback" not in err
    assert not (home / "p" / "runs").exists()
