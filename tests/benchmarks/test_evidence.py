"""Plans of evidence: what certifies, what the time buys, and whether the numbers hold in simulation."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evidence import (
    RELATED,
    TaskFacts,
    budget_for,
    expected_discordance,
    find_chance,
    fit_budget,
    gate_chance,
    items_to_find,
    plan_task,
    spend_nothing,
)
from studies import error_rates
from workbench import paired

WAY: dict[str, Any] = {"power": 0.8, "alpha": 0.05}


def facts(task: str = "t", **more: Any) -> TaskFacts:
    fields: dict[str, Any] = {
        "role": "general",
        "required": True,
        "margin": 0.02,
        "items": 4000,
        "discordance": 0.1,
        "origin": "given",
        "design_effect": 1.0,
        "tokens_per_item": 50.0,
    }
    return TaskFacts(task=task, **(fields | more))


def plan(one: TaskFacts) -> Any:
    return plan_task(one, tokens_per_second=1000.0, **WAY)


def test_a_task_certifies_only_if_there_are_enough_items() -> None:
    """Published sample sizes at 80% power: about 1,546 for 2 points and 6,183 for 1 point at 10% changed answers."""
    two, one = plan(facts()), plan(facts(margin=0.01))
    assert two.needed == pytest.approx(1546, rel=0.03) and two.certifies
    assert one.needed == pytest.approx(6183, rel=0.03) and not one.certifies
    assert one.least_margin == pytest.approx(0.01 * math.sqrt(6183 / 4000), rel=0.06)
    assert two.seconds == pytest.approx(4000 * 50 / 1000)


def test_clusters_need_more_items_and_guessing_or_pooled_tasks_certify_nothing() -> None:
    assert plan(facts(design_effect=2.0)).needed == pytest.approx(2 * plan(facts()).needed, rel=0.01)
    for nothing in (plan(facts(guessing=True)), plan(facts(pooled=True))):
        assert (nothing.chance, nothing.needed, nothing.certifies) == (None, None, False)
    assert gate_chance([plan(facts()), plan(facts(guessing=True))]) is None
    assert gate_chance([plan(facts()), plan(facts(guessing=True, required=False))]) == plan(facts()).chance


def test_the_gate_is_as_likely_as_all_its_tasks_together() -> None:
    plans = [plan(facts(f"t{i}", items=1546)) for i in range(15)]
    assert plans[0].chance == pytest.approx(0.8, abs=0.01)
    assert gate_chance(plans) == pytest.approx(plans[0].chance ** 15)


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.tuples(st.integers(100, 6000), st.floats(5, 400), st.floats(0.01, 0.06)), min_size=1, max_size=5),
    budget=st.floats(5, 3000),
)
def test_a_budget_is_kept_and_more_time_is_never_worse(sizes: list[tuple[int, float, float]], budget: float) -> None:
    plans = [
        plan(facts(f"t{i}", items=n, tokens_per_item=tokens, margin=margin))
        for i, (n, tokens, margin) in enumerate(sizes)
    ]
    least = sum(min(20, p.facts.items) * p.facts.tokens_per_item / 1000 for p in plans)
    chances = []
    for time in (budget, 2 * budget):
        fitted = fit_budget(plans, time, alpha=0.05, tokens_per_second=1000.0)
        assert sum(p.seconds or 0 for p in fitted) <= max(time, least) * 1.0001
        assert all(p.planned <= p.facts.items for p in fitted)
        chances.append(gate_chance(fitted))
    assert chances[1] >= chances[0] - 1e-6


def test_time_goes_where_it_buys_most() -> None:
    """Two like tasks of which one costs ten times as much an item: the cheap one gets more items."""
    plans = [plan(facts("dear", tokens_per_item=500.0)), plan(facts("cheap"))]
    dear, cheap = fit_budget(plans, 600.0, alpha=0.05, tokens_per_second=1000.0)
    assert cheap.planned > dear.planned
    even = 600.0 * 1000 / 550
    halves = [plan(facts("dear", items=int(even))), plan(facts("cheap", items=int(even)))]
    assert (gate_chance([dear, cheap]) or 0) > (gate_chance(halves) or 0)


@pytest.mark.parametrize(("loss", "changed"), [(0.02, 0.1), (0.05, 0.2), (0.03, 0.05)])
def test_a_loss_is_found_as_often_as_planned(loss: float, changed: float) -> None:
    """By the exact test itself, over all tables that can come out."""
    n = items_to_find(loss, discordance=changed)
    gained, lost, chance = error_rates.all_tables(n, changed, -loss)
    found = np.array([paired.mcnemar_loss_p(g, c) <= 0.05 for g, c in zip(gained, lost, strict=True)])
    power = float(chance[found].sum())
    assert power == pytest.approx(find_chance(n, loss, discordance=changed), abs=1e-6)
    assert 0.8 <= power < 0.815
    # the textbook's normal approximation (Miettinen 1968) promises the same with fewer items, and does not hold it
    z = 1.6448536 * math.sqrt(changed) + 0.8416212 * math.sqrt(changed - loss * loss)
    textbook = math.ceil((z / loss) ** 2)
    assert textbook < n < 1.25 * textbook
    assert find_chance(textbook, loss, discordance=changed) < 0.8


def test_a_budget_that_buys_no_certificate_is_not_spent_and_says_what_would_do() -> None:
    plans = [plan(facts(f"t{i}")) for i in range(3)]
    least = budget_for(plans, 0.5, alpha=0.05, tokens_per_second=1000.0)
    assert least is not None
    enough, short = (fit_budget(plans, t, alpha=0.05, tokens_per_second=1000.0) for t in (1.001 * least, 0.9 * least))
    assert (gate_chance(enough) or 0) >= 0.5 > (gate_chance(short) or 0)
    saved = spend_nothing(plans, alpha=0.05, tokens_per_second=1000.0)
    assert [one.planned for one in saved] == [0, 0, 0] and sum(one.seconds or 0 for one in saved) == 0
    assert budget_for([plan(facts(items=300))], 0.5, alpha=0.05, tokens_per_second=1000.0) is None


def test_the_share_of_changed_answers_is_what_is_known_best() -> None:
    assert expected_discordance(0.5, given=0.03, seen=[0.2]) == (0.03, "given")
    assert expected_discordance(0.5, seen=[0.2, 0.1]) == (pytest.approx(0.15), "comparisons")
    assert expected_discordance(0.8) == (pytest.approx(RELATED * 0.32), "baseline")
    assert expected_discordance(None)[1] == "unknown"
    assert expected_discordance(1.0)[0] > 0
