"""Queue health tells what people really did in a real queue."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards import queue_health
from safety.review.queue import Answer, Claim, Grant, Operator, ReviewQueue
from workbench.store import Project
from workbench.store.reviews import ReviewEntry


@pytest.fixture
def labelled(empty: Path) -> Path:
    """Four items that two people label blind; they agree on three."""
    with Project.find(empty) as project:
        queue, operator = ReviewQueue.open(project), Operator(name="test")
        entries = [
            ReviewEntry(
                tenant="default", source="sample", surface="content", category="hate", severity="low", action="allow",
                policy_hash="p" * 64, model="m", content_sha=hashlib.sha256(f"{i}".encode()).hexdigest(),
                text=f"text {i}", need=2,
            )
            for i in range(4)
        ]  # fmt: skip
        assert queue.add(operator, entries) == 4
        for person in ("ada", "grace"):
            member = queue.add_member(operator, person, [Grant(role="reviewer")]).member
            for _ in range(4):
                claim = queue.claim(member, "default")
                assert isinstance(claim, Claim)
                odd = person == "grace" and claim.view.text == "text 3"
                answer = Answer(decision="violates" if odd else "allowed", ms_spent=2_000)
                queue.submit(member, claim.token, answer)
    return empty


def test_agreement_pace_and_exposure_are_those_of_the_labels(labelled: Path) -> None:
    with Project.find(labelled) as project:
        database = project.store.database
        everything, hate = queue_health.agreement(database, "default/default")
        assert (everything.category, everything.items, hate.category, hate.items) == ("all", 4, "hate", 4)
        assert everything.share is not None and everything.share.value == 0.75
        (day,) = queue_health.pace(database, "default/default")
        assert (day["labels"], day["seconds each"]) == (8, 2.0)
        assert {row["who"]: row["items"] for row in queue_health.exposure(database)} == {"ada": 4, "grace": 4}


def test_the_page_says_how_far_people_agree_and_with_what_certainty(
    labelled: Path, open_page: Callable[..., Any]
) -> None:
    shown = open_page(labelled, "queue")
    assert not shown.exception and not shown.error
    told = shown.text[0].value
    assert "two people agreed on 75.0% [" in told and "of 4 items" in told and "8 labels" in told
