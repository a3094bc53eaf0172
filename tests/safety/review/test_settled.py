"""What a queue has decided comes out as feedback takes it, without names, and only for who may export."""

import pytest

from safety.policy import load_policy
from safety.review.feedback import build_feedback
from safety.review.queue import Answer
from safety.review.settled import read_settled
from tests.safety.review.people import ALLOWED, OPERATOR, VIOLATES, at, entry, label, plain_queue
from workbench.errors import ReviewError


def test_decided_items_come_out_with_how_they_were_drawn(queue, people) -> None:
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1, stratum="exploration", pi=0.25), entry(2)])
    ann = people("ann")
    label(queue, ann, VIOLATES)
    (found,) = read_settled(queue, "default", actor=OPERATOR)
    assert found.decision == "violates"
    assert found.soft == 1.0
    assert found.text in ("text 1", "text 2")
    assert (found.stratum, found.pi) == (("exploration", 0.25) if found.text == "text 1" else ("priority", None))
    assert "ann" not in repr(found)


def test_what_is_undone_or_open_is_not_there(queue, people) -> None:
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    ann = people("ann")
    label(queue, ann, ALLOWED)
    queue.undo(ann, now=at(1))
    assert read_settled(queue, "default", actor=OPERATOR) == []


def test_a_split_vote_that_a_senior_settles_is_soft(queue, people) -> None:
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1, need=2)])
    label(queue, people("ann"), VIOLATES)
    label(queue, people("bob"), ALLOWED)
    label(queue, people("sue", "senior"), VIOLATES, kind="adjudication")
    (found,) = read_settled(queue, "default", actor=OPERATOR)
    assert (found.decision, found.decided_by) == ("violates", "adjudicator")
    assert 0 < found.soft <= 1


def test_a_label_of_a_rule_that_changed_stays_out_of_the_next_export(queue, people) -> None:
    policy = load_policy("moderation")
    rule = next(iter(policy.categories))
    plain_queue(queue)
    queue.put_guideline(OPERATOR, policy)
    queue.add(OPERATOR, [entry(1, category=rule, policy_hash=policy.hash)])
    label(queue, people("ann"), Answer(decision="violates", policy_hash=policy.hash))
    found = read_settled(queue, "default", actor=OPERATOR)
    assert build_feedback(found, policy).train
    (one,) = found
    assert one.rule_digests[rule]
    object.__setattr__(one, "rule_digests", {rule: "0" * 16})
    assert build_feedback([one], policy).left_out == {"the rule reads otherwise now": 1}


def test_a_reviewer_may_not_export(queue, people) -> None:
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    with pytest.raises(ReviewError, match="export"):
        read_settled(queue, "default", actor=people("ann"))
