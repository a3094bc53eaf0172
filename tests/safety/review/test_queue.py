"""A moderator's work, from claim to decision, on both databases."""

import dataclasses

import pytest
import sqlalchemy as sa

from safety.policy import load_policy
from safety.review.queue import Answer, Claim, Idle, Rescore
from tests.safety.review.people import ALLOWED, OPERATOR, VIOLATES, at, claimed, entry, label, plain_queue
from workbench.errors import ReviewError
from workbench.store.audit import audit_rows, verify_audit
from workbench.store.review_schema import review_labels, review_outcomes


def outcome(queue, item):
    with queue.database.read() as connection:
        query = sa.select(review_outcomes).where(review_outcomes.c.item_id == item)
        return connection.execute(query).mappings().first()


def labels_of(queue, item):
    with queue.database.read() as connection:
        query = sa.select(review_labels).where(review_labels.c.item_id == item).order_by(review_labels.c.created_at)
        return connection.execute(query).mappings().all()


def refused(code):
    return pytest.raises(ReviewError, check=lambda error: error.code == code)


def test_the_highest_priority_comes_first_whatever_lane_it_lies_in(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1, priority=1.0), entry(2, priority=3.0, category="spam"), entry(3, priority=2.0)])
    ana = people("ana")
    seen = []
    for _ in range(3):
        got = claimed(queue, ana)
        seen.append(got.view.text)
        queue.submit(ana, got.token, ALLOWED, at(0))
    assert seen == ["text 2", "text 3", "text 1"]
    assert queue.claim(ana, "default", at(1)) == Idle(reason="empty", sentence="Nothing is left for you here.")


def test_an_item_is_never_given_to_two_people_while_its_lease_lasts(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    ana, ben = people("ana"), people("ben")
    first = claimed(queue, ana)
    assert isinstance(queue.claim(ben, "default", at(9.9)), Idle)
    second = claimed(queue, ben, at(10.1))
    assert second.view.id == first.view.id
    with refused("lease_lost"):
        queue.submit(ana, first.token, ALLOWED, at(10.2))
    assert queue.submit(ben, second.token, ALLOWED, at(10.3)).state == "decided"


def test_a_heartbeat_keeps_a_lease(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    ana, ben = people("ana"), people("ben")
    first = claimed(queue, ana)
    queue.heartbeat(ana, first.token, at(9))
    assert isinstance(queue.claim(ben, "default", at(18)), Idle)
    with refused("lease_lost"):
        queue.heartbeat(ben, first.token, at(18))


def test_a_label_after_the_lease_ended_is_taken_while_nobody_else_has_the_item(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1), entry(2)])
    ana, ben = people("ana"), people("ben")
    first = claimed(queue, ana)
    claimed(queue, ben)
    assert queue.submit(ana, first.token, ALLOWED, at(60)).state == "decided"


def test_a_claim_again_gives_what_is_held_and_another_session_gets_another_item(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1), entry(2)])
    ana = people("ana")
    first = claimed(queue, ana)
    again = claimed(queue, ana, at(5))
    assert (again.token, again.resumed, again.view) == (first.token, True, first.view)
    assert claimed(queue, ana, session="window 2").view.id != first.view.id


def test_pressing_twice_writes_one_label_and_another_answer_is_refused(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1), entry(2)])
    ana = people("ana")
    got = claimed(queue, ana)
    once = queue.submit(ana, got.token, VIOLATES, at(1))
    twice = queue.submit(ana, got.token, VIOLATES, at(2))
    assert (twice.label, twice.replayed) == (once.label, True)
    with refused("key_reused"):
        queue.submit(ana, got.token, ALLOWED, at(3))
    assert len(labels_of(queue, got.view.id)) == 1


def test_a_key_of_its_own_is_remembered_across_slots(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1), entry(2)])
    ana = people("ana")
    first = claimed(queue, ana)
    queue.submit(ana, first.token, VIOLATES, key="k1")
    second = claimed(queue, ana)
    with refused("key_reused"):
        queue.submit(ana, second.token, VIOLATES, key="k1")
    done = queue.skip(ana, second.token, "not mine", key="k2")
    assert queue.skip(ana, second.token, "not mine", key="k2") == done
    with refused("key_reused"):
        queue.skip(ana, second.token, "another reason", key="k2")


