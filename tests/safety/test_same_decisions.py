"""Evaluation and the guard decide the same: 1,000 texts through a real guard, its threads and views, and the tables."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from safety.compile import evaluation_plan, runtime_table
from safety.guard import Guard
from safety.judges.base import CategoryLike, Passage
from safety.policy import is_withheld, load_policy, shipped_policies
from safety.resolved import RANK
from workbench.records import SURFACES, Judgement, JudgementValue

VALUES: tuple[JudgementValue, ...] = ("violates", "allowed", "uncertain", "unscorable")
CONTEXTS: tuple[dict[str, Any], ...] = (
    {},
    {"caller_role": "pentester", "engagement": {"id": "E", "scope": ["h"]}, "target": "h"},
    {"is_moderator": True},
)
ITEMS = 1000


class TableJudge:
    """Answers what the test has written down for a text; a text that it does not know is allowed."""

    def __init__(self, name: str, answers: Mapping[str, Mapping[str, JudgementValue]]) -> None:
        self.name, self.answers = name, answers

    def judge(self, passages: Sequence[Passage], categories: Sequence[CategoryLike]) -> list[list[Judgement]]:
        return [[self._one(passage.text, category.id) for category in categories] for passage in passages]

    def _one(self, text: str, category: str) -> Judgement:
        found = re.match(r"case ([a-j]+)", text)
        value = self.answers.get(found[1] if found else "", {}).get(category, "allowed")
        return Judgement(category=category, value=value, judge=self.name)


def draw(rng: np.random.Generator, categories: Sequence[str]) -> dict[str, JudgementValue]:
    """Mostly one finding, sometimes several, sometimes none."""
    names = rng.choice(list(categories), size=int(rng.integers(0, 4)), replace=False)
    return {str(name): VALUES[int(rng.integers(4))] for name in names}


async def check_all(name: str, count: int, rng: np.random.Generator) -> int:
    today = datetime.now(UTC).date()
    policy = load_policy(name, today=today)
    keys = ["".join("abcdefghij"[int(digit)] for digit in str(number)) for number in range(count)]
    answers = {key: draw(rng, list(policy.categories)) for key in keys}
    guard = Guard(policy, {judge: TableJudge(judge, answers) for judge in policy.judges})
    guard.budget_s = 60.0
    for runner in guard._runners.values():
        runner.timeout_s = 60.0
    try:
        for key in keys:
            surface = SURFACES[int(rng.integers(3))]
            context = CONTEXTS[int(rng.integers(len(CONTEXTS)))]
            entity = bool(policy.entities) and rng.random() < 0.5
            text = f"case {key}" + (" about Bruno the Bear" if entity else "")
            found = (await guard.check(text, surface, context=context)).decision
            entities = list(policy.entities) if entity else []
            judged = policy.judged(surface, {**context, "entities": entities}, today=today)
            values = {category: answers[key].get(category, "allowed") for category in judged}
            clean = [category for category, value in values.items() if value == "allowed"]
            told = {**context, "entities": entities, "clean": clean}
            rows = {row.category: row for row in runtime_table(policy, surface, told, today=today)}
            plans = {one.category: one for one in evaluation_plan(policy, told, today=today).categories}
            wanted = ["allow", *(getattr(rows[c], v) for c, v in values.items() if v != "allowed")]
            assert found.action == max(wanted, key=RANK.__getitem__), (name, surface, values, found)
            assert found.policy_hash == policy.hash
            for outcome in found.outcomes:
                if surface == "model_output" and outcome.value == "violates":
                    assert is_withheld(outcome.action) == (plans[outcome.category].expect == "refuse")
        return len(keys)
    finally:
        guard.close()


def test_evaluation_and_the_guard_decide_the_same_on_1000_items() -> None:
    rng = np.random.default_rng(23)
    names = sorted(shipped_policies())
    share = -(-ITEMS // len(names))
    assert sum(asyncio.run(check_all(name, share, rng)) for name in names) >= ITEMS
