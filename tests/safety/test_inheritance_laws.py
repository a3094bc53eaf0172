"""Whatever files say: no child is looser than a floor, and none is looser than its parent without a live waiver."""

import itertools
import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safety.compile import evaluation_plan, runtime_table
from safety.layer import Layer
from safety.merge_categories import merge_categories
from safety.merge_settings import merge_settings
from safety.policy import ResolvedPolicy, decide, is_withheld, load_policy
from safety.resolved import RANK, Step, follow
from safety.schema import PolicyFile
from tests.safety.policy_files import TODAY, child, root
from workbench.records import ACTIONS, SURFACES, Judgement

DAYS = st.integers(-5, 5).map(lambda days: TODAY + timedelta(days=days))
ACTION = st.sampled_from(ACTIONS)
WHEN = st.none() | st.fixed_dictionaries({"role": st.sampled_from(["a", "b"])})
CONTEXT = st.fixed_dictionaries({}, optional={"role": st.sampled_from(["a", "b", "c"])})


def step(action: str, when: Any, until: date | None, not_below: str | None) -> Step:
    text = until.isoformat() if until else None
    return Step(action=action, set_by="f:1", when=when, until=text, not_below=not_below)  # pyright: ignore


STEP = st.builds(step, ACTION, WHEN, st.none() | DAYS, st.none() | ACTION)
CHAIN = st.builds(
    lambda first, rest: ((first,), *map(tuple, rest)),
    st.builds(step, ACTION, st.none(), st.none(), st.none()),
    st.lists(st.lists(STEP, min_size=1, max_size=3), max_size=5),
)


@given(chain=CHAIN, context=CONTEXT, today=DAYS, floor=ACTION)
def test_nothing_comes_out_below_the_floor(chain: Any, context: Any, today: date, floor: Any) -> None:
    assert RANK[follow(chain, context, today, floor).action] >= RANK[floor]


@given(chain=CHAIN, context=CONTEXT)
def test_when_every_waiver_has_ended_each_file_only_tightens(chain: Any, context: Any) -> None:
    found = [RANK[follow(chain[:count], context, date.max).action] for count in range(1, len(chain) + 1)]
    assert found == sorted(found)


@given(chain=CHAIN, context=CONTEXT, today=DAYS)
def test_a_live_waiver_reaches_no_further_than_the_parent_lets_it(chain: Any, context: Any, today: date) -> None:
    before = follow(chain[:-1] or chain, context, today).action
    after = follow(chain, context, today)
    if RANK[after.action] < RANK[before]:
        assert after.until is not None and today <= date.fromisoformat(after.until)
        assert after.not_below is not None and RANK[after.action] >= RANK[after.not_below]


SURFACE_ACTIONS = st.dictionaries(st.sampled_from(SURFACES), ACTION, min_size=1)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "actions": SURFACE_ACTIONS,
        "uncertain": SURFACE_ACTIONS,
        "on_error": SURFACE_ACTIONS,
        "when": st.fixed_dictionaries({"role": st.sampled_from(["a", "b"])}),
        "rules": st.lists(
            st.fixed_dictionaries(
                {"if": st.fixed_dictionaries({"role": st.sampled_from(["a", "b"])}), "actions": SURFACE_ACTIONS}
            ),
            max_size=2,
        ),
        "waiver": st.builds(lambda day: {"reason": "r", "approved_by": "a", "expires": day.isoformat()}, DAYS),
        "relax": st.builds(lambda to: {"to": to}, ACTION),
    },
)
CATEGORIES = st.dictionaries(st.sampled_from(["csae", "hate", "cyber"]), ENTRY, max_size=3)
CONTEXTS = ({}, {"role": "a"}, {"role": "b"}, {"role": "c"})


def categories_of(entries: Any, below: Any) -> dict[str, Any]:
    made = {name: dict(entry) for name, entry in entries.items()}
    if below:
        made.setdefault("cyber", {})["children"] = below
    return made


