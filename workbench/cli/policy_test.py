"""`workbench policy test`: a policy's judges on its own test rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, print_json, print_line, print_table, say
from workbench.cli.policies import AsJson, Day, Folders, Reference, open_library
from workbench.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from safety.policy import ResolvedPolicy
    from safety.trial import TriedCategory


def command(
    policy: Reference,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Judge in place of the policy's: NAME=classifier[:FOLDER] or NAME=model:CHECKPOINT."),
    ] = None,
    category: Annotated[list[str] | None, typer.Option(help="Only this category.")] = None,
    wrong: Annotated[int, typer.Option(min=0, help="Show so many rows that were read wrongly.")] = 0,
    folder: Folders = None,
    on: Day = None,
    project: Annotated[Path | None, typer.Option(help="Project that a checkpoint's name is looked up in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a policy's own test rows to its judges: what they catch, wrongly flag, or cannot score.

    Examples:
        workbench policy test communities --judge harm=classifier
        workbench policy test default --judge harm=model:smollm2 --category hate
        workbench policy test policies/shop.yaml --wrong 10 --json
    """
    from safety.trial import try_policy

    library = open_library(folder, on)
    found = library.load(policy)
    for name in category or []:
        if name not in found.categories:
            raise ConfigError(f"--category {name}: no such category; {did_you_mean(name, found.categories)}")
    judges = _judges(found, judge or [], project)
    tried = try_policy(found, judges, categories=category)
    if as_json:
        rows = [_facts(one) for one in tried]
        print_json({"policy": found.name, "policy_hash": found.hash, "categories": rows})
        return
    heads = [
        "category",
        "judges",
        *(Column(name, right=True) for name in ("caught", "cleared", "in doubt", "unscorable")),
    ]
    print_table(heads, [_row(one) for one in tried])
    left = [name for name in category or found.categories if name not in {one.category for one in tried}]
    if left:
        say(f"not tried, for want of test rows or of a judge that decides: {', '.join(left)}")
    _print_wrong(tried, wrong)


def _judges(policy: "ResolvedPolicy", given: list[str], project: Path | None) -> Mapping[str, Any]:
    """The policy's judges that can be built, with those that were named in their place."""
    from safety.judges.base import build_judge

    named = dict(named_judge(text, policy, project) for text in given)
    used = {name for category in policy.categories.values() for name in category.judges}
    judges: dict[str, Any] = dict(named)
    for name in sorted(used - set(named)):
        entry = policy.judges[name]
        if entry["kind"] == "model" and "engine" not in (entry.get("options") or {}):
            cure = f"--judge {name}=model:CHECKPOINT or --judge {name}=classifier"
            say(f"note: judge {name} is a model, and none is named; {cure}")
            continue
        judges[name] = build_judge(name, entry["kind"], entry.get("options"))
    return judges


def named_judge(text: str, policy: "ResolvedPolicy", project: Path | None) -> tuple[str, Any]:
    """`NAME=classifier[:FOLDER]` or `NAME=model:CHECKPOINT`: the name, and a judge to stand there."""
    from safety.judges.base import build_judge

    name, _, what = text.partition("=")
    kind, _, argument = what.partition(":")
    if name not in policy.judges:
        hint = did_you_mean(name, policy.judges)
        raise ConfigError(f"--judge {text}: policy {policy.name} has no judge of that name; {hint}")
    if kind == "classifier":
        return name, build_judge(name, kind, {"path": argument} if argument else {})
    if kind == "model" and argument:
        from workbench.cli.projects import find_project
        from workbench.engines.loading import load
        from workbench.pipeline import resolve_checkpoint

        checkpoint = resolve_checkpoint(argument, find_project(project))
        return name, build_judge(name, kind, {**policy.judges[name].get("options", {}), "engine": load(checkpoint)})
    raise ConfigError(f"--judge {text}: NAME=classifier, NAME=classifier:FOLDER or NAME=model:CHECKPOINT is expected")


def _row(one: "TriedCategory") -> list[str]:
    doubt = one.count("violates", "uncertain") + one.count("allowed", "uncertain")
    broken = one.count("violates", "unscorable") + one.count("allowed", "unscorable")
    shares = [f"{one.count(expect, expect)}/{one.expected(expect)}" for expect in ("violates", "allowed")]
    return [one.category, ", ".join(one.judges), *shares, str(doubt), str(broken)]


def _facts(one: "TriedCategory") -> dict[str, Any]:
    values = ("violates", "allowed", "uncertain", "unscorable")
    return {
        "category": one.category,
        "judges": list(one.judges),
        "expected_violates": {value: one.count("violates", value) for value in values},
        "expected_allowed": {value: one.count("allowed", value) for value in values},
        "wrong": [
            {"text": tried.row.text, "expect": tried.row.expect, "value": tried.value}
            for tried in one.rows
            if not tried.is_right
        ],
    }


def _print_wrong(tried: "list[TriedCategory]", limit: int) -> None:
    rows = [(one.category, t.row.expect, t.value, t.row.text) for one in tried for t in one.rows if not t.is_right]
    if limit and rows:
        print_line()
        print_table(["category", "expected", "read as", "text"], rows[:limit])
        if len(rows) > limit:
            say(f"{len(rows) - limit} more; --json has them all")
