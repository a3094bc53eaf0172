"""What pages read: the project, pages of lists, single records. Cached by the store's version; draws nothing.

The store's version grows with each write, so equal versions mean equal answers, and nothing is ever shown by age. What
has a content hash for an id is kept by that id alone. The review queue is never cached: it goes by its own module.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import streamlit as st

from dashboards.options import options
from workbench.progress import RunProgress, browse_runs
from workbench.records import Comparison, Decision, ItemScore, Report
from workbench.store import Lineage, Project, read_record
from workbench.store import browse as lists
from workbench.store.audit import AuditRow, audit_rows
from workbench.store.browse import CheckpointRow, Page, Summary
from workbench.store.runs import RunEntry
from workbench.store.summaries import Kind

P = ParamSpec("P")
R = TypeVar("R")
_READERS: dict[str, Callable[..., Any]] = {}
PAGE = 50
"""Rows of a list that are read at once."""


def project() -> Project:
    """The project that this dashboard shows."""
    return _project(str(options().project))


def version() -> int:
    """The store's version; lists are complete for it."""
    return _complete(str(options().project), project().store.version())


def reader(function: Callable[P, R]) -> Callable[P, R]:
    """Cache a function of the store by the project, the store's version and the (hashable) arguments."""
    name = f"{function.__module__}.{function.__qualname__}"
    _READERS[name] = function

    def read(*args: P.args, **kwargs: P.kwargs) -> R:
        return _read(str(options().project), version(), name, args, tuple(sorted(kwargs.items())))

    read.__doc__, read.__name__ = function.__doc__, function.__name__
    return read


@st.cache_resource(show_spinner=False)
def _project(root: str) -> Project:
    return Project.find(root)


@st.cache_resource(show_spinner="Reading what is new", max_entries=8)
def _complete(root: str, number: int) -> int:
    lists.refresh(_project(root).store.database)
    return number


@st.cache_data(show_spinner=False, max_entries=1024)
def _read(root: str, number: int, name: str, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> Any:
    del root, number  # part of the key
    return _READERS[name](*args, **dict(kwargs))


@reader
def counts() -> Mapping[str, int]:
    """How many of everything there are."""
    return lists.counts(project().store.database)


@reader
def browse(kind: Kind, **asked: Any) -> Page[Summary]:
    """A page of reports, comparisons or decisions; see `workbench.store.browse.browse`."""
    return lists.browse(project().store.database, kind, **(dict[str, Any](limit=PAGE) | asked))


@reader
def browse_checkpoints(search: str = "", offset: int = 0) -> Page[CheckpointRow]:
    """A page of checkpoints."""
    return lists.browse_checkpoints(project().store.database, search=search, limit=PAGE, offset=offset)


@reader
def report(identity: str) -> Report:
    """One report. Raises StoreError: there is none."""
    return _record(Report, "report", identity)


@reader
def comparison(identity: str) -> Comparison:
    """One comparison. Raises StoreError: there is none."""
    return _record(Comparison, "comparison", identity)


@reader
def decision(identity: str) -> Decision:
    """One decision. Raises StoreError: there is none."""
    return _record(Decision, "decision", identity)


@reader
def comparison_of(decision_id: str) -> Comparison | None:
    """The comparison that a decision rests on."""
    database = project().store.database
    found = [parent for kind, parent in lists.parents_of(database, decision_id) if kind == "comparison"]
    return _record(Comparison, "comparison", found[0]) if found else None


@reader
def run_entry(identity: str) -> RunEntry | None:
    """A training run as it was recorded."""
    return lists.read_run(project().store.database, identity)


@reader
def items_of(report_id: str, task: str) -> tuple[ItemScore, ...]:
    """The items of one task of a report."""
    return tuple(project().store.items(report_id, tasks=[task]))


@reader
def lineage(reference: str) -> Lineage:
    """What something was made from. Raises StoreError: it is not in this project."""
    return project().store.lineage(reference)


@reader
def trajectory(run: str, baseline: str) -> tuple[tuple[int, Comparison], ...]:
    """(step, newest comparison) of the checkpoints of a run against a baseline (its fingerprint), by step."""
    found: dict[int, str] = {}
    for row in lists.browse(project().store.database, "comparison", run=run, baseline=baseline, limit=200).rows:
        step = step_of(row.name)
        if step is not None:
            found.setdefault(step, row.id)
    return tuple((step, _record(Comparison, "comparison", found[step])) for step in sorted(found))


def step_of(name: str) -> int | None:
    """The step in a checkpoint's name."""
    _, found, number = name.rpartition("checkpoint-")
    return int(number) if found and number.isdecimal() else None


def runs(search: str = "", limit: int = PAGE, offset: int = 0) -> Page[RunProgress]:
    """A page of training runs as they stand now: their logs grow between two writes to the store, so never cached."""
    version()
    found, total = browse_runs(project(), search=search, limit=limit, offset=offset)
    return Page(rows=tuple(found), total=total)


@reader
def overrides() -> tuple[AuditRow, ...]:
    """Signed overrides as the audit has them, the newest first."""
    return tuple(reversed(audit_rows(project().store.database, kind="override")))


def newest(kind: Kind, **asked: Any) -> Summary | None:
    """The newest report, comparison or decision of those asked for."""
    rows = browse(kind, limit=1, **asked).rows
    return rows[0] if rows else None


def full_id(kind: Kind, beginning: str) -> str | None:
    """The id that begins so; None where there is none or more than one."""
    found = [row.id for row in browse(kind, search=beginning, limit=2).rows if row.id.startswith(beginning)]
    return found[0] if len(found) == 1 else None


def _record(kind: type[R], name: Kind, identity: str) -> R:
    return read_record(kind, json.dumps(lists.read_document(project().store.database, name, identity)))


def project_folder() -> Path:
    """Where the project lies."""
    return project().root
