"""Labels and texts in the formats of other tools: Argilla, Label Studio, ROOST's taxonomy. Knows their shapes only.

Out go the standing labels of a queue, under pseudonyms; gold never does, so that no training set holds the answers that
measure reviewers. In come texts, with what a model suggested. Labels that people gave elsewhere were given under
another rule text and without the audit, so they are no labels here; where all of them agree they can become known
answers (gold), if that is asked for.

Shapes: Argilla 2 `Record.to_dict` / `records.to_json`; Label Studio's JSON of tasks with annotations and predictions;
`harm_taxonomy.yaml` of roostorg/model-community, template version 0.1.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from safety.resolved import ResolvedPolicy
from safety.review.people import Actor, require
from safety.review.queue import ReviewQueue, queue_id
from safety.review.views import label_documents
from workbench.errors import ReviewError
from workbench.store.audit import AuditEvent
from workbench.store.review_schema import review_items, review_labels, review_outcomes
from workbench.store.reviews import ReviewItem, read_item

Form = Literal["argilla", "label-studio"]
FORMS: tuple[Form, ...] = ("argilla", "label-studio")
_PEOPLE = uuid.UUID("6d2f7c1e-3a55-4c0a-9d3e-6b1f0b7a9c11")
_SEVERITIES = {"info": "low", "low": "low", "medium": "medium", "high": "high", "critical": "critical"}
_ACTIONS = {"allow": [], "log": [], "review": ["content_label_attach"], "rewrite": ["content_hide"],
            "hold": ["content_hide"], "block": ["content_remove"]}  # fmt: skip


def export_labels(queue: ReviewQueue, actor: Actor, name: str, form: Form) -> list[dict[str, Any]]:
    """The labelled items of a queue; the export is written into the audit. For the role `ml` and the operator.

    Raises:
        ReviewError: `forbidden`.
    """
    place = queue_id(name)

    def act(connection: sa.Connection, events: list[AuditEvent]) -> list[dict[str, Any]]:
        require(connection, actor, "export", place)
        items, labels, outcomes = review_items.c, review_labels.c, review_outcomes.c
        standing = sa.select(labels.item_id).where(labels.queue == place, labels.retracted_at.is_(None))
        query = (
            sa.select(review_items, outcomes.decision.label("outcome"))
            .outerjoin(review_outcomes, outcomes.item_id == items.id)
            .where(items.queue == place, items.gold.is_(None), items.id.in_(standing))
            .order_by(items.created_at, items.id)
        )
        found = connection.execute(query).mappings().all()
        given: dict[str, list[dict[str, Any]]] = {}
        rows = connection.execute(
            sa.select(review_labels).where(labels.queue == place, labels.retracted_at.is_(None)).order_by(labels.n)
        )
        for label in label_documents(connection, rows.mappings().all()):
            given.setdefault(label["item_id"], []).append(label)
        write = _argilla if form == "argilla" else _label_studio
        documents = [write(read_item(row), given[row["id"]], row["outcome"]) for row in found]
        digest = hashlib.sha256(json.dumps(documents, sort_keys=True).encode()).hexdigest()
        document = {"queue": place, "form": form, "items": len(documents), "sha256": digest}
        events.append(AuditEvent(kind="review.export", actor="", document=document))
        return documents

    return queue.act(actor, act)


def pseudonym(member: str) -> str:
    """The same person has the same one in every export, and it leads back to nobody but through the members' table."""
    return str(uuid.uuid5(_PEOPLE, member))


