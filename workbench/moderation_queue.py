"""From judged posts to a ranked queue: a batch is drawn with known probabilities and put before people.

Drawing again by the same seed from the same lines puts in what is missing and nothing twice. Knows the lines that
`workbench moderate` writes, the file they came from, and the queue; asks no model.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import ConfigError
from workbench.ground_truth import read_lines
from workbench.moderation import ModerationRequest, build_communities
from workbench.posts import STDIN, read_posts
from workbench.records import Checkpoint
from workbench.resumable import read_header
from workbench.store.reviews import ReviewEntry

if TYPE_CHECKING:
    from safety.communities import Communities
    from safety.moderation import Post
    from safety.review.queue import Actor, ReviewQueue
    from safety.review.ranking import Draw, Floats
    from workbench.store import Project

BATCH = 200
_LINK = re.compile(r"https?://\S+|www\.\S+")
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueRequest:
    """What to draw, and for whom."""

    name: str = "default"
    tenant: str = "default"
    size: int = BATCH
    """Texts, besides those that must be looked at."""
    seed: int = 0
    ranker: str = "expected_loss"
    reference: Path | None = None
    """Posts of before; see `novelty_of`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """What was put into the queue."""

    posts: int
    drawn: int
    added: int
    """New in the queue."""
    strata: Mapping[str, int]
    gold_slots: int
    """Items with known answers that belong into a batch of this size; they are added apart."""


def check_queue_request(moderation: ModerationRequest, request: QueueRequest) -> None:
    """Raises ConfigError: the texts cannot be read again, or nothing can be drawn."""
    from safety.review.ranking import rankers

    if moderation.output is None or str(moderation.input) == STDIN:
        raise ConfigError("--queue: texts are drawn when all are judged; give --input FILE and --output FILE")
    if request.size < 1:
        raise ConfigError(f"--batch: must be at least 1, got {request.size}")
    rankers.get(request.ranker)
    if request.reference is not None and not request.reference.is_file():
        raise ConfigError(f"--reference {request.reference}: no such file of posts")
    if request.reference is None and request.ranker == "novelty":
        raise ConfigError("--ranker novelty: new beside what? give posts of before with --reference FILE")


def novelty_of(project: "Project", checkpoint: Checkpoint, moderation: ModerationRequest, reference: Path) -> "Floats":
    """How unlike those of before a run's posts are, by the checkpoint's own hidden states. Raises UserError."""
    from workbench.novelty import find_novelty

    found = find_novelty(
        checkpoint, _posts(moderation), reference=reference, project=project, text_column=moderation.text_column
    )
    return found.novelty


def fill_queue(
    project: "Project",
    queue: "ReviewQueue",
    actor: "Actor",
    moderation: ModerationRequest,
    request: QueueRequest,
    *,
    novelty: "Floats | None" = None,
) -> Filled:
    """Draw from a finished run's lines and put the texts into the queue. Raises UserError.

    Args:
        novelty: of each post in [0, 1], as `workbench.novelty` tells; without it all are as new.
    """
    from safety.review.ranking import draw_batch, pool_of

    check_queue_request(moderation, request)
    rows = read_lines(Path(str(moderation.output)))
    views, texts = [], []
    for post, row in zip(_posts(moderation), rows, strict=False):
        if post.id != row["id"]:
            raise ConfigError(f"{moderation.output}: post {row['id']!r} stands where the input has {post.id!r}")
        views.append(post.views)
        texts.append(post.text)
    if len(views) < len(rows):
        raise ConfigError(f"{moderation.output}: {len(rows):,} lines, and the input has {len(views):,} posts")
    if novelty is not None and len(novelty) != len(rows):
        raise ValueError(f"novelty: {len(novelty):,} values for {len(rows):,} posts")
    keys = cluster_keys(texts)
    _, cluster = np.unique(np.array(keys), return_inverse=True)
    pool = pool_of(rows, views=np.array(views, np.float64), cluster=cluster.astype(np.int64), novelty=novelty)
    draw = draw_batch(pool, size=request.size, seed=request.seed, ranker=request.ranker)
    communities = build_communities(moderation, project)
    added = _add(queue, actor, moderation, request, rows, keys, draw, communities)
    counts = {name: draw.strata.count(name) for name in dict.fromkeys(draw.strata)}
    return Filled(posts=len(rows), drawn=len(draw.items), added=added, strata=counts, gold_slots=draw.gold_slots)


