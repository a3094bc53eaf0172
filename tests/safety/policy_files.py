"""Policy files for tests: written into a folder, loaded from there."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from safety.policy import ResolvedPolicy, load_policy

TODAY = date(2027, 1, 1)
WAIVER = {"reason": "contract", "approved_by": "ciso", "expires": "2027-03-31"}


def root(**more: Any) -> dict[str, Any]:
    """A small organisation's policy with three categories, one a floor."""
    return {
        "schema": "policy/v1",
        "id": "org",
        "version": 1,
        "floor": ["csae"],
        "context": {"attributes": ["role", "region"]},
        "judges": {"m": {"kind": "model"}, "k": {"kind": "keyword"}},
        "defaults": {"judges": ["m"], "risk": {"miss": 0.05, "wrong_action": 0.1}},
        "categories": {
            "csae": {"definition": "Sexualises minors.", "severity": "critical"},
            "hate": {"definition": "Demeans people.", "not_this": ["criticism"]},
            "cyber": {
                "definition": "Attacks.",
                "severity": "high",
                "relax": {"to": "log"},
                "children": {"exploit": {"title": "Exploits"}, "worm": {"title": "Worms", "relax": {"to": "block"}}},
            },
        },
        "gates": [{"metric": "violation_rate", "per": "category", "upper": 0.01, "min_n": 300}],
    } | more


def child(name: str = "shop", parent: str = "org@1", **more: Any) -> dict[str, Any]:
    """A file that extends another."""
    return {"schema": "policy/v1", "id": name, "version": 1, "extends": parent} | more


def write(folder: Path, *files: Mapping[str, Any]) -> Path:
    """Write policies as ID.yaml; the path of the last."""
    for file in files:
        text = yaml.safe_dump(dict(file), sort_keys=False)
        (folder / f"{file['id']}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{files[-1]['id']}.yaml"


def load(folder: Path, *files: Mapping[str, Any], today: date = TODAY) -> ResolvedPolicy:
    """Write policies and load the last."""
    return load_policy(write(folder, *files), today=today)
