"""Faults that a look at the questions alone can tell, on files that have them and files that have not."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from benchmarks.lint import NEAR, _word_pairs, find_repeats, lint, longest_is_right, position_balance
from benchmarks.questions import Question


def question(text, choices=("a", "b", "c", "d"), right=0, row=1, **more):
    return Question(row=row, kind="choice", id=str(row), question=text, choices=list(choices), right=[right], **more)


def fair(n=200, seed=0):
    rnd = random.Random(seed)
    return [
        question(
            f"What of {rnd.random():.6f} and {rnd.random():.6f}?",
            [f"{rnd.random():.{rnd.randint(2, 9)}f}" for _ in range(4)],
            right=i % 4,
            row=i + 1,
        )
        for i in range(n)
    ]


def test_a_fair_file_has_no_faults():
    assert lint(fair()).faults == ()


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_balance_equals_scipys_test(positions):
    balance = position_balance(positions, choices=5)
    assert balance is not None
    counts = [positions.count(index) for index in range(5)]
    assert balance.counts == tuple(counts)
    assert balance.p_value == pytest.approx(chisquare(counts).pvalue)
    assert sum(balance.shares.values()) == pytest.approx(1)


def test_no_positions_have_no_balance():
    assert position_balance([], choices=4) is None


def test_a_lopsided_key_is_named_with_its_shares():
    rows = [
        question(f"What is number {i}?", [f"{i}{x}" for x in "abcd"], right=0 if i % 2 else 1, row=i) for i in range(80)
    ]
    (fault,) = [fault for fault in lint(rows).faults if "lopsided" in fault.message]
    assert "A 50%, B 50%, C 0%, D 0%" in fault.message
    assert fault.level == "warning"


def test_balances_are_told_for_each_number_of_choices():
    rows = [
        *fair(40),
        *[question(f"Is {i} even or odd?", [f"even {i}", f"odd {i}"], right=i % 2, row=i) for i in range(40)],
    ]
    assert [(balance.choices, sum(balance.counts)) for balance in lint(rows).balances] == [(2, 40), (4, 40)]


def test_the_longest_choice_being_right_is_named():
    rows = [
        question(f"What is {i}?", [f"{i}", f"x{i}", f"y{i}", f"the only long and careful answer {i}"], right=3)
        for i in range(30)
    ]
    longest = longest_is_right(rows)
    assert longest is not None
    assert (longest.share, longest.chance, longest.n) == (1.0, 0.25, 30)
    assert any("the longest choice is right 100%" in str(fault) for fault in lint(rows).faults)


def test_choices_of_equal_length_say_nothing_about_the_longest():
    assert longest_is_right([question("What?", ["aa", "bb"], right=1)]) is None


TEXT = "Which vessel carries blood that is rich in oxygen from both lungs back to the left side of the heart"


def test_repeats_within_the_test_and_with_the_examples_are_told_apart():
    same = question(TEXT + "?", ["vein", "artery", "duct", "nerve"], right=0, row=2)
    shuffled = question(TEXT.upper(), ["artery", "vein", "nerve", "duct"], right=1, row=5)
    other_key = question(TEXT, ["vein", "artery", "duct", "nerve"], right=1, row=7)
    near = question(TEXT.replace("both lungs", "the lungs"), ["vein", "artery", "duct", "nerve"], right=0, row=9)
    shown = question(TEXT, ["vein", "artery", "duct", "nerve"], right=0, row=11, split="dev")
    faults = {(f.row, f.level, f.message.split(",")[0].split(";")[0]) for f in lint([same, shuffled]).faults if f.row}
    assert faults == {(5, "warning", "the same as row 2")}
    faults = {(f.row, f.level, f.message) for f in lint([same, other_key]).faults if f.row}
    assert faults == {(7, "error", "the same as row 2, with another answer")}
    (fault,) = [f for f in lint([same, near]).faults if f.row]
    assert fault.row == 9
    assert fault.message.startswith("nearly the same (")
    (fault,) = [f for f in lint([same, shown]).faults if f.row]
    assert (fault.row, fault.level) == (2, "error")
    assert fault.message == "few-shot row 11 is the same as this question; take one out"


def test_a_template_with_other_choices_is_no_repeat():
    rows = [
        question("Which is true?", [f"{x} of {i} is {i * 7}" for x in ("one", "two", "all", "half")], row=i)
        for i in range(9)
    ]
    assert find_repeats(rows) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=3, max_size=9), min_size=2, max_size=8))
def test_the_index_finds_exactly_the_pairs_that_comparing_all_finds(texts):
    rows = [question(" ".join(f"{word}x" for word in text), ["p", "q"], row=i) for i, text in enumerate(texts)]
    found = {(repeat.first.row, repeat.second.row) for repeat in find_repeats(rows)}
    grams = [_word_pairs(row) for row in rows]
    expected = {
        (i, j)
        for j in range(len(rows))
        for i in range(j)
        if len(grams[i] & grams[j]) / len(grams[i] | grams[j]) >= NEAR
    }
    assert found == expected


def test_questions_on_one_context_without_a_cluster_are_named():
    rows = [question(f"What of {i}?", row=i, context="One passage.") for i in range(3)]
    assert any("3 questions share a context" in str(fault) for fault in lint(rows).faults)
    assert not any(
        "share a context" in str(f)
        for f in lint([question("x", row=i, context="P", cluster="p") for i in (1, 2)]).faults
    )
