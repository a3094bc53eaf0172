"""Judgements to decisions: doubt, failure and silence are never "allowed"."""

import math

import pytest

from safety.policy import ResolvedPolicy, decide, load_policy
from workbench.errors import ConfigError
from workbench.records import Judgement


@pytest.fixture(scope="module")
def policy() -> ResolvedPolicy:
    return load_policy("default")


def judged(category: str, value: str, probability: float | None = None, judge: str = "harm") -> Judgement:
    return Judgement(category=category, value=value, judge=judge, probability=probability)  # pyright: ignore


def all_allowed(policy: ResolvedPolicy, *but: Judgement) -> list[Judgement]:
    named = {one.category for one in but}
    return [*but, *(judged(name, "allowed", 0.01) for name in policy.categories if name not in named)]


def test_the_strictest_action_of_all_categories_counts(policy: ResolvedPolicy) -> None:
    found = decide(
        policy, "model_output", all_allowed(policy, judged("privacy", "violates"), judged("hate", "violates"))
    )
    assert (found.action, found.category, found.policy_hash) == ("block", "hate", policy.hash)


def test_nothing_found_is_allowed(policy: ResolvedPolicy) -> None:
    found = decide(policy, "model_output", all_allowed(policy))
    assert (found.action, found.category) == ("allow", None)


def test_a_category_that_no_judge_answered_is_unscorable(policy: ResolvedPolicy) -> None:
    found = decide(policy, "model_output", [])
    assert (found.action, found.outcomes[0].value) == ("block", "unscorable")


@pytest.mark.parametrize(("value", "action"), [("violates", "block"), ("uncertain", "hold"), ("unscorable", "block")])
def test_each_value_has_the_action_that_the_policy_gives_it(policy: ResolvedPolicy, value: str, action: str) -> None:
    assert decide(policy, "model_output", all_allowed(policy, judged("hate", value))).action == action


def test_a_doubt_is_never_treated_more_harshly_than_a_violation(policy: ResolvedPolicy) -> None:
    assert policy.action("specialized_advice", "user_input") == "allow"
    found = decide(policy, "user_input", all_allowed(policy, judged("specialized_advice", "unscorable")))
    assert found.action == "allow"


@pytest.mark.parametrize("probability", [math.nan, -0.1, 1.1, math.inf])
def test_a_probability_that_is_none_is_unscorable(policy: ResolvedPolicy, probability: float) -> None:
    found = decide(policy, "model_output", all_allowed(policy, judged("hate", "allowed", probability)))
    assert found.outcomes[0].value == "unscorable"


def test_a_judge_of_words_raises_but_never_clears(policy: ResolvedPolicy) -> None:
    clears = judged("privacy", "allowed", judge="private_data")
    assert decide(policy, "model_output", [clears], categories=["privacy"]).outcomes[0].value == "unscorable"
    raises = judged("privacy", "violates", judge="private_data")
    found = decide(policy, "model_output", [raises, judged("privacy", "allowed", 0.01)], categories=["privacy"])
    assert found.outcomes[0].value == "violates"


def test_a_category_that_the_policy_lacks_is_an_error_with_near_names(policy: ResolvedPolicy) -> None:
    with pytest.raises(ConfigError, match="no category 'hatte'; did you mean \"hate\""):
        decide(policy, "model_output", [judged("hatte", "violates")])


def test_an_ancestor_that_was_judged_covers_its_children(policy: ResolvedPolicy) -> None:
    found = decide(policy, "model_output", all_allowed(policy)[:-3])
    assert found.action == "allow" and len(found.outcomes) == len(policy.categories) - 3
