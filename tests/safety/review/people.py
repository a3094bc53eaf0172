"""Who and what the tests of the queue are about."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from safety.review.queue import Answer, Claim, Grant, Member, Operator, ReviewQueue, Submitted
from workbench.store.reviews import ReviewEntry

START = datetime(2027, 3, 1, 9, 0, tzinfo=UTC)
OPERATOR = Operator(name="test")
VIOLATES, ALLOWED = Answer(decision="violates"), Answer(decision="allowed")


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def entry(number: int, **changes: Any) -> ReviewEntry:
    text = f"text {number}"
    values: dict[str, Any] = {
        "tenant": "default",
        "source": "uncertain",
        "surface": "content",
        "category": "hate",
        "severity": "low",
        "action": "log",
        "policy_hash": "p" * 64,
        "model": "tiny",
        "content_sha": hashlib.sha256(text.encode()).hexdigest(),
        "probability": 0.5,
        "text": text,
        "context": {"title": f"title {number}"},
    }
    return ReviewEntry(**values | changes)


class People:
    """Members of a queue, made when they are named."""

    def __init__(self, queue: ReviewQueue) -> None:
        self.queue = queue
        self.tokens: dict[str, str] = {}

    def __call__(self, name: str, *roles: str, tenant: str = "*", where: str = "*") -> Member:
        grants = [Grant(role=role, tenant=tenant, queue=where) for role in roles or ("reviewer",)]  # type: ignore
        joined = self.queue.add_member(OPERATOR, name, grants)
        self.tokens[name] = joined.token
        return joined.member


def claimed(queue: ReviewQueue, member: Member, now: datetime = START, **options: Any) -> Claim:
    got = queue.claim(member, "default", now, **options)
    assert isinstance(got, Claim), got
    return got


def label(queue: ReviewQueue, member: Member, answer: Answer, now: datetime = START, **options: Any) -> Submitted:
    return queue.submit(member, claimed(queue, member, now, **options).token, answer, now)


def plain_queue(queue: ReviewQueue, **changes: Any) -> None:
    """Nothing left to chance: no doubled items, no hints, no breaks."""
    settings: dict[str, Any] = {"double_share": 0.0, "double_severities": (), "hint_share": 0.0}
    queue.configure(OPERATOR, "default", **settings | {"break_after_severe": 10_000} | changes)
