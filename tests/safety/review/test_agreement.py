"""Agreement against published numbers, closed forms and simulations."""

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from safety.review.agreement import (
    Rating,
    automation_bias,
    dawid_skene,
    gold_accuracy,
    gwet_ac1,
    krippendorff_alpha,
    share,
)

# Four observers, twelve units, five categories, seven missing: Krippendorff (2011), Computing Krippendorff's
# Alpha-Reliability, example C, and `cac.raw4raters` of Gwet's irrCAC. Published: alpha 0.743, AC1 0.77544
# (its chance agreement 0.19032). The package `krippendorff` 0.9.0 gives alpha 0.743421.
KRIPPENDORFF = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)


def ratings(table) -> list[Rating]:
    return [
        Rating(item=f"i{column:02}", member=f"m{row}", value=str(value))
        for row, values in enumerate(table)
        for column, value in enumerate(values)
        if value is not None
    ]


def rng():
    return np.random.default_rng(0)


def test_alpha_and_ac1_are_the_published_ones_with_missing_labels():
    alpha, ac1 = (f(ratings(KRIPPENDORFF), rng=rng()) for f in (krippendorff_alpha, gwet_ac1))
    assert alpha.value == pytest.approx(0.743421, abs=1e-6)
    assert ac1.value == pytest.approx(0.77544, abs=1e-5)
    assert (alpha.items, alpha.ratings, alpha.members) == (11, 41, 4)
    for one in (alpha, ac1):
        assert 0.3 < one.low < one.value < one.high <= 1.0


def test_where_nearly_all_is_allowed_alpha_falls_and_ac1_does_not():
    pairs = [("a", "a")] * 96 + [("a", "v"), ("v", "a")] * 2
    table = tuple(zip(*pairs, strict=True))
    assert krippendorff_alpha(ratings(table), rng=rng()).value == pytest.approx(-0.0153, abs=1e-3)
    assert gwet_ac1(ratings(table), rng=rng()).value > 0.95


def test_two_raters_without_missing_labels_agree_with_the_closed_forms():
    generator = np.random.default_rng(3)
    one = generator.integers(0, 2, 60)
    other = np.where(generator.random(60) < 0.2, 1 - one, one)
    found = krippendorff_alpha(ratings((tuple(one), tuple(other))), rng=rng()).value
    both = np.concatenate([one, other])
    expected = 1 - (one != other).mean() / (2 * both.mean() * (1 - both.mean()) * 120 / 119)
    assert found == pytest.approx(expected, abs=1e-12)
    p = both.mean()
    chance = 2 * p * (1 - p)
    assert gwet_ac1(ratings((tuple(one), tuple(other))), rng=rng()).value == pytest.approx(
        ((one == other).mean() - chance) / (1 - chance), abs=1e-12
    )


def test_the_interval_covers_the_long_run_value_about_as_often_as_it_says():
    generator = np.random.default_rng(11)

    def draw(n):
        truth = generator.random(n) < 0.3
        return [tuple(np.where(generator.random(n) < 0.15, ~truth, truth).astype(int)) for _ in range(3)]

    long_run = krippendorff_alpha(ratings(draw(20_000)), rng=rng()).value
    hits = 0
    for seed in range(60):
        found = krippendorff_alpha(ratings(draw(80)), rng=np.random.default_rng(seed))
        hits += found.low <= long_run <= found.high
    assert hits >= 51


def test_no_pairs_and_labels_that_are_all_the_same_are_no_zero():
    alone = krippendorff_alpha(ratings(((1, 2, 1),)), rng=rng())
    assert (alone.value, alone.reason) == (None, "no item has two labels")
    same = krippendorff_alpha(ratings(((1, 1), (1, 1))), rng=rng())
    assert (same.value, "chance cannot be told" in same.reason) == (None, True)
    assert gwet_ac1(ratings(((1, 1), (1, 1))), rng=rng()).value == 1.0
    with pytest.raises(ValueError, match="two labels on one item"):
        gwet_ac1([Rating(item="i", member="m", value="a")] * 2, rng=rng())


