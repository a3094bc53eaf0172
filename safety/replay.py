"""Past items decided again under a changed policy: which flip, for whom, and what that costs people.

A change is looked at before it is merged: the same judgements go through `decide` under both policies. Nothing is
judged again, so what a new definition would make of a text is not seen here; labels that it makes stale are counted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, cast, get_args

from safety.decide import decide
from safety.leaves import stale_categories
from safety.resolved import RANK, ResolvedPolicy
from workbench.errors import ConfigError
from workbench.records import ACTIONS, Action, ItemScore, Judgement, JudgementValue, Surface

FOR_PEOPLE = ("review", "hold")
_VALUES = get_args(JudgementValue)
_SURFACES = get_args(Surface)


@dataclass(frozen=True, kw_only=True, slots=True)
class PastItem:
    """A text that was judged before, without the text."""

    id: str
    judgements: tuple[Judgement, ...]
    surface: Surface = "model_output"
    community: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    action: Action | None = None
    """What was done with it then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyFlip:
    """One item that the two policies treat differently."""

    id: str
    community: str
    category: str
    surface: Surface
    before: Action
    after: Action
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What a changed policy would have done with past items."""

    before: str
    """`id@version hash` of the policy before; `as recorded` where none was given."""
    after: str
    items: int
    skipped: int
    """Items without a judgement of any category that the new policy has."""
    flips: tuple[PolicyFlip, ...]
    queue_before: int
    """Items that go to people."""
    queue_after: int
    hours_before: float
    hours_after: float
    stale: Mapping[str, int]
    """Category -> judgements and labels made under another definition; 0 where it changed, but none is here."""

    @property
    def tighter(self) -> int:
        """Flips to a stricter action."""
        return sum(RANK[flip.after] > RANK[flip.before] for flip in self.flips)

    @property
    def by_category(self) -> Mapping[tuple[str, str, str], int]:
        """(category, before, after) -> number of flips, the most frequent first."""
        return dict(Counter((flip.category, flip.before, flip.after) for flip in self.flips).most_common())

    @property
    def by_community(self) -> Mapping[str, int]:
        """Community -> number of flips, the most frequent first."""
        return dict(Counter(flip.community for flip in self.flips).most_common())


def replay(
    items: Iterable[PastItem],
    after: ResolvedPolicy,
    *,
    before: ResolvedPolicy | None = None,
    labels: Iterable[Mapping[str, Any]] = (),
    today: date,
) -> Replay:
    """Decide items again. Without `before`, what was recorded is compared with.

    Args:
        labels: rows with `category` and `category_hash`, whose hash is held against the new policy's.

    Raises:
        ConfigError: no `before`, and an item does not say what was done with it.
    """
    flips: list[PolicyFlip] = []
    stale: Counter[str] = Counter(dict.fromkeys(stale_categories(before, after), 0) if before else {})
    count = skipped = queue_before = queue_after = 0
    for item in items:
        count += 1
        stale.update(
            _stale(({"category": j.category, "category_hash": j.category_hash} for j in item.judgements), after)
        )
        was = _decide(before, item, today) if before else (item.action, "", "as recorded")
        now = _decide(after, item, today)
        if now is None or was is None:
            skipped += 1
            continue
        if was[0] is None:
            raise ConfigError(f"item {item.id}: no action is recorded; name the policy before with --against")
        queue_before += was[0] in FOR_PEOPLE
        queue_after += now[0] in FOR_PEOPLE
        if was[0] != now[0]:
            stricter = now if RANK[now[0]] > RANK[was[0]] else was
            category = stricter[1] or now[1] or was[1] or "none"
            flips.append(
                PolicyFlip(
                    id=item.id,
                    community=item.community,
                    category=category,
                    surface=item.surface,
                    before=was[0],
                    after=now[0],
                    reason=now[2],
                )
            )
    stale.update(_stale(labels, after))
    return Replay(
        before=f"{before.name} {before.hash[:12]}" if before else "as recorded",
        after=f"{after.name} {after.hash[:12]}",
        items=count,
        skipped=skipped,
        flips=tuple(flips),
        queue_before=queue_before,
        queue_after=queue_after,
        hours_before=_hours(queue_before, before or after),
        hours_after=_hours(queue_after, after),
        stale=dict(stale),
    )


def _decide(policy: ResolvedPolicy, item: PastItem, today: date) -> tuple[Action, str, str] | None:
    """Action, category and reason; None where the policy has none of the item's categories."""
    known = [judgement for judgement in item.judgements if judgement.category in policy.categories]
    if not known and item.judgements:
        return None
    names = sorted({judgement.category for judgement in known})
    found = decide(policy, item.surface, known, item.context, categories=names, today=today)
    return found.action, found.category or "", found.reason


