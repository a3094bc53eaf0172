"""What single rewards give, on answers whose worth is plain; and code that misbehaves is stopped, not believed."""

import time
from pathlib import Path
from typing import Any

import pytest

from training.rewards.base import Failed, RewardPart, Sample, Score, Scorer, Services, build_reward, checked
from workbench.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.*network in reach")


def score(kind: str, answer: str, *, folder: Path = Path(), row: Any = None, **options: Any) -> Score:
    reward = build_reward(RewardPart(kind=kind, options=options), Services(folder=folder))
    try:
        (found,) = checked(
            reward, [Sample(id="a", prompt="?", answer=answer, row=row or {}, tokens=len(answer.split()))]
        )
    finally:
        reward.close()
    return found


@pytest.mark.parametrize(
    ("answer", "right", "worth"),
    [
        ("So it is \\boxed{1,234}.", "1234", 1.0),
        ("48/2 = 24, and 24 + 48 = 72\n#### 72", "Natalia sold 72 clips. #### 72", 1.0),
        ("The answer is 50%.", "0.5", 1.0),
        ("The answer is **$3.50**", "3.5", 1.0),
        ("1/3", "2/6", 1.0),
        ("It is −4", "-4", 1.0),
        ("72 or 73", "72", 0.0),
        ("no idea", "5", 0.0),
        ("<answer>the total is 12 apples</answer>", "12", 1.0),
    ],
)
def test_math_reads_numbers_as_people_write_them(answer: str, right: str, worth: float) -> None:
    assert score("math", answer, row={"answer": right}) == worth


def test_math_with_tolerance_takes_what_is_near() -> None:
    assert score("math", "3.14", row={"answer": "3.14159"}, tolerance=0.001) == 1.0
    assert score("math", "3.1", row={"answer": "3.14159"}, tolerance=0.001) == 0.0


def test_a_row_without_the_right_answer_is_a_failure_and_no_zero() -> None:
    assert isinstance(score("math", "5", row={}), Failed)
    assert isinstance(score("math", "5", row={"answer": "five"}), Failed)
    assert isinstance(score("multiple_choice", "A", row={"answer": "Z"}), Failed)
    assert isinstance(score("code_tests", "x = 1", row={}), Failed)


@pytest.mark.parametrize(
    ("answer", "worth"),
    [
        ("B", 1.0),
        ("(B) because", 1.0),
        ("The answer is B.", 1.0),
        ("A and B", 0.0),
        ("A, B, C, D", 0.0),
        ("Answer: A. No, answer: B", 0.0),
        ("Because", 0.0),
    ],
)
def test_a_choice_counts_only_where_it_is_one(answer: str, worth: float) -> None:
    assert score("multiple_choice", answer, row={"answer": 1}) == worth


@pytest.mark.parametrize(
    ("answer", "worth"),
    [('{"a": 1}', 1.0), ('```json\n{"a": 2}\n```', 1.0), ('{"a": "x"}', 0.5), ("[1]", 0.5), ("a: 1", 0.0)],
)
def test_json_is_held_against_its_schema(answer: str, worth: float) -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    assert score("json_schema", answer, schema=schema) == worth


def test_a_schema_that_points_to_the_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="refers to another document"):
        score("json_schema", "{}", schema={"$ref": "https://example.com/schema"})


def test_a_format_is_scored_by_the_share_of_what_is_asked_for() -> None:
    asked: dict[str, Any] = {"tags": ["think", "answer"], "max_words": 9}
    assert score("format", "<think>a b</think> <answer>c</answer>", **asked) == 1.0
    assert score("format", "<answer>c</answer> <think>a b</think>", **asked) == pytest.approx(2 / 3)
    assert score("format", "<think></think><answer>c</answer><answer>d</answer>", **asked) == pytest.approx(1 / 3)


def test_a_pattern_that_takes_for_ever_fails_and_holds_up_nothing() -> None:
    began = time.monotonic()
    found = score("regex", "a" * 60 + "b", pattern="(a|a)+(a|a)+(a|a)+$", match="full")
    assert time.monotonic() - began < 10
    assert found == 0.0 or isinstance(found, Failed)


FUNCTIONS = {
    "raises": ("raise ValueError('bad row')", "ValueError: bad row"),
    "nan": ("return float('nan')", "no number"),
    "none": ("return None", "returned None"),
    "outside": ("return 7", "outside 0 to 1"),
    "slow": ("while True: pass", "longer than 1 s"),
    "dies": ("import os; os._exit(3)", "process ended"),
    "eats": ("x = bytearray(1 << 31); return 1", "MemoryError"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_fails_gives_a_failure_with_its_reason(name: str, tmp_path: Path) -> None:
    body, said = FUNCTIONS[name]
    (tmp_path / "own.py").write_text(f"def score(prompt, answer, row):\n    {body}\n")
    found = score("python", "x", folder=tmp_path, file="own.py", timeout_s=1, memory_mb=512)
    assert isinstance(found, Failed) and said in found.why


def test_a_function_sees_the_row_and_none_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    code = "import os\ndef score(p, a, row):\n    print('noise')\n    return row['x'] - ('SECRET_KEY' in os.environ)\n"
    (tmp_path / "own.py").write_text(code)
    assert score("python", "x", folder=tmp_path, file="own.py", row={"x": 1}) == 1.0


def test_one_bad_answer_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import os\ndef score(p, a, r):\n    if a == 'die': os._exit(1)\n    return 1.0\n")
    reward = build_reward(RewardPart(kind="python", options={"file": "own.py"}), Services(folder=tmp_path))
    try:
        found = checked(reward, [Sample(id=str(at), prompt="", answer=a) for at, a in enumerate(("ok", "die", "ok"))])
    finally:
        reward.close()
    assert found[0] == found[2] == 1.0 and isinstance(found[1], Failed)


def test_a_file_that_cannot_be_run_is_told_before_a_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def grade(): pass\n")
    with pytest.raises(ConfigError, match="KeyError: 'score'"):
        score("python", "x", folder=tmp_path, file="own.py")


TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add(0, 5) == 6"]
GOOD = "Here:\n```python\ndef add(a, b):\n    return a + b\n```"


def test_code_scores_the_share_of_its_tests() -> None:
    assert score("code_tests", GOOD, row={"tests": TESTS}) == pytest.approx(2 / 3)
    assert score("code_tests", GOOD, row={"tests": TESTS}, partial=False) == 0.0


@pytest.mark.parametrize(
    "cheat",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "while True: pass",
        'print(\'{"word": "1"}\')\nraise SystemExit',
        'import os\nos.write(1, b\'{"ready": true}\\n{"word": ""}\\n\')\nos._exit(0)',
        "def add(a, b",
    ],
)
def test_code_that_ends_before_its_tests_passes_none(cheat: str) -> None:
    assert score("code_tests", cheat, row={"tests": TESTS[:1]}, timeout_s=2) == 0.0


def test_several_rewards_are_weighted_and_one_that_failed_leaves_no_sum() -> None:
    parts = [
        RewardPart(kind="math", weight=1.0),
        RewardPart(kind="length", weight=-0.5, options={"at_most": 2, "worst": 4}),
    ]
    scorer = Scorer.build(parts, Services())
    good, bad = scorer.score(
        [
            Sample(id="1", prompt="", answer="72", row={"answer": 72}, tokens=3),
            Sample(id="2", prompt="", answer="72", row={}, tokens=1),
        ]
    )
    assert good.total == pytest.approx(1.0 - 0.25) and dict(good.parts) == {"math": 1.0, "length": 0.5}
    assert bad.total is None and "math" in bad.why and bad.parts == {"math": None, "length": 1.0}
