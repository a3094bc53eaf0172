"""The simulator of docs/scale.md: its waits are queueing theory's, and each assumption moves the table as it must."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from studies.simulate import BEGIN, END, PAGE, Outcome, read_assumptions, read_measured, render, simulate, simulate_pool
from workbench.errors import ConfigError

MEASURED = read_measured()
SMALL = ("posts_per_day=1.0e+8", "moderators=500", "pools=20")


def outcome(*changes: str) -> Outcome:
    return simulate(read_assumptions([*SMALL, *changes]), MEASURED)


def test_the_page_is_what_the_simulator_says() -> None:
    assert PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0] == render(MEASURED), "make simulate --write"


def mean_wait(people: int, per_s: float, seconds: float) -> float:
    """Erlang's C: the closed form for one class, exponential times and an even load."""
    load = per_s * seconds
    last = load**people / math.factorial(people) * people / (people - load)
    all_busy = last / (sum(load**k / math.factorial(k) for k in range(people)) + last)
    return all_busy * seconds / (people - load)


def test_waits_are_those_of_erlangs_formula() -> None:
    rng = np.random.default_rng(5)
    found = simulate_pool({"all": 0.17}, people=5, seconds=25.0, peak=1.0, rng=rng, day_s=400_000.0)
    load, people = 0.17 * 25, 5
    waits = mean_wait(people, 0.17, 25.0)
    # who waits at all waits exponentially: P(wait > t) = C exp(-(people - load) t / seconds)
    all_busy = waits * (people - load) / 25.0
    p95 = math.log(all_busy / 0.05) * 25.0 / (people - load)
    assert found["all"].p95 == pytest.approx(p95, rel=0.08)
    assert found["all"].unanswered <= 5


def test_twice_the_posts_cost_twice_as_much() -> None:
    once, twice = outcome(), outcome("posts_per_day=2.0e+8")
    assert twice.usd_per_day == pytest.approx(2 * once.usd_per_day)
    assert twice.cores == pytest.approx(2 * once.cores)
    assert twice.judging_usd_per_million == pytest.approx(once.judging_usd_per_million)
    faster = outcome("times_faster_per_usd=4.0")
    assert faster.judging_usd_per_million == pytest.approx(once.judging_usd_per_million / 4)


def test_fewer_moderators_let_every_severity_wait_longer_and_the_severe_least() -> None:
    found = [outcome(f"moderators={n}") for n in (1000, 600, 400, 250)]
    for name in found[0].waits:
        p95 = [one.waits[name].p95 for one in found]
        assert p95 == sorted(p95), name
    for one in found:
        by_severity = [wait.p95 for wait in one.waits.values()]
        assert by_severity == sorted(by_severity)
    assert found[-1].waits["low"].p95 > 100 * found[-1].waits["severe"].p95
    assert found[-1].load_of_people == pytest.approx(4 * found[0].load_of_people)
    assert found[-1].limits[0].name == "people" and found[-1].limits[0].use > 1


def test_what_breaks_first_follows_the_assumptions() -> None:
    assert outcome("cores_available=3000").limits[0].name == "processors for judging"
    # a record of acts that lets one in at a time does not grow with machines
    chain = [one.use for one in outcome("posts_per_day=2.0e+9", "moderators=20000").limits if "chain" in one.name]
    assert chain[0] > 1


@pytest.mark.parametrize("change", ["posts_a_day=1", "moderators=-1", "peak_over_mean=3.0", "moderators"])
def test_an_assumption_that_cannot_be_is_refused(change: str) -> None:
    with pytest.raises(ConfigError):
        read_assumptions([change])


def test_the_measured_inputs_are_those_of_the_files() -> None:
    values: Sequence[float] = (MEASURED.pairs_per_core_s, MEASURED.claim_s, MEASURED.label_s, MEASURED.decide_s)
    assert all(value > 0 for value in values)
    assert (MEASURED.exploration, MEASURED.gold) == (0.10, 0.05)
