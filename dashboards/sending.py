"""An answer that changed, sent to the review queue for a person to judge. Knows the queue; draws nothing."""

import hashlib

from dashboards import data
from dashboards.access import Person
from safety.policy import load_policy
from safety.review.people import Actor, Operator
from safety.review.queue import ReviewQueue
from workbench.errors import ReviewError
from workbench.records import Comparison, Flip
from workbench.store.reviews import ReviewEntry

POLICY = "default"
SOURCE = "flip"


def actor_of(who: Person) -> Actor:
    """Who acts in the queue: the member that the sign-in names; in local mode whoever works at this machine.

    Raises:
        ReviewError: the queue knows nobody by this identity.
    """
    return Operator(name=who.name) if who.is_local else ReviewQueue.open(data.project()).sign_in_as(who.name)


def send_flip(comparison: Comparison, flip: Flip, who: Person) -> bool:
    """Put the candidate's answer into the queue, under the rules of the default policy; False: it is there already.

    Raises:
        ReviewError: they may not, as the queue itself says, or this dashboard is read only.
    """
    if not who.may({"ml"}):
        raise ReviewError(f"{who.name} may not send texts to review: it takes the role ml or admin", "forbidden")
    queue, actor = ReviewQueue.open(data.project()), actor_of(who)
    policy = load_policy(POLICY, folders=[data.project().root / "policies"])
    if isinstance(actor, Operator):  # members may not propose rules by the way: theirs are known already
        queue.put_guideline(actor, policy)
    entry = ReviewEntry(
        tenant="default",
        source=SOURCE,
        surface="model_output",
        category="",
        severity="low",
        action="allow",
        policy_hash=policy.hash,
        model=comparison.candidate_checkpoint.name,
        content_sha=hashlib.sha256(f"{flip.prompt}\0{flip.candidate_answer}".encode()).hexdigest(),
        text=flip.candidate_answer,
        prompt=flip.prompt,
        context={"task": flip.task, "expected": flip.target, "before": flip.baseline_answer, "change": flip.kind},
    )
    return queue.add(actor, [entry]) > 0
