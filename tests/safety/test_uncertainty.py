"""Doubt is told apart by whose work it is, and what is new has honest p-values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy, kstest

from safety.uncertainty import Novelty, entropy_of, margin_of, mutual_information, sort_doubts, split_doubt

shares = st.floats(0, 1)


@given(shares)
def test_entropy_is_scipys(p):
    assert entropy_of(np.array([p]))[0] == pytest.approx(entropy([p, 1 - p]), abs=1e-12)


def test_margin_of_several_classes():
    assert margin_of(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.3, 0.2]])) == pytest.approx([1.0, 0.0, 0.8])


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, (3, 4, 2), elements=shares))
def test_doubts_are_not_negative_and_none_is_more_than_there_is(p):
    doubt = split_doubt(p)
    total = entropy_of(doubt.probability)
    for part in (doubt.model, doubt.wording, doubt.noise):
        assert np.all(part >= 0) and np.all(part <= total + 1e-9)


def test_mutual_information_is_that_of_the_joint_table():
    p = np.array([[0.9], [0.2], [0.4]])
    joint = np.column_stack([p[:, 0], 1 - p[:, 0]]) / 3
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    assert mutual_information(p)[0] == pytest.approx((joint * np.log(joint / independent)).sum())


def test_members_that_agree_have_none_of_that_kind_of_doubt():
    by_model = np.broadcast_to(np.array([[[0.9]], [[0.1]]]), (2, 4, 1))
    by_wording = np.broadcast_to(np.array([[[0.9], [0.1]]]), (3, 2, 1))
    one, other = split_doubt(by_model), split_doubt(by_wording)
    assert one.model[0] > 0.3 and one.wording[0] == pytest.approx(0) and not one.turns[0]
    assert other.wording[0] > 0.3 and other.model[0] == pytest.approx(0) and other.turns[0]


def test_the_models_doubt_goes_to_moderators_and_that_of_the_wording_to_the_owner():
    n = 200
    clear = np.full((3, 4, n), 0.02)
    unsure = clear.copy()
    unsure[0, :, :30] = 0.95  # one of three models says yes
    unclear = clear.copy()
    unclear[:, 1, 50:90] = 0.95  # one of four wordings says yes
    unclear[:, 2, 50:90] = 0.9
    unclear[:, 3, 50:90] = 0.9
    found = sort_doubts({"spam": split_doubt(clear), "insult": split_doubt(unsure), "tone": split_doubt(unclear)})
    assert {category for category, _ in found.moderators} == {"insult"}
    assert sorted(text for _, text in found.moderators) == list(range(30))
    (rule,) = found.owners
    assert rule.category == "tone" and rule.turns.n == n and rule.turns.value == pytest.approx(0.2)
    assert rule.texts and set(rule.texts) <= set(range(50, 90))


def test_a_few_turns_in_few_texts_are_no_unclear_rule():
    p = np.full((1, 2, 10), 0.1)
    p[0, 1, 0] = 0.9
    assert not sort_doubts({"spam": split_doubt(p)}).owners  # 1 of 10: the lower bound is 2%


def test_texts_like_the_reference_have_uniform_p_values_and_new_ones_small_ones():
    rng = np.random.default_rng(0)
    novelty = Novelty(rng.normal(size=(2000, 8)) + 3)
    assert kstest(novelty.p_value(rng.normal(size=(1500, 8)) + 3), "uniform").pvalue > 1e-3
    far = rng.normal(size=(100, 8)) - 3
    assert np.median(novelty.p_value(far)) <= 0.01


def test_novelty_is_sklearns_distance():
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(1)
    novelty = Novelty(rng.normal(size=(300, 5)))
    wanted = NearestNeighbors(n_neighbors=10, metric="cosine").fit(novelty._searched)
    asked = rng.normal(size=(40, 5))
    assert novelty.distance(asked) == pytest.approx(wanted.kneighbors(asked)[0].mean(axis=1))


def test_too_small_a_reference_is_refused():
    with pytest.raises(ValueError, match="40 are needed"):
        Novelty(np.ones((12, 3)))
