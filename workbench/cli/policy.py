"""`workbench policy`: check, show, explain and compare what a business permits and withholds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from workbench.cli.output import Column, print_facts, print_json, print_line, print_table, say
from workbench.cli.policies import AsJson, Day, Folders, Markdown, Reference, open_library, write_markdown
from workbench.errors import ConfigError, WorkbenchError

if TYPE_CHECKING:
    from safety.policy import ResolvedPolicy

_TONES: Any = {"b": "bad", "h": "bad", "r": "warn", "a": "good"}


def ls(folder: Folders = None, on: Day = None, as_json: AsJson = False) -> None:
    """List the policies that can be named: shipped ones, those in ./policies and in --folder.

    Examples:
        workbench policy ls
        workbench policy ls --folder trust/policies --json
    """
    library = open_library(folder, on)
    rows: list[dict[str, Any]] = []
    for name, path in sorted(library.known().items()):
        try:
            found = library.load(path)
        except WorkbenchError as error:
            rows.append({"id": name, "error": str(error), "path": str(path)})
            continue
        rows.append(
            {
                "id": name,
                "version": found.version,
                "kind": found.kind,
                "extends": found.lineage[-2] if len(found.lineage) > 1 else None,
                "categories": len(found.categories),
                "hash": found.hash,
                "title": found.title,
                "path": str(path),
            }
        )
    if as_json:
        print_json({"policies": rows})
        return
    heads = ["id", Column("version", right=True), "kind", "extends", Column("categories", right=True), "hash", "title"]
    keys = ["id", "version", "kind", "extends", "categories", "hash", "title"]
    shown = [[str(row.get(key) or "")[:12] if key == "hash" else row.get(key) for key in keys] for row in rows]
    print_table(heads, shown)
    for row in rows:
        if "error" in row:
            say(f"note: {row['error']}")


def check(
    policies: Annotated[list[str], typer.Argument(help="Policy files, or ids of policies.")],
    folder: Folders = None,
    on: Day = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a policy: every fault of the file, its parents and its test rows.

    Exit code 2 if there is any.

    Examples:
        workbench policy check policies/shop.yaml
        workbench policy check policies/*.yaml --on 2027-04-01
        workbench policy check default --json
    """
    from safety.checks import check_policy

    library = open_library(folder, on)
    rows: list[dict[str, Any]] = []
    for reference in policies:
        try:
            found = library.load(reference)
        except ConfigError as error:
            rows += [{"policy": reference, "level": "fault", "where": "", "text": t} for t in str(error).splitlines()]
            continue
        rows.append({"policy": found.name, "level": "hash", "where": "", "text": found.hash})
        for one in check_policy(found, today=library.today):
            rows.append({"policy": found.name, "level": one.level, "where": one.where, "text": one.text})
    faults = [row for row in rows if row["level"] == "fault"]
    if as_json:
        print_json({"ok": not faults, "findings": rows})
    else:
        for row in rows:
            _print_finding(row)
    if faults:
        plural = "fault" if len(faults) == 1 else "faults"
        raise ConfigError(
            f"{len(faults)} {plural} in {len({row['policy'] for row in faults})} of {len(policies)} policies"
        )


def _print_finding(row: dict[str, Any]) -> None:
    if row["level"] == "hash":
        print_line(f"● {row['policy']} {row['text'][:12]}")
    else:
        sign = "■ fault" if row["level"] == "fault" else "  note"
        place = f"{row['where']}: " if row["where"] else ""
        print_line(f"{sign}: {place}{row['text']}")


