"""Something new in a stream, noticed without a label: an alarm, a lane of texts for people, a drafted rule, and how
long it takes until a rule is enforced.

What is unlike the posts of before is a bet (`safety.drift`); near-duplicates that arrive faster are counted. Knows
files of posts, the review queue, policies and a project's folder; a model only for its hidden states.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safety.drift import LANE, RATE, NoveltyAlarm, Rising, draft_rule, lane_items, rising_clusters
from workbench.errors import ConfigError
from workbench.moderation_queue import cluster_keys
from workbench.novelty import as_read, find_novelty
from workbench.posts import read_posts
from workbench.records import Checkpoint
from workbench.store.files import write_file
from workbench.store.reviews import ReviewEntry

if TYPE_CHECKING:
    from safety.moderation import Post
    from safety.resolved import ResolvedPolicy
    from safety.review.queue import Actor, ReviewQueue
    from workbench.store import Project

FILE_NAME = "alarms.jsonl"
FIRST = 1e9
"""Priority of a lane's texts: before what any ranker says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftRequest:
    """What to watch, beside what, and for whom."""

    input: str | Path
    reference: str | Path
    policy: str | Path
    queue: str = "default"
    """TENANT/NAME or NAME of the queue that a lane is opened in."""
    name: str = "new-threat"
    """What the draft is called until somebody has read it."""
    text_column: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """That something is new, and what became of it."""

    id: str
    at: str
    policy: str
    """Id of the policy, whatever its version."""
    queue: str
    texts: int
    fired_at: int | None
    """Number of the text at which the bets were won; None: clusters alone told."""
    lane: tuple[str, ...]
    """Items that people are to look at."""
    draft: str
    """File of the drafted rule."""
    withheld_before: tuple[str, ...]
    """Rules that the policy enforced already."""
    enforced_at: str = ""
    enforced_rule: str = ""

    @property
    def minutes(self) -> float | None:
        """From the alarm to the first rule that was enforced after it; None: there is none yet."""
        if not self.enforced_at:
            return None
        return (datetime.fromisoformat(self.enforced_at) - datetime.fromisoformat(self.at)).total_seconds() / 60


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a stream looks like beside the one before."""

    texts: int
    novel: int
    """Texts as far out as 1% of usual ones are."""
    evidence: float
    rising: tuple[Rising, ...]
    examples: dict[str, str]
    """Cluster -> its first text."""
    alarm: Alarm | None


def watch(
    checkpoint: Checkpoint, *, project: "Project", review: "ReviewQueue", actor: "Actor", request: DriftRequest
) -> Watched:
    """Look for what is new in a stream; an alarm opens a lane and drafts a rule.

    Raises:
        UserError: files, policy or reference that cannot be used.
        EngineError: the checkpoint gives no hidden states.
    """
    from safety.policy import load_policy

    policy = load_policy(request.policy, folders=[project.root / "policies"])
    posts = list(read_posts(request.input, text_column=request.text_column))
    if not posts:
        raise ConfigError(f"{request.input}: no posts")
    newness = find_novelty(
        checkpoint, posts, reference=request.reference, project=project, text_column=request.text_column
    )
    bets = NoveltyAlarm()
    bets.feed(newness.p_value)
    before = [post.text for post in read_posts(request.reference, text_column=request.text_column)]
    keys = cluster_keys([*before, *(post.text for post in posts)])
    own = keys[len(before) :]
    rising = rising_clusters(Counter(own), Counter(keys[: len(before)]), window=len(own), history=len(before))
    grown = {one.cluster for one in rising}
    novel = newness.p_value <= RATE
    suspects = np.array([key in grown for key in own], bool) | (novel if bets.fired_at is not None else False)
    alarm = None
    if suspects.any():
        chosen = lane_items(newness.vectors, suspects)
        alarm = _raise(project, review, actor, request, policy, [(posts[i], own[i]) for i in chosen], bets, len(posts))
    return Watched(
        texts=len(posts),
        novel=int(novel.sum()),
        evidence=bets.evidence,
        rising=tuple(rising),
        examples={key: posts[own.index(key)].text for key in grown},
        alarm=alarm,
    )


def read_alarms(project: "Project") -> list[Alarm]:
    """A project's alarms, the first first."""
    path = project.root / FILE_NAME
    if not path.is_file():
        return []
    found: list[Alarm] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            names = {name: tuple(row[name]) for name in ("lane", "withheld_before")}
            found.append(Alarm(**row | names))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}:{number}: no alarm: {error}; mend or take away the line") from None
    return found