def _facts(item: ReviewItem, outcome: str | None) -> dict[str, Any]:
    entry = item.entry
    facts: dict[str, Any] = {
        "category": entry.category,
        "severity": entry.severity,
        "community": entry.community,
        "policy_hash": entry.policy_hash,
        "queue": entry.queue_id,
        "stratum": entry.stratum,
        "pi": entry.pi,
        "outcome": outcome,
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _fields(item: ReviewItem) -> dict[str, str]:
    fields = {"text": item.entry.text or "", "prompt": item.entry.prompt or ""}
    fields |= {name: str(value) for name, value in (item.entry.context or {}).items() if name in ("title", "parent")}
    return {name: value for name, value in fields.items() if value or name == "text"}


def _suggested(item: ReviewItem) -> str | None:
    probability = item.entry.probability
    return None if probability is None else "violates" if probability >= 0.5 else "allowed"


def _argilla(item: ReviewItem, labels: Sequence[Mapping[str, Any]], outcome: str | None) -> dict[str, Any]:
    suggested, probability = _suggested(item), item.entry.probability or 0.0
    sure = probability if suggested == "violates" else 1 - probability
    suggestion = {"value": suggested, "score": sure, "agent": item.entry.model}
    people = [pseudonym(label["member"]) for label in labels]
    return {
        "id": item.id,
        "fields": _fields(item),
        "metadata": _facts(item, outcome),
        "suggestions": {"decision": suggestion} if suggested else {},
        "responses": {
            "decision": [
                {"value": label["decision"], "user_id": who} for label, who in zip(labels, people, strict=True)
            ],
            "categories": [
                {"value": label["categories"], "user_id": who} for label, who in zip(labels, people, strict=True)
            ],
        },
        "vectors": {},
        "_server_id": None,
    }


def _label_studio(item: ReviewItem, labels: Sequence[Mapping[str, Any]], outcome: str | None) -> dict[str, Any]:
    suggested = _suggested(item)
    prediction = {
        "model_version": item.entry.model,
        "score": item.entry.probability,
        "result": [_choice("decision", [suggested or ""])],
    }
    return {
        "data": {**_fields(item), "item": item.id},
        "meta": _facts(item, outcome),
        "annotations": [
            {
                "created_at": label["created_at"],
                "lead_time": None if label["ms_spent"] is None else label["ms_spent"] / 1000,
                "was_cancelled": False,
                "result": [
                    _choice("decision", [label["decision"]], by=pseudonym(label["member"])),
                    *([_choice("categories", label["categories"])] if label["categories"] else []),
                ],
            }
            for label in labels
        ],
        "predictions": [prediction] if suggested else [],
    }


def _choice(question: str, values: Sequence[str], *, by: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "from_name": question,
        "to_name": "text",
        "type": "choices",
        "value": {"choices": list(values)},
    }
    return found | ({"meta": {"text": [by]}} if by else {})


def rows_of(data: Any, form: Form, *, gold: bool) -> Iterator[dict[str, Any]]:
    """What another tool has exported, as rows that `workbench review add` takes.

    `gold`: items whose people all gave the same clear answer become known answers.

    Raises:
        ReviewError: no such export.
    """
    read: Callable[[Mapping[str, Any]], dict[str, Any]] = _from_argilla if form == "argilla" else _from_label_studio
    if not isinstance(data, list):
        raise ReviewError(f"a JSON list of {'records' if form == 'argilla' else 'tasks'} is expected")
    for number, record in enumerate(data, 1):
        if not isinstance(record, Mapping):
            raise ReviewError(f"record {number}: an object is expected, got {type(record).__name__}")
        try:
            row = read(record)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ReviewError(f"record {number}: not of this format ({type(error).__name__}: {error})") from None
        if not isinstance(row.get("text"), str):
            raise ReviewError(f"record {number}: no field `text`")
        answers = row.pop("answers")
        if gold and len(answers) >= 1 and len(set(answers)) == 1 and answers[0] in ("violates", "allowed"):
            row |= {"stratum": "gold", "gold": answers[0]}
        yield {name: value for name, value in row.items() if value not in (None, "")}


def _from_argilla(record: Mapping[str, Any]) -> dict[str, Any]:
    fields, metadata = dict(record["fields"]), dict(record.get("metadata") or {})
    suggestion = (record.get("suggestions") or {}).get("decision") or {}
    responses = (record.get("responses") or {}).get("decision") or []
    return {
        "text": fields.get("text"),
        **{name: fields.get(name) for name in ("prompt", "title", "parent")},
        **{name: metadata.get(name) for name in ("category", "severity", "community")},
        "model": suggestion.get("agent"),
        "probability": _probability(suggestion.get("value"), suggestion.get("score")),
        "source": "argilla",
        "answers": [response["value"] for response in responses],
    }


def _from_label_studio(task: Mapping[str, Any]) -> dict[str, Any]:
    data, meta = dict(task["data"]), dict(task.get("meta") or {})
    predictions = task.get("predictions") or []
    first = predictions[0] if predictions and isinstance(predictions[0], Mapping) else {}
    annotations = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
    score = first.get("score")
    return {
        "text": data.get("text"),
        **{name: data.get(name) for name in ("prompt", "title", "parent")},
        **{name: meta.get(name) or data.get(name) for name in ("category", "severity", "community")},
        "model": first.get("model_version"),
        "probability": score if isinstance(score, int | float) and 0 <= score <= 1 else None,
        "source": "label-studio",
        "answers": [answer for one in annotations for answer in _chosen(one["result"])],
    }


def _chosen(result: Sequence[Mapping[str, Any]]) -> list[str]:
    return [region["value"]["choices"][0] for region in result if region.get("from_name") == "decision"]


def _probability(value: Any, score: Any) -> float | None:
    """Argilla's score is that of the value suggested."""
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        return None
    return float(score) if value == "violates" else 1 - float(score) if value == "allowed" else None


def roost_taxonomy(policy: ResolvedPolicy, *, surface: Literal["content"] = "content") -> dict[str, Any]:
    """A policy's categories in the shape of ROOST's `harm_taxonomy.yaml`, children as subcategories.

    What is blocked is theirs to act on alone (`auto_action`); whatever waits for people is `needs_review`.
    """
    tops: dict[str, dict[str, Any]] = {}
    for name, category in policy.categories.items():
        action = policy.action(name, surface)
        queue = "auto_action" if action == "block" else "needs_review"
        top, _, child = name.partition(".")
        if child and top in tops:
            below = {"description": category.definition, "default_severity": category.severity, "default_queue": queue}
            tops[top].setdefault("subcategories", {})[child] = below
            continue
        tops[name] = {
            "description": category.definition,
            "default_severity": category.severity,
            "default_actions": _ACTIONS[action],
            "applies_to_target_kinds": ["content"],
            "default_queue": queue,
        }
    return {
        "meta": {"template_version": 0.1, "policy": policy.name, "policy_hash": policy.hash},
        "severity_scale": {name: name for name in ("info", "low", "medium", "high", "critical")},
        "routing_queues": {
            "auto_action": "The policy acts alone.",
            "needs_review": "A person decides.",
            "needs_classification": "Fits no category.",
        },
        "categories": tops,
    }


def policy_from_roost(taxonomy: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """A draft of a policy file from a taxonomy of ROOST's shape. Judges and test rows are for its owner to add.

    Everything goes to review, whatever `default_actions` says: their actions are against accounts and posts of a
    platform, and a threshold that nobody measured should not act alone.

    Raises:
        ReviewError: it is not of that shape.
    """
    categories = taxonomy.get("categories")
    if not isinstance(categories, Mapping) or not categories:
        raise ReviewError("categories: a mapping of ROOST's harm_taxonomy.yaml is expected")
    drafted = {key: _drafted(f"categories.{key}", key, value) for key, value in categories.items()}
    actions = {surface: "review" for surface in ("user_input", "model_output", "content")}
    return {
        "schema": "policy/v1",
        "id": name,
        "version": 1,
        "title": f"Drafted from a taxonomy of {len(drafted)} categories",
        "defaults": {"actions": actions},
        "categories": drafted,
    }


def _drafted(where: str, key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = {"description": value}
    if not isinstance(value, Mapping):
        raise ReviewError(f"{where}: a mapping is expected, got {type(value).__name__}")
    severity = value.get("default_severity")
    if severity is not None and severity not in _SEVERITIES:
        raise ReviewError(f"{where}.default_severity: {severity!r}; known: {', '.join(_SEVERITIES)}")
    title = str(key).replace("_", " ").capitalize()
    drafted: dict[str, Any] = {
        "title": title,
        "definition": " ".join(str(value.get("description") or f"{title}, as the parent category says.").split()),
        "map": {"roost": str(key)},
    }
    if severity is not None:
        drafted["severity"] = _SEVERITIES[severity]
    children = value.get("subcategories")
    if isinstance(children, Mapping) and children:
        drafted["children"] = {one: _drafted(f"{where}.{one}", one, below) for one, below in children.items()}
    return drafted
