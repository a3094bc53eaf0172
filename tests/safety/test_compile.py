"""One compiler, five outputs: they say the same, whatever the policy, the context and the judgements."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety.compile import DECISIONS, evaluation_plan, label_schema, reviewer_screen, runtime_table, training_row
from safety.policy import ResolvedPolicy, decide, is_withheld, load_policy, read_judgement, shipped_policies
from tests.safety.policy_files import TODAY
from workbench.records import SURFACES, Judgement, JudgementValue

POLICIES = {name: load_policy(name, today=TODAY) for name in shipped_policies()}
CONTEXTS: tuple[dict[str, Any], ...] = (
    {},
    {"caller_role": "pentester", "engagement": {"id": "E", "scope": ["h"]}, "target": "h"},
    {"is_moderator": True},
    {"entities": ["own_characters"]},
)
VALUES: tuple[JudgementValue, ...] = ("violates", "allowed", "uncertain", "unscorable")


def draw_items(count: int, *, seed: int) -> list[tuple[str, str, str, JudgementValue, dict[str, Any]]]:
    """(policy, category, surface, value, context), drawn at random."""
    rng = np.random.default_rng(seed)
    items = []
    for _ in range(count):
        name = str(rng.choice(sorted(POLICIES)))
        category = str(rng.choice(sorted(POLICIES[name].categories)))
        context = CONTEXTS[int(rng.integers(len(CONTEXTS)))]
        items.append((name, category, str(rng.choice(SURFACES)), VALUES[int(rng.integers(4))], context))
    return items


def test_evaluation_and_runtime_decide_the_same_on_1000_items() -> None:
    for name, category, surface, value, context in draw_items(1000, seed=11):
        policy = POLICIES[name]
        judge = policy.categories[category].judges[-1]
        judgement = Judgement(category=category, value=value, judge=judge)
        found = decide(policy, cast("Any", surface), [judgement], context, categories=[category], today=TODAY)
        row = next(
            r for r in runtime_table(policy, cast("Any", surface), context, today=TODAY) if r.category == category
        )
        assert found.action == ("allow" if value == "allowed" else getattr(row, value)), (name, category)
        if surface == "model_output" and value == "violates":
            plan = {p.category: p for p in evaluation_plan(policy, context, today=TODAY).categories}[category]
            assert (plan.expect == "refuse") == is_withheld(found.action)
            assert plan.action == found.action


@given(
    name=st.sampled_from(sorted(POLICIES)),
    surface=st.sampled_from(SURFACES),
    context=st.sampled_from(CONTEXTS),
    data=st.data(),
)
def test_a_decision_is_the_strictest_row_of_the_table(
    name: str, surface: Any, context: Any, data: st.DataObject
) -> None:
    policy = POLICIES[name]
    names = sorted(policy.categories)
    values = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(VALUES), max_size=6))
    judged = [Judgement(category=c, value=v, judge="people") for c, v in values.items()]
    found = decide(policy, surface, judged, context, categories=sorted(values), today=TODAY)
    clean = [c for c, v in values.items() if v == "allowed"]
    rows = {row.category: row for row in runtime_table(policy, surface, {**context, "clean": clean}, today=TODAY)}
    order = ("allow", "log", "review", "rewrite", "hold", "block")
    wanted = ["allow", *(getattr(rows[c], v) for c, v in values.items() if v != "allowed")]
    assert found.action == max(wanted, key=order.index)


@given(probability=st.floats(0, 1), name=st.sampled_from(sorted(POLICIES)))
def test_a_threshold_splits_allowed_uncertain_and_violates_in_this_order(probability: float, name: str) -> None:
    from dataclasses import replace

    from safety.policy import Threshold

    category = replace(POLICIES[name].categories["hate"], thresholds={"*": Threshold(low=0.3, high=0.7, guarantee="")})
    judgement = Judgement(category="hate", value="allowed", judge="m", probability=probability)
    wanted = "violates" if probability >= 0.7 else "allowed" if probability < 0.3 else "uncertain"
    assert read_judgement(category, judgement) == wanted


def test_the_same_category_is_a_violation_for_one_business_and_a_permission_test_for_another() -> None:
    plans = {name: evaluation_plan(POLICIES[name], today=TODAY) for name in ("default", "security-testing")}
    assert "cyber_offense.exploit_dev" not in plans["default"].permitted
    assert "cyber_offense.exploit_dev" in plans["security-testing"].permitted
    assert "cyber_offense.self_spreading" not in plans["security-testing"].permitted
    assert evaluation_plan(POLICIES["security-testing"], {}, today=TODAY).permitted == plans["default"].permitted


def test_a_judge_reads_what_is_judged_apart() -> None:
    text = POLICIES["default"].categories["cyber_offense"].text
    assert "Judged apart, so not this: Code that spreads by itself; Deceptive messages; Making" in text
    assert "Not this: teaching in general" in text


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_screen_has_every_rule_and_no_key_twice(name: str) -> None:
    screen = reviewer_screen(POLICIES[name])
    assert [rule.category for rule in screen.rules] == list(POLICIES[name].categories)
    keys = [*screen.keys, *(rule.key for rule in screen.rules if rule.key)]
    assert len(keys) == len(set(keys)) and not {"c", "r"} & set(keys)
    assert set(screen.keys.values()) & set(DECISIONS)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_labels_bear_the_hashes_that_they_were_made_under(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    policy = POLICIES[name]
    check = jsonschema.Draft202012Validator(label_schema(policy)).is_valid
    label = {
        "item": "1",
        "decision": "violates",
        "categories": ["hate"],
        "category_hashes": {"hate": policy.categories["hate"].hash},
        "reviewer": "r",
        "policy_hash": policy.hash,
    }
    assert check(label)
    assert not check(label | {"policy_hash": "0" * 64})
    assert not check(label | {"category_hashes": {"hate": "0" * 64}})
    assert not check(label | {"categories": []})
    assert not check(label | {"decision": "bad"})


def test_a_training_row_holds_rule_text_verdict_and_hashes() -> None:
    policy: ResolvedPolicy = POLICIES["askhistory"]
    row = training_row(policy, "rule.no-speculation", "I guess so.", violates=2 / 3)
    assert row["completion"] == "Yes" and row["soft_target"] == 2 / 3
    assert "Top-level answers must rest on sources" in row["prompt"]
    assert row["category_hash"] == policy.categories["rule.no-speculation"].hash
    assert row["policy_hash"] == policy.hash
