"""How much evidence a comparison will give, before it is made: items, chance to pass, cost. Knows numbers, no model.

What nobody can know before the run is how many answers a candidate will change. It is taken, in this order, from what
the user says, from earlier comparisons on the task, or from the baseline's own accuracy: two unrelated models that are
right a share `a` of the time disagree on 2a(1 − a) of the items, and a checkpoint disagrees with its parent on a part
of that (`RELATED`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from workbench import paired
from workbench.records import Role

RELATED = 0.3
"""Disagreement of a checkpoint with its parent, as a share of that of two unrelated models of the same accuracy.

Measured on SmolLM2-135M (`studies.planning`): 0.21, 0.28 and 0.35 for weights moved 45, 60 and 75% of the way towards
their 3-bit rounding; a copy in another type changes nothing. Assuming too much asks for too many items, not too few.
"""
UNKNOWN = 0.1
"""Share of changed answers where nothing at all is known of the baseline."""
CLUSTERED = 0.1
"""Correlation of changes within a passage, where the baseline's answers do not say."""
_GRID = 60
_FEWEST = 20

Origin = Literal["given", "comparisons", "baseline", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFacts:
    """What is known of a task before the run."""

    task: str
    role: Role
    required: bool
    margin: float
    items: int
    """There are so many."""
    discordance: float
    """Share of items whose answer is expected to change."""
    origin: Origin
    """Where that is from."""
    design_effect: float
    """How many clustered items are worth one independent one."""
    tokens_per_item: float
    """Tokens to compute, shared prefixes counted once."""
    guessing: bool = False
    """The baseline is not told from guessing, so nothing can be seen."""
    pooled: bool = False
    """The metric is no mean of right and wrong items (perplexity), and this plan does not speak of it."""
    prompts: int | None = None
    """Each item is asked in so many prompts; the tokens are those of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskPlan:
    """What a task can certify, and what that costs."""

    facts: TaskFacts
    needed: int | None
    """Items at which an unchanged candidate is kept with the asked power; None: no number would do, or is known."""
    planned: int
    """Items to ask."""
    chance: float | None
    """Chance that the task is kept with the planned items if nothing is lost; None where it cannot certify."""
    least_margin: float | None
    """The smallest margin that all items there are can certify with the asked power."""
    finds: int | None
    """Items at which a loss of the margin raises the alarm with the asked power; None as for `needed`."""
    seconds: float | None
    """Of the planned items; None where no speed is known."""

    @property
    def certifies(self) -> bool:
        """Whether all the items there are suffice."""
        return self.needed is not None and self.needed <= self.facts.items


def expected_discordance(
    accuracy: float | None, *, given: float | None = None, seen: Sequence[float] = ()
) -> tuple[float, Origin]:
    """Share of items whose answer a candidate will change, and where that is from.

    >>> expected_discordance(0.5)
    (0.15, 'baseline')
    >>> expected_discordance(0.5, seen=[0.02, 0.2, 0.08])
    (0.08, 'comparisons')
    """
    if given is not None:
        return given, "given"
    if seen:
        ordered = sorted(seen)
        middle = len(ordered) // 2
        median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        return max(median, 0.002), "comparisons"
    if accuracy is not None:
        return max(RELATED * 2 * accuracy * (1 - accuracy), 0.002), "baseline"
    return UNKNOWN, "unknown"


def find_chance(
    items: int, loss: float, *, discordance: float, alpha: float = 0.05, design_effect: float = 1.0
) -> float:
    """Chance that the exact McNemar test finds a true loss: summed over how many answers change, and how many fell.

    `discordance` is the share of changed answers, at least the loss itself.
    """
    from scipy.stats import binom

    n, changed = max(1, int(items / design_effect)), min(1.0, max(discordance, loss))
    moved = np.arange(int(binom.isf(1 - 1e-9, n, changed)), int(binom.isf(1e-9, n, changed)) + 1)
    enough = binom.isf(alpha, moved, 0.5) + 1  # so many lost that as many or more are chance at most alpha
    found = binom.sf(enough - 1, moved, (changed + loss) / (2 * changed))
    return float(found @ binom.pmf(moved, n, changed))


def items_to_find(
    loss: float, *, discordance: float, alpha: float = 0.05, power: float = 0.8, design_effect: float = 1.0
) -> int:
    """Items at which a true loss is found with chance `power` by the test that `compare` makes (exact McNemar).

    Miettinen's formula (1968), n = (z₁₋α·√ψ + z_power·√(ψ − loss²))² / loss², is where the search begins: the exact
    test is a little more careful than its normal approximation, so it needs some more.

    >>> items_to_find(0.02, discordance=0.10)
    1629
    """
    changed = max(discordance, loss)
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(power)
    root = z_alpha * math.sqrt(changed) + z_power * math.sqrt(max(changed - loss * loss, 0.0))
    low, high = 1, math.ceil(1.5 * (root / loss) ** 2) + 20
    while low < high:
        middle = (low + high) // 2
        reached = find_chance(middle, loss, discordance=discordance, alpha=alpha) >= power
        low, high = (low, middle) if reached else (middle + 1, high)
    return math.ceil(design_effect * low)


def plan_task(facts: TaskFacts, *, power: float, alpha: float, tokens_per_second: float | None) -> TaskPlan:
    """What the task can certify with all its items."""
    if facts.guessing or facts.pooled:
        return _with_items(
            TaskPlan(facts=facts, needed=None, planned=0, chance=None, least_margin=None, finds=None, seconds=None),
            facts.items,
            alpha,
            tokens_per_second,
        )
    needed = paired.items_needed(
        discordance=facts.discordance,
        margin=facts.margin,
        alpha=alpha,
        power=power,
        design_effect=facts.design_effect,
    )
    least = _least_margin(facts, power=power, alpha=alpha)
    finds = items_to_find(
        facts.margin, discordance=facts.discordance, alpha=alpha, power=power, design_effect=facts.design_effect
    )
    made = TaskPlan(facts=facts, needed=needed, planned=0, chance=None, least_margin=least, finds=finds, seconds=None)
    return _with_items(made, facts.items, alpha, tokens_per_second)


def fit_budget(plans: Sequence[TaskPlan], budget_s: float, *, alpha: float, tokens_per_second: float) -> list[TaskPlan]:
    """Number of items for each task so that the whole gate is as likely to pass as the time allows.

    Maximises the product of the required tasks' chances under the budget (a Lagrange multiplier, bisected). Tasks that
    can certify nothing get no items, advisory ones what is left over.
    """
    required = [plan for plan in plans if plan.facts.required and plan.chance is not None]
    cost = {plan.facts.task: plan.facts.tokens_per_item / tokens_per_second for plan in plans}

    def choose(price: float) -> dict[str, int]:
        return {plan.facts.task: _best_items(plan.facts, price * cost[plan.facts.task], alpha) for plan in required}

    def spent(chosen: dict[str, int]) -> float:
        return sum(cost[task] * items for task, items in chosen.items())

    low, high = 1e-9, 1e9
    chosen = choose(low)
    if spent(chosen) > budget_s:
        for _ in range(80):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if spent(choose(middle)) > budget_s else (low, middle)
        chosen = choose(high)
    left = budget_s - spent(chosen)
    for plan in (p for p in plans if p.chance is not None and not p.facts.required):
        affordable = min(plan.facts.items, int(left / cost[plan.facts.task])) if cost[plan.facts.task] else 0
        chosen[plan.facts.task] = affordable if affordable >= _FEWEST else 0
        left -= cost[plan.facts.task] * chosen[plan.facts.task]
    return [_with_items(plan, chosen.get(plan.facts.task, 0), alpha, tokens_per_second) for plan in plans]


def budget_for(plans: Sequence[TaskPlan], chance: float, *, alpha: float, tokens_per_second: float) -> float | None:
    """Seconds from which on the gate passes with this chance if nothing is lost; None: all items do not suffice."""
    most = sum(plan.facts.items * plan.facts.tokens_per_item / tokens_per_second for plan in plans)

    def reached(seconds: float) -> bool:
        fitted = fit_budget(plans, seconds, alpha=alpha, tokens_per_second=tokens_per_second)
        return (gate_chance(fitted) or 0.0) >= chance

    if not reached(most):
        return None
    low, high = 0.0, most
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def spend_nothing(plans: Sequence[TaskPlan], *, alpha: float, tokens_per_second: float) -> list[TaskPlan]:
    """No items for any task: what a budget is worth that buys no certificate."""
    return [_with_items(plan, 0, alpha, tokens_per_second) for plan in plans]


def gate_chance(plans: Sequence[TaskPlan]) -> float | None:
    """Chance that every required task is kept if nothing is lost; None: one of them cannot be certified at all."""
    chances = [plan.chance for plan in plans if plan.facts.required]
    if not chances or any(chance is None for chance in chances):
        return None
    return math.prod(chance for chance in chances if chance is not None)


def _with_items(plan: TaskPlan, items: int, alpha: float, tokens_per_second: float | None) -> TaskPlan:
    facts = plan.facts
    certain = not (facts.guessing or facts.pooled)
    chance = _chance(facts, items, alpha) if certain else None
    seconds = items * facts.tokens_per_item / tokens_per_second if tokens_per_second else None
    return replace(plan, planned=items, chance=chance, seconds=seconds)


def _chance(facts: TaskFacts, items: int, alpha: float, margin: float | None = None) -> float:
    if items < _FEWEST:
        return 0.0
    return paired.pass_probability(
        items,
        discordance=facts.discordance,
        margin=facts.margin if margin is None else margin,
        alpha=alpha,
        design_effect=facts.design_effect,
    )


def _least_margin(facts: TaskFacts, *, power: float, alpha: float) -> float | None:
    low, high = 0.0005, 0.5
    if _chance(facts, facts.items, alpha, high) < power:
        return None
    while high - low > 0.0005:
        middle = (low + high) / 2
        low, high = (low, middle) if _chance(facts, facts.items, alpha, middle) >= power else (middle, high)
    return high


def _best_items(facts: TaskFacts, price: float, alpha: float) -> int:
    """Items that maximise log chance − price·items."""
    ratio = (facts.items / _FEWEST) ** (1 / (_GRID - 1)) if facts.items > _FEWEST else 1.0
    grid = sorted({min(facts.items, math.ceil(_FEWEST * ratio**i)) for i in range(_GRID)})
    return max(grid, key=lambda n: math.log(max(_chance(facts, n, alpha), 1e-12)) - price * n)
