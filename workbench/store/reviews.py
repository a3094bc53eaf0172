"""Texts that people are to look at, as they are recorded: items, and the slots that hold the opinions they need.

Knows rows and seeded chance; assigns nothing to anybody (`safety.review.queue` does) and ranks nothing.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from workbench.errors import ConfigError, did_you_mean
from workbench.store.database import Database, insert
from workbench.store.identity import canonical_json, content_hash
from workbench.store.review_schema import review_clusters, review_lanes, review_queues, review_slots
from workbench.store.review_schema import review_items as table
from workbench.store.times import now

Stratum = Literal["priority", "diversity", "exploration", "gold", "must_review", "appeal", "report", "drift"]
STRATA: tuple[Stratum, ...] = (
    "priority", "diversity", "exploration", "gold", "must_review", "appeal", "report", "drift",
)  # fmt: skip
INDEPENDENT = ("exploration", "gold", "appeal")
"""Strata whose items each need an opinion of their own: none waits for, or takes over, the label of a near-duplicate,
because estimates of the whole stream rest on them."""
SEVERITY_RANK: Mapping[str, float] = {"low": 1.0, "medium": 2.0, "high": 3.0, "critical": 4.0}
PLACE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
"""What tenants and queues may be called."""
_CHUNK = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueSettings:
    """How a queue works. None of the numbers on exposure is from a study: they are a careful start, to be changed."""

    seed: int = 0
    """Of everything that is left to chance: which items are labelled twice, which hints are shown."""
    need: int = 1
    """Opinions that an item needs at least."""
    double_share: float = 0.10
    """Share of items that a second person labels as well, blind."""
    double_severities: tuple[str, ...] = ("critical",)
    """Severities of which every item is labelled by two people, blind."""
    hint_share: float = 0.5
    """Share of the other items for which the model's view is shown before the label: what it does to labels is measured
    on the difference."""
    lease_s: int = 600
    max_leases: int = 5
    """Slots that one person may hold at the same time."""
    undo_last: int = 10
    """How many of a person's last labels can be undone."""
    skips_to_senior: int = 3
    """So many people have skipped an item: it goes to a senior."""
    severe: tuple[str, ...] = ("high", "critical")
    severity_cost: Mapping[str, float] = field(
        default_factory=lambda: {"low": 0.0, "medium": 1.0, "high": 3.0, "critical": 10.0}
    )
    """What an item takes of a person's daily budget."""
    daily_budget: float = 150.0
    break_after_severe: int = 15
    """So many severe items since the last break: the next one is a break."""
    break_s: int = 600
    spread: int = 1
    """Other items between two severe ones, where there are any."""

    @classmethod
    def from_json(cls, text: str) -> "QueueSettings":
        """The settings of a queue's row; what it does not name has its default."""
        data = json.loads(text)
        for name in ("double_severities", "severe"):
            if name in data:
                data[name] = tuple(data[name])
        return cls(**data)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewEntry:
    """A text with what was said of it."""

    tenant: str
    source: str
    """Why it is here: `uncertain`, `severe`, `action` (the policy asks for review), `sample`, `import`, ..."""
    surface: str
    category: str
    """The category in question; empty for a sample in which nothing was found."""
    severity: str
    action: str
    """What was done with it meanwhile."""
    policy_hash: str
    model: str
    content_sha: str
    community: str = ""
    probability: float | None = None
    uncertainty: float | None = None
    text: str | None = None
    """Only where the policy lets content be kept."""
    prompt: str | None = None
    """What it answers, under the same condition."""
    context: Mapping[str, Any] | None = None
    """What a reader sees around it: title, parent, author signals; under the same condition."""
    queue: str = "default"
    """The tenant's queue."""
    stratum: Stratum = "priority"
    """By which part of the draw it came in."""
    pi: float | None = None
    """Probability with which that draw took it; None: not known, so no estimate may use it."""
    draw_seed: int | None = None
    score_version: str = ""
    """Which ranker, of which version, gave the priority."""
    priority: float | None = None
    """Higher comes first; None: its severity, until somebody ranks it."""
    cluster: str = ""
    """Near-duplicates have the same; people look at one of them at a time. Empty: it is like no other."""
    expected_severity: float | None = None
    scores: Mapping[str, Any] | None = None
    """What moderation said, as a document."""
    gold: Mapping[str, Any] | None = None
    """The known answer, {"decision": ..., "categories": [...]}: the item measures reviewers and is never decided."""
    need: int | None = None
    """Opinions it needs; None: as the queue says."""
    parent: str | None = None
    """The item whose decision is appealed."""

    @property
    def id(self) -> str:
        """Content hash of what makes two texts the same item."""
        key = [self.tenant, self.surface, self.category, self.content_sha, self.policy_hash]
        if self.queue != "default" or self.parent is not None:
            key += [self.queue, self.parent or ""]
        return content_hash("review_item", {"key": key})

    @property
    def queue_id(self) -> str:
        """`tenant/queue`."""
        return f"{self.tenant}/{self.queue}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewItem:
    """An entry as it was written."""

    id: str
    created_at: str
    entry: ReviewEntry
    seen: int
    """How often the same text came."""
    state: str
    """`open`, `conflict` or `escalated` (a senior is to decide), `decided`."""
    state_at: str
    priority: float
    need: int
    blind: bool
    """Labelled by several people, none of whom sees the model's view or another's label."""


