"""Every shipped policy obeys the laws of its kind."""

import json
from datetime import date
from pathlib import Path

import pytest

from safety.judges.base import build_judge
from safety.policy import ResolvedPolicy, load_policy, shipped_policies
from safety.policy_hash import resolved_json
from safety.resolved import RANK
from safety.schema import PolicyFile
from workbench.config import read_yaml, validate
from workbench.errors import ConfigError
from workbench.records import SURFACES

TODAY = date(2027, 1, 1)
NAMES = sorted(shipped_policies())


@pytest.fixture(params=NAMES)
def policy(request: pytest.FixtureRequest) -> ResolvedPolicy:
    return load_policy(request.param, today=TODAY)


def test_the_shipped_policies_are_there():
    wanted = {"default", "security-testing", "media-own-characters", "child-directed", "communities"}
    assert wanted <= set(NAMES)
    assert "community" in {load_policy(name, today=TODAY).kind for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_the_same_after_a_round_trip(name: str):
    file = validate(read_yaml(shipped_policies()[name]), PolicyFile, where=name)
    plain = file.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert validate(plain, PolicyFile, where=name) == file


@pytest.mark.parametrize("name", NAMES)
def test_the_hash_does_not_depend_on_the_order_of_keys(name: str, tmp_path: Path):
    source = shipped_policies()[name]
    for folder in ("lists", "tests", "cards"):
        (tmp_path / folder).symlink_to(source.parent / folder)
    turned = json.loads(json.dumps(read_yaml(source)), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    (tmp_path / f"{name}.yaml").write_text(json.dumps(turned))
    assert load_policy(tmp_path / f"{name}.yaml", today=TODAY).hash == load_policy(name, today=TODAY).hash


def test_the_hash_is_that_of_the_resolved_policy_as_sorted_json(policy: ResolvedPolicy):
    text = resolved_json(policy)
    assert json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, separators=(",", ":")) == text


def test_nothing_that_is_withheld_is_served_because_a_judge_failed(policy: ResolvedPolicy):
    for name, category in policy.categories.items():
        violation, failure = (category.step(kind, "model_output").action for kind in ("actions", "on_error"))
        assert policy.permits(name, "model_output") or RANK[failure] >= RANK["rewrite"], (name, violation, failure)


def test_a_floor_of_a_parent_is_as_strict_below_it(policy: ResolvedPolicy):
    for parent in (load_policy(name.split("@")[0], today=TODAY) for name in policy.lineage):
        assert set(parent.floors) <= set(policy.floors)
        for floor in parent.floors:
            for surface in SURFACES:
                action = policy.action(floor, surface, policy.context.get("assume"))
                assert RANK[action] >= RANK[parent.action(floor, surface)]


def test_every_judge_can_be_built_or_says_that_a_model_is_to_be_named(policy: ResolvedPolicy):
    for name, judge in policy.judges.items():
        try:
            build_judge(name, judge["kind"], judge.get("options"))
        except ConfigError as error:
            assert judge["kind"] == "model" and "needs an engine" in str(error)


def test_every_category_has_a_definition_a_judge_and_its_own_tests(policy: ResolvedPolicy):
    for name, category in policy.categories.items():
        assert len(category.definition) > 10 and category.judges, name
        for file in category.tests:
            rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
            expects = [row["expect"] for row in rows]
            assert min(expects.count("violates"), expects.count("allowed")) >= 10, file
            assert len({row["text"] for row in rows}) == len(rows), file
        assert category.tests, name


def test_every_category_is_reported_under_one_dimension(policy: ResolvedPolicy):
    named = [name for settings in policy.dimensions.values() for name in settings.get("categories", ())]
    assert len(named) == len(set(named))
    tops = {name.split(".")[0] for name, category in policy.categories.items() if not category.is_rule}
    assert tops <= set(named)
