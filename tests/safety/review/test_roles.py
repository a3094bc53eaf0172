"""What is not granted is refused, by the queue itself and not by a page."""

import pytest

from safety.policy import load_policy
from safety.review.people import PERMITTED, ROLES
from safety.review.queue import Answer, Claim, Grant, Member, Operator, Rescore
from tests.safety.review.people import ALLOWED, OPERATOR, VIOLATES, at, claimed, entry, label, plain_queue
from workbench.errors import ReviewError
from workbench.store.audit import audit_rows

ACTS = {
    "claim": ("label", lambda q, who, item: q.claim(who, "default", at(50))),
    "adjudicate": ("adjudicate", lambda q, who, item: q.claim(who, "default", at(50), kind="adjudication")),
    "apply to a cluster": ("cluster", lambda q, who, item: q.apply_to_cluster(who, item)),
    "appeal": ("appeal", lambda q, who, item: q.appeal(who, item)),
    "read an item": ("read", lambda q, who, item: q.item(who, item)),
    "read opinions": ("read", lambda q, who, item: q.opinions(who, item)),
    "add": ("add", lambda q, who, item: q.add(who, [entry(7)])),
    "add gold": ("gold", lambda q, who, item: q.add(who, [entry(8, stratum="gold", gold={"decision": "allowed"})])),
    "rank": ("prioritise", lambda q, who, item: q.set_priorities(who, [Rescore(item=item, priority=1.0)])),
    "configure": ("configure", lambda q, who, item: q.configure(who, "default", lease_s=60)),
    "see members": ("grant", lambda q, who, item: q.members(who)),
    "grant": ("grant", lambda q, who, item: q.add_member(who, "new", [Grant(role="admin")])),
    "revoke": ("grant", lambda q, who, item: q.remove_member(who, "nobody")),
    "propose a policy": ("propose", lambda q, who, item: q.put_guideline(who, load_policy("default"))),
    "approve a policy": ("approve", lambda q, who, item: q.swap_policy(who, "default", old="p" * 64, new="n" * 64)),
    "see numbers": ("stats", lambda q, who, item: q.stats(who)),
}


@pytest.fixture
def store_url(tmp_path) -> str:
    """Rights are looked up by the same statements on both databases: one suffices."""
    return f"sqlite:///{tmp_path / 'workbench.sqlite'}"


@pytest.fixture
def decided(queue, people) -> str:
    plain_queue(queue)
    queue.add(OPERATOR, [entry(1, cluster="c"), entry(2)])
    return label(queue, people("first"), VIOLATES).item


def is_refused(act) -> bool:
    try:
        act()
    except ReviewError as error:
        return error.code == "forbidden"
    return False


def test_each_role_may_do_what_the_table_says_and_nothing_else(queue, people, decided):
    wrong = []
    for role in (*ROLES, None):
        who = people(f"one-{role}", role) if role else "m-nobody"
        for name, (act, call) in ACTS.items():
            expected = role in PERMITTED[act] and name != "add gold"
            refused = is_refused(lambda call=call, who=who: call(queue, who, decided))
            if refused == expected:
                wrong.append((role, name))
    assert wrong == []


def test_a_member_made_up_by_the_caller_has_no_right(queue, people, decided):
    forged = Member(id="m-0000", name="eve", grants=tuple(Grant(role=role) for role in ROLES))
    viewer = people("vic", "viewer")
    lifted = Member(id=viewer.id, name="vic", grants=(Grant(role="senior"), Grant(role="reviewer")))
    for who in (forged, lifted):
        for name in ("claim", "adjudicate", "appeal", "grant", "read an item"):
            assert is_refused(lambda name=name, who=who: ACTS[name][1](queue, who, decided)), name