def resolve(files: list[dict[str, Any]], *, blind: bool) -> list[ResolvedPolicy]:
    """The policies of a line of files. `blind`: the faults that were found are not raised."""
    made: list[ResolvedPolicy] = []
    for data in files:
        file = PolicyFile.model_validate_json(json.dumps(data))
        layer = Layer(file=file, path=Path("f.yaml"), lines={}, parent=made[-1] if made else None, today=TODAY)
        settings_ = merge_settings(layer)
        found = replace(settings_, categories=merge_categories(layer, settings_))
        if layer.faults and not blind:
            break
        made.append(found)
    return made


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    top=CATEGORIES,
    middle=CATEGORIES,
    low=CATEGORIES,
    below=st.dictionaries(st.sampled_from(["exploit", "worm"]), ENTRY, max_size=2),
    blind=st.booleans(),
)
def test_no_file_loosens_its_parent_without_a_live_waiver_and_none_loosens_a_floor(
    top: Any, middle: Any, low: Any, below: Any, blind: bool
) -> None:
    """Blind: even what the checks of a file let through cannot loosen anything, under any condition."""
    first = root()
    for name, entry in top.items():
        own = {key: value for key, value in entry.items() if key not in ("waiver", "relax", "when", "rules")}
        first["categories"][name] |= own
    files = [first, child("mid", categories=categories_of(middle, None))]
    files.append(child("low", "mid@1", categories=categories_of(low, below)))
    made = resolve(files, blind=blind)
    assert len(made) == 3 or not blind
    for parent, found in itertools.pairwise(made):
        _check_no_looser(parent, found)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(middle=CATEGORIES, low=CATEGORIES, values=st.lists(st.sampled_from(["violates", "uncertain", "unscorable"])))
def test_evaluation_and_runtime_decide_alike_under_any_policy(middle: Any, low: Any, values: list[Any]) -> None:
    files = [root(), child("mid", categories=middle), child("low", "mid@1", categories=low)]
    policy = resolve(files, blind=True)[-1]
    for context in CONTEXTS:
        plan = {one.category: one for one in evaluation_plan(policy, context, today=TODAY).categories}
        for surface in SURFACES:
            table = {row.category: row for row in runtime_table(policy, surface, context, today=TODAY)}
            for name, value in zip(("csae", "hate", "cyber"), values, strict=False):
                judged = [Judgement(category=name, value=value, judge="m")]
                found = decide(policy, surface, judged, context, categories=[name], today=TODAY)
                assert found.action == getattr(table[name], value)
        for name, row in ((row.category, row) for row in runtime_table(policy, "model_output", context, today=TODAY)):
            assert (plan[name].expect == "refuse") == is_withheld(row.violates)


def _check_no_looser(parent: ResolvedPolicy, found: ResolvedPolicy) -> None:
    for name, before in parent.categories.items():
        after = found.categories[name]
        for kind in ("actions", "uncertain", "on_error"):
            for surface in SURFACES:
                for context in CONTEXTS:
                    was = before.step(kind, surface, context, today=TODAY)
                    now = after.step(kind, surface, context, today=TODAY)
                    if RANK[now.action] < RANK[was.action]:
                        assert name != "csae"
                        assert now.until is not None and date.fromisoformat(now.until) >= TODAY
                        assert before.relax is not None and RANK[now.action] >= RANK[before.relax]


JUDGEMENTS = st.lists(
    st.builds(
        Judgement,
        category=st.sampled_from(["hate", "privacy", "cyber_offense", "csae"]),
        value=st.sampled_from(["violates", "allowed", "uncertain", "unscorable"]),
        judge=st.sampled_from(["harm", "private_data", "mod"]),
        probability=st.none() | st.floats(0, 1),
    ),
    max_size=8,
)
SHIPPED = {
    name: load_policy(name, today=TODAY) for name in ("default", "security-testing", "communities", "child-directed")
}


@given(judgements=JUDGEMENTS, name=st.sampled_from(sorted(SHIPPED)), surface=st.sampled_from(SURFACES), data=st.data())
def test_a_decision_does_not_depend_on_order_and_more_findings_never_loosen_it(
    judgements: list[Judgement], name: str, surface: Any, data: st.DataObject
) -> None:
    policy = SHIPPED[name]
    found = decide(policy, surface, judgements)
    assert decide(policy, surface, data.draw(st.permutations(judgements))) == found
    category = data.draw(st.sampled_from(["hate", "privacy", "csae"]))
    more = Judgement(category=category, value="violates", judge="harm")
    assert RANK[decide(policy, surface, [*judgements, more]).action] >= RANK[found.action]


@given(judgements=JUDGEMENTS, surface=st.sampled_from(SURFACES))
def test_a_product_for_children_decides_never_more_leniently_than_a_general_one(
    judgements: list[Judgement], surface: Any
) -> None:
    known = [one for one in judgements if one.judge != "mod"]
    names = sorted({one.category for one in known})
    general = decide(SHIPPED["default"], surface, known, categories=names)
    children = decide(SHIPPED["child-directed"], surface, known, categories=names)
    assert RANK[children.action] >= RANK[general.action]
