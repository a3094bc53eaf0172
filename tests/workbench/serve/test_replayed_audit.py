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