def test_a_violation_is_of_the_category_in_question_and_the_label_keeps_the_policy_shown(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    ana = people("ana")
    got = claimed(queue, ana)
    with refused("rule_changed"):
        queue.submit(ana, got.token, Answer(decision="violates", policy_hash="q" * 64))
    done = queue.submit(ana, got.token, Answer(decision="violates", policy_hash=got.view.policy_hash, note="a\x00b"))
    (row,) = labels_of(queue, done.item)
    assert (row["categories"], row["policy_hash"], row["kind"]) == ('["hate"]', "p" * 64, "opinion")
    assert (outcome(queue, done.item)["decision"], outcome(queue, done.item)["soft"]) == ("violates", 1.0)
    (event,) = audit_rows(queue.database, kind="review.label")
    assert event.actor == ana.id
    assert event.document["label"] == done.label
    assert "text 1" not in str(event.document)


def test_two_opinions_that_agree_decide_and_a_person_gives_one_of_them(queue, people):
    plain_queue(queue, need=2)
    queue.add(OPERATOR, [entry(1)])
    ana, ben = people("ana"), people("ben")
    assert label(queue, ana, VIOLATES).state == "open"
    assert isinstance(queue.claim(ana, "default", at(1)), Idle)
    done = label(queue, ben, VIOLATES, at(2))
    assert done.state == "decided"
    assert outcome(queue, done.item)["decided_by"] == "agreement"


@pytest.mark.parametrize("other", [ALLOWED, Answer(decision="unsure"), Answer(decision="violates", categories=("x",))])
def test_opinions_that_differ_go_to_a_senior_who_gave_none(queue, people, other):
    plain_queue(queue, need=2)
    queue.add(OPERATOR, [entry(1)])
    ana, eve, sam = people("ana"), people("eve", "reviewer", "senior"), people("sam", "senior")
    label(queue, ana, VIOLATES)
    assert label(queue, eve, other, at(1)).state == "conflict"
    assert isinstance(queue.claim(eve, "default", at(2), kind="adjudication"), Idle)
    with refused("forbidden"):
        queue.claim(ana, "default", at(2), kind="adjudication")
    got = claimed(queue, sam, at(3), kind="adjudication")
    assert [o.decision for o in got.view.opinions] == ["violates", other.decision]
    done = queue.submit(sam, got.token, ALLOWED, at(4))
    assert (done.state, outcome(queue, done.item)["decided_by"]) == ("decided", "adjudicator")
    assert [row.kind for row in audit_rows(queue.database)][-1] == "review.adjudicate"


def test_a_single_unsure_answer_goes_to_a_senior(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    done = label(queue, people("ana"), Answer(decision="unsure"))
    assert done.state == "conflict"
    label(queue, people("sam", "senior"), Answer(decision="unsure"), at(1), kind="adjudication")
    assert (outcome(queue, done.item)["decision"], outcome(queue, done.item)["soft"]) == ("unsure", 0.5)


def test_an_escalated_item_waits_for_a_senior_whatever_the_others_say(queue, people):
    plain_queue(queue, need=3)
    queue.add(OPERATOR, [entry(1)])
    ana, ben, sam = people("ana"), people("ben"), people("sam", "senior")
    mine, theirs = claimed(queue, ana), claimed(queue, ben)
    assert queue.escalate(ana, mine.token, "a threat?", at(1)).state == "escalated"
    assert queue.submit(ben, theirs.token, VIOLATES, at(2)).state == "escalated"
    assert isinstance(queue.claim(people("cat"), "default", at(3)), Idle)
    queue.undo(ben, now=at(3))
    queue.submit(ben, claimed(queue, ben, at(3)).token, ALLOWED, at(4))
    assert label(queue, sam, VIOLATES, at(5), kind="adjudication").state == "decided"


def test_a_skipped_item_comes_to_others_and_after_three_to_a_senior(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    states = []
    for name in ("ana", "ben", "cat"):
        person = people(name)
        states.append(queue.skip(person, claimed(queue, person).token).state)
        assert isinstance(queue.claim(person, "default", at(1)), Idle)
    assert states == ["open", "open", "escalated"]
    assert label(queue, people("sam", "senior"), ALLOWED, kind="adjudication").state == "decided"


def test_an_item_that_is_handed_back_may_come_again(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    ana = people("ana")
    first = claimed(queue, ana)
    queue.hand_back(ana, first.token)
    with refused("lease_lost"):
        queue.submit(ana, first.token, ALLOWED, at(1))
    assert claimed(queue, ana).view.id == first.view.id


def test_undo_gives_the_item_back_and_keeps_the_label_that_was(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    ana = people("ana")
    done = label(queue, ana, VIOLATES)
    back = queue.undo(ana, now=at(1))
    assert (back.view.id, outcome(queue, done.item)) == (done.item, None)
    assert queue.submit(ana, back.token, ALLOWED, at(2)).state == "decided"
    assert outcome(queue, done.item)["decision"] == "allowed"
    old, new = labels_of(queue, done.item)
    assert (old["retracted_at"] is None, new["retracted_at"], new["hint_shown"]) == (False, None, True)


def test_the_last_ten_labels_can_be_undone_and_no_older_one(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(n) for n in range(12)])
    ana = people("ana")
    done = [label(queue, ana, ALLOWED, at(n)) for n in range(12)]
    with refused("too_late"):
        queue.undo(ana, done[1].label, at(20))
    back = queue.undo(ana, done[2].label, at(20))
    queue.hand_back(ana, back.token)
    with refused("invalid"):
        queue.undo(ana, done[2].label, at(21))
    with refused("unknown"):
        queue.undo(people("ben"), done[3].label, at(21))


def test_a_conflict_is_taken_back_by_undo_until_a_senior_has_it(queue, people):
    plain_queue(queue, need=2)
    queue.add(OPERATOR, [entry(1)])
    ana, ben, sam = people("ana"), people("ben"), people("sam", "senior")
    label(queue, ana, VIOLATES)
    label(queue, ben, ALLOWED, at(1))
    back = queue.undo(ben, now=at(2))
    assert isinstance(queue.claim(sam, "default", at(2), kind="adjudication"), Idle)
    queue.submit(ben, back.token, ALLOWED, at(3))
    got = claimed(queue, sam, at(4), kind="adjudication")
    with refused("too_late"):
        queue.undo(ben, now=at(5))
    queue.submit(sam, got.token, VIOLATES, at(6))
    again = queue.undo(sam, now=at(7))
    assert (outcome(queue, got.view.id), again.view.kind) == (None, "adjudication")
    assert queue.submit(sam, again.token, ALLOWED, at(8)).state == "decided"


def test_an_appeal_is_decided_by_a_senior_who_had_no_part_in_it(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1)])
    sam, kim = people("sam", "reviewer", "senior"), people("kim", "senior")
    done = label(queue, sam, VIOLATES)
    queue.appeal(sam, done.item, "it is a quotation", at(1))
    with refused("invalid"):
        queue.appeal(sam, done.item, "again", at(1))
    assert isinstance(queue.claim(sam, "default", at(2), kind="adjudication"), Idle)
    got = claimed(queue, kim, at(2), kind="adjudication")
    assert (got.view.text, got.view.context["appeal"]) == ("text 1", "it is a quotation")
    with refused("too_late"):
        queue.undo(sam, now=at(2))
    queue.submit(kim, got.token, ALLOWED, at(3))
    changed = outcome(queue, done.item)
    assert (changed["decision"], changed["decided_by"], changed["representative"]) == ("allowed", "appeal", got.view.id)
    queue.undo(kim, now=at(4))
    assert outcome(queue, done.item)["decision"] == "violates"


def test_a_person_sees_nothing_before_the_label_that_a_model_or_the_draw_says(queue, people):
    plain_queue(queue)
    gold = {"decision": "violates", "categories": ["hate"]}
    queue.add(OPERATOR, [entry(1, probability=0.987654, stratum="gold", gold=gold, source="crawled", pi=0.123456)])
    got = claimed(queue, people("ana"))
    shown = str(dataclasses.asdict(got.view))
    assert got.view.hint is None
    assert not [word for word in ("0.987654", "gold", "crawled", "0.123456", "priority", "log") if word in shown]


def test_hints_are_shown_to_half_of_the_items_and_never_to_blind_ones(queue, people):
    queue.configure(OPERATOR, "default", double_share=0.3, max_leases=1_000)
    queue.add(OPERATOR, [entry(n) for n in range(120)])
    ana = people("ana")
    views = [claimed(queue, ana, session=str(n)).view for n in range(120)]
    single = [view for view in views if not view.blind]
    hinted = [view for view in single if view.hint is not None]
    assert 24 <= len(views) - len(single) <= 48
    assert 0.35 < len(hinted) / len(single) < 0.65
    assert not [view for view in views if view.blind and view.hint is not None]


def test_who_labels_twice_is_chosen_by_the_seed_alone(queue, people):
    first, second = [entry(n) for n in range(50)], [entry(n, tenant="other") for n in range(50)]
    queue.configure(OPERATOR, "default", double_share=0.5)
    queue.configure(OPERATOR, "other/default", double_share=0.5)
    queue.add(OPERATOR, first)
    queue.add(OPERATOR, list(reversed(second)))
    auditor = people("aud", "auditor")
    from workbench.store.reviews import chance

    for one in first + second:
        assert queue.item(auditor, one.id).blind == (chance(0, "double", one.id) < 0.5)


def test_the_models_view_of_a_blind_item_stays_hidden_until_it_is_settled(queue, people):
    queue.configure(OPERATOR, "default", double_share=1.0)
    queue.add(OPERATOR, [entry(1)])
    assert label(queue, people("ana"), VIOLATES).reveal is None
    assert label(queue, people("ben"), VIOLATES).reveal.probability == 0.5


def test_critical_items_are_all_labelled_twice(queue, people):
    queue.configure(OPERATOR, "default", double_share=0.0)
    queue.add(OPERATOR, [entry(1, severity="critical"), entry(2)])
    auditor = people("aud", "auditor")
    assert [queue.item(auditor, entry(n, severity=s).id).need for n, s in ((1, "critical"), (2, "low"))] == [2, 1]


def test_gold_is_answered_by_many_and_never_decided(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1, stratum="gold", gold={"decision": "allowed", "categories": []}, need=2)])
    assert label(queue, people("ana"), VIOLATES).state == "open"
    done = label(queue, people("ben"), ALLOWED)
    assert (done.state, outcome(queue, done.item)) == ("decided", None)


