"""`workbench review drift` and `alarms`: what is new in a stream, and how long it took until a rule was enforced."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.output import Column, print_json, print_table, say
from workbench.cli.policies import AsJson
from workbench.cli.review import ProjectFolder, QueueName, open_queue


def drift(
    checkpoint: Annotated[str, typer.Argument(help="Whose hidden states tell what is unlike; no endpoint.")],
    input: Annotated[Path, typer.Option(help="Posts of now, in the order in which they came.")],
    reference: Annotated[Path, typer.Option(help="Posts of before, 200 or more.")],
    policy: Annotated[str, typer.Option(help="Policy that the texts stand under: a name or a file.")],
    queue: QueueName = "default",
    name: Annotated[str, typer.Option(help="What a drafted rule is called.")] = "new-threat",
    text_column: Annotated[str | None, typer.Option(help="Column of the text, if it has another name.")] = None,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Look for something new in a stream, without labels; an alarm opens a lane of 100 texts and drafts a rule.

    Texts that are unlike those of before are bets: where nothing changes, a false alarm is on average at least 5,000
    texts away. Near-duplicates that arrive faster than before are found at a false discovery rate of 5%.

    Examples:
        workbench review drift smollm2 --input today.jsonl --reference last-month.jsonl --policy communities
        workbench review drift smollm2 --input today.csv --reference may.csv --policy communities --queue mods --json
    """
    from workbench.cli.projects import find_project
    from workbench.drifting import DriftRequest, watch
    from workbench.references import resolve_checkpoint

    with find_project(project, create=True) as home:
        work, operator = open_queue(home)
        request = DriftRequest(
            input=input, reference=reference, policy=policy, queue=queue, name=name, text_column=text_column
        )
        asked = resolve_checkpoint(checkpoint, home)
        found = watch(asked, project=home, review=work, actor=operator, request=request)
    if as_json:
        print_json(found)
        return
    rows: list[list[Any]] = [
        [" ".join(found.examples[one.cluster].split())[:60], one.before, one.now, f"{one.times:.3g}", f"{one.p:.2g}"]
        for one in found.rising
    ]
    if rows:
        heads = [Column("near-duplicates of"), *(Column(h, right=True) for h in ("before", "now", "times", "p"))]
        print_table(heads, rows)
    say(f"{found.texts:,} texts, {found.novel:,} as far out as 1% of usual; evidence {found.evidence:,.3g} of 5,000")
    if found.alarm is None:
        say("no alarm")
        return
    alarm = found.alarm
    told = f"at text {alarm.fired_at:,}" if alarm.fired_at else "by near-duplicates that arrive faster"
    say(f"alarm {alarm.id} {told}: a lane of {len(alarm.lane)} texts is open in {alarm.queue}")
    say(f"drafted in review mode: {alarm.draft}")
    say("next: workbench review open; then word the rule, give it an action, and moderate under it:")
    say(f"      workbench moderate {shlex.quote(checkpoint)} --policy {shlex.quote(alarm.draft)} ...")


def alarms(project: ProjectFolder = None, as_json: AsJson = False) -> None:
    """List alarms, how far their lanes are, and the minutes until a rule was first enforced after them.

    A rule is enforced when `workbench moderate` runs under a policy of the same line that withholds what it did not.

    Examples:
        workbench review alarms
        workbench review alarms --json
    """
    from workbench.cli.projects import find_project
    from workbench.drifting import lane_state, read_alarms

    with find_project(project) as home:
        work, _ = open_queue(home)
        found = read_alarms(home)
        states = lane_state(work, found)
    if as_json:
        rows_of = [{"alarm": one, "minutes": one.minutes, "lane": states[one.id]} for one in found]
        print_json({"alarms": rows_of})
        return
    if not found:
        say("no alarms; look for one: workbench review drift")
        return
    columns = [
        Column("alarm"),
        Column("policy", drop=2),
        Column("lane decided", right=True),
        Column("violate", right=True, drop=1),
        Column("first enforced rule"),
        Column("minutes", right=True),
    ]
    rows = [
        [
            one.id,
            one.policy,
            f"{states[one.id]['decided']}/{len(one.lane)}",
            states[one.id]["violates"],
            one.enforced_rule or "none yet",
            "" if one.minutes is None else f"{one.minutes:,.0f}",
        ]
        for one in found
    ]
    print_table(columns, rows)