def simulated(n=1500):
    generator = np.random.default_rng(5)
    truth = generator.random(n) < 0.25
    skill = {"ana": (0.95, 0.97), "ben": (0.8, 0.9), "cat": (0.6, 0.95), "dan": (0.9, 0.6), "eve": (0.85, 0.85)}
    given = []
    for member, (sensitivity, specificity) in skill.items():
        right = generator.random(n) < np.where(truth, sensitivity, specificity)
        says = np.where(right, truth, ~truth)
        labelled = generator.random(n) < 0.7
        given += [
            Rating(item=f"{place:05}", member=member, value="violates" if says[place] else "allowed")
            for place in np.flatnonzero(labelled)
        ]
    return truth, skill, given


def bayes(said, skill, prevalence) -> float:
    """What is known of an item by whoever knows the reviewers' true rates."""
    likely = {True: prevalence, False: 1 - prevalence}
    for member, value in said:
        for violates in (True, False):
            right = skill[member][0 if violates else 1]
            likely[violates] *= right if value == violates else 1 - right
    return likely[True] / sum(likely.values())


def test_dawid_skene_finds_who_is_right_how_often_and_beats_the_majority():
    truth, skill, given = simulated()
    found = dawid_skene(given)
    for member, (sensitivity, specificity) in skill.items():
        assert found.sensitivity[member] == pytest.approx(sensitivity, abs=0.06)
        assert found.specificity[member] == pytest.approx(specificity, abs=0.04)
    assert found.prevalence == pytest.approx(truth.mean(), abs=0.03)
    votes: dict[str, list[tuple[str, bool]]] = {}
    for rating in given:
        votes.setdefault(rating.item, []).append((rating.member, rating.value == "violates"))
    ours = np.mean([(found.probability[item] > 0.5) == truth[int(item)] for item in votes])
    majority = np.mean(
        [(np.mean([value for _, value in said]) > 0.5) == truth[int(item)] for item, said in votes.items()]
    )
    best = np.mean([(bayes(said, skill, truth.mean()) > 0.5) == truth[int(item)] for item, said in votes.items()])
    assert majority < ours
    assert best - ours < 0.005


def test_dawid_skenes_answer_is_bayes_rule_at_its_own_rates():
    _, _, given = simulated(60)
    found = dawid_skene(given, tolerance=1e-12)
    for item in sorted(found.probability)[:20]:
        likely = {True: found.prevalence, False: 1 - found.prevalence}
        for rating in (one for one in given if one.item == item):
            for truth in (True, False):
                rate = found.sensitivity[rating.member] if truth else 1 - found.specificity[rating.member]
                likely[truth] *= rate if rating.value == "violates" else 1 - rate
        assert found.probability[item] == pytest.approx(likely[True] / (likely[True] + likely[False]), abs=1e-6)


def test_a_reviewer_with_few_labels_keeps_near_the_prior():
    few = [Rating(item="a", member="new", value="violates"), Rating(item="a", member="old", value="allowed")]
    found = dawid_skene(few)
    assert all(0.8 < rate < 0.95 for rate in (*found.sensitivity.values(), *found.specificity.values()))
    assert found.probability["a"] == pytest.approx(0.5, abs=0.05)


def test_gold_and_bias_have_intervals_and_no_data_is_not_zero():
    found = gold_accuracy([("ana", "violates", "violates")] * 9 + [("ana", "allowed", "violates")])
    assert (found["ana"].value, found["ana"].n) == (0.9, 10)
    assert (found["ana"].low, found["ana"].high) == pytest.approx((0.5958, 0.9821), abs=1e-4)  # Wilson 1927
    assert share(0, 0).value is None
    given = [(True, True)] * 56 + [(True, False)] * 14 + [(False, True)] * 48 + [(False, False)] * 32
    bias = automation_bias(given)
    expected = confint_proportions_2indep(56, 70, 48, 80, method="newcomb", compare="diff")
    assert (bias.difference, bias.low, bias.high) == pytest.approx((0.2, *expected))
    assert automation_bias([(True, True)]).difference is None