def test_priorities_are_written_in_bulk_and_order_the_next_claims(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(n, priority=float(n)) for n in range(5)])
    rows = [
        Rescore(item=entry(n).id, priority=-float(n), pi=0.25, stratum="diversity", score_version="v2") for n in (3, 4)
    ]
    assert queue.set_priorities(OPERATOR, rows) == 2
    ana, auditor = people("ana"), people("aud", "auditor")
    order = []
    for _ in range(5):
        got = claimed(queue, ana)
        order.append(got.view.text)
        queue.submit(ana, got.token, ALLOWED)
    assert order == ["text 2", "text 1", "text 0", "text 3", "text 4"]
    item = queue.item(auditor, entry(3).id)
    assert (item.priority, item.entry.pi, item.entry.stratum, item.entry.score_version) == (
        -3.0,
        0.25,
        "diversity",
        "v2",
    )
    assert item.entry.probability == 0.5


def test_a_reviewer_reads_the_rule_of_the_policy_the_item_came_under(queue, people):
    policy = load_policy("default")
    plain_queue(queue)
    queue.put_guideline(OPERATOR, policy)
    queue.add(OPERATOR, [entry(1, policy_hash=policy.hash)])
    ana = people("ana")
    got = claimed(queue, ana)
    assert got.view.rule.definition == policy.categories["hate"].definition
    assert (got.view.policy, len(got.view.rules)) == (policy.name, len(policy.categories))
    with pytest.raises(ReviewError, match=r"category 'hatte'.*did you mean"):
        queue.submit(ana, got.token, Answer(decision="violates", categories=("hatte",)))


