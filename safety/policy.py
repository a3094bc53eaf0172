"""One policy for evaluation, runtime, review, labels and gates: the table of contents.

    policy = load_policy("default")                      # a shipped name, or a path
    decision = decide(policy, "model_output", judgements, {"caller_role": "pentester"})
    decision.action, decision.category, decision.reason, decision.policy_hash

`safety.schema` is what stands in a file, `safety.resolve` settles parents, floors and waivers, `safety.resolved` is
what is left of it, `safety.decide` the one function that evaluation and runtime both call.
"""

from safety.decide import decide, doubt_of, read_judgement
from safety.resolve import PolicyLibrary, load_policy, shipped_policies
from safety.resolved import Category, ResolvedPolicy, Risk, Threshold, is_withheld, strictest

__all__ = [
    "Category",
    "PolicyLibrary",
    "ResolvedPolicy",
    "Risk",
    "Threshold",
    "decide",
    "doubt_of",
    "is_withheld",
    "load_policy",
    "read_judgement",
    "shipped_policies",
    "strictest",
]
