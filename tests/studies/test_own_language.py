"""What the page of the language study says is what its answers were worth."""

from dataclasses import asdict

from studies.lattice.tasks import TASKS, task_row, worth
from studies.own_language import TITLES, change, render, summary

ROWS = [task_row(task, program) for program in ("col 0; cross 1 0", "row 1; post 2 1", "col 1; flip") for task in TASKS]


def arm(answers: list[str]) -> dict[str, object]:
    items = [
        {"task": row["task"], "prompt": row["prompt"], "answer": answer, **asdict(worth(row, answer))}
        for row, answer in zip(ROWS, answers, strict=True)
    ]
    return {"items": items, "calls": 9}


def test_right_answers_are_exact_nonsense_is_invalid_and_the_change_between_them_is_paired():
    right, nonsense = arm([row["completion"] for row in ROWS]), arm(["?"] * len(ROWS))
    found = summary(right["items"])  # pyright: ignore[reportArgumentType]
    assert {task: one["n"] for task, one in found.items()} == {"reconstruct": 3, "design": 3, "predict": 3, "all": 9}
    assert found["all"]["exact"].value == 1 and found["all"]["error"] < 0.01
    none = summary(nonsense["items"])["all"]  # pyright: ignore[reportArgumentType]
    assert none["valid"].value == 0 and none["error"] is None
    assert change(nonsense, right).value > 0.99
    page = render({"arms": {name: right if name == "sft" else nonsense for name in TITLES}})
    assert "| start → SFT | +1.00" in page and "| SFT → SFT + RL | −1.00" in page
