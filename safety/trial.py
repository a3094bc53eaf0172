"""A policy's own test rows put to its judges: what they catch, what they wrongly flag, what they cannot score.

Knows judges by what they answer; knows no model and no command. The reading is the policy's own (`decide`), so what is
measured is what the guard would do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from safety.checks import TestRow, read_tests
from safety.decide import decide
from safety.judges.base import Passage
from safety.resolved import Category, ResolvedPolicy
from workbench.errors import ConfigError
from workbench.records import Judgement, JudgementValue


class Judging(Protocol):
    """What a trial needs of a judge."""

    def judge(self, passages: Sequence[Passage], categories: Sequence[Category]) -> list[list[Judgement]]:
        """[passage][category]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedRow:
    """One test row and what came of it."""

    row: TestRow
    value: JudgementValue

    @property
    def is_right(self) -> bool:
        """Doubt is no mistake, and no success."""
        return self.value == self.row.expect


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedCategory:
    """The test rows of one category."""

    category: str
    judges: tuple[str, ...]
    rows: tuple[TriedRow, ...]

    def count(self, expect: str, value: str) -> int:
        """Rows that expect one thing and were read as another."""
        return sum(tried.row.expect == expect and tried.value == value for tried in self.rows)

    def expected(self, expect: str) -> int:
        """Rows that expect this."""
        return sum(tried.row.expect == expect for tried in self.rows)


def try_policy(
    policy: ResolvedPolicy, judges: Mapping[str, Judging], *, categories: Iterable[str] | None = None
) -> list[TriedCategory]:
    """Every category that has test rows and a judge that can decide it.

    Args:
        judges: by the name that the policy gives them; categories none of whose deciding judges is here are left out.

    Raises:
        ConfigError: a file of test rows is missing or faulty.
    """
    found: list[TriedCategory] = []
    for name in policy.categories if categories is None else categories:
        category = policy.categories[name]
        own = [judge for judge in category.judges if judge in judges]
        decides = [judge for judge in own if policy.judges[judge]["effect"] == "decide"] or (
            own if len(own) == len(category.judges) else []
        )
        if not decides or not category.tests:
            continue
        try:
            rows = read_tests(category)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{error}; run workbench policy check") from None
        passages = [Passage(text=row.text) for row in rows]
        read = {judge: judges[judge].judge(passages, [category]) for judge in own}
        tried = [
            TriedRow(row=row, value=_value(policy, name, [read[judge][place][0] for judge in own]))
            for place, row in enumerate(rows)
        ]
        found.append(TriedCategory(category=name, judges=tuple(own), rows=tuple(tried)))
    return found


def _value(policy: ResolvedPolicy, category: str, judgements: Sequence[Judgement]) -> JudgementValue:
    return decide(policy, "content", judgements, categories=[category]).outcomes[0].value
