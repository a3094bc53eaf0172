"""A ranked queue: prices, laws of every ranker, and draws whose probabilities are those that are written down."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety.review.ranking import (
    SEVERITIES,
    Pool,
    Shares,
    draw_batch,
    expected_loss,
    is_kept_aside,
    pool_of,
    rank,
    rankers,
    scores_of,
)
from workbench.errors import ConfigError, UserError

LOW, MEDIUM, HIGH, CRITICAL = range(4)


def pool(p, severity=MEDIUM, withheld=False, **more):
    p = np.asarray(p, np.float64)
    return Pool(
        probability=p,
        severity=np.broadcast_to(np.asarray(severity, np.int8), p.shape).copy(),
        withheld=np.broadcast_to(np.asarray(withheld), p.shape).copy(),
        **more,
    )


def random_pool(n, seed=0, **more):
    rng = np.random.default_rng(seed)
    return pool(rng.beta(0.3, 4.0, n), rng.integers(0, 3, n), rng.random(n) < 0.1, **more)


def test_what_is_served_costs_its_probability_times_severity_and_readers():
    found = expected_loss(pool([0.5, 0.5, 0.1], [LOW, CRITICAL, CRITICAL], views=np.array([0.0, 0.0, 6.0])))
    assert found * 12.0 == pytest.approx([0.5 * 1, 0.5 * 100, 0.1 * 100 * 3])


def test_what_is_withheld_costs_the_chance_that_it_was_allowed():
    found = expected_loss(pool([0.9, 0.4], HIGH, True, expressive=np.array([False, True])))
    assert found * 12.0 == pytest.approx([0.1, 0.6 * 3])


def test_disagreement_counts_for_the_worse_on_both_sides():
    served, withheld = (pool([0.5], LOW, side, sd=np.array([0.2])) for side in (False, True))
    assert expected_loss(served) * 12.0 == pytest.approx(0.7)
    assert expected_loss(withheld) * 12.0 == pytest.approx(0.7)


def test_waiting_doubles_a_text_each_half_of_its_time_up_to_eight():
    ages = np.array([0.0, 1.0, 2.0, 50.0]) * 2 * 3600
    found = expected_loss(pool([0.5] * 4, age_s=ages, sla_s=4 * 3600.0))
    assert found / found[0] == pytest.approx([1, 2, 4, 8])


def test_a_quick_question_goes_before_a_slow_one():
    assert rank(pool([0.5, 0.5], seconds=np.array([60.0, 5.0]))).tolist() == [1, 0]


def test_critical_and_plausible_goes_before_everything():
    found = pool([0.99, 0.2, 0.19, np.nan], [HIGH, CRITICAL, CRITICAL, CRITICAL], views=np.array([1e9, 0, 0, 0.0]))
    assert found.must_review.tolist() == [False, True, False, True]
    assert set(rank(found)[:2].tolist()) == {1, 3}


def test_what_could_not_be_scored_may_be_anything():
    served, withheld = pool([np.nan, 1.0], HIGH), pool([np.nan, 0.0], HIGH, True)
    assert expected_loss(served)[0] == expected_loss(served)[1]
    assert expected_loss(withheld)[0] == expected_loss(withheld)[1]


@pytest.mark.parametrize("name", rankers.names())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_ranker_keeps_the_laws(name, data):
    n = data.draw(st.integers(0, 30))
    given_p = data.draw(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), min_size=n, max_size=n))
    severity = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.int8)
    withheld = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    whole = Pool(probability=np.array(given_p, np.float64), severity=severity, withheld=withheld)
    scores = scores_of(whole, name)
    assert scores.shape == (n,) and np.all(np.isfinite(scores)) and np.all(scores >= 0)
    turned = np.random.default_rng(0).permutation(n)
    other = Pool(probability=whole.probability[turned], severity=severity[turned], withheld=withheld[turned])
    np.testing.assert_allclose(scores_of(other, name), scores[turned])
    assert sorted(rank(whole, name).tolist()) == list(range(n))


def test_margin_and_entropy_order_two_classes_alike():
    whole = random_pool(500)
    assert rank(whole, "margin").tolist() == rank(whole, "entropy").tolist()


def test_an_unknown_ranker_is_told_and_a_broken_one_refused():
    with pytest.raises(UserError, match="did you mean"):
        rank(random_pool(3), "expected_los")
    name = "broken-for-a-test"
    rankers.register(name, replace=True)(lambda own: np.full(len(own), np.nan))
    try:
        with pytest.raises(ConfigError, match="finite"):
            rank(random_pool(3), name)
    finally:
        del rankers._loaded[name]


def test_a_draw_of_the_same_seed_is_the_same_and_of_another_one_is_not():
    whole = random_pool(5000)
    first, again, other = (draw_batch(whole, size=200, seed=seed) for seed in (1, 1, 2))
    assert first.items.tolist() == again.items.tolist() and first.strata == again.strata
    assert first.items.tolist() != other.items.tolist()


def test_texts_come_as_often_as_the_probability_that_is_written_down():
    rng = np.random.default_rng(3)
    whole = random_pool(400, seed=3, novelty=rng.random(400), cluster=rng.integers(0, 200, 400))
    times, draws = np.zeros(400), 4000
    for seed in range(draws):
        times[draw_batch(whole, size=40, seed=seed).items] += 1
    pi = draw_batch(whole, size=40, seed=0).all_inclusion
    z = (times - draws * pi) / np.sqrt(draws * pi * (1 - pi) + 1e-9)
    assert abs(z.mean()) < 4 / np.sqrt(400)
    assert np.abs(z).max() < 5.0  # of 400 normal values: 1 in 4,000 tests fails by chance
    assert pi.min() > 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 400), st.integers(0, 5))
def test_as_many_are_expected_as_there_is_room_for(n, size, seed):
    whole = random_pool(n, seed)
    found = draw_batch(whole, size=size, seed=seed)
    wanted = min(0.95 * size, n)
    assert found.all_inclusion.sum() <= wanted + 1e-6 * size
    if size < n / 20:
        assert found.all_inclusion.sum() == pytest.approx(wanted, rel=1e-6)


def test_exploration_is_a_plain_sample_of_a_tenth():
    whole = random_pool(20_000)
    rank_of = np.empty(20_000)
    rank_of[rank(whole)] = np.arange(20_000) / 20_000
    seen = [draw_batch(whole, size=1000, seed=seed) for seed in range(40)]
    places = np.concatenate([rank_of[found.items[found.exploration]] for found in seen])
    assert len(places) / 40 == pytest.approx(100, abs=6)
    from scipy.stats import kstest

    assert kstest(places, "uniform").pvalue > 1e-4


def test_of_near_duplicates_one_has_a_ranked_chance():
    whole = pool([0.9] * 1000 + [0.01] * 9000, cluster=np.array([7] * 1000 + [-1] * 9000))
    found = draw_batch(whole, size=100, seed=0)
    crowd = found.all_inclusion[:1000]
    assert (crowd > 0.0011).sum() == 1  # the others have their chance of exploration, 0.1 * 100 / 10,000
    assert crowd.min() == pytest.approx(0.001)


def test_what_must_be_looked_at_is_drawn_whatever_the_budget():
    whole = pool([0.3] * 50 + [0.0] * 1000, [CRITICAL] * 50 + [LOW] * 1000)
    found = draw_batch(whole, size=10, seed=0)
    assert set(range(50)) <= set(found.items.tolist())
    assert np.all(found.all_inclusion[:50] == 1.0)
    assert found.items[:50].max() < 50  # and first


def test_less_exploration_than_estimates_bear_is_refused():
    with pytest.raises(ConfigError, match="exploration"):
        Shares(priority=0.8, diversity=0.15, exploration=0.0, gold=0.05)
    with pytest.raises(ConfigError, match="1 together"):
        Shares(priority=0.9)


def test_an_empty_pool_is_refused():
    with pytest.raises(ConfigError, match="needs texts"):
        draw_batch(random_pool(0), size=10, seed=0)


def test_half_of_the_keys_are_kept_aside_and_always_the_same_ones():
    keys = [f"cluster {n}" for n in range(4000)]
    kept = is_kept_aside(keys)
    assert kept.mean() == pytest.approx(0.5, abs=0.03)
    assert is_kept_aside(keys[::-1])[::-1].tolist() == kept.tolist()
    assert is_kept_aside(keys, seed=1).tolist() != kept.tolist()


def test_lines_of_a_moderation_become_a_pool_by_their_dearest_rule():
    def one(value, p, severity, **more):
        return {"value": value, "probability": p, "action": "review", "severity": severity, **more}

    rows = [
        {"action": "review", "rules": {"spam": one("violates", 0.9, "low"), "threat": one("uncertain", 0.3, "high")}},
        {"action": "hold", "rules": {"spam": one("violates", 0.9, "low", expressive=True)}},
        {"action": "hold", "rules": {"threat": one("unscorable", None, "critical")}},
        {"action": "review", "rules": {"names": one("violates", None, "low"), "words": one("allowed", None, "high")}},
        {"action": "allow", "rules": {}},
    ]
    found = pool_of(rows)
    assert found.probability.tolist()[:2] == [0.3, 0.9] and np.isnan(found.probability[2])
    assert found.probability.tolist()[3:] == [1.0, 0.0]
    assert [SEVERITIES[s] for s in found.severity] == ["high", "low", "critical", "low", "low"]
    assert found.withheld.tolist() == [False, True, True, False, False]
    assert found.must_review.tolist() == [False, False, True, False, False]


def test_a_million_texts_are_ranked_and_drawn_in_seconds():
    n = 1_000_000
    rng = np.random.default_rng(0)
    whole = random_pool(
        n, views=rng.exponential(50, n), age_s=rng.exponential(7200, n), cluster=rng.integers(0, 300_000, n)
    )
    start = time.process_time()
    rank(whole)
    draw_batch(whole, size=5000, seed=0)
    assert time.process_time() - start < 10.0  # 5 s of an idle core; this one is shared