def cluster_key(text: str) -> str:
    """The same for texts of the same words, whatever their case, links, digits and signs; itself of a text without.

    >>> cluster_key("Buy 5 followers! http://a.example") == cluster_key("buy 500 FOLLOWERS http://b.example/x")
    True
    """
    return hashlib.sha256(_words(text).encode()).hexdigest()[:16]


def cluster_keys(texts: Iterable[str]) -> list[str]:
    """Of each text the key of the first one that it repeats: in the same words, or nearly (`training.dedup`)."""
    from training.dedup import near_groups

    words = [_words(text) for text in texts]
    keys = [hashlib.sha256(words[place].encode()).hexdigest()[:16] for place in near_groups(words)]
    return keys


def _words(text: str) -> str:
    found = " ".join(_WORD.findall(_LINK.sub(" ", text).casefold())) or text
    return found.encode("utf-8", "replace").decode()


def _add(
    queue: "ReviewQueue",
    actor: "Actor",
    moderation: ModerationRequest,
    request: QueueRequest,
    rows: Sequence[Mapping[str, Any]],
    clusters: Sequence[str],
    draw: "Draw",
    communities: "Communities",
) -> int:
    from safety.review.ranking import SCORE_VERSION

    prompt_version = (read_header(Path(str(moderation.output))) or {}).get("prompt_version", "")
    queue.follow_policy(actor, f"{request.tenant}/{request.name}", communities.base)
    place_of = {int(item): place for place, item in enumerate(draw.items)}
    entries: dict[int, ReviewEntry] = {}
    guidelines: set[str] = set()
    for number, post in enumerate(_posts(moderation)):
        if number not in place_of:
            continue
        policy = communities.policy_of(post.community, post.rules)
        if policy.hash not in guidelines:
            queue.put_guideline(actor, policy)
            guidelines.add(policy.hash)
        place = place_of[number]
        entries[place] = _entry(
            post,
            rows[number],
            moderation,
            request,
            cluster=clusters[number],
            stratum=draw.strata[place],
            pi=float(draw.inclusion[place]),
            # what must be looked at comes first, then by rank
            priority=float(len(draw.items) - place),
            score_version=f"{request.ranker}, {SCORE_VERSION}, {prompt_version}",
        )
    return queue.add(actor, [entries[place] for place in sorted(entries)])


def _entry(
    post: "Post",
    row: Mapping[str, Any],
    moderation: ModerationRequest,
    request: QueueRequest,
    *,
    cluster: str,
    stratum: Any,
    pi: float,
    priority: float,
    score_version: str,
) -> ReviewEntry:
    from safety.guard import content_sha
    from safety.review.ranking import dearest_rule

    category = dearest_rule(row)
    found: Mapping[str, Any] = row["rules"].get(category, {})
    context = {key: getattr(post, key) for key in ("title", "parent", "author") if getattr(post, key)}
    return ReviewEntry(
        tenant=request.tenant,
        queue=request.name,
        source="moderate",
        surface=moderation.surface,
        category=category,
        severity=str(found.get("severity", "low")),
        action=row["action"],
        policy_hash=row["policy_hash"],
        model=row["model"],
        content_sha=content_sha(post.text),
        community=post.community,
        probability=found.get("probability"),
        uncertainty=row["doubt"],
        text=post.text,
        context=context | {"id": post.id},
        stratum=stratum,
        pi=pi,
        draw_seed=request.seed,
        score_version=score_version,
        priority=priority,
        cluster=cluster,
        scores=row["rules"],
    )


def _posts(moderation: ModerationRequest) -> "Iterator[Post]":
    given = read_posts(moderation.input, text_column=moderation.text_column)
    return itertools.islice(given, moderation.limit)
