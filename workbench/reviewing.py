"""Fill the review queue from files of posts. Knows rows, a policy and the queue; asks no model.

A row may say more than its text: `category`, `severity`, `probability`, `uncertainty`, `action`, `model`, `source`,
`surface`, `prompt`, and for the queue `priority`, `pi`, `stratum`, `draw_seed`, `score_version`, `cluster`,
`expected_severity`, `scores` (an object), `gold` (an object, or the decision alone) and `need`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety.guard import content_sha
from safety.policy import ResolvedPolicy
from safety.review.queue import Actor, ReviewQueue
from safety.review.views import DECISIONS
from workbench.errors import ConfigError, WorkbenchError, did_you_mean
from workbench.posts import read_posts
from workbench.records import SURFACES
from workbench.store.reviews import SEVERITY_RANK, STRATA, ReviewEntry

if TYPE_CHECKING:
    from safety.moderation import Post

BATCH = 2_000
_UNKNOWN_MODEL = ""


def add_file(
    queue: ReviewQueue,
    actor: Actor,
    source: str | Path,
    policy: ResolvedPolicy,
    *,
    tenant: str,
    name: str,
    category: str = "",
    text_column: str | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Put a file's posts into a queue, with the policy's rule texts: rows read, and how many items are new.

    Written in batches, so a run that is killed has put in what it said; the same file again adds what is missing.

    Raises:
        ConfigError: a row that cannot be used, with its line; what stands before it is in the queue.
    """
    queue.put_guideline(actor, policy)
    queue.follow_policy(actor, f"{tenant}/{name}", policy)
    read = added = 0
    batch: list[ReviewEntry] = []

    def write() -> None:
        nonlocal added
        added += queue.add(actor, batch)
        batch.clear()
        on_progress(read)

    for entry in entries_of(source, policy, tenant=tenant, name=name, category=category, text_column=text_column):
        read += 1
        batch.append(entry)
        if len(batch) >= BATCH:
            write()
    if batch:
        write()
    return read, added


def entries_of(
    source: str | Path,
    policy: ResolvedPolicy,
    *,
    tenant: str,
    name: str,
    category: str = "",
    text_column: str | None = None,
) -> Iterator[ReviewEntry]:
    """A file's posts as entries of a queue, one at a time."""
    for number, post in enumerate(read_posts(source, text_column=text_column), 1):
        try:
            yield _entry(post, policy, tenant, name, category)
        except WorkbenchError as error:
            raise ConfigError(f"{source}: row {number}: {error}") from None


def _entry(post: "Post", policy: ResolvedPolicy, tenant: str, queue: str, category: str) -> ReviewEntry:
    row = post.source
    category = _text(row, "category", category)
    if category and category not in policy.categories:
        raise ConfigError(f"category {category!r}: not of {policy.name}; {did_you_mean(category, policy.categories)}")
    ours = policy.categories[category].severity if category else "low"
    stratum: Any = _one_of(row, "stratum", "priority", STRATA)
    context = {key: getattr(post, key) for key in ("title", "parent", "author") if getattr(post, key)}
    return ReviewEntry(
        tenant=tenant,
        queue=queue,
        source=_text(row, "source", "import"),
        surface=_one_of(row, "surface", "content", SURFACES),
        category=category,
        severity=_one_of(row, "severity", ours, SEVERITY_RANK),
        action=_text(row, "action", ""),
        policy_hash=policy.hash,
        model=_text(row, "model", _UNKNOWN_MODEL),
        content_sha=content_sha(post.text),
        community=post.community,
        probability=_number(row, "probability", 0.0, 1.0),
        uncertainty=_number(row, "uncertainty"),
        text=post.text,
        prompt=_text(row, "prompt", "") or None,
        context=context | {"id": post.id},
        stratum=stratum,
        pi=_number(row, "pi", 0.0, 1.0),
        draw_seed=_whole(row, "draw_seed"),
        score_version=_text(row, "score_version", ""),
        priority=_number(row, "priority"),
        cluster=_text(row, "cluster", ""),
        expected_severity=_number(row, "expected_severity"),
        scores=_object(row, "scores"),
        gold=_gold(row, category) if stratum == "gold" else None,
        need=_whole(row, "need"),
    )


def _text(row: Mapping[str, Any], key: str, default: str) -> str:
    value = row.get(key)
    if value in (None, ""):
        return default
    if not isinstance(value, str):
        raise ConfigError(f"{key}: expected a text, got {value!r}")
    return value


def _one_of(row: Mapping[str, Any], key: str, default: str, known: Any) -> Any:
    value = _text(row, key, default)
    if value not in known:
        raise ConfigError(f"{key} {value!r}: {did_you_mean(value, known)}")
    return value


def _number(row: Mapping[str, Any], key: str, low: float = -math.inf, high: float = math.inf) -> float | None:
    value = row.get(key)
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{key}: expected a number, got {value!r}") from None
    if not math.isfinite(number) or not low <= number <= high:
        raise ConfigError(f"{key}: {number:g} is not from {low:g} to {high:g}")
    return number


def _whole(row: Mapping[str, Any], key: str) -> int | None:
    number = _number(row, key)
    if number is not None and not number.is_integer():
        raise ConfigError(f"{key}: expected a whole number, got {number:g}")
    return None if number is None else int(number)


def _object(row: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    value = row.get(key)
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigError(f"{key}: expected a JSON object") from None
    if value in (None, ""):
        return None
    if not isinstance(value, dict):
        raise ConfigError(f"{key}: expected an object, got {type(value).__name__}")
    return value


def _gold(row: Mapping[str, Any], category: str) -> dict[str, Any]:
    given = row.get("gold")
    known: dict[str, Any] = (
        {"decision": given} if isinstance(given, str) and given in DECISIONS else _object(row, "gold") or {}
    )
    if known.get("decision") not in DECISIONS:
        raise ConfigError(f"gold: the known decision is needed, one of {', '.join(DECISIONS)}")
    categories = known.get("categories") or ([category] if known["decision"] == "violates" and category else [])
    return {"decision": known["decision"], "categories": sorted(categories)}
