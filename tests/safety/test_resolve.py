"""Inheritance: what a child may tighten, what it may loosen and for how long, and what nobody may loosen."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from safety.policy import decide, load_policy
from tests.safety.policy_files import TODAY, WAIVER, child, load, root, write
from workbench.errors import ConfigError
from workbench.records import Judgement


def cyber(**entry: Any) -> dict[str, Any]:
    return {"categories": {"cyber": entry}}


def faults(folder: Path, *files: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, *files)
    return str(caught.value)


def test_a_child_may_tighten_anything(tmp_path: Path) -> None:
    found = load(
        tmp_path, root(), child(categories={"hate": {"actions": {"content": "block"}, "severity": "critical"}})
    )
    assert found.action("hate", "content") == "block"
    assert found.categories["hate"].severity == "critical"


def test_loosening_without_relax_is_refused_with_file_line_and_whom_to_ask(tmp_path: Path) -> None:
    said = faults(tmp_path, root(), child(categories={"hate": {"actions": {"model_output": "log"}, "waiver": WAIVER}}))
    assert "shop.yaml:8: categories.hate.actions.model_output: log is looser than block (org.yaml" in said
    assert "org@1 does not say `relax` for hate: ask its owner" in said


def test_loosening_needs_a_waiver(tmp_path: Path) -> None:
    assert "give a waiver {reason, approved_by, expires}" in faults(
        tmp_path, root(), child(**cyber(actions={"model_output": "log"}))
    )


def test_a_waiver_loosens_until_its_last_day_and_then_the_parents_value_holds(tmp_path: Path) -> None:
    files = root(), child(**cyber(actions={"model_output": "log"}, waiver=WAIVER))
    assert load(tmp_path, *files, today=date(2027, 3, 31)).action("cyber", "model_output") == "log"
    late = load(tmp_path, *files, today=date(2027, 4, 1))
    step = late.categories["cyber"].step("actions", "model_output", today=date(2027, 4, 1))
    assert step.action == "block"
    assert "its waiver ended on 2027-03-31" in late.notes[0]


def test_a_policy_that_stays_loaded_lets_a_waiver_end_too(tmp_path: Path) -> None:
    found = load(tmp_path, root(), child(**cyber(actions={"model_output": "log"}, waiver=WAIVER)))
    category = found.categories["cyber"]
    assert category.step("actions", "model_output", today=date(2027, 3, 31)).action == "log"
    assert category.step("actions", "model_output", today=date(2027, 4, 1)).action == "block"


def test_a_category_is_judged_again_from_the_day_on_which_its_waiver_ended(tmp_path: Path) -> None:
    entry = {"actions": {"user_input": "allow"}, "waiver": WAIVER}
    first = root()
    first["categories"]["cyber"]["relax"] = {"to": "allow"}
    found = load(tmp_path, first, child(**cyber(**entry)))
    days = date(2027, 3, 31), date(2027, 4, 1)
    assert ["cyber" in found.judged("user_input", today=day) for day in days] == [False, True]
    assert [decide(found, "user_input", [], today=day).action for day in days] == ["log", "log"]
    others = [name for name in found.categories if name not in ("cyber", "cyber.exploit")]
    allowed = [Judgement(category=name, value="allowed", judge="m") for name in others]
    assert [decide(found, "user_input", allowed, today=day).action for day in days] == ["allow", "log"]


def test_nothing_is_relaxed_further_than_the_parent_says(tmp_path: Path) -> None:
    said = faults(tmp_path, root(), child(**cyber(actions={"model_output": "allow"}, waiver=WAIVER)))
    assert "allow: the parent lets it be relaxed to log at most" in said


def test_children_of_a_relaxed_category_follow_it_as_far_as_their_own_relax(tmp_path: Path) -> None:
    found = load(tmp_path, root(), child(**cyber(actions={"model_output": "log"}, waiver=WAIVER)))
    assert found.action("cyber.exploit", "model_output") == "log"
    assert found.action("cyber.worm", "model_output") == "block"


@pytest.mark.parametrize(
    "entry",
    [
        {"actions": {"model_output": "log"}},
        {"uncertain": {"model_output": "log"}},
        {"on_error": {"model_output": "allow"}},
        {"severity": "low"},
        {"judges": ["k"]},
        {"risk": {"miss": 0.2}},
        {"risk": {"fixed": 0.9}},
        {"definition": "Sexualises minors in pictures."},
        {"not_this": ["drawings"]},
        {"examples": {"violates": [], "allowed": ["anything"]}},
        {"rules": [{"if": {"role": "admin"}, "actions": {"model_output": "log"}}]},
        {"relax": {"to": "allow"}},
    ],
    ids=lambda entry: next(iter(entry)),
)
def test_a_floor_is_not_loosened_in_any_way(tmp_path: Path, entry: dict[str, Any]) -> None:
    files = root(), child("mid"), child(parent="mid@1", categories={"csae": {**entry, "waiver": WAIVER}})
    said = faults(tmp_path, *files)
    assert "categories.csae" in said


def test_a_floor_is_not_loosened_by_a_new_child_of_it(tmp_path: Path) -> None:
    entry = {"children": {"art": {"title": "Art", "actions": {"model_output": "allow"}, "waiver": WAIVER}}}
    said = faults(tmp_path, root(), child(categories={"csae": entry}))
    assert "csae is a floor, which nothing may loosen" in said


def test_when_loosens_only_under_its_condition(tmp_path: Path) -> None:
    entry = {"actions": {"model_output": "log"}, "when": {"role": "tester"}, "waiver": WAIVER}
    found = load(tmp_path, root(), child(**cyber(**entry)))
    assert found.action("cyber", "model_output") == "block"
    assert found.action("cyber", "model_output", {"role": "tester"}) == "log"
    assert found.action("cyber", "model_output", {"role": "admin"}) == "block"


def test_the_first_rule_whose_condition_holds_counts(tmp_path: Path) -> None:
    rules = [
        {"if": {"role": "tester", "region": "eu"}, "actions": {"model_output": "review"}},
        {"if": {"role": "tester"}, "actions": {"model_output": "log"}},
    ]
    found = load(tmp_path, root(), child(**cyber(rules=rules, waiver=WAIVER)))
    assert found.action("cyber", "model_output", {"role": "tester", "region": "eu"}) == "review"
    assert found.action("cyber", "model_output", {"role": "tester", "region": "us"}) == "log"


def test_every_leaf_says_which_file_and_line_set_it(tmp_path: Path) -> None:
    found = load(tmp_path, root(), child(categories={"hate": {"actions": {"content": "block"}}}))
    hate = found.categories["hate"]
    assert hate.step("actions", "content").set_by == "shop.yaml:8"
    assert hate.step("actions", "model_output").set_by.startswith("org.yaml:")
    assert hate.set_by["definition"].startswith("org.yaml:")


def test_a_parent_is_pinned_and_the_pin_is_kept(tmp_path: Path) -> None:
    assert "expected a pinned parent such as default@3" in faults(tmp_path, root(), child(parent="org"))
    said = faults(tmp_path, root(version=2), child())
    assert "org@1: not found" in said and "is org@2: pin that after reading `workbench policy diff`" in said


def test_an_old_version_may_lie_beside_the_new_one(tmp_path: Path) -> None:
    write(tmp_path, root(title="old"))
    (tmp_path / "org.yaml").rename(tmp_path / "org@1.yaml")
    assert load(tmp_path, root(version=2, title="new"), child()).title == "old"


def test_a_circle_of_parents_is_refused(tmp_path: Path) -> None:
    said = faults(tmp_path, child("a", "b@1"), child("b", "a@1"))
    assert "extends itself: b.yaml -> a.yaml -> b.yaml" in said


def test_a_community_is_not_extended_by_an_organisation(tmp_path: Path) -> None:
    said = faults(tmp_path, root(kind="community"), child(kind="product"))
    assert "a product cannot extend a community" in said


def test_a_misspelt_category_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    said = faults(tmp_path, root(), child(categories={"hatte": {"actions": {"content": "block"}}}))
    assert 'a new category without title and definition; did you mean "hate"?' in said


def test_unknown_keys_judges_templates_and_attributes_are_all_told_at_once(tmp_path: Path) -> None:
    entry = {"judges": ["m", "mm"], "template": "gone", "when": {"rolle": "x"}, "actions": {"content": "block"}}
    said = faults(tmp_path, root(), child(categories={"hate": entry}))
    assert "mm: no such judge" in said and "gone: no such text" in said and 'did you mean "role"?' in said
    (tmp_path / "x.yaml").write_text("schema: policy/v1\nid: x\nversion: 1\nflor: [a]\nflor2: 1\n")
    with pytest.raises(ConfigError, match='flor: unknown key; did you mean "floor"'):
        load_policy(tmp_path / "x.yaml")


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("schema: policy/v1\nid: x\nversion: 1\nversion: 2\n")
    with pytest.raises(ConfigError, match='key "version" is given twice'):
        load_policy(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{c}: &{c} [{','.join(['*' + p] * 6)}]\n" for p, c in zip("abcdefg", "bcdefgh", strict=True)),
            "aliases expanded",
        ),
        ("a: &a 1\nb: [" + "*a," * 60 + "]\n", "more than 50 aliases"),
        ("a: " + "[" * 40 + "]" * 40 + "\n", "more than 20 levels deep"),
        ("# " + "x" * 1_000_001 + "\n", "characters, and 1,000,000 are allowed"),
    ],
    ids=["bomb", "aliases", "depth", "size"],
)
def test_a_file_that_costs_too_much_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_policy(tmp_path / "x.yaml")


def test_a_gate_and_a_dimension_may_grow_but_not_shrink(tmp_path: Path) -> None:
    gate = {"metric": "violation_rate", "per": "category", "upper": 0.05, "min_n": 100}
    said = faults(tmp_path, root(), child(gates=[gate]))
    assert "upper 0.05 is looser than the parent's 0.01" in said
    tighter = load(tmp_path, root(), child(gates=[gate | {"upper": 0.005, "min_n": 600}]))
    assert [g["upper"] for g in tighter.gates] == [0.005]
    with_dimension = root(dimensions={"safety": ["csae", "hate"]})
    assert "leaves out csae" in faults(tmp_path, with_dimension, child(dimensions={"safety": ["hate"]}))


def test_a_judge_is_replaced_only_where_the_parent_says_so(tmp_path: Path) -> None:
    own = {"judges": {"m": {"kind": "classifier"}}}
    assert "replaceable" in faults(tmp_path, root(), child(**own))
    open_root = root(judges={"m": {"kind": "model", "replaceable": True}, "k": {"kind": "keyword"}})
    assert load(tmp_path, open_root, child(**own)).judges["m"]["kind"] == "classifier"


def test_a_keyword_judge_can_only_raise(tmp_path: Path) -> None:
    said = faults(tmp_path, root(judges={"m": {"kind": "keyword", "effect": "decide"}}))
    assert "a keyword judge may raise, never clear" in said
    assert load(tmp_path, root()).judges["k"]["effect"] == "raise_only"


def test_a_gate_about_a_metric_that_nobody_counts_is_refused(tmp_path: Path) -> None:
    said = faults(tmp_path, root(gates=[{"metric": "violations_rate", "upper": 0.1}]))
    assert 'violations_rate: no such metric; did you mean "violation_rate"' in said


def test_closed_does_not_become_open(tmp_path: Path) -> None:
    assert "open is looser than the parent's closed" in faults(tmp_path, root(), child(runtime={"fail": "open"}))


def test_the_hash_covers_what_is_decided_and_not_how_it_is_written(tmp_path: Path) -> None:
    one = load(tmp_path, root())
    turned = dict(reversed(root().items()))
    turned["categories"] = dict(reversed(turned["categories"].items()))
    assert load(tmp_path, turned).hash == one.hash
    changed = root()
    changed["categories"]["hate"]["actions"] = {"content": "hold"}
    other = load(tmp_path, changed)
    assert other.hash != one.hash
    assert other.categories["hate"].hash == one.categories["hate"].hash, "what the category means is as before"
    changed["categories"]["hate"]["definition"] = "Demeans people or peoples."
    assert load(tmp_path, changed).categories["hate"].hash != one.categories["hate"].hash


def test_parents_are_read_once_for_many_communities(tmp_path: Path) -> None:
    from safety.policy import PolicyLibrary

    write(tmp_path, root())
    library = PolicyLibrary([tmp_path], today=TODAY)
    one = library.load(write(tmp_path, child("c1", kind="community")))
    (tmp_path / "org.yaml").write_text("nonsense")
    other = library.load(write(tmp_path, child("c2", kind="community")))
    assert one.categories["hate"] is other.categories["hate"]
