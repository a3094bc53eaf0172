"""Out to other tools and in from them: shapes as those tools have them, nobody's name, no gold."""

import json

import pytest
import yaml

from safety.policy import load_policy
from safety.review.exchange import export_labels, policy_from_roost, roost_taxonomy, rows_of
from safety.schema import PolicyFile
from tests.safety.review.people import ALLOWED, OPERATOR, VIOLATES, at, entry, label, plain_queue
from workbench.config import validate
from workbench.errors import ReviewError
from workbench.store.audit import audit_rows


@pytest.fixture
def store_url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'workbench.sqlite'}"


@pytest.fixture
def labelled(queue, people):
    plain_queue(queue, need=2)
    queue.add(OPERATOR, [entry(n, probability=0.8, community="history", priority=-float(n)) for n in range(3)])
    queue.add(OPERATOR, [entry(9, stratum="gold", gold={"decision": "allowed"}, priority=9.0)])
    ana, ben = people("ana"), people("ben")
    for turn, person in enumerate((ana, ana, ben)):
        label(queue, person, VIOLATES, at(turn))
    label(queue, ben, ALLOWED, at(9))
    queue.undo(ben, now=at(10))
    return queue


def test_argillas_records_hold_standing_labels_under_pseudonyms_and_no_gold(labelled):
    (record,) = export_labels(labelled, OPERATOR, "default", "argilla")
    assert set(record) == {"id", "fields", "metadata", "suggestions", "responses", "vectors", "_server_id"}
    assert record["fields"] == {"text": "text 0", "title": "title 0"}
    assert record["suggestions"] == {"decision": {"value": "violates", "score": 0.8, "agent": "tiny"}}
    assert [one["value"] for one in record["responses"]["decision"]] == ["violates", "violates"]
    assert len({one["user_id"] for one in record["responses"]["decision"]}) == 2
    assert record["metadata"]["outcome"] == "violates"
    text = json.dumps(record)
    assert "ana" not in text and not [m.id for m in labelled.members(OPERATOR) if m.id in text]
    (event,) = audit_rows(labelled.database, kind="review.export")
    assert event.document["items"] == 1


def test_what_is_exported_can_be_imported_again_from_both(labelled):
    for form in ("argilla", "label-studio"):
        documents = json.loads(json.dumps(export_labels(labelled, OPERATOR, "default", form)))
        (plain,), (known,) = rows_of(documents, form, gold=False), rows_of(documents, form, gold=True)
        assert (plain["text"], plain["title"], plain["category"], plain["community"]) == (
            "text 0", "title 0", "hate", "history",
        )  # fmt: skip
        assert (plain["probability"], plain["model"], "gold" in plain) == (pytest.approx(0.8), "tiny", False)
        assert (known["stratum"], known["gold"]) == ("gold", "violates")


def test_label_studios_tasks_have_choices_of_a_text(labelled):
    (task,) = export_labels(labelled, OPERATOR, "default", "label-studio")
    assert task["data"]["text"] == "text 0"
    (first, second) = task["annotations"]
    decision, categories = first["result"]
    assert (decision["type"], decision["to_name"], decision["value"]) == ("choices", "text", {"choices": ["violates"]})
    assert categories["value"] == {"choices": ["hate"]}
    assert first["result"][0]["meta"] != second["result"][0]["meta"]
    assert task["predictions"][0]["score"] == 0.8


@pytest.mark.parametrize(
    ("data", "said"),
    [({}, "a JSON list"), ([1], "record 1: an object"), ([{}], "record 1: not of this format"),
     ([{"fields": {"body": "x"}}], "record 1: no field `text`")],
)  # fmt: skip
def test_what_is_no_export_is_refused_in_one_line(data, said):
    with pytest.raises(ReviewError, match=said):
        list(rows_of(data, "argilla", gold=False))


def test_labels_leave_for_the_ml_role_and_nobody_else(labelled, people):
    for role in ("viewer", "reviewer", "senior", "auditor", "admin"):
        with pytest.raises(ReviewError):
            export_labels(labelled, people(f"one-{role}", role), "default", "argilla")
    assert len(export_labels(labelled, people("svc", "ml"), "default", "argilla")) == 1


def test_a_policys_categories_go_out_and_come_in_as_roosts_taxonomy():
    policy = load_policy("default")
    taxonomy = yaml.safe_load(yaml.safe_dump(roost_taxonomy(policy)))
    assert set(taxonomy) == {"meta", "severity_scale", "routing_queues", "categories"}
    names = {f"{top}.{child}" for top, one in taxonomy["categories"].items() for child in one.get("subcategories", {})}
    assert names | set(taxonomy["categories"]) == set(policy.categories)
    for one in taxonomy["categories"].values():
        assert one["default_severity"] in taxonomy["severity_scale"]
        assert one["default_queue"] in taxonomy["routing_queues"]
    drafted = validate(policy_from_roost(taxonomy, name="ours"), PolicyFile, where="draft")
    assert drafted.categories is not None
    assert set(drafted.categories) == set(taxonomy["categories"])


def test_a_taxonomy_of_roosts_template_becomes_a_draft_that_sends_everything_to_people():
    taxonomy = {
        "severity_scale": {"info": "Seen.", "critical": "Now."},
        "categories": {
            "rumours": {
                "description": "Claims without a source.",
                "default_severity": "info",
                "default_actions": ["content_remove"],
                "subcategories": {"health": "About illness.", "elections": {"default_severity": "critical"}},
            }
        },
    }
    draft = policy_from_roost(taxonomy, name="ours")
    rumours = draft["categories"]["rumours"]
    assert (rumours["severity"], rumours["children"]["health"]["definition"]) == ("low", "About illness.")
    assert rumours["children"]["elections"]["severity"] == "critical"
    assert set(draft["defaults"]["actions"].values()) == {"review"}
    validate(draft, PolicyFile, where="draft")
    taxonomy["categories"]["rumours"]["default_severity"] = "grave"
    with pytest.raises(ReviewError, match=r"categories.rumours.default_severity: 'grave'"):
        policy_from_roost(taxonomy, name="ours")
