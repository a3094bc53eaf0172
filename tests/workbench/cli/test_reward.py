"""`workbench reward` and a run on rewards from the command line, at toy size."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from tests.workbench.cli.test_train import end_turns
from workbench.cli import main

RECIPE = """\
recipe: toy
start: {home}/tiny
method: grpo
rl:
  prompts: asked.jsonl
  column: question
  steps: 2
  prompts_per_step: 2
  group_size: 4
  max_tokens: 8
  mask_truncated: false
  rewards:
    - {{kind: regex, options: {{pattern: "[aeiou]"}}}}
    - {{kind: policy, weight: 0.5, options: {{policy: default}}}}
schedule: {{kind: constant, learning_rate: 1e-3, warmup: 0}}
micro_batch: 4
dtype: float32
log_every: 1
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    save_tiny_checkpoint(tmp_path / "tiny")
    end_turns(tmp_path / "tiny")
    rows = [{"question": f"Which gas, {i}?", "answer": str(i)} for i in range(60)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(home=tmp_path))
    return tmp_path


def call(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(one) for one in arguments])
    return int(left.value.code or 0)


def test_a_recipe_is_checked_trained_and_its_rewards_tried_on_what_came_of_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, project = home / "recipe.yaml", ("--project", home)
    assert call("train", recipe, "--dry-run", *project) == 0
    assert "2 steps of 8 episodes" in capsys.readouterr().err
    assert call("train", recipe, *project, "--json") == 0
    assert json.loads(capsys.readouterr().out)["checkpoints"]
    assert call("runs", "toy", *project) == 0
    shown = capsys.readouterr().out
    assert "reward/regex" in shown and "entropy" in shown
    status = call("reward", "test", recipe, home / "runs" / "toy", *project, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 16 and [one["name"] for one in found["rewards"]] == ["regex", "policy"]
    assert status == int(any(one["distinct"] == 1 for one in found["rewards"]))
    assert all(one["failed"] + sum(one["histogram"]) == 16 for one in found["rewards"])


def test_a_reward_that_goes_with_length_smells_of_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "own.py").write_text("def score(prompt, answer, row):\n    return min(1.0, len(answer) / 100)\n")
    text = RECIPE.format(home=home)
    text = text[: text.index("    - {kind")] + "    - {kind: python, options: {file: own.py}}\n"
    (home / "long.yaml").write_text(text + "batch_tokens: 8192\n")
    rows = [{"question": f"q{i % 4}", "said": "word " * i} for i in range(1, 20)]
    (home / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call("reward", "test", home / "long.yaml", home / "said.jsonl", "--answer", "said", "--project", home)
    assert "length: more of it scores higher" in capsys.readouterr().out


def test_kinds_are_listed_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("reward", "ls", "--json") == 0
    found = {one["kind"]: one for one in json.loads(capsys.readouterr().out)["rewards"]}
    assert {"regex", "http", "policy"} <= set(found) and "schema" in found["json_schema"]["options"]


def test_a_reward_that_cannot_be_built_is_told_before_a_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("train", home / "recipe.yaml", "--dry-run", "--project", home)
    assert call(*arguments, "--set", "rl.rewards=[{kind: policy, options: {policy: nowhere}}]") == 2
    assert "nowhere" in capsys.readouterr().err
    assert call(*arguments, "--set", "rl.rewards=[{kind: http, options: {url: 'https://x.example/'}}]") == 2
    assert "nothing allows it" in capsys.readouterr().err
