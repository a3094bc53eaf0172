"""A curriculum shows grades in order, promotes on its condition, and resumes to the same bits."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_methods import cut_after
from tests.training.test_run import home as home
from tests.training.test_run import make_recipe, open_all, same_weights
from training.curriculum import Graded, document_losses, grade
from training.ledger import seen_rows
from training.plan import plan_run
from training.run import Trained, train
from training.start import load_weights
from workbench.errors import ConfigError

WORDS = ["heart", "lung", "liver", "kidney", "bone", "nerve"]


def write_graded(home: Path) -> None:
    rows = [
        {"text": f"the {WORDS[i % 6]} of case {i}. " * (1 + 2 * (i % 3)), "level": i % 3, "kind": "abc"[i % 3]}
        for i in range(90)
    ]
    (home / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def graded(home: Path, **options: Any) -> tuple[Graded, Any, Any]:
    write_graded(home)
    mix = [
        {"name": "graded", "data": "graded.jsonl", "share": 0.8, "max_epochs": 50},
        {"name": "chat", "data": "chat.jsonl", "share": 0.2, "max_epochs": 50},
    ]
    curriculum = {"source": "graded", "by": "field", "field": "level", "every": 2, "held_out": 6, "review": 0.25}
    recipe = make_recipe(
        recipe="curriculum", mix=mix, curriculum=curriculum | options, tokens=6000, save_every=1, keep=99, log_every=1
    )
    tokenizer, opened, _ = open_all(recipe.model_copy(update={"curriculum": None}), home)
    found = grade(recipe, opened, folder=home / "cache", load_start=lambda: load_weights(home / "tiny"))
    return found, tokenizer, plan_run(found.recipe, found.sources, pad=1, planned=found.hook.planned)


def carry_out(home: Path, folder: Path, **options: Any) -> tuple[Trained, Graded]:
    found, tokenizer, plan = graded(home, **options)
    made = train(
        found.recipe, found.sources, plan, start=home / "tiny", tokenizer=tokenizer, folder=folder, hooks=[found.hook]
    )
    return made, found


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_a_grade_follows_when_the_one_before_is_learned(home: Path) -> None:
    made, _ = carry_out(home, home / "learned", promote_below=5.6)
    promoted = [event for event in events(made.folder) if event["event"] == "promoted"]
    assert [event["grade"] for event in promoted] == [2, 3]
    assert all("is at most 5.6" in event["because"] for event in promoted)
    for number, event in enumerate(promoted, start=2):
        begins = min(seen.step for seen in seen_rows(made.folder) if seen.source == f"graded/{number}")
        assert begins >= event["from"]
        assert set(event["losses"]) == {"graded/1", "graded/2", "graded/3"}
    assert {made.folder / f"checkpoint-{event['step']}" for event in promoted} == set(made.kept)
    again, _ = carry_out(home, cut_after(made.folder, promoted[0]["step"], home / "learned-cut"), promote_below=5.6)
    assert same_weights(made.last, again.last)
    assert events(again.folder) == events(made.folder)


def test_a_grade_that_is_never_learned_goes_on_or_stops_as_the_recipe_says(home: Path) -> None:
    made, _ = carry_out(home, home / "never", promote_below=0.001)
    promoted = [event for event in events(made.folder) if event["event"] == "promoted"]
    assert {event["because"] for event in promoted} == {"its part of the run is over"}
    assert [event["step"] for event in promoted] == [made.steps // 3, 2 * (made.steps // 3)]
    stopped, _ = carry_out(home, home / "stop", promote_below=0.001, otherwise="stop")
    assert stopped.stopped is not None and "grade 1 used its part" in stopped.stopped


def test_held_out_rows_are_never_trained_on_and_every_other_row_has_one_grade(home: Path) -> None:
    found, *_ = graded(home)
    levels = [
        {found.sources[f"graded/{k}"].record(row)["level"] for row in range(len(found.sources[f"graded/{k}"]))}
        for k in (1, 2, 3)
    ]
    assert levels == [{0}, {1}, {2}]
    assert sum(len(found.sources[f"graded/{k}"]) for k in (1, 2, 3)) == 90 - 3 * 6


@pytest.mark.parametrize("by", ["length", "loss"])
def test_difficulty_by_length_or_by_the_start_s_own_loss_is_ascending(home: Path, by: str) -> None:
    found, *_ = graded(home, by=by, field="")
    model = load_weights(home / "tiny")

    def hardness(name: str) -> list[float]:
        documents = [found.sources[name].document(row) for row in range(len(found.sources[name]))]
        if by == "length":
            return [float(len(document.tokens)) for document in documents]
        return [loss for loss, _ in document_losses(model, documents)]

    grades = [hardness(f"graded/{k}") for k in (1, 2, 3)]
    assert max(grades[0]) <= min(grades[1]) + 1e-4 and max(grades[1]) <= min(grades[2]) + 1e-4


def test_names_in_a_column_are_grades_and_a_row_without_one_is_refused(home: Path) -> None:
    found, *_ = graded(home, field="kind")
    assert {found.sources["graded/2"].record(0)["kind"]} == {"b"}
    with pytest.raises(ConfigError, match="row 1 of 'graded' has no 'no_such'"):
        graded(home, field="no_such")
