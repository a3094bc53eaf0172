"""Less of the worst: budget, breaks, opt-out, spread, and one item of a cluster."""

from safety.review.queue import Idle
from tests.safety.review.people import ALLOWED, OPERATOR, VIOLATES, at, claimed, entry, label, plain_queue
from tests.safety.review.test_queue import outcome, refused
from workbench.store.audit import audit_rows


def severities(queue, person, count, start=0.0):
    """What is given in order; labels each at once."""
    seen = []
    for n in range(count):
        got = queue.claim(person, "default", at(start + n / 10))
        if isinstance(got, Idle):
            seen.append(got.reason)
            continue
        seen.append(got.view.severity)
        queue.submit(person, got.token, ALLOWED, at(start + n / 10))
    return seen


def test_severe_items_are_spread_among_others_while_there_are_others(queue, people):
    plain_queue(queue, spread=2)
    queue.add(OPERATOR, [entry(n, severity="high", priority=9.0) for n in range(4)])
    queue.add(OPERATOR, [entry(n, severity="low", priority=1.0) for n in range(4, 8)])
    expected = ["high", "low", "low", "high", "low", "low", "high", "high"]
    assert severities(queue, people("ana"), 8) == expected


def test_after_so_many_severe_items_comes_a_break_that_nobody_can_skip(queue, people):
    plain_queue(queue, break_after_severe=2, spread=0)
    queue.add(OPERATOR, [entry(n, severity="high") for n in range(9)])
    ana, ben = people("ana"), people("ben")
    assert severities(queue, ana, 4) == ["high", "high", "break", "break"]
    pause = queue.claim(ana, "default", at(5))
    assert (pause.reason, pause.until) == ("break", queue.progress(ana, now=at(5)).break_until)
    assert severities(queue, ben, 1) == ["high"]
    assert severities(queue, ana, 3, start=11) == ["high", "high", "break"]


def test_a_pause_that_somebody_takes_unasked_counts_as_a_break(queue, people):
    plain_queue(queue, break_after_severe=2, spread=0)
    queue.add(OPERATOR, [entry(n, severity="high") for n in range(9)])
    ana = people("ana")
    assert severities(queue, ana, 2) == ["high", "high"]
    assert queue.progress(ana, now=at(2)).severe_until_break == 0
    assert severities(queue, ana, 2, start=12) == ["high", "high"]


def test_beyond_the_budget_of_a_day_only_milder_items_come(queue, people):
    plain_queue(queue, daily_budget=20.0, spread=0)
    queue.add(OPERATOR, [entry(n, severity="critical", priority=9.0) for n in range(4)])
    queue.add(OPERATOR, [entry(n, severity="low") for n in range(4, 6)])
    ana = people("ana")
    assert severities(queue, ana, 5) == ["critical", "critical", "low", "low", "budget"]
    idle = queue.claim(ana, "default", at(60))
    assert idle.until == "2027-03-02T00:00:00.000000+00:00"
    assert severities(queue, ana, 1, start=24 * 60) == ["critical"]
    assert severities(queue, people("ben"), 1) == ["critical"]


def test_a_page_loaded_again_costs_no_budget(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1, severity="critical")])
    ana = people("ana")
    for minute in range(5):
        claimed(queue, ana, at(minute))
    assert queue.progress(ana, now=at(6)).spent == 10.0


def test_categories_opted_out_of_are_never_shown(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1, category="self_harm", priority=9.0), entry(2, category="spam")])
    ana = queue.opt_out(people("ana"), ["self_harm"])
    assert label(queue, ana, ALLOWED).item == entry(2, category="spam").id
    assert queue.claim(ana, "default", at(1)).reason == "opted_out"
    assert "self_harm" not in str([row.document for row in audit_rows(queue.database, kind="review.member")])
    assert claimed(queue, people("ben")).view.category == "self_harm"


def test_people_look_at_one_item_of_a_cluster_at_a_time(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(n, cluster="c", priority=float(n)) for n in range(3)])
    ana, ben = people("ana"), people("ben")
    first = claimed(queue, ana)
    assert first.view.waiting_cluster == 2
    assert isinstance(queue.claim(ben, "default", at(1)), Idle)
    queue.submit(ana, first.token, VIOLATES, at(1))
    second = claimed(queue, ben, at(2))
    assert second.view.id != first.view.id
    assert isinstance(queue.claim(ana, "default", at(3)), Idle)


def test_a_label_is_applied_to_the_cluster_by_an_act_that_is_audited_and_can_be_undone(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(n, cluster="c") for n in range(4)])
    queue.add(OPERATOR, [entry(9, cluster="c", stratum="exploration", pi=0.1, priority=-5.0)])
    ana = people("ana")
    done = label(queue, ana, VIOLATES)
    assert done.similar == 3  # the one that the label opened counts too: nobody has looked at it
    applied = queue.apply_to_cluster(ana, done.item, key="k").facts["items"]
    assert queue.apply_to_cluster(ana, done.item, key="k").facts["items"] == applied
    others = {entry(n, cluster="c").id for n in range(4)} - {done.item}
    assert set(applied) == others
    assert {outcome(queue, item)["decided_by"] for item in others} == {"cluster"}
    (event,) = audit_rows(queue.database, kind="review.cluster")
    assert (event.actor, set(event.document["applied"])) == (ana.id, others)
    explored = claimed(queue, ana, at(1))
    assert explored.view.id == entry(9, cluster="c").id
    queue.hand_back(ana, explored.token)
    queue.undo(ana, now=at(2))
    assert [outcome(queue, item) for item in others] == [None] * 3


def test_a_leased_item_of_a_cluster_is_left_to_who_has_it(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(n, cluster="c") for n in range(3)])
    ana, ben = people("ana"), people("ben")
    done = label(queue, ana, VIOLATES)
    held = claimed(queue, ben)
    assert held.view.id not in queue.apply_to_cluster(ana, done.item).facts["items"]
    assert queue.submit(ben, held.token, ALLOWED).state == "decided"


def test_an_undecided_item_is_applied_to_nothing(queue, people):
    plain_queue(queue, need=2)
    queue.add(OPERATOR, [entry(n, cluster="c") for n in range(2)])
    ana = people("ana")
    done = label(queue, ana, VIOLATES)
    with refused("invalid"):
        queue.apply_to_cluster(ana, done.item)