def chance(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on nothing but its arguments.

    >>> chance(0, "double", "item") == chance(0, "double", "item") != chance(1, "double", "item")
    True
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in (seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def queue_settings(connection: Connection, queue: str) -> QueueSettings:
    """The settings of a queue (`tenant/name`), which is made with the defaults if it is not there."""
    query = sa.select(review_queues.c.settings).where(review_queues.c.id == queue)
    found = connection.scalar(query)
    if found is None:
        tenant, _, name = queue.partition("/")
        row = {"id": queue, "tenant": tenant, "name": name, "settings": "{}", "policy_hash": "", "created_at": now()}
        connection.execute(insert(connection, review_queues).on_conflict_do_nothing(), row)
        found = connection.scalar(query) or "{}"
    return QueueSettings.from_json(found)


def lane_id(connection: Connection, queue: str, kind: str, severity: str, category: str) -> int:
    """The lane of such slots; it is made if it is not there."""
    lanes = review_lanes.c
    named = {"queue": queue, "kind": kind, "severity": severity, "category": category}
    query = sa.select(lanes.id).where(*(lanes[name] == value for name, value in named.items()))
    found = connection.scalar(query)
    if found is None:
        connection.execute(insert(connection, review_lanes).on_conflict_do_nothing(), named)
        found = connection.scalar(query)
        assert found is not None
    return int(found)


def add_reviews(connection: Connection, entries: Sequence[ReviewEntry]) -> int:
    """Write entries and their slots as a part of a transaction; how many are new.

    One that is there already is counted, its state stays.

    Raises:
        ConfigError: a severity or stratum that is none.
    """
    time, added = now(), 0
    lanes: dict[tuple[str, str, str, str], int] = {}
    settings: dict[str, QueueSettings] = {}
    for start in range(0, len(entries), _CHUNK):
        chunk: dict[str, ReviewEntry] = {}
        seen: dict[str, int] = {}
        for entry in entries[start : start + _CHUNK]:
            _check(entry)
            chunk.setdefault(entry.id, entry)
            seen[entry.id] = seen.get(entry.id, 0) + 1
        known = set(connection.scalars(sa.select(table.c.id).where(table.c.id.in_(list(chunk)))))
        rows, slots = [], []
        for key in sorted(chunk):
            entry = chunk[key]
            if entry.queue_id not in settings:
                settings[entry.queue_id] = queue_settings(connection, entry.queue_id)
            row = _row(entry, key, settings[entry.queue_id], seen[key], time)
            rows.append(row)
            if key not in known:
                added += 1
                kind = "adjudication" if entry.stratum == "appeal" else "opinion"
                lane = (entry.queue_id, kind, entry.severity, entry.category)
                if lane not in lanes:
                    lanes[lane] = lane_id(connection, *lane)
                state = "open" if _leads(connection, entry, key) else "waiting"
                base = {"item_id": key, "lane": lanes[lane], "state": state, "priority": row["priority"]}
                slots += [base | {"n": n, "session": ""} for n in range(1, row["need"] + 1)]
        statement = insert(connection, table)
        again = {"seen": table.c.seen + statement.excluded.seen}
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=again), rows)
        if slots:
            connection.execute(insert(connection, review_slots).on_conflict_do_nothing(), slots)
    return added


def _check(entry: ReviewEntry) -> None:
    if entry.severity not in SEVERITY_RANK:
        raise ConfigError(f"severity {entry.severity!r}: {did_you_mean(entry.severity, SEVERITY_RANK)}")
    for place in (entry.tenant, entry.queue):
        if not PLACE.match(place):
            raise ConfigError(f"{place!r}: up to 64 letters, digits and . _ - name a tenant or queue")
    for name in ("community", "source", "category", "action", "model", "score_version", "cluster"):
        if not is_storable(getattr(entry, name)):
            raise ConfigError(
                f"{name}: no text that both databases can keep: it holds NUL, a lone surrogate or too much"
            )
    if entry.stratum not in STRATA:
        raise ConfigError(f"stratum {entry.stratum!r}: {did_you_mean(entry.stratum, STRATA)}")
    if entry.pi is not None and not 0 < entry.pi <= 1:
        raise ConfigError(f"pi {entry.pi}: a probability above 0 and at most 1 is expected")
    if (entry.gold is not None) != (entry.stratum == "gold"):
        raise ConfigError("gold: an item of the stratum gold has a known answer, and no other has one")