def test_a_removed_member_can_do_nothing_with_what_is_held(queue, people, decided):
    ana, ben = people("ana"), people("ben")
    got = claimed(queue, ana, at(1))
    queue.remove_member(OPERATOR, "ana")
    for act in (
        lambda: queue.submit(ana, got.token, ALLOWED, at(2)),
        lambda: queue.claim(ana, "default", at(2)),
        lambda: queue.undo(ana, now=at(2)),
    ):
        with pytest.raises(ReviewError):
            act()
    with pytest.raises(ReviewError, check=lambda error: error.code == "unauthorised"):
        queue.sign_in(people.tokens["ana"])
    assert claimed(queue, ben, at(2)).view.id == got.view.id


def test_a_role_that_was_revoked_after_the_claim_writes_no_label(queue, people, decided):
    ana = people("ana", "reviewer", "viewer")
    got = claimed(queue, ana, at(1))
    queue.remove_member(OPERATOR, "ana", roles=["reviewer"])
    assert is_refused(lambda: queue.submit(ana, got.token, ALLOWED, at(2)))


def test_a_token_of_another_person_is_worth_nothing(queue, people, decided):
    ana, ben = people("ana"), people("ben", "reviewer", "senior")
    got = claimed(queue, ana, at(1))
    for act in (queue.submit, queue.skip, queue.escalate):
        with pytest.raises(ReviewError, check=lambda error: error.code == "lease_lost"):
            act(ben, got.token, Answer(decision="allowed")) if act == queue.submit else act(ben, got.token)
    assert queue.submit(ana, got.token, ALLOWED, at(2)).state == "decided"


def test_roles_hold_in_their_tenant_and_queue_alone(queue, people):
    queue.add(OPERATOR, [entry(1), entry(2, tenant="acme"), entry(3, tenant="acme", queue="history")])
    ana = people("ana", "reviewer", tenant="acme", where="history")
    assert isinstance(queue.claim(ana, "acme/history"), Claim)
    for place in ("default", "acme/default", "acme/nowhere", "other/history"):
        assert is_refused(lambda place=place: queue.claim(ana, place))
    assert queue.queues(ana) == ["acme/history"]
    auditor = people("aud", "auditor", tenant="acme")
    assert queue.item(auditor, entry(2, tenant="acme").id).entry.text == "text 2"
    for hidden in (entry(1).id, "f" * 64):
        assert is_refused(lambda hidden=hidden: queue.item(auditor, hidden))


def test_an_admin_of_one_tenant_grants_nothing_beyond_it(queue, people):
    boss = people("boss", "admin", tenant="acme")
    queue.add_member(boss, "ana", [Grant(role="reviewer", tenant="acme")])
    for grant in (Grant(role="reviewer"), Grant(role="reviewer", tenant="other")):
        assert is_refused(lambda grant=grant: queue.add_member(boss, "ben", [grant]))


def test_the_command_line_gives_no_label_and_reads_no_text(queue, people, decided):
    for name in ("claim", "adjudicate", "read an item", "apply to a cluster", "approve a policy"):
        assert is_refused(lambda name=name: ACTS[name][1](queue, Operator(name="root"), decided)), name


def test_a_token_signs_in_and_is_nowhere_in_the_database(queue, people, tmp_path):
    ana = people("ana")
    assert queue.sign_in(people.tokens["ana"]) == ana
    old = people.tokens["ana"]
    people("ana", "senior")
    with pytest.raises(ReviewError):
        queue.sign_in(old)
    assert {grant.role for grant in queue.sign_in(people.tokens["ana"]).grants} == {"reviewer", "senior"}
    for row in audit_rows(queue.database):
        assert people.tokens["ana"] not in str(row)
    for file in tmp_path.iterdir():
        assert people.tokens["ana"].encode() not in file.read_bytes()


def test_the_first_local_name_may_work_alone_and_later_ones_are_added(queue):
    first = queue.local_member("ana")
    assert {grant.role for grant in first.grants} == {"reviewer", "senior"}
    assert queue.local_member("ana") == first
    with pytest.raises(ReviewError, match="workbench review members add ben"):
        queue.local_member("ben")
    with pytest.raises(ReviewError):
        queue.sign_in_as("ben@example.org")
    queue.add_member(OPERATOR, "ben", [Grant(role="reviewer")], identity="ben@example.org")
    assert queue.sign_in_as("ben@example.org").name == "ben"
