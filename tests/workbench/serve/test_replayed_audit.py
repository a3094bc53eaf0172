"""What the guard wrote down can be decided again under a changed policy."""

from dataclasses import replace

from safety.guard import Check
from safety.policy import Threshold, decide, load_policy
from safety.replay import past_item, replay
from tests.safety.policy_files import TODAY
from workbench.records import Judgement
from workbench.serve.recording import Subject, audit_event


def test_a_lower_threshold_flips_what_was_cleared() -> None:
    policy = load_policy("communities", today=TODAY)
    names = [name for name in policy.categories if name != "hate"]
    judged = [Judgement(category=name, value="allowed", judge="mod", probability=0.01) for name in names]
    judged.append(Judgement(category="hate", value="allowed", judge="mod", probability=0.4))
    decision = decide(policy, "content", judged, today=TODAY)
    subject = Subject(request="r1", tenant="t", community="c", model="m")
    event = audit_event(Check(decision=decision, text="x"), policy, subject, text="x", surface="content")
    item = past_item(event.document, default_id="1")
    assert (item.id, item.community, item.action) == ("r1", "c", "allow")
    hate = replace(policy.categories["hate"], thresholds={"mod": Threshold(low=0.3, high=0.35, guarantee="")})
    stricter = replace(policy, categories={**policy.categories, "hate": hate}, hash="1" * 64)
    found = replay([item], stricter, before=policy, today=TODAY)
    assert [(flip.category, flip.before, flip.after) for flip in found.flips] == [("hate", "allow", "hold")]


def test_conditions_hold_again_because_the_declared_attributes_of_the_caller_are_kept() -> None:
    policy = load_policy("security-testing", today=TODAY)
    caller = {"caller_role": "pentester", "engagement": {"id": "E-1", "scope": ["10.0.0.8"]}, "target": "10.0.0.8"}
    judged = [Judgement(category="cyber_offense.exploit_dev", value="violates", judge="harm", probability=0.9)]
    categories = ["cyber_offense.exploit_dev"]
    decision = decide(policy, "model_output", judged, caller, categories=categories, today=TODAY)
    subject = Subject(request="r1", tenant="t", community="", model="m", context=caller | {"phone": "555 0100"})
    event = audit_event(Check(decision=decision, text="x"), policy, subject, text="x", surface="model_output")
    item = past_item(event.document, default_id="1")
    assert (item.action, item.context) == ("log", caller)  # and nothing that no condition asks for
    assert replay([item], policy, today=TODAY).flips == ()
    forgotten = replace(item, context={})
    (flip,) = replay([forgotten], policy, today=TODAY).flips
    assert (flip.before, flip.after) == ("log", "block")
