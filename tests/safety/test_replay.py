"""Changes of a policy seen before they are merged: what differs, and which past decisions flip."""

import json
from pathlib import Path
from typing import Any

import pytest

from safety.leaves import explain, list_changes, stale_categories
from safety.replay import past_item, read_items, replay
from tests.safety.policy_files import TODAY, WAIVER, child, load, root
from workbench.errors import ConfigError


def item(number: int, category: str, value: str, *, community: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "community": community,
        "judgements": [{"category": category, "value": value, "judge": "m", **more}],
    }


def items(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_looser_condition_is_shown_as_looser_with_the_file_that_brings_it(tmp_path: Path) -> None:
    entry = {"actions": {"model_output": "log"}, "when": {"role": "tester"}, "waiver": WAIVER}
    before = load(tmp_path, root())
    after = load(tmp_path, root(), child(categories={"cyber": entry, "hate": {"actions": {"content": "block"}}}))
    found = {change.path: change for change in list_changes(before, after, today=TODAY)}
    looser = found["categories.cyber.actions.model_output"]
    assert (looser.turn, looser.after, looser.set_by) == ("looser", "block (log under conditions)", "shop.yaml:8")
    assert found["categories.hate.actions.content"].turn == "tighter"
    assert list_changes(after, after, today=TODAY) == []


def test_explain_shows_every_files_say(tmp_path: Path) -> None:
    found = load(tmp_path, root(), child(categories={"cyber": {"actions": {"model_output": "log"}, "waiver": WAIVER}}))
    (leaf,) = explain(found, "cyber.actions.model_output", today=TODAY)
    assert leaf.value == "log" and len(leaf.steps) == 2 and "waiver until 2027-03-31" in leaf.steps[1]
    with pytest.raises(ConfigError, match='did you mean "cyber'):
        explain(found, "cyer", today=TODAY)


def test_replay_lists_flips_by_category_and_community_with_hours_and_stale_labels(tmp_path: Path) -> None:
    before = load(tmp_path, root())
    changed = root()
    changed["categories"]["hate"] |= {"actions": {"model_output": "hold"}, "definition": "Demeans people or groups."}
    after = load(tmp_path, changed)
    assert stale_categories(before, after) == ["hate"]
    digest = before.categories["hate"].hash
    rows = [item(n, "hate", "violates", community="ab"[n % 2], category_hash=digest) for n in range(30)]
    rows += [item(n, "csae", "violates") for n in range(30, 40)]
    found = replay(read_items(items(tmp_path, *rows)), after, before=before, today=TODAY)
    assert (found.items, len(found.flips), found.tighter) == (40, 30, 0)
    assert found.by_category == {("hate", "block", "hold"): 30}
    assert found.by_community == {"a": 15, "b": 15}
    assert (found.queue_before, found.queue_after) == (0, 30)
    assert found.hours_after == pytest.approx(30 * 1.1 * 20 / 3600)
    assert found.stale == {"hate": 30}


def test_replay_against_what_was_recorded_needs_no_policy_before(tmp_path: Path) -> None:
    after = load(tmp_path, root())
    rows = [item(1, "hate", "violates") | {"action": "log"}, item(2, "hate", "allowed") | {"action": "allow"}]
    found = replay(read_items(items(tmp_path, *rows)), after, today=TODAY)
    assert [(flip.before, flip.after) for flip in found.flips] == [("log", "block")]
    with pytest.raises(ConfigError, match="no action is recorded"):
        replay(read_items(items(tmp_path, item(1, "hate", "violates"))), after, today=TODAY)


def test_items_whose_category_is_gone_are_counted_and_left_out(tmp_path: Path) -> None:
    after = load(tmp_path, root())
    found = replay(read_items(items(tmp_path, item(1, "spam", "violates"))), after, before=after, today=TODAY)
    assert (found.items, found.skipped, found.flips) == (1, 1, ())


def test_audit_rows_and_assessed_items_are_read_too() -> None:
    audit = {"request": "r1", "community": "c", "surface": "user_input", "action": "log", "judge": "harm"}
    found = past_item(audit | {"outcomes": {"hate": ["violates", "log", 0.9, "harm"]}}, default_id="1")
    assert (found.id, found.surface, found.judgements[0].probability, found.action) == ("r1", "user_input", 0.9, "log")
    assessed = past_item({"id": "x", "extra": {"category": "hate", "value": "unscorable"}}, default_id="1")
    assert (assessed.judgements[0].value, assessed.action) == ("unscorable", None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "items.jsonl:1: not JSON"),
        ("[]", "a JSON object is expected, got list"),
        ('{"id": 1}', "docs/policies.md"),
        ('{"judgements": [{"category": "hate", "value": "bad"}]}', "got 'bad', expected one of violates"),
    ],
)
def test_rows_that_are_no_items_are_named_by_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "items.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match=said):
        list(read_items(tmp_path / "items.jsonl"))
