"""Gains split by what the training data gave away, and training rows near to what was lost."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.clean import split_gain
from benchmarks.compare import compare_reports
from benchmarks.nearest import TrainingRow, find_nearest
from benchmarks.questions_asked import asked_text
from benchmarks.side import Side
from benchmarks.why import find_reasons
from tests.benchmarks.test_compare import item, side
from workbench.records import ItemScore

PLACES = ("northern", "southern", "eastern", "western")
ASKED = "Which of the small bones in the region number {0} of the human hand carries the load in position {0}?"


def pair(before: list[float], after: list[float], *, role: Any = "domain") -> tuple[Side, Side]:
    """Two reports of one task whose questions are told apart by a number."""
    sides = []
    for name, values in (("a", before), ("b", after)):
        items = [
            item("t", i, v, prompt=f"Question: {ASKED.format(i)}\nAnswer:", target=f"bone {i}")
            for i, v in enumerate(values)
        ]
        made = side({"t": values}, name=name, items=items)
        results = tuple(replace(result, role=role) for result in made.report.results)
        sides.append(Side.of(replace(made.report, results=results), items))
    return sides[0], sides[1]


def row(number: int, text: str, **more: Any) -> TrainingRow:
    return TrainingRow(source="shop", file="shop.jsonl", row=number, text=text, **more)


def leaked(numbers: range) -> list[TrainingRow]:
    """Training rows that hold these questions with their answers."""
    return [row(i + 1, f"Exam. {ASKED.format(i)} It is bone {i}.") for i in numbers]


def test_a_gain_that_lives_in_overlapping_items_alone_is_told() -> None:
    before = [0.0] * 400
    after = [1.0] * 60 + [0.0] * 340  # right now: what stood in the training data
    sides = pair(before, after)
    (gain,) = split_gain(compare_reports(*sides), *sides, leaked(range(60)))
    counts = {part.part: (part.items, part.candidate) for part in gain.parts}
    assert counts == {"overlapping": (60, 1.0), "clean": (340, 0.0)}
    assert gain.gains and gain.with_answer == 60
    assert "60 of 400 questions stand in the training rows (60 with the answer); THE GAIN LIVES IN THEM" in gain.told


def test_a_gain_that_holds_on_clean_items_is_told_with_their_interval() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(600) < 0.4).astype(float)
    after = np.where(rng.random(600) < 0.2, 1.0, before)
    sides = pair(before.tolist(), after.tolist())
    (gain,) = split_gain(compare_reports(*sides), *sides, leaked(range(50)))
    clean = gain.part("clean")
    assert clean is not None and clean.difference is not None and clean.gains
    expected = float((after - before)[50:].mean())
    assert clean.difference.value == pytest.approx(expected)
    # 90%: the width of a paired difference of that many items, known from its variance
    width = 2 * 1.645 * float(np.std(after[50:] - before[50:])) / np.sqrt(550)
    assert clean.difference.high is not None and clean.difference.low is not None
    assert clean.difference.high - clean.difference.low == pytest.approx(width, rel=0.1)
    assert gain.told.endswith("the gain holds on the clean ones")


def test_without_overlap_the_change_is_clean_and_general_tasks_are_asked_for_by_name() -> None:
    sides = pair([0.0] * 100, [1.0] * 50 + [0.0] * 50)
    comparison = compare_reports(*sides)
    (gain,) = split_gain(comparison, *sides, [row(1, "Nothing of all that stands in here.")])
    assert gain.told == "t: no question stands in the training rows, so the change is clean"
    general = pair([0.0] * 100, [1.0] * 50 + [0.0] * 50, role="general")
    assert split_gain(compare_reports(*general), *general, []) == []
    assert len(split_gain(compare_reports(*general), *general, [], tasks=["t"])) == 1


def test_a_question_is_found_without_its_examples_options_and_labels() -> None:
    prompt = (
        "The following are questions.\n\nQuestion: What is one?\nA. x\nB. y\nAnswer: A\n\n"
        "Question: Which bone is the longest one?\n(A) the rib\n(B) the femur\nAnswer:"
    )
    one = ItemScore(task="t", item="i", doc_id=0, group="i", metrics={}, prompt=prompt, target="(B)")
    assert (asked_text(one).question, asked_text(one).answer) == ("Which bone is the longest one?", "the femur")
    cloze = replace(one, prompt="Question: Where is it? A. Milne asks.\nAnswer:", target="here")
    assert asked_text(cloze).whole == "Where is it? A. Milne asks. here"


def lost_topics() -> tuple[Side, Side]:
    """Half the questions about tides, half about loans; mostly those about tides are lost."""
    texts = [
        f"Why does the tide of the {PLACES[i % 4]} sea rise under moon number {i}?"
        if i < 100
        else f"What interest does the {PLACES[i % 4]} bank take on loan number {i}?"
        for i in range(200)
    ]
    sides = []
    for name in ("a", "b"):
        values = [0.0 if name == "b" and (i < 40 or i == 150) else 1.0 for i in range(200)]
        items = [item("t", i, v, prompt=texts[i], target="gravity") for i, v in enumerate(values)]
        sides.append(side({"t": values}, name=name, items=items))
    return sides[0], sides[1]


def test_rows_near_to_the_lost_items_are_found_with_source_row_and_excerpt() -> None:
    sides = lost_topics()
    comparison = compare_reports(*sides)
    rows = [
        row(7, "The wind was cold. " * 60 + "The tide of the sea does not rise under any moon, we were told.", step=3),
        row(8, "A recipe for bread with flour and water.", step=1),
    ]
    reasons = find_reasons(comparison, *sides)
    found = find_nearest(comparison, reasons, *sides, rows)
    first = found.rows[0]
    assert (first.source, first.row, first.step) == ("shop", 7, 3)
    assert "tide of the sea" in first.excerpt and len(first.excerpt) < 260
    assert first.topic and first.similarity > 0.1
    assert found.p is not None and found.p < 0.001 and "lie nearer to the training data" in found.told


def test_rows_that_have_nothing_to_do_with_it_are_not_made_a_reason() -> None:
    sides = lost_topics()
    comparison = compare_reports(*sides)
    rows = [row(1, "A recipe for bread with flour and water."), row(2, "The cat sat on the mat.")]
    found = find_nearest(comparison, find_reasons(comparison, *sides), *sides, rows)
    assert found.rows == () and "lie no nearer" in found.told
    nothing = find_nearest(comparison, find_reasons(comparison, *sides), *sides, [])
    assert nothing.rows == () and nothing.passages == 0


def test_a_form_is_told_lost_where_the_other_form_lost_nothing_at_all() -> None:
    both = []
    for name in ("a", "b"):
        letters = [
            item("letters", i, 0.0 if name == "b" and i < 50 else 1.0, extra={"doc": f"d{i}"}) for i in range(100)
        ]
        words = [item("words", i, 1.0, extra={"doc": f"d{i}"}) for i in range(100)]
        values = {"letters": [i.metrics["acc"] for i in letters], "words": [1.0] * 100}
        both.append(side(values, name=name, items=[*letters, *words]))
    (form,) = find_reasons(compare_reports(*both), *both).forms
    assert (form.task, form.other, form.only_here, form.both) == ("letters", "words", 50, 0)