def test_a_policy_is_swapped_by_somebody_else_than_who_proposed_it(queue, people):
    policy = load_policy("default")
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1), entry(2)])
    ana = people("ana")
    label(queue, ana, VIOLATES)
    shown = claimed(queue, ana, at(1))
    editor = people("edi", "policy_editor", "policy_approver")
    queue.put_guideline(editor, policy)
    for person in (editor, ana, people("adm", "admin")):
        with refused("forbidden"):
            queue.swap_policy(person, "default", old="p" * 64, new=policy.hash)
    assert queue.swap_policy(people("app", "policy_approver"), "default", old="p" * 64, new=policy.hash) == 1
    with refused("rule_changed"):
        queue.submit(ana, shown.token, Answer(decision="violates", policy_hash=shown.view.policy_hash), at(2))
    queue.submit(ana, shown.token, Answer(decision="violates", policy_hash=policy.hash), at(2))


def test_stats_and_progress_count_what_is_there(queue, people):
    plain_queue(queue)
    queue.add(OPERATOR, [entry(n, severity="medium") for n in range(4)])
    ana = people("ana")
    label(queue, ana, ALLOWED)
    claimed(queue, ana, at(1))
    stats = queue.stats(OPERATOR, now=at(2))
    assert (stats.items, stats.labels_last_day) == ({"open": 3, "decided": 1}, 1)
    assert stats.slots == {"opinion done": 1, "opinion leased": 1, "opinion open": 2}
    progress = queue.progress(ana, now=at(2))
    assert (progress.labelled_today, progress.seen_today, progress.spent, progress.waiting) == (
        1,
        {"medium": 2},
        2.0,
        2,
    )