def lane_state(review: "ReviewQueue", alarms: Sequence[Alarm]) -> dict[str, dict[str, int]]:
    """Of each alarm how many texts of its lane are decided, and how many of them violate."""
    import sqlalchemy as sa

    from workbench.store.review_schema import review_outcomes

    columns = review_outcomes.c
    found: dict[str, dict[str, int]] = {}
    with review.database.read() as connection:
        for one in alarms:
            query = sa.select(columns.decision).where(columns.item_id.in_(one.lane))
            said = list(connection.scalars(query))
            found[one.id] = {"decided": len(said), "violates": said.count("violates")}
    return found


def note_enforced(project: "Project", policy: "ResolvedPolicy", *, now: datetime | None = None) -> list[Alarm]:
    """A policy is used: note it at each open alarm under which it enforces a rule that it did not before; those."""
    alarms = read_alarms(project)
    ids = {name.partition("@")[0] for name in policy.lineage} | {policy.id}
    withheld = withheld_rules(policy)
    closed: list[Alarm] = []
    for place, one in enumerate(alarms):
        fresh = [name for name in withheld if name not in one.withheld_before]
        if not one.enforced_at and one.policy in ids and fresh:
            at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
            alarms[place] = replace(one, enforced_at=at, enforced_rule=fresh[0])
            closed.append(alarms[place])
    if closed:
        text = "".join(json.dumps(asdict(one)) + "\n" for one in alarms)
        write_file(project.root / FILE_NAME, text)
    return closed


def withheld_rules(policy: "ResolvedPolicy") -> tuple[str, ...]:
    """Rules whose violation keeps a text from its readers, on any surface but what users say."""
    surfaces = ("content", "model_output")
    names = (n for n in policy.categories if not all(policy.permits(n, one) for one in surfaces))  # type: ignore[arg-type]
    return tuple(sorted(names))


def _raise(
    project: "Project",
    review: "ReviewQueue",
    actor: "Actor",
    request: DriftRequest,
    policy: "ResolvedPolicy",
    chosen: Sequence[tuple["Post", str]],
    bets: NoveltyAlarm,
    texts: int,
) -> Alarm:
    from safety.review.queue import queue_id

    place = queue_id(request.queue)
    tenant, _, name = place.partition("/")
    review.put_guideline(actor, policy)
    review.follow_policy(actor, place, policy)
    entries = [
        _entry(post, cluster, policy, tenant, name, FIRST - rank) for rank, (post, cluster) in enumerate(chosen[:LANE])
    ]
    review.add(actor, entries)
    moment = datetime.now(UTC)
    key = f"{request.name}-{moment:%Y%m%d-%H%M%S}"
    alarm = Alarm(
        id=key,
        at=moment.isoformat(timespec="seconds"),
        policy=policy.id,
        queue=place,
        texts=texts,
        fired_at=bets.fired_at,
        lane=tuple(one.id for one in entries),
        draft=str(_write_draft(project, request, policy, key, [as_read(post) for post, _ in chosen])),
        withheld_before=withheld_rules(policy),
    )
    with (project.root / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(alarm)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return alarm


def _entry(
    post: "Post", cluster: str, policy: "ResolvedPolicy", tenant: str, name: str, priority: float
) -> ReviewEntry:
    from safety.guard import content_sha

    context = {key: getattr(post, key) for key in ("title", "parent", "author") if getattr(post, key)}
    return ReviewEntry(
        tenant=tenant,
        queue=name,
        source="drift",
        surface="content",
        category="",
        severity="medium",
        action="",
        policy_hash=policy.hash,
        model="",
        content_sha=content_sha(post.text),
        community=post.community,
        text=post.text,
        context=context | {"id": post.id},
        stratum="drift",
        priority=priority,
        cluster=cluster,
    )


def _write_draft(
    project: "Project", request: DriftRequest, policy: "ResolvedPolicy", key: str, texts: Sequence[str]
) -> Path:
    """A policy file on top of the policy, with one rule in review mode; it loads, or is not written."""
    import yaml

    from safety.communities import rule_readers
    from safety.policy import load_policy

    own = Path(str(request.policy))
    folder = own.parent if own.suffix in (".yaml", ".yml") else project.root / "policies"
    readers = rule_readers(policy)
    rule: dict[str, Any] = draft_rule(request.name, [" ".join(text.split())[:300] for text in texts])
    if readers:
        rule["judges"] = readers[:1]
    rule["examples"] = {name: rows for name, rows in rule["examples"].items() if rows}
    document = {
        "schema": "policy/v1",
        "id": re.sub(r"[^a-z0-9]+", "-", f"draft-{key}".lower())[:60].strip("-"),
        "version": 1,
        "kind": "community",
        "title": f"Draft: {request.name}",
        "extends": policy.name,
        "rules": [rule],
    }
    path = folder / f"{document['id']}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    head = "# Drafted by an alarm; it withholds nothing. Read the lane, word the rule, then give it an action.\n"
    write_file(path, head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))
    load_policy(path, folders=[project.root / "policies"])
    return path
