"""The identity of a policy and of its categories. Knows resolved policies; knows no file.

Two policies that decide alike by the same words have the same hash, whatever the order of keys, the names of files or
the lines on which something stands. Of a category, the hash covers definition and examples only: a label stays good
while they stay, whatever is done with the text.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from safety.resolved import Category, Chain, ResolvedPolicy, Step

_NOT_HASHED = ("path", "set_by", "notes", "hash", "categories", "title", "owner")


def category_hash(category: Category) -> str:
    """SHA-256 of what the category means."""
    meaning = {
        "id": category.id,
        "definition": category.definition,
        "not_this": category.not_this,
        "violates": category.violates,
        "allowed": category.allowed,
        "text": category.text,  # names what is judged apart
    }
    return _digest(_sorted_json(meaning))


def with_json(category: Category) -> Category:
    """A category with its part of the policy's JSON. Made once: many communities share most of their categories."""
    return replace(category, json=_sorted_json(_plain_category(category)))


def with_hash(policy: ResolvedPolicy) -> ResolvedPolicy:
    """A policy with its hash."""
    return replace(policy, hash=_digest(resolved_json(policy)))


def resolved_json(policy: ResolvedPolicy) -> str:
    """The policy as sorted JSON without blanks, whose SHA-256 is the hash."""
    plain = {name: getattr(policy, name) for name in policy.__dataclass_fields__ if name not in _NOT_HASHED}
    plain["judges"] = {name: _without(judge, "calibration") for name, judge in policy.judges.items()}
    categories = ",".join(f"{json.dumps(name)}:{policy.categories[name].json}" for name in sorted(policy.categories))
    # "categories" is made of text that is there already, and put where sorted JSON has it.
    marker = "\0categories"
    return _sorted_json({**plain, "categories": marker}).replace(json.dumps(marker), f"{{{categories}}}", 1)


def _plain_category(category: Category) -> dict[str, Any]:
    plain: dict[str, Any] = {
        name: getattr(category, name)
        for name in category.__dataclass_fields__
        if name not in ("actions", "uncertain", "on_error", "set_by", "json", "tests", "risk", "thresholds", "origin")
    }
    for kind in ("actions", "uncertain", "on_error"):
        plain[kind] = {surface: _plain_chain(chain) for surface, chain in getattr(category, kind).items()}
    plain["risk"] = asdict(category.risk)
    plain["thresholds"] = {name: asdict(threshold) for name, threshold in category.thresholds.items()}
    return plain


def _plain_chain(chain: Chain) -> list[list[dict[str, Any]]]:
    return [[_plain_step(step) for step in group] for group in chain]


def _plain_step(step: Step) -> dict[str, Any]:
    plain = {"action": step.action, "when": step.when, "until": step.until, "not_below": step.not_below}
    return {name: value for name, value in plain.items() if value is not None}


def _without(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def _sorted_json(data: Any) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=dict)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
