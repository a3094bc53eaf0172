"""What may be cleared alone keeps its promise, or is not cleared at all; and what is new is noticed, not too often."""

import numpy as np
import pytest
from scipy.stats import binomtest

from safety.drift import BETS, NoveltyAlarm, draft_rule, lane_items, rising_clusters
from safety.resolved import Risk
from safety.schema import RuleEntry
from safety.triage import Labelled, triage

RISK = Risk(miss=0.05, confidence=0.95)


def labelled(violations, allowed=500, seed=0):
    rng = np.random.default_rng(seed)
    return Labelled(violating=rng.beta(5, 2, violations).tolist(), allowed=rng.beta(1, 8, allowed).tolist())


def test_a_promise_says_what_it_promises_and_on_what():
    (found,) = triage({"spam": labelled(143)}, RISK)
    assert found.feasible and found.cleared > 0.2
    assert "misses at most 5% of violations, 95% confidence, 143 of them of the exploration stream" in found.sentence


def test_with_58_violations_nothing_is_cleared_and_it_is_said_aloud():
    (found,) = triage({"spam": labelled(58)}, RISK, days=29)
    assert not found.feasible and found.cleared == 0.0 and found.threshold.low == 0.0
    assert (found.missing, found.days) == (1, 1)
    assert "everything goes to people" in found.sentence
    assert triage({"spam": labelled(59)}, RISK)[0].feasible


def test_a_category_without_labels_enough_borrows_those_of_its_parent():
    labels = {"hate": labelled(40), "hate.slur": labelled(10), "hate.threat": labelled(30), "spam": labelled(10)}
    found = {one.category: one for one in triage(labels, RISK)}
    assert found["hate.slur"].pooled == ("hate", "hate.slur", "hate.threat") and found["hate.slur"].violations == 80
    assert "pooled over" in found["hate.slur"].sentence
    assert not found["spam"].feasible


def test_the_promise_is_broken_as_seldom_as_it_says():
    broken = 0
    for seed in range(400):
        rng = np.random.default_rng([seed, 5])
        scores = rng.beta(5, 2, 100)
        (found,) = triage({"spam": Labelled(violating=scores.tolist(), allowed=[])}, RISK)
        from scipy.stats import beta

        broken += beta.cdf(found.threshold.low, 5, 2) > 0.05
    assert binomtest(broken, 400, 0.05, alternative="greater").pvalue > 1e-3


def test_a_stream_that_does_not_change_seldom_alarms():
    fired = 0
    for seed in range(100):
        alarm = NoveltyAlarm()
        fired += alarm.feed(np.random.default_rng([seed, 1]).random(1000))
    # on average 5,000 texts to a false alarm, so at most a fifth of streams of 1,000; measured far below
    assert fired <= 20


def test_a_new_cluster_of_a_tenth_alarms_within_some_hundred_texts():
    waits = []
    for seed in range(20):
        rng = np.random.default_rng([seed, 2])
        p = rng.random(3000)
        p[rng.random(3000) < 0.10] = 0.001
        alarm = NoveltyAlarm()
        assert alarm.feed(p)
        waits.append(alarm.fired_at)
    assert np.median(waits) < 250


def test_the_evidence_is_that_of_bets_by_hand():
    alarm = NoveltyAlarm()
    alarm.feed(np.array([0.001, 0.5]))
    wanted = np.mean([max(bet, 1.0) * (1 - bet * 0.01) / 0.99 for bet in BETS])
    assert alarm.evidence == pytest.approx(wanted)
    alarm.reset()
    assert (alarm.evidence, alarm.seen, alarm.fired_at) == (0.0, 0, None)


def test_a_cluster_that_arrives_faster_is_found_and_steady_ones_are_not():
    rng = np.random.default_rng(0)
    before = {f"c{n}": int(rng.poisson(70)) for n in range(200)}
    now = {name: int(rng.poisson(10)) for name in before} | {"c3": 45, "new": 12}
    found = rising_clusters(now, before, window=1, history=7)
    assert {one.cluster for one in found[:2]} == {"c3", "new"}
    assert len(found) <= 4
    (steady,) = [one for one in found if one.cluster == "c3"]
    exact = binomtest(45, 45 + before["c3"], 1 / 8, alternative="greater").pvalue
    assert steady.p == pytest.approx(exact, rel=1e-6)


def test_nothing_rises_in_nothing():
    assert rising_clusters({}, {}, window=1, history=7) == []


def test_an_alarm_opens_a_lane_of_the_middle_and_the_edge():
    rng = np.random.default_rng(0)
    usual = rng.normal(size=(900, 6)) + np.array([4, 0, 0, 0, 0, 0])
    fresh = rng.normal(size=(100, 6)) + np.array([0, 6, 0, 0, 0, 0])
    suspects = np.arange(1000) >= 900
    lane = lane_items(np.vstack([usual, fresh]), suspects)
    assert len(lane) == len(set(lane.tolist())) == 100
    assert suspects[lane[:50]].all()
    assert len(lane_items(usual[:30], suspects[-30:])) == 30
    assert len(lane_items(usual, np.zeros(900, bool))) == 0


def test_a_drafted_rule_is_a_rule_that_withholds_nothing():
    rule = RuleEntry.model_validate(draft_rule("Crypto Giveaway!", ["send 1 get 2"]))
    assert rule.id == "draft-crypto-giveaway"
    assert rule.actions == {"user_input": "log", "model_output": "review", "content": "review"}
