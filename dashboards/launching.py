"""From what a person chose to a recipe file and the words of a command. Knows recipes and folders; starts nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workbench.config import read_yaml
from workbench.errors import ConfigError, WorkbenchError
from workbench.store.files import write_file

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
DATA = (".jsonl", ".parquet", ".csv", ".txt")
HOMES = ("", "recipes", "data")
"""Folders of the project in which recipes and data are looked for."""
GENERAL = ("general", "replay")
"""What sources against forgetting are called in the shipped recipes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a person set on the page."""

    name: str
    start: str
    general_share: float | None
    """Share of the tokens that are general data; None where the recipe has no such source."""
    tokens: int
    learning_rate: float
    data: Mapping[str, str]
    """Source -> file, relative to the project or absolute."""
    suites: Sequence[str] | None = None
    """None: as the recipe has it."""


def find_recipes(root: Path) -> dict[str, Path]:
    """Recipes to choose from: the project's own first, then the shipped ones."""
    from training.recipe import shipped_recipes

    own: dict[str, Path] = {}
    for home in HOMES:
        for path in sorted((root / home).glob("*.yaml")):
            try:
                data = read_yaml(path)
            except WorkbenchError:
                continue  # no recipe, or one that the dry run has to complain of
            if {"recipe", "mix", "start"} <= data.keys():
                own[str(path.relative_to(root))] = path
    return own | {f"shipped: {name}": path for name, path in shipped_recipes().items()}


def find_data(root: Path) -> list[str]:
    """Files of rows in the project, relative to it."""
    found = [path for home in HOMES for path in sorted((root / home).glob("*")) if path.suffix in DATA]
    return list(dict.fromkeys(str(path.relative_to(root)) for path in found if path.is_file()))


def general_share(recipe: Mapping[str, Any]) -> float | None:
    """What share of the tokens a recipe gives to general data; None where it has no such source."""
    mix = recipe.get("mix") or []
    general = sum(float(source.get("share") or 0) for source in mix if is_general(source))
    total = sum(float(source.get("share") or 0) for source in mix)
    return general / total if total and any(map(is_general, mix)) and not all(map(is_general, mix)) else None


def is_general(source: Mapping[str, Any]) -> bool:
    """Whether a source is there against forgetting."""
    return source.get("role") == "replay" or str(source.get("name", "")).startswith(GENERAL)


def build_recipe(template: Path, choice: Choice, root: Path) -> dict[str, Any]:
    """The recipe that a choice comes to, with the data of every source by its full path.

    Raises:
        ConfigError: a name that is none, or data outside of the project that the template does not name.
    """
    if not NAME.fullmatch(choice.name):
        raise ConfigError(f"name {choice.name!r}: small letters, digits, - and _ are expected, at most 64")
    recipe = dict(read_yaml(template))
    share = choice.general_share
    before = general_share(recipe)
    mix = []
    for source in recipe["mix"]:
        made = dict(source)
        if share is not None and before is not None:
            scale = share / before if is_general(source) else (1 - share) / (1 - before)
            made["share"] = round(float(source["share"]) * scale, 6)
            if source.get("anneal_share") is not None:
                made["anneal_share"] = round(float(source["anneal_share"]) * scale, 6)
        made["data"] = _data_of(str(source["name"]), str(source["data"]), template, choice, root)
        mix.append(made)
    recipe |= {"recipe": choice.name, "start": choice.start, "mix": mix, "tokens": choice.tokens}
    recipe["schedule"] = dict(recipe.get("schedule") or {}) | {"learning_rate": choice.learning_rate}
    evaluation = dict(recipe.get("evaluation") or {})
    if choice.suites is not None:
        evaluation["suites"] = list(choice.suites)
    if evaluation.get("gate"):
        evaluation["gate"] = str((template.parent / str(evaluation["gate"])).resolve())
    return recipe | {"evaluation": evaluation}


def write_recipe(recipe: Mapping[str, Any], root: Path) -> Path:
    """Keep it in `recipes/` of the project, where the command line finds it too.

    Raises:
        ConfigError: another recipe of that name was carried out already.
    """
    path = root / "recipes" / f"{recipe['recipe']}.yaml"
    text = "# Made on the Launch page; `workbench train` takes it as it is.\n"
    text += yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    if path.exists() and path.read_text(encoding="utf-8") != text and (root / "runs" / str(recipe["recipe"])).exists():
        raise ConfigError(
            f"{path.relative_to(root)}: a run of that name exists with another recipe; choose another name"
        )
    path.parent.mkdir(exist_ok=True)
    write_file(path, text)
    return path


def _data_of(name: str, own: str, template: Path, choice: Choice, root: Path) -> str:
    chosen = choice.data.get(name, own)
    if chosen.startswith("hub:"):
        return chosen
    if chosen == own:
        return str((template.parent / own).resolve())
    path = (root / chosen).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ConfigError(f"data of {name}: {chosen}: outside of the project; copy or link it into its folder")
    return str(path)