def _stale(rows: Iterable[Mapping[str, Any]], policy: ResolvedPolicy) -> Iterator[str]:
    for row in rows:
        category = policy.categories.get(str(row.get("category")))
        if row.get("category_hash") and (category is None or category.hash != row["category_hash"]):
            yield str(row.get("category"))


def _hours(items: int, policy: ResolvedPolicy) -> float:
    """Reviewer hours: opinions per item, the share that is labelled twice, seconds per opinion."""
    opinions = policy.review.get("need", 1) + policy.review.get("double_label", 0.0)
    return items * opinions * policy.review.get("seconds_per_item", 20) / 3600


# --- where items come from --------------------------------------------------------------------------------------------


def read_items(path: str | Path) -> Iterator[PastItem]:
    """Items of a JSON-lines file: rows with `judgements`, audit rows of the guard, or items of an assessment.

    Raises:
        ConfigError: with file and line, where a row is none of these.
    """
    for number, row in _rows(path):
        try:
            yield past_item(row, default_id=str(number))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path}:{number}: {error or 'not an item'}; see docs/policies.md, Replay") from None


def read_labels(path: str | Path) -> Iterator[Mapping[str, Any]]:
    """Label rows: anything with `category` and `category_hash`."""
    return (row for _, row in _rows(path))


def _rows(path: str | Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}:{number}: a JSON object is expected, got {type(row).__name__}")
        yield number, row


def past_item(row: Mapping[str, Any], *, default_id: str) -> PastItem:
    """One row of any of the known kinds. Raises ValueError or KeyError: it is none."""
    row = row["document"] if isinstance(row.get("document"), Mapping) else row
    found = row.get("extra")
    extra: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    if "judgements" in row:
        judgements = tuple(_judgement(one) for one in row["judgements"])
    elif isinstance(row.get("outcomes"), Mapping):
        judgements = _from_outcomes(row)
    else:
        judgements = (_judgement(extra if "category" in extra else row),)
    return PastItem(
        id=str(row.get("id") or row.get("request") or row.get("item") or default_id),
        judgements=judgements,
        surface=cast("Surface", _one_of(row.get("surface") or extra.get("surface") or "model_output", _SURFACES)),
        community=str(row.get("community") or ""),
        context=row.get("context") or {},
        action=cast("Action", _one_of(action, ACTIONS))
        if (action := row.get("action") or extra.get("action"))
        else None,
    )


def _judgement(row: Mapping[str, Any]) -> Judgement:
    probability = row.get("probability")
    return Judgement(
        category=str(row["category"]),
        value=cast("JudgementValue", _one_of(row["value"], _VALUES)),
        judge=str(row.get("judge") or "recorded"),
        probability=None if probability is None else float(probability),
        policy_hash=str(row.get("policy_hash") or ""),
        category_hash=str(row.get("category_hash") or ""),
    )


def _from_outcomes(row: Mapping[str, Any]) -> tuple[Judgement, ...]:
    """An audit row of the guard: category -> [value, action, probability, judge]."""
    rows = ({"category": c, "value": o[0], "probability": o[2], "judge": o[3]} for c, o in row["outcomes"].items())
    return tuple(_judgement(one) for one in rows)


def item_of(score: ItemScore) -> PastItem:
    """An item of an assessment's report."""
    return past_item({"id": score.item, "extra": score.extra}, default_id=score.item)


def _one_of(value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"got {value!r}, expected one of {', '.join(known)}")
    return str(value)
