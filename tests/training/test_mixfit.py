"""The share of replay from a few arms: intervals that hold the next run, and a choice that keeps the budgets."""

import numpy as np
import pytest

from training.mixfit import ArmTask, fit_mix, scaled_shares

SHARES = (0.0, 0.02, 0.05, 0.15, 0.3)


def domain(share: float) -> float:
    return 0.10 - 0.12 * share


def general(share: float) -> float:
    return -0.09 * np.exp(-share / 0.06)


def arms(rng: np.random.Generator, curve, name: str, *, items: int, noise: float, margin: float = 0.03):
    """Items that flip so that the mean change is the curve's, each arm off by what another run would differ by."""
    base = rng.random(items) < 0.6
    hard = rng.random(items)  # which items fall first: the same in all arms
    columns = []
    for share in SHARES:
        change = curve(share) + rng.normal(0, noise)
        fall, rise = 0.07 - change / 2, 0.07 + change / 2  # change = rise - fall
        lost = base & (hard < fall / 0.6)
        gained = ~base & (hard < rise / 0.4)
        columns.append(gained.astype(float) - lost)
    return ArmTask(task=name, is_domain=name == "domain", margin=margin, changes=np.stack(columns, axis=1))


def test_the_interval_holds_the_next_run_in_at_least_eight_of_ten_problems() -> None:
    rng = np.random.default_rng(0)
    inside, total = 0, 40
    for _ in range(total):
        tasks = [
            arms(rng, domain, "domain", items=400, noise=0.006),
            arms(rng, general, "general", items=400, noise=0.006),
        ]
        plan = fit_mix(SHARES, tasks, seed=0, resamples=300)
        share = plan.share if plan.share is not None else plan.safest
        found = {curve.task: curve.at(share) for curve in plan.curves}
        runs = {"domain": domain(share) + rng.normal(0, 0.006), "general": general(share) + rng.normal(0, 0.006)}
        inside += all(found[name][1] <= runs[name] <= found[name][2] for name in runs)
    assert inside >= 0.8 * total


def test_the_choice_keeps_the_budget_and_wastes_no_domain() -> None:
    rng = np.random.default_rng(1)
    tasks = [
        arms(rng, domain, "domain", items=4000, noise=0.0),
        arms(rng, general, "general", items=4000, noise=0.0),
    ]
    plan = fit_mix(SHARES, tasks, seed=0)
    needed = 0.06 * np.log(0.09 / 0.03)  # where the true curve meets the budget
    assert plan.share is not None and needed <= plan.share <= 0.25
    wider = [tasks[0], ArmTask(task="general", is_domain=False, margin=0.08, changes=tasks[1].changes)]
    eased = fit_mix(SHARES, wider, seed=0).share
    assert eased is not None and eased < plan.share


def test_where_no_share_keeps_the_budget_that_is_said() -> None:
    rng = np.random.default_rng(2)
    tasks = [
        arms(rng, domain, "domain", items=300, noise=0.0),
        arms(rng, lambda _: -0.08, "general", items=300, noise=0.0),
    ]
    plan = fit_mix(SHARES, tasks, seed=0, resamples=200)
    assert plan.share is None and "no share up to 30% keeps every budget" in plan.why


def test_a_straight_line_is_found_as_least_squares_does() -> None:
    changes = np.array([[0.10, 0.09, 0.08, 0.03, -0.05]])
    tasks = [
        ArmTask(task="domain", is_domain=True, margin=0.1, changes=changes),
        ArmTask(task="general", is_domain=False, margin=0.1, changes=-changes),
    ]
    curve = fit_mix(SHARES, tasks, seed=0, resamples=50).curves[0]
    slope, start = np.polyfit(SHARES, changes[0], 1)
    assert curve.shape == "straight"
    assert curve.at(0.1)[0] == pytest.approx(start + 0.1 * slope)


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    one = arms(rng, general, "general", items=60, noise=0.0)
    many = np.repeat(one.changes, 10, axis=0)
    free = ArmTask(task="general", is_domain=False, margin=0.03, changes=many)
    groups = tuple(str(i // 10) for i in range(600))
    tied = ArmTask(task="general", is_domain=False, margin=0.03, changes=many, groups=groups)
    other = arms(rng, domain, "domain", items=60, noise=0.0)
    widths = []
    for task in (free, tied):
        _, low, high = fit_mix(SHARES, [other, task], seed=0, resamples=400).curves[1].at(0.05)
        widths.append(high - low)
    assert widths[1] > 1.5 * widths[0]


def test_too_little_to_fit_is_refused() -> None:
    rng = np.random.default_rng(4)
    task = arms(rng, general, "general", items=50, noise=0.0)
    with pytest.raises(ValueError, match="of the domain and retained"):
        fit_mix(SHARES, [task], seed=0)
    with pytest.raises(ValueError, match="too few"):
        fit_mix((0, 0.1, 0.2), [task], seed=0)


def test_each_side_keeps_its_proportions() -> None:
    assert scaled_shares({"a": 0.6, "b": 0.2, "r": 0.2}, ["r"], 0.0) == {"a": 0.75, "b": 0.25, "r": 0.0}
    assert scaled_shares({"a": 1.0, "r": 0.0}, ["r"], 0.3) == {"a": 0.7, "r": 0.3}
