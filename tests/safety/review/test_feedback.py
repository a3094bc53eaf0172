"""Labels become rows: what trains, what is held out for ever, what stays out, and that twins turn the rule around."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety.policy import load_policy
from safety.review.feedback import (
    MAX_WEIGHT,
    Feedback,
    Settled,
    build_feedback,
    held_side,
    rule_digest,
)

POLICY = load_policy("moderation")
RULE = sorted(POLICY.categories)[0]
OTHER = sorted(POLICY.categories)[1]


def item(n: int, **changes: object) -> Settled:
    base = Settled(id=f"{n:04}", text=f"text number {n}", category=RULE, decision="violates", categories=(RULE,))
    return replace(base, **changes)  # type: ignore[arg-type]


def of(*items: Settled) -> Feedback:
    return build_feedback(items, POLICY)


def test_a_violation_is_a_yes_and_its_twin_under_an_allowing_rule_a_no() -> None:
    first, twin = of(item(1)).train
    assert (first["completion"], twin["completion"]) == ("Yes", "No")
    assert "text number 1" in first["prompt"]
    assert "text number 1" in twin["prompt"]
    assert first["prompt"] != twin["prompt"]
    assert (first["twin"], twin["twin"]) == (False, True)


def test_what_is_allowed_has_no_twin() -> None:
    (row,) = of(item(1, decision="allowed", categories=(), soft=0.0)).train
    assert row["completion"] == "No"


def test_a_split_vote_is_one_row_for_each_answer_with_weights_that_add_up() -> None:
    yes, no = of(item(1, soft=0.75, pi=0.5)).train
    assert (yes["completion"], no["completion"]) == ("Yes", "No")
    assert yes["prompt"] == no["prompt"]
    assert (yes["weight"], no["weight"]) == (1.5, 0.5)


def test_the_weight_of_a_rare_draw_is_bounded() -> None:
    assert of(item(1, pi=0.001)).train[0]["weight"] == MAX_WEIGHT


def test_where_all_rules_were_open_the_others_are_a_no_too() -> None:
    rows = of(item(1, category="", categories=(RULE,))).train
    assert {row["category"] for row in rows if row["completion"] == "Yes"} == {RULE}
    others = [row["category"] for row in rows if row["completion"] == "No" and not row["twin"]]
    assert others
    assert RULE not in others


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stratum": "gold"}, "gold"),
        ({"decided_by": "cluster"}, "copy of a near-duplicate's label"),
        ({"text": " "}, "its text was not kept"),
        ({"decision": "unsure"}, "decided unsure"),
        ({"category": "no_such_rule", "categories": ()}, "no rule of this policy"),
        ({"rule_digests": {RULE: "another text of the rule"}}, "the rule reads otherwise now"),
    ],
)
def test_what_does_not_train_is_counted_with_the_reason(changes: dict[str, object], reason: str) -> None:
    found = of(item(1, **changes))
    assert (found.train, found.left_out) == ((), {reason: 1})


def test_a_label_under_the_same_rule_text_trains() -> None:
    rule = POLICY.categories[RULE]
    digest = rule_digest(
        definition=rule.definition, not_this=rule.not_this, violates=rule.violates, allowed=rule.allowed
    )
    assert of(item(1, rule_digests={RULE: digest})).train


def test_half_of_the_exploration_stream_is_held_out_and_split_in_two() -> None:
    items = [item(n, stratum="exploration", pi=0.1) for n in range(400)]
    found = of(*items)
    sides = [row.split for row in found.held_out]
    assert 160 < len(sides) < 240
    assert 70 < sides.count("test") < 130
    trained = {row["item"] for row in found.train}
    assert trained | {row.item.id for row in found.held_out} == {one.id for one in items}
    assert not trained & {row.item.id for row in found.held_out}


@given(st.integers(0, 10_000), st.permutations(range(6)))
def test_no_row_of_a_held_out_cluster_trains_whatever_its_stratum_and_order(seed: int, order: list[int]) -> None:
    strata = ("exploration", "priority", "diversity", "must_review", "exploration", "priority")
    items = [item(n, stratum=strata[n], cluster=f"c{n % 2}") for n in order]
    found = build_feedback(items, POLICY, seed=seed)
    held = {one.group for one in items if held_side(one, seed=seed) is not None}
    by_id = {one.id: one for one in items}
    assert all(by_id[row["item"]].group not in held for row in found.train)
    assert all(row.item.stratum == "exploration" for row in found.held_out)


@given(st.permutations(range(8)))
def test_the_order_of_labels_changes_nothing(order: list[int]) -> None:
    items = [item(n, stratum="exploration" if n % 2 else "priority") for n in range(8)]
    assert build_feedback([items[n] for n in order], POLICY) == build_feedback(items, POLICY)


def test_a_preference_is_made_where_the_model_had_said_the_opposite() -> None:
    (row,) = of(item(1, probability=0.2)).preferences
    assert (row["chosen"], row["rejected"]) == ("Yes", "No")
    assert of(item(1, probability=0.9)).preferences == ()


def test_the_manifest_counts_what_the_files_hold() -> None:
    found = of(item(1), item(2, stratum="gold"), *(item(n, stratum="exploration") for n in range(3, 40)))
    told = found.manifest(POLICY, as_of="2026-01-01T00:00:00+00:00")
    assert told["rows"]["train"] == len(found.train) == len(told["sha256"]["train"])
    assert told["rows"]["test"] == sum(row.split == "test" for row in found.held_out)
    assert told["left_out"] == {"gold": 1}
    assert told["policy_hash"] == POLICY.hash


def test_rewards_hold_one_right_word_for_each_clear_label() -> None:
    assert [row["answer"] for row in of(item(1), item(2, soft=0.5)).rewards] == ["Yes"]
    assert OTHER != RULE
