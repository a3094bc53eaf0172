"""The language of the study: every program has one meaning, and no nonsense ever scores above a program."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.lattice.language import ProgramError, canonical, draw_lattice, interpret, picture
from studies.lattice.stiffness import stiffness
from studies.lattice.tasks import LEAST, TASKS, is_held_out, task_row, task_rows, worth

SEEDS = st.integers(0, 2**32 - 1)
PIECES = st.sampled_from(
    ["row ", "col ", "up ", "down ", "cross ", "flip", "; ", "0", "1", "2", " ", "3", ".", "\n", "x"]
)
TEXTS = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join))


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, task=st.sampled_from(TASKS), texts=st.lists(TEXTS, max_size=5))
def test_an_invalid_answer_never_scores_above_a_valid_one_and_the_right_one_scores_highest(seed, task, texts):
    rng = np.random.default_rng(seed)
    row = task_row(task, canonical(draw_lattice(rng)))
    other = canonical(draw_lattice(rng))
    found = [worth(row, text) for text in [*texts, other, f"{rng.uniform(0, 9):.2f}", row["completion"]]]
    assert all(0 <= one.score <= 1 for one in found)
    assert all(one.score == 0 and one.error is None for one in found if not one.valid)
    assert all(one.score >= LEAST for one in found if one.valid)
    assert found[-1].exact and found[-1].score >= max(one.score for one in found) - 0.06  # its answer is rounded


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_a_lattice_is_said_by_its_canonical_program_and_told_apart_by_its_picture(seed):
    rng = np.random.default_rng(seed)
    one, other = draw_lattice(rng), draw_lattice(rng)
    assert interpret(canonical(one)) == one
    assert (picture(one) == picture(other)) == (one == other)


def test_stiffness_is_that_of_springs_in_rows_and_beside_one_another():
    assert stiffness(interpret("col 0; col 1; col 2")) == pytest.approx(1.5)
    assert stiffness(interpret("row 0; row 1")) == 0
    # the middle node is held by four bars of length √2 at 45 degrees and stays where symmetry wants it, half-way down:
    # each is pressed by ½ · sin 45°, so the upper two carry 2 · (½ / √2) / √2 · sin 45° = ½ / √2
    assert stiffness(interpret("up 0 0; up 1 1; down 1 0; down 0 1")) == pytest.approx(0.5 / 2**0.5)
    assert stiffness(interpret("post 0 0; post 0 1; post 1 0; post 2 1")) == pytest.approx(0.5)
    mirrored = interpret("up 0 0; down 0 1; flip") - interpret("up 0 0; down 0 1")
    assert stiffness(mirrored) == pytest.approx(stiffness(interpret("up 0 0; down 0 1")))


@pytest.mark.parametrize(
    ("program", "statement", "why"),
    [
        ("row 3", 1, "no statement"),
        ("col 1;row 0", 1, "no statement"),
        ("flip", 1, "before any bar"),
        ("row 0; ; flip", 2, "''"),
    ],
)
def test_a_faulty_program_is_told_by_its_statement(program, statement, why):
    with pytest.raises(ProgramError) as caught:
        interpret(program)
    assert caught.value.statement == statement and why in caught.value.why


def test_no_held_out_lattice_or_wish_stands_in_the_rows_for_training():
    train, test = task_rows(90, seed=0, held_out=False), task_rows(30, seed=1, held_out=True)
    assert not any(is_held_out(row["program"]) for row in train)
    assert not {(r["task"], r["prompt"]) for r in train} & {(r["task"], r["prompt"]) for r in test}
    assert {task: sum(row["task"] == task for row in train) for task in TASKS} == dict.fromkeys(TASKS, 30)


def test_the_simulator_scores_over_http_in_a_process_of_its_own():
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "studies.lattice.simulator"], stdout=subprocess.PIPE, cwd=root, text=True
    )
    assert process.stdout is not None
    try:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        row = task_row("design", "col 1")
        samples = [{"id": "a", "row": row, "answer": "col 0"}, {"id": "b", "row": row, "answer": "column 0"}]
        body = json.dumps({"protocol": "workbench.reward/1", "samples": samples}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}/score", body), timeout=30) as answer:
            scores = {one["id"]: one["score"] for one in json.load(answer)["scores"]}
        assert scores == {"a": 1.0, "b": 0.0}
        with urllib.request.urlopen(f"{url}/calls", timeout=30) as answer:
            assert json.load(answer) == {"calls": 2}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