def test_the_chain_of_the_audit_holds_over_a_whole_day(queue, people):
    plain_queue(queue, need=2)
    queue.add(OPERATOR, [entry(n) for n in range(6)])
    ana, ben = people("ana"), people("ben")
    for n in range(6):
        label(queue, ana, VIOLATES, at(n))
        label(queue, ben, VIOLATES if n % 2 else ALLOWED, at(n))
    assert verify_audit(queue.database) is None
    assert isinstance(queue.claim(people("sam", "senior"), "default", at(9), kind="adjudication"), Claim)


def test_the_first_policy_that_fills_a_queue_says_how_many_opinions_until_somebody_configures_it(queue, people):
    policy = load_policy("communities")
    often = dataclasses.replace(policy, review={**policy.review, "double_label": 1.0})
    queue.follow_policy(OPERATOR, "default", often)
    queue.follow_policy(OPERATOR, "default", policy)  # the second one changes nothing
    queue.add(OPERATOR, [entry(1), entry(2)])
    assert {queue.item(people("eve", "auditor"), entry(n).id).need for n in (1, 2)} == {2}
    queue.configure(OPERATOR, "default", double_share=0.0)
    queue.follow_policy(OPERATOR, "default", often)
    queue.add(OPERATOR, [entry(3)])
    assert queue.item(people("eve", "auditor"), entry(3).id).need == 1
    told = [row.document for row in audit_rows(queue.database) if row.kind == "review.settings"]
    assert [row["changed"] for row in told] == [{"need": 1, "double_share": 1.0}, {"double_share": 0.0}]


def test_a_view_says_whether_its_queue_counts_the_text_as_severe(queue, people):
    plain_queue(queue, severe=("low",))
    queue.add(OPERATOR, [entry(1, severity="low", priority=2.0), entry(2, severity="high", priority=1.0)])
    ana = people("ana")
    assert label(queue, ana, ALLOWED).item and claimed(queue, ana, at(1)).view.severe is False
    assert [one.severe for one in queue.own_labels(ana)] == [True] and queue.progress(ana).severe == ("low",)
