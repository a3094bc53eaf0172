"""Every registered reward obeys the laws of its kind: bounds, order, empty input, options that are explained."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.laws.tree import ROOT
from training.rewards.base import Failed, Reward, RewardPart, Sample, Services, build_reward, checked, rewards
from workbench.errors import ConfigError, UserError

OPTIONS: dict[str, dict[str, Any]] = {
    "regex": {"pattern": r"answer is (\d+)", "column": "answer"},
    "format": {"tags": ["think", "answer"], "ends": ">"},
    "length": {"at_most": 4, "worst": 10},
    "math": {},
    "multiple_choice": {"column": "choice"},
    "json_schema": {"schema": {"type": "object", "required": ["a"]}},
    "python": {"file": "graded.py"},
    "code_tests": {"timeout_s": 10},
    "http": {"url": "http://127.0.0.1:9/", "allow_private": ["127.0.0.1"], "attempts": 1},
    "judge": {"model": "anyone", "rubric": "short is good"},
    "policy": {"policy": "default"},
}
ANSWERS = (
    "",
    "The answer is 42.",
    "<think>hm</think><answer>42</answer>",
    '{"a": 1}',
    "```python\ndef f():\n    return 42\n```",
    "(B)",
    "\x00 \u202e 无 " + "x" * 3000,
    "I cannot help with that.",
)


def services(folder: Path) -> Services:
    """Models and policies that answer by a rule of their own."""
    return Services(
        folder=folder,
        ask=lambda _, asked: [f"Score: {1 + len(one[0]['content']) % 5}" for one in asked],
        policy=lambda _, options, samples: [-float("cannot" in one.answer) for one in samples],
        check_policy=lambda _: None,
    )


@pytest.fixture
def build(tmp_path: Path):
    (tmp_path / "graded.py").write_text("def score(prompt, answer, row):\n    return min(1.0, len(answer) / 40)\n")
    made: list[Reward] = []

    def one(kind: str) -> Reward:
        made.append(build_reward(RewardPart(kind=kind, options=OPTIONS[kind]), services(tmp_path)))
        return made[-1]

    yield one
    for reward in made:
        reward.close()


def samples() -> list[Sample]:
    row = {"answer": "42", "choice": "B", "tests": ["assert f() == 42", "assert f() == 43"]}
    return [
        Sample(id=str(at), prompt="What is it?", answer=text, row=row, tokens=len(text.split()))
        for at, text in enumerate(ANSWERS)
    ]


def test_every_kind_is_walked_by_these_laws() -> None:
    assert set(OPTIONS) == set(rewards.names())


@pytest.mark.filterwarnings("ignore:.*network in reach")
@pytest.mark.parametrize("kind", rewards.names())
def test_scores_are_numbers_in_the_range_or_failures_with_a_reason(kind: str, build) -> None:
    reward = build(kind)
    found = checked(reward, samples())
    assert len(found) == len(ANSWERS)
    for score in found:
        if isinstance(score, Failed):
            assert score.why
        else:
            assert math.isfinite(score) and reward.low <= score <= reward.high


@pytest.mark.filterwarnings("ignore:.*network in reach")
@pytest.mark.parametrize("kind", sorted(set(rewards.names()) - {"http"}))
def test_the_order_of_a_batch_changes_no_score(kind: str, build) -> None:
    reward = build(kind)
    asked = samples()
    forwards, backwards = checked(reward, asked), checked(reward, asked[::-1])
    assert backwards[::-1] == forwards


@pytest.mark.filterwarnings("ignore:.*network in reach")
@pytest.mark.parametrize("kind", rewards.names())
def test_an_empty_batch_has_no_scores(kind: str, build) -> None:
    assert checked(build(kind), []) == []


@pytest.mark.parametrize("kind", rewards.names())
def test_a_misspelt_option_is_told_with_the_right_name(kind: str, tmp_path: Path) -> None:
    known = next(iter(rewards.get(kind).Options.model_fields))
    with pytest.raises(ConfigError, match="unknown key"):
        build_reward(RewardPart(kind=kind, options={**OPTIONS[kind], f"{known}x": 1}), services(tmp_path))


@pytest.mark.parametrize("kind", rewards.names())
def test_the_guide_names_every_kind(kind: str) -> None:
    assert f"`{kind}`" in (ROOT / "docs" / "reinforcement.md").read_text(encoding="utf-8")


def test_an_unknown_kind_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='did you mean "regex"'):
        build_reward(RewardPart(kind="regexp"), services(tmp_path))
