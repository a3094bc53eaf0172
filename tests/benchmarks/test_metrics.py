"""Scores of one answer against outside references, and laws that no answer may break."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import metrics

settings.register_profile("metrics", deadline=None)  # the first example also pays for imports
settings.load_profile("metrics")

RELEVANCE = st.lists(st.integers(0, 3), min_size=2, max_size=8).filter(any)
RANKING = st.lists(st.integers(-3, 12), max_size=15)


@given(RELEVANCE, st.randoms(use_true_random=False))
def test_ndcg_of_a_whole_ranking_equals_scikit_learn(relevance, rnd):
    from sklearn.metrics import ndcg_score

    order = list(range(len(relevance)))
    rnd.shuffle(order)
    scores = [0.0] * len(order)
    for place, index in enumerate(order):
        scores[index] = -place
    gains = [2.0**value - 1 for value in relevance]  # scikit-learn's gain is linear
    assert metrics.ndcg_score(relevance, order) == pytest.approx(ndcg_score([gains], [scores]))


@given(RELEVANCE, RANKING)
def test_ndcg_is_between_0_and_1_whatever_is_written(relevance, ranking):
    assert 0 <= metrics.ndcg_score(relevance, ranking) <= 1


@given(RELEVANCE, RANKING, st.integers(0, 12))
def test_saying_an_index_again_never_changes_a_score(relevance, ranking, again):
    repeated = [*ranking, *([again] * 3 if again in ranking else ranking)]
    assert metrics.ndcg_score(relevance, repeated) == metrics.ndcg_score(relevance, ranking)
    gold = [index for index, value in enumerate(relevance) if value]
    assert metrics.recall_score(gold, repeated, k=3) == metrics.recall_score(gold, ranking, k=3)


@given(RELEVANCE)
def test_the_best_order_has_ndcg_1_and_the_worst_less_unless_all_are_equal(relevance):
    best = sorted(range(len(relevance)), key=lambda index: -relevance[index])
    assert metrics.ndcg_score(relevance, best) == pytest.approx(1)
    if len(set(relevance)) > 1:
        assert metrics.ndcg_score(relevance, best[::-1]) < 1


def test_ndcg_of_a_hand_worked_order():
    # Gains 7 and 1; written: the lesser one first. (1 + 7 / log2(3)) / (7 + 1 / log2(3))
    expected = (1 + 7 / math.log2(3)) / (7 + 1 / math.log2(3))
    assert metrics.ndcg_score([0, 3, 1], [2, 1, 0]) == pytest.approx(expected)


@pytest.mark.parametrize("relevance", [[0, 0], [1, -1], [math.nan, 1], []])
def test_ndcg_refuses_a_relevance_that_says_nothing(relevance):
    with pytest.raises(ValueError, match="relevance must be"):
        metrics.ndcg_score(relevance, [0])


@given(RELEVANCE)
def test_ndcg_of_a_guesser_is_the_mean_over_random_orders(relevance):
    rnd = random.Random(0)
    orders = [rnd.sample(range(len(relevance)), len(relevance)) for _ in range(1500)]
    mean = np.mean([metrics.ndcg_score(relevance, order) for order in orders])
    assert metrics.ndcg_chance(relevance) == pytest.approx(mean, abs=0.03)


class TestFaultsOfShoppingMmlusReferenceScorer:
    """Each of these makes its published scorer wrong; research on it lists them."""

    def test_one_index_five_times_is_no_better_than_once(self):
        ranking = metrics.parse_ranking("1,1,1,1,1")
        assert metrics.ndcg_score([3, 1, 0, 0, 0], ranking) == metrics.ndcg_score([3, 1, 0, 0, 0], [0])
        assert metrics.ndcg_score([3, 1, 0, 0, 0], ranking) < 1

    def test_index_0_does_not_wrap_to_the_last_item(self):
        assert metrics.parse_ranking("0, 1") == [0]
        assert metrics.ndcg_score([0, 0, 3], metrics.parse_ranking("0")) == 0

    def test_the_gold_list_keeps_its_order(self):
        relevance = [1, 3, 2]
        metrics.ndcg_score(relevance, [0, 1, 2])
        assert relevance == [1, 3, 2]

    def test_hits_are_read_from_the_first_line_only(self):
        assert metrics.parse_ranking("4, 5\nAlso good: 1, 2") == [3, 4]

    def test_a_span_said_twice_is_one_false_positive(self):
        assert metrics.span_counts(["red"], ["blue", "blue", "Blue "]) == metrics.Counts(0, 1, 1)

    def test_10_is_not_1(self):
        assert metrics.parse_ranking("10") == [9]
        assert metrics.exact_score("10", ["1"]) == 0


def test_recall_and_hits_of_hand_worked_answers():
    assert metrics.recall_score([0, 4], [4, 1, 0], k=3) == 1
    assert metrics.recall_score([0, 4], [4, 1, 0], k=2) == 0.5
    assert metrics.recall_score([0, 1, 2, 3], [0, 1], k=2) == 1, "two places cannot hold four"
    assert metrics.recall_score([7], [7, 7, 7, 1], k=1) == 1
    assert metrics.hit_score([4], [1, 2, 3], k=3) == 0
    with pytest.raises(ValueError, match="at least one"):
        metrics.recall_score([], [1], k=3)


@given(st.text(max_size=60), st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_text_scores_are_between_0_and_1(answer, golds):
    scores = [
        metrics.exact_score(answer, golds),
        metrics.token_f1_score(answer, golds),
        metrics.rouge_l_score(answer, golds),
        metrics.span_counts(golds, metrics.parse_spans(answer)).f1,
        metrics.numeric_score(answer, 3.0),
        metrics.jaccard_score(golds, [answer]),
    ]
    assert all(0 <= score <= 1 for score in scores)


@given(
    st.lists(
        st.sampled_from(["the", "a", "heart", "pumps", "blood", "through", "body", "arteries", "Red"]), max_size=12
    )
)
def test_rouge_l_equals_rouge_score_for_english(words):
    from rouge_score.rouge_scorer import RougeScorer

    gold = "The heart pumps red blood through the arteries of the body."
    expected = RougeScorer(["rougeL"]).score(gold, " ".join(words))["rougeL"].fmeasure
    assert metrics.rouge_l_score(" ".join(words), [gold]) == pytest.approx(expected)


def test_rouge_l_counts_japanese_which_rouge_score_alone_drops():
    from rouge_score.rouge_scorer import RougeScorer

    assert RougeScorer(["rougeL"]).score("心臓は血液を送る", "心臓は血液を送る")["rougeL"].fmeasure == 0
    assert metrics.rouge_l_score("心臓は血液を送る", ["心臓は血液を送る"]) == 1
    assert 0 < metrics.rouge_l_score("心臓は空気を送る", ["心臓は血液を送る"]) < 1


def test_exact_and_token_f1_of_squad_style_cases():
    assert metrics.exact_score("The U.S.A.", ["usa"]) == 1
    assert metrics.exact_score("an  apple!", ["Apple"]) == 1
    assert metrics.token_f1_score("the left ventricle", ["left ventricle of the heart"]) == pytest.approx(2 * 2 / 6)
    assert metrics.token_f1_score("", ["left"]) == 0
    assert metrics.token_f1_score("right", ["wrong", "right"]) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42), ("-3.5", -3.5), ("− 7", -7), ("$1,234.50", 1234.5), ("(12)", -12), ("about 12%", 0.12),
        ("1.5 billion dollars", 1.5e9), ("2018-2019", 2018), ("covid-19", 19), ("3e-5", 3e-5), (".5", 0.5),
        ("The answer is 7.", 7), ("12 per cent", 0.12), ("rose (5%)", 0.05), ("none", None), ("", None),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, value):
    assert metrics.parse_number(text) == (None if value is None else pytest.approx(value))


def test_numeric_score_has_a_tolerance_and_takes_a_percentage_both_ways():
    assert metrics.numeric_score("0.0635", 0.06354) == 1
    assert metrics.numeric_score("0.05", 0.06354) == 0
    assert metrics.numeric_score("6.35%", 0.06354) == 1
    assert metrics.numeric_score("-22.2%", -22.22) == 1
    assert metrics.numeric_score("I do not know", 0.0) == 0
    assert metrics.numeric_score("0", 0.0) == 1
    assert metrics.numeric_score("103", 100, tolerance=0.05) == 1
    assert metrics.numeric_score("103", 100, tolerance=0, absolute=2) == 0


def test_spans_are_read_from_one_line():
    assert metrics.parse_spans("Red; dark blue\nand more") == ["Red", "dark blue"]
    assert metrics.parse_spans("\n['a', \"b\"]") == ["a", "b"]
    assert metrics.parse_spans("none") == []
    assert metrics.span_counts([], metrics.parse_spans("none")).f1 == 1
    total = metrics.span_counts(["a1", "b1"], ["a1", "c1"]) + metrics.span_counts(["d1"], ["d1"])
    assert total == metrics.Counts(2, 1, 1)
    assert total.f1 == pytest.approx(2 * 2 / 6)
