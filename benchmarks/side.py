"""One report with its items as columns, ready to be paired with another. Knows reports and items; compares nothing."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from workbench.errors import RunError
from workbench.records import ItemScore, Report, TaskResult
from workbench.store import ItemColumns, columns_of

if TYPE_CHECKING:
    import pandas as pd

Part = Literal["all", "select", "certify"]
_SPLIT_SALT = "workbench select/certify 1"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One report with its items. `rows` reads the full rows of some leaf tasks, `take` single ones."""

    report: Report
    columns: ItemColumns
    rows: Callable[[Iterable[str]], list[ItemScore]]
    take: Callable[[np.ndarray], list[ItemScore]]
    """The full rows of some row numbers, in their order."""

    @classmethod
    def of(cls, report: Report, items: Sequence[ItemScore]) -> "Side":
        """A report whose items are in memory."""

        def rows(tasks: Iterable[str]) -> list[ItemScore]:
            wanted = set(tasks)
            return [item for item in items if item.task in wanted]

        return cls(
            report=report, columns=columns_of(items), rows=rows, take=lambda numbers: [items[int(i)] for i in numbers]
        )

    @cached_property
    def index(self) -> "pd.Index":
        """Leaf task and item hash of each row; unique."""
        import pandas as pd

        keys = pd.Index(_keys(self.columns))
        if not keys.is_unique:
            twice = str(keys[keys.duplicated()][0]).split("\0")[0]
            raise RunError(f"report {self.report.id[:12]}: task {twice} holds an item twice; evaluate again")
        return keys

    @cached_property
    def _rows_by_task(self) -> dict[str, np.ndarray]:
        import pandas as pd

        codes, names = pd.factorize(self.columns.task)
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes, minlength=len(names)))
        return dict(zip(names.tolist(), np.split(order, ends[:-1]), strict=True)) if len(names) else {}

    def rows_of(self, tasks: Iterable[str]) -> np.ndarray:
        """Row numbers of some leaf tasks."""
        found = [self._rows_by_task[task] for task in tasks if task in self._rows_by_task]
        return np.concatenate(found) if found else np.array([], dtype=np.intp)

    @cached_property
    def results(self) -> Mapping[str, TaskResult]:
        """By task."""
        return {result.task: result for result in self.report.results}

    def find(self, task: str) -> tuple[TaskResult, tuple[str, ...]] | None:
        """A task's result and its leaves; for a subtask, the result of its group and the subtask alone."""
        if task in self.results:
            result = self.results[task]
            return result, result.subtasks or (task,)
        for result in self.report.results:
            if task in result.subtasks:
                return result, (task,)
        return None


def in_part(groups: np.ndarray, part: Part) -> np.ndarray:
    """bool: which items belong to a half. Whole clusters go to one half, by a hash that never changes."""
    import pandas as pd

    if part == "all":
        return np.ones(len(groups), dtype=bool)
    codes, names = pd.factorize(groups)
    bits = [hashlib.sha256(f"{_SPLIT_SALT}\0{name}".encode()).digest()[0] & 1 for name in names]
    return (np.array(bits, dtype=np.intp) == (1 if part == "certify" else 0))[codes]


def _keys(columns: ItemColumns) -> list[str]:
    return [f"{task}\0{item}" for task, item in zip(columns.task, columns.item, strict=True)]