def show(
    policy: Reference,
    folder: Folders = None,
    on: Day = None,
    context: Annotated[
        list[str] | None, typer.Option(help="Attribute of a request, NAME=VALUE: what is done under it.")
    ] = None,
    as_: Annotated[
        Literal["evaluation", "runtime", "prompt", "screen", "labels"] | None,
        typer.Option("--as", help="Print what is compiled of it for one use, as JSON."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a policy does about each category, on what users ask, models answer and people post.

    Examples:
        workbench policy show default
        workbench policy show security-testing --context caller_role=pentester
        workbench policy show askhistory --as labels
    """
    library = open_library(folder, on)
    found = library.load(policy)
    if as_ is not None:
        from safety.compile import compile_view

        print_json(
            {"policy": found.name, "policy_hash": found.hash, as_: compile_view(found, as_, today=library.today)}
        )
        return
    attributes = _context(found, context or [])
    if as_json:
        import json

        from safety.policy_hash import resolved_json

        print_json({"name": found.name, "hash": found.hash, "path": found.path, **json.loads(resolved_json(found))})
        return
    _print_head(found)
    rows = [_row(found, name, attributes, library.today) for name in found.categories]
    heads = ["category", Column("severity", drop=2)]
    heads += [Column(name, tones=_TONES) for name in ("user_input", "model_output", "content")]
    print_table([*heads, Column("in doubt", drop=1), Column("judges", drop=3)], rows)
    for note in found.notes:
        say(f"note: {note}")
    say(f"next: workbench policy explain {policy} CATEGORY.actions")


def _print_head(found: "ResolvedPolicy") -> None:
    streaming = found.runtime["streaming"]
    facts = [
        ("is", f"{found.title} ({found.kind})"),
        ("extends", " -> ".join(found.lineage[:-1]) or "nothing"),
        ("hash", found.hash),
        ("floors", ", ".join(found.floors) or "none"),
        (
            "runtime",
            f"fails {found.runtime['fail']}, streams by {streaming['mode']}, logs {found.runtime['log']['content']}",
        ),
        ("gates", f"{len(found.gates)}"),
    ]
    print_facts(found.name, facts)


def _row(found: "ResolvedPolicy", name: str, context: dict[str, Any], today: Any) -> list[str]:
    category = found.categories[name]
    actions = [
        category.step("actions", s, context, today=today).action for s in ("user_input", "model_output", "content")
    ]
    doubt = category.step("uncertain", "model_output", context, today=today).action
    mark = " (floor)" if category.floor is not None else ""
    indent = "  " * name.count(".") if not category.is_rule else ""
    return [f"{indent}{name}{mark}", category.severity, *actions, doubt, ", ".join(category.judges)]


def _context(found: "ResolvedPolicy", given: list[str]) -> dict[str, Any]:
    """`a.b=value` pairs as nested attributes; values are read as YAML."""
    from workbench.config import apply_overrides
    from workbench.errors import did_you_mean

    for text in given:
        name = text.partition("=")[0].split(".")[0]
        if name not in (*found.attributes, "entities", "clean"):
            hint = did_you_mean(name, [*found.attributes, "entities"])
            raise ConfigError(f"--context {text}: {found.name} asks for no such attribute; {hint}")
    return apply_overrides({}, given)


def explain(
    policy: Reference,
    path: Annotated[str, typer.Argument(help="What to explain: hate, hate.actions, runtime.fail, gates.")],
    folder: Folders = None,
    on: Day = None,
    as_json: AsJson = False,
) -> None:
    """Say which file and line set a value, and what each file in the line of parents says about it.

    Examples:
        workbench policy explain security-testing cyber_offense.exploit_dev.actions
        workbench policy explain child-directed runtime.streaming
        workbench policy explain askhistory hate.risk --json
    """
    from safety.leaves import explain as leaves_of

    library = open_library(folder, on)
    found = library.load(policy)
    leaves = leaves_of(found, path, today=library.today)
    if as_json:
        print_json({"policy": found.name, "hash": found.hash, "leaves": leaves})
        return
    print_table(["what", "value", "set by"], [[_short(leaf.path), leaf.value, leaf.set_by] for leaf in leaves])
    several = [leaf for leaf in leaves if len(leaf.steps) > 1]
    for leaf in several:
        say(f"{_short(leaf.path)}: " + " -> ".join(leaf.steps))


def _short(path: str) -> str:
    return path.removeprefix("categories.")


def diff(
    before: Annotated[str, typer.Argument(help="The policy as it is: a file or an id.")],
    after: Annotated[str, typer.Argument(help="The policy as it would be.")],
    folder: Folders = None,
    on: Day = None,
    markdown: Markdown = None,
    as_json: AsJson = False,
) -> None:
    """List what differs between two policies, looser values first, and the labels that a change makes stale.

    Examples:
        workbench policy diff default security-testing
        workbench policy diff policies/shop@3.yaml policies/shop.yaml --markdown change.md
    """
    from safety.leaves import list_changes, stale_categories
    from workbench.publish.policies import heading, section

    library = open_library(folder, on)
    old, new = library.load(before), library.load(after)
    changes = list_changes(old, new, today=library.today)
    stale = stale_categories(old, new)
    counts = {turn: sum(change.turn == turn for change in changes) for turn in ("looser", "tighter", "other")}
    sentence = (
        f"{old.name} -> {new.name}: {counts['looser']} looser, {counts['tighter']} tighter, {counts['other']} other"
    )
    if as_json:
        print_json({"before": old.hash, "after": new.hash, "changes": changes, "stale_labels": stale, **counts})
    else:
        print_line(sentence)
        print_table(["turn", "what", "before", "after", "set by"], [_change_row(change) for change in changes])
        if stale:
            say(f"labels of {', '.join(stale)} have to be confirmed: definition or examples differ")
    heads = ["turn", "what", "before", "after", "set by"]
    parts = [heading(f"Policy {new.name}", sentence), section("Changes", heads, [_change_row(c) for c in changes])]
    parts.append(section("Labels to confirm", ["category"], [[name] for name in stale]))
    write_markdown(markdown, parts)


def _change_row(change: Any) -> list[str]:
    sign = {"looser": "▲ looser", "tighter": "▼ tighter", "other": "other"}[change.turn]
    cut = [
        ("—" if text is None else text if len(text) <= 70 else f"{text[:69]}…")
        for text in (change.before, change.after)
    ]
    return [sign, _short(change.path), *cut, change.set_by]


def replay(
    policy: Annotated[str, typer.Argument(help="The changed policy: a file or an id.")],
    against: Annotated[str | None, typer.Option(help="The policy before (default: what was recorded).")] = None,
    items: Annotated[
        Path | None, typer.Option(help="JSON lines of judgements, audit rows or assessed items (default: the audit).")
    ] = None,
    report: Annotated[str | None, typer.Option(help="Replay the items of this assessment.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="JSON lines of labels with category and category_hash, to count stale ones.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="At most so many of the audit's last rows.")] = 10_000,
    folder: Folders = None,
    on: Day = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    markdown: Markdown = None,
    as_json: AsJson = False,
) -> None:
    """Decide past items again under a changed policy, before it is merged: flips, reviewer hours, stale labels.

    Examples:
        workbench policy replay policies/shop.yaml --against policies/shop@3.yaml
        workbench policy replay security-testing --against default --items judged.jsonl
        workbench policy replay policies/shop.yaml --items audit.jsonl --markdown replay.md
    """
    from safety.replay import read_items, read_labels
    from safety.replay import replay as decide_again
    from workbench.cli.policy_replay import past_items, print_replay, replay_markdown

    library = open_library(folder, on)
    new = library.load(policy)
    old = library.load(against) if against is not None else None
    source = read_items(items) if items is not None else past_items(project, report=report, last=last)
    rows = read_labels(labels) if labels is not None else ()
    found = decide_again(source, new, before=old, labels=rows, today=library.today)
    if as_json:
        print_json({"replay": found, "by_category": _counts(found), "by_community": found.by_community})
    else:
        print_replay(found)
    write_markdown(markdown, replay_markdown(found))


def _counts(found: Any) -> list[dict[str, Any]]:
    return [
        {"category": category, "before": before, "after": after, "items": count}
        for (category, before, after), count in found.by_category.items()
    ]