def is_storable(text: str, longest: int = 1_000) -> bool:
    """Whether a text fits a plain text column of both databases. Free text goes into columns of JSON instead."""
    return len(text) <= longest and "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def opinions_needed(entry: ReviewEntry, key: str, settings: QueueSettings) -> int:
    """How many people label it: as many as it or its queue asks for, two where chance or severity says so."""
    need = entry.need or settings.need
    if entry.stratum in ("gold", "appeal"):
        return entry.need or 1
    doubled = entry.severity in settings.double_severities or chance(settings.seed, "double", key) < (
        settings.double_share
    )
    return max(need, 2) if doubled else need


def _row(entry: ReviewEntry, key: str, settings: QueueSettings, seen: int, time: str) -> dict[str, Any]:
    content: dict[str, Any] = {"text": entry.text, "prompt": entry.prompt}
    if entry.context:
        content["context"] = entry.context
    need = opinions_needed(entry, key, settings)
    return {
        **{name: getattr(entry, name) for name in _COLUMNS},
        "id": key,
        "created_at": time,
        "content": None if entry.text is None else canonical_json(content),
        "scores": None if entry.scores is None else canonical_json(entry.scores),
        "gold": None if entry.gold is None else canonical_json(entry.gold),
        "queue": entry.queue_id,
        "seen": seen,
        "state": "open",
        "state_at": time,
        "need": need,
        "blind": need > 1,
        "priority": SEVERITY_RANK[entry.severity] if entry.priority is None else float(entry.priority),
    }


def _leads(connection: Connection, entry: ReviewEntry, key: str) -> bool:
    """Whether people look at it now: always, unless an item of its cluster is being looked at.

    The row of the cluster is locked until the transaction ends, so that no item is left waiting for one that is
    decided at the same moment.
    """
    if not entry.cluster or entry.stratum in INDEPENDENT:
        return True
    return lead_cluster(connection, entry.queue_id, entry.cluster, key) == key


def lead_cluster(connection: Connection, queue: str, cluster: str, item: str) -> str:
    """The item that represents a cluster: `item` if there is none yet."""
    clusters = review_clusters.c
    statement = insert(connection, review_clusters).values(queue=queue, cluster=cluster, representative=item)
    statement = statement.on_conflict_do_update(
        index_elements=["queue", "cluster"], set_={"representative": clusters.representative}
    ).returning(clusters.representative)
    return str(connection.execute(statement).scalar_one())


def review_items(
    database: Database, *, state: str | None = "open", limit: int | None = None, queue: str | None = None
) -> list[ReviewItem]:
    """Items, the oldest first; `state` None gives all. For people with the right to see them: this asks nobody."""
    query = sa.select(table).order_by(table.c.created_at, table.c.id)
    if state is not None:
        query = query.where(table.c.state == state)
    if queue is not None:
        query = query.where(table.c.queue == queue)
    if limit is not None:
        query = query.limit(limit)
    with database.read() as connection:
        return [read_item(row) for row in connection.execute(query).mappings()]


def stream_items(database: Database, *, queue: str, state: str = "open") -> Iterator[ReviewItem]:
    """Items of a queue in no order, read in parts: what a ranker goes through."""
    query = sa.select(table).where(table.c.queue == queue, table.c.state == state)
    with database.read() as connection:
        for row in connection.execution_options(yield_per=2000).execute(query).mappings():
            yield read_item(row)


def read_item(row: sa.RowMapping) -> ReviewItem:
    """An item from its row. `entry.priority` and `entry.need` are None: what holds of them is the item's own."""
    values: dict[str, Any] = {name: row[name] for name in _COLUMNS}
    values |= json.loads(row["content"]) if row["content"] else {}
    values |= {name: json.loads(row[name]) for name in ("scores", "gold") if row[name]}
    entry = ReviewEntry(queue=row["queue"].partition("/")[2], **values)
    own = {name: row[name] for name in ("id", "created_at", "seen", "state", "state_at", "priority", "need", "blind")}
    return ReviewItem(entry=entry, **own)


_COLUMNS = (
    "tenant",
    "community",
    "source",
    "surface",
    "category",
    "severity",
    "action",
    "probability",
    "uncertainty",
    "policy_hash",
    "model",
    "content_sha",
    "stratum",
    "pi",
    "draw_seed",
    "score_version",
    "cluster",
    "expected_severity",
    "parent",
)
