"""What `workbench policy replay` prints, and the items that a project has recorded."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.output import Column, print_line, print_table, say
from workbench.errors import ConfigError

if TYPE_CHECKING:
    from safety.replay import PastItem, Replay


def past_items(project: Path | None, *, report: str | None, last: int) -> "Iterator[PastItem]":
    """Items of an assessment of the project, or the last decisions of its audit."""
    from safety.replay import item_of, past_item
    from workbench.cli.projects import find_project
    from workbench.store.audit import audit_rows

    with find_project(project) as home:
        store = home.store
        if report is not None:
            scores = store.items(store.report(report).id)
            yield from (item_of(score) for score in scores if score.extra.get("category", "all") != "all")
            return
        rows = audit_rows(store.database, kind="guard")[-last:]
    if not rows:
        raise ConfigError("policy replay: the project's audit holds no decisions; name --items FILE or --report REPORT")
    yield from (past_item(row.document, default_id=str(row.seq)) for row in rows)


def summary(found: "Replay") -> str:
    """The replay in a sentence."""
    looser = len(found.flips) - found.tighter
    share = f" ({len(found.flips) / found.items:.1%})" if found.items else ""
    text = f"{len(found.flips):,} of {found.items:,} items flip{share}: {found.tighter:,} tighter, {looser:,} looser"
    skipped = f"; {found.skipped:,} left out, whose categories are gone" if found.skipped else ""
    return f"{text}; reviewer hours {found.hours_before:.1f} -> {found.hours_after:.1f}{skipped}"


def print_replay(found: "Replay") -> None:
    """The summary, and tables of flips and stale labels."""
    print_line(f"{found.before} -> {found.after}: {summary(found)}")
    if found.flips:
        print_table(["category", "before", "after", Column("items", right=True)], _by_category(found))
    if any(found.by_community):
        print_table(["community", Column("flips", right=True)], list(found.by_community.items()))
    for category, count in found.stale.items():
        say(f"{category}: definition or examples differ; {count:,} labels and judgements have to be confirmed")


def replay_markdown(found: "Replay") -> list[str]:
    """The same for a pull request."""
    from workbench.publish.policies import heading, section

    flips = [[f.id, f.community, f.category, f.before, f.after, f.reason] for f in found.flips]
    return [
        heading(f"Replay: {found.before} -> {found.after}", summary(found)),
        section("By category", ["category", "before", "after", "items"], _by_category(found)),
        section("By community", ["community", "flips"], list(found.by_community.items())),
        section("Labels to confirm", ["category", "labels and judgements"], list(found.stale.items())),
        section("Flips", ["item", "community", "category", "before", "after", "why"], flips, limit=30),
    ]


def _by_category(found: "Replay") -> list[tuple[str, str, str, str]]:
    return [(*key, f"{count:,}") for key, count in found.by_category.items()]
