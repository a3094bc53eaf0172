"""The arithmetic behind the pages of the moderation studies."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from studies.emerging_threat import DAYS, ONSET, PEAK, RAMP, share_new
from studies.emerging_threat_page import labels_at, noticed, recovered
from studies.moderation_tasks import SIZES, TASKS, everything_that_trains, split
from studies.one_moderator_page import Arm, difference, draws_of, interval
from studies.posts_first import missed
from workbench.config import data_folder


def story(recall: list[float], *, fifth: int | None, alarms: list[int]) -> dict[str, list]:
    labels = [5 if fifth is not None and day >= fifth else 0 for day in range(DAYS)]
    return {"recall": recall, "new_labels": labels, "alarms": alarms, "labels": [15 * (d + 1) for d in range(DAYS)]}


def test_a_threat_is_noticed_at_the_fifth_label_or_the_alarm_and_no_alarm_before_it_counts():
    low = [0.0] * DAYS
    assert noticed(story(low, fifth=ONSET + 9, alarms=[])) == 10
    assert noticed(story(low, fifth=ONSET + 9, alarms=[ONSET - 1, ONSET + 3])) == 4
    assert math.isinf(noticed(story(low, fifth=None, alarms=[ONSET - 1])))
    assert labels_at(story(low, fifth=None, alarms=[]), 10.0) == 150


def test_recall_that_falls_back_has_not_recovered():
    high = [0.0] * 20 + [0.9] * (DAYS - 20)
    assert recovered(story(high, fifth=None, alarms=[]), 1.0) == 20 - ONSET + 1
    assert math.isinf(recovered(story([*high[:-1], 0.1], fifth=None, alarms=[]), 1.0))


def test_the_new_kind_grows_to_its_peak_and_was_not_there_before():
    shares = [share_new(day) for day in range(DAYS)]
    assert shares[ONSET - 1] == 0.0 and shares[ONSET] == pytest.approx(PEAK / RAMP)
    assert shares == sorted(shares) and shares[-1] == PEAK


def made_up(seed: int) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    labels, scores = {}, {}
    for rule in ("a", "b"):
        truth = {side: [n % 5 < 2 for n in range(40)] for side in ("threshold", "test")}
        labels[rule] = {s: {"violates": t, "cluster": [str(n) for n in range(40)]} for s, t in truth.items()}
        scores[rule] = {s: [float(0.3 * bad + 0.7 * rng.random()) for bad in t] for s, t in truth.items()}
    return labels, scores


def test_means_over_rules_are_those_of_scikit_learn_and_an_arm_does_not_differ_from_itself():
    labels, scores = made_up(0)
    arm, draws = Arm(scores, labels), draws_of(labels)
    wanted = np.mean([average_precision_score(labels[r]["test"]["violates"], scores[r]["test"]) for r in scores])
    value, low, high = interval(arm, list(scores), draws, 0.5)["ap"]
    assert value == pytest.approx(wanted) and low < value < high
    assert difference(arm, arm, list(scores), draws, (0.5, 0.5))["ap"] == (0.0, 0.0, 0.0)


def test_what_could_not_be_scored_is_wrong():
    labels, scores = made_up(1)
    scores["a"]["test"] = [None] * 40
    assert Arm(scores, labels).measure(["a"], draws_of(labels), -1, 0.5)["recall"] == 0.0


def test_missed_threats_are_those_below_the_threshold_that_keeps_the_precision():
    truth = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    assert missed(truth, np.linspace(1, 0, 7)) == pytest.approx(0.25)  # three of the first four violate, of four in all


@pytest.mark.skipif(data_folder() is None, reason="the public sets are not part of the repository")
def test_no_text_stands_on_two_sides_whatever_rules_ask_about_it():
    side_of: dict[str, str] = {}
    for task in TASKS:
        sides = split(task)
        assert {side: len(rows) for side, rows in sides.items()} == dict(SIZES)
        for side, rows in [*sides.items(), ("train", everything_that_trains(task))]:
            for one in rows:
                assert side_of.setdefault(" ".join(one.text.lower().split()), side) == side
