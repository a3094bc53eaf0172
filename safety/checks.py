"""What is wrong or worth knowing about a resolved policy besides its syntax: tests, doubts, waivers. Reads test files.

A fault stops `workbench policy check`; a note does not.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from safety.resolved import Category, ResolvedPolicy
from safety.risk import Calibration
from workbench.records import SURFACES

MIN_ROWS = 10
SOON_DAYS = 30
EXPECTS = ("violates", "allowed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing about a policy."""

    level: Literal["fault", "note"]
    where: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TestRow:
    """One row of a category's tests."""

    category: str
    text: str
    expect: Literal["violates", "allowed"]


def check_policy(policy: ResolvedPolicy, *, today: date) -> list[Finding]:
    """All findings, faults first."""
    found = [Finding(level="note", where=policy.name, text=note) for note in policy.notes]
    for category in policy.categories.values():
        found += _tests(category)
        found += _judges(policy, category)
        found += _waivers(category, today)
    found += _dimensions(policy)
    found += _thresholds(policy)
    return sorted(found, key=lambda finding: finding.level)


def read_tests(category: Category) -> list[TestRow]:
    """The test rows of a category. Raises ValueError with `file:line: what is wrong`, OSError: a file is missing."""
    rows: list[TestRow] = []
    for name in category.tests:
        for number, line in enumerate(Path(name).read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                known = isinstance(row, dict) and set(row) <= {"text", "expect", "note"}
                if not known or row.get("expect") not in EXPECTS or not str(row.get("text") or "").strip():
                    raise ValueError
            except ValueError:
                raise ValueError(
                    f'{name}:{number}: {{"text": ..., "expect": "violates" or "allowed"}} needed'
                ) from None
            rows.append(TestRow(category=category.id, text=row["text"], expect=row["expect"]))
    return rows


def _tests(category: Category) -> Iterator[Finding]:
    where = f"categories.{category.id}.tests"
    if not category.tests:
        level = "note" if category.is_rule or "." in category.id else "fault"
        yield Finding(level=level, where=where, text="no test rows; a judge that misses it would not be noticed")
        return
    try:
        rows = read_tests(category)
    except OSError as error:
        yield Finding(level="fault", where=where, text=f"{error.filename}: {error.strerror}; write it or name another")
        return
    except ValueError as error:
        yield Finding(level="fault", where=where, text=str(error))
        return
    counts = Counter(row.expect for row in rows)
    for expect in EXPECTS:
        if counts[expect] < MIN_ROWS:
            text = f"{counts[expect]} rows that expect {expect}, {MIN_ROWS} are needed"
            yield Finding(level="fault", where=where, text=text)
    twice = [text for text, count in Counter(row.text for row in rows).items() if count > 1]
    if twice:
        yield Finding(level="fault", where=where, text=f"{len(twice)} texts stand twice, e.g. {twice[0][:60]!r}")


def _judges(policy: ResolvedPolicy, category: Category) -> Iterator[Finding]:
    effects = {policy.judges[name]["effect"] for name in category.judges}
    if effects == {"raise_only"}:
        text = "only keyword judges look for it: whatever they do not find is served"
        yield Finding(level="note", where=f"categories.{category.id}.judges", text=text)


def _waivers(category: Category, today: date) -> Iterator[Finding]:
    days = {
        step.until: step.set_by
        for surface in SURFACES
        for group in category.actions[surface]
        for step in group
        if step.until is not None
    }
    for until, where in days.items():
        left = (date.fromisoformat(until) - today).days
        if 0 <= left <= SOON_DAYS:
            text = f"its waiver ends in {left} days ({until}); then the parent's value holds"
            yield Finding(level="note", where=f"categories.{category.id} ({where})", text=text)


def _dimensions(policy: ResolvedPolicy) -> Iterator[Finding]:
    named = {name for settings in policy.dimensions.values() for name in settings.get("categories", ())}
    for category in policy.categories.values():
        if category.id.split(".")[0] not in named and not category.is_rule:
            text = "in no dimension; an assessment reports it under safety"
            yield Finding(level="note", where=f"categories.{category.id}", text=text)


def _thresholds(policy: ResolvedPolicy) -> Iterator[Finding]:
    by_hand = [c.id for c in policy.categories.values() if c.risk.fixed is not None]
    targets = [c.id for c in policy.categories.values() if c.risk.fixed is None and not c.thresholds]
    if by_hand:
        yield Finding(level="note", where="risk", text=f"no guarantee: thresholds set by hand for {', '.join(by_hand)}")
    if targets:
        text = (
            f"no guarantee yet for {len(targets)} categories: their judges name no calibration data, so the judge's own"
        )
        yield Finding(level="note", where="risk", text=f"{text} reading counts")
    for category in policy.categories.values():
        for name, threshold in category.thresholds.items():
            stale = Calibration.load(policy.judges[name]["calibration"]).stale(category) if name != "*" else 0
            if stale:
                text = f"{stale} calibration rows of {category.id} by {name} were labelled under another definition"
                yield Finding(level="note", where="risk", text=f"{text} and do not count")
            if name != "*":
                text = f"{category.id} by {name}: {threshold.low:.3f} to {threshold.high:.3f}, {threshold.guarantee}"
                yield Finding(level="note", where="risk", text=text)
