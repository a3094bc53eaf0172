"""Replay by category: a shipped preset's shares and the data that a team has -> sources of the mix. Knows plain values.

A preset says how much of the replay each category gets. The recipe names data for the categories it has; the others
give their share to those, in proportion.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from workbench.config import StrictModel, load_yaml
from workbench.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).parent / "presets"


class Preset(StrictModel):
    """A file of `presets/`."""

    shares: dict[str, float] = Field(min_length=1)
    """Category -> weight; scaled to add up to 1."""


def shipped_presets() -> dict[str, Path]:
    """Replay presets by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_preset(name: str) -> dict[str, float]:
    """Category -> share, adding up to 1.

    Raises ConfigError: no such preset.
    """
    known = shipped_presets()
    if name not in known:
        raise ConfigError(f"replay.preset: {name!r}: no such preset; {did_you_mean(name, known)}")
    shares = load_yaml(known[name], Preset).shares
    total = math.fsum(shares.values())
    return {category: share / total for category, share in shares.items()}


def expand_replay(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe's plain values with the sources of its `replay` in its mix; the mix is scaled to the share left.

    Values of a wrong type are left for the recipe's own check. Raises ConfigError: an unknown preset or category.
    """
    replay, mix = data.get("replay"), data.get("mix")
    if not isinstance(replay, dict) or not isinstance(mix, list) or _is_expanded(mix) or not _has_types(replay):
        return data
    shares = load_preset(replay["preset"])
    sources: Mapping[str, str] = replay["sources"]
    if unknown := [category for category in sources if category not in shares]:
        hint = did_you_mean(unknown[0], shares)
        raise ConfigError(f"replay.sources: {unknown[0]!r}: no category of {replay['preset']}; {hint}")
    total = math.fsum(shares[category] for category in sources)
    own = [_scaled(source, mix, replay) for source in mix]
    added = [_source(category, path, shares[category] / total, replay) for category, path in sources.items()]
    return data | {"mix": [*own, *added]}


def _source(category: str, path: str, part: float, replay: Mapping[str, Any]) -> dict[str, Any]:
    anneal = replay.get("anneal_share")
    found = {
        "name": f"replay-{category}",
        "data": path,
        "share": part * replay["share"],
        "role": "replay",
        "category": category,
        "max_epochs": replay.get("max_epochs", 4.0),
    }
    return found if anneal is None else found | {"anneal_share": part * anneal}


def _scaled(source: Any, mix: list[Any], replay: Mapping[str, Any]) -> Any:
    """A source's share of what the replay leaves, in both phases."""
    if not isinstance(source, dict):
        return source
    found = dict(source)
    anneal = replay.get("anneal_share")
    changes = anneal is not None or any(isinstance(one, dict) and "anneal_share" in one for one in mix)
    phases = {"share": replay["share"]} | (
        {"anneal_share": replay["share"] if anneal is None else anneal} if changes else {}
    )
    for phase, given in phases.items():
        total = math.fsum(_share(one, phase) for one in mix)
        if total > 0:
            found[phase] = _share(source, phase) / total * (1 - given)
    return found


def _share(source: Any, phase: str) -> float:
    if not isinstance(source, dict):
        return 0.0
    value = source.get(phase, source.get("share"))
    return float(value) if isinstance(value, int | float) else 0.0


def _is_expanded(mix: list[Any]) -> bool:
    return any(isinstance(source, dict) and source.get("role") == "replay" and source.get("category") for source in mix)


def _has_types(replay: Mapping[str, Any]) -> bool:
    sources = replay.get("sources")
    return (
        isinstance(replay.get("preset"), str)
        and isinstance(replay.get("share"), int | float)
        and isinstance(sources, dict)
        and bool(sources)
        and all(isinstance(path, str) for path in sources.values())
        and isinstance(replay.get("anneal_share", 0.0), int | float | None)
    )
