"""`workbench improve`: one turn of the loop from people's labels to a better checkpoint, or the reason why not."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.output import print_json, print_line, print_table, say

if TYPE_CHECKING:
    from safety.review.feedback import Feedback
    from workbench.improving import Improvement

EXIT_CODES = {"improved": 0, "gate_failed": 1, "worse": 1, "gate_held": 3, "not_better": 3, "too_few_held_out": 3}
SIGNS = {"improved": "● improved", "gate_failed": "■ gate failed", "worse": "■ worse", "gate_held": "▲ gate holds"}
SIGNS |= {"not_better": "▲ not better", "too_few_held_out": "▲ not told"}


def command(
    policy: Annotated[str, typer.Option(help="Name of a shipped policy, or a policy file: the rules of the labels.")],
    queue: Annotated[str, typer.Option(help="Review queue whose decided items are learned from.")] = "default",
    start: Annotated[str, typer.Option(help="Checkpoint that is to become better.")] = "smollm2",
    general: Annotated[
        Path | None, typer.Option(help="Rows blended in against forgetting (default: the workbench's sample).")
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="Suites that must be kept (default: sample-general). Repeatable.")
    ] = None,
    twins: Annotated[
        bool, typer.Option("--twins/--no-twins", help="Violations also under a rule that allows them.")
    ] = True,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another value for a key of the recipe: tokens=2000.")
    ] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Labels -> training -> gate -> test on held-out labels: exit code 0 better, 1 worse or gate failed, 3 not told.

    Half of the exploration stream is never trained on; it says whether the new checkpoint is better. Killed, the same
    command goes on.

    Examples:
        workbench improve --policy moderation
        workbench improve --policy policies/ours.yaml --queue forum/default --start run/my-moderator
        workbench improve --policy moderation --general conversations.jsonl --suite general --set tokens=5000
    """
    from workbench.cli.projects import find_project
    from workbench.cli.train import Talk
    from workbench.improving import ImproveRequest, improve

    request = ImproveRequest(
        policy=policy,
        queue=queue,
        start=start,
        general=general,
        suites=tuple(suite or ("sample-general",)),
        twins=twins,
        overrides=tuple(set_ or ()),
    )
    talk = Talk()
    try:
        with talk:
            found = improve(
                request,
                project=find_project(project),
                on_exported=_exported,
                on_prepared=talk.prepared,
                on_step=talk.step,
                listener=talk.listener(),
            )
    except KeyboardInterrupt:
        say(f"interrupted. To go on from the last checkpoint: {shlex.join(['workbench', *sys.argv[1:]])}")
        raise SystemExit(130) from None
    _print(found, as_json)
    raise SystemExit(EXIT_CODES[found.outcome])


def _exported(found: "Feedback") -> None:
    held = len(found.held_out)
    say(f"{found.items} decided items train as {len(found.train)} rows; {held} held-out answers are never trained on")
    for why, count in found.left_out.items():
        say(f"  left out: {count} ({why})")


def _print(found: "Improvement", as_json: bool) -> None:
    if as_json:
        print_json(found.document())
        return
    print_line(f"{SIGNS[found.outcome]}: {found.reason}.")
    if found.test is not None:
        test = found.test
        print_table(
            ["held-out labels", "start", "new"],
            [
                [
                    f"average precision ({test.n}, {test.positives} violations)",
                    f"{test.before:.3f}",
                    f"{test.after:.3f}",
                ],
                ["balanced accuracy at 0.5", f"{test.accuracy_before:.3f}", f"{test.accuracy_after:.3f}"],
                ["unscorable in use", str(test.unscorable_before), str(test.unscorable_after)],
            ],
        )
    say(f"labels, recipe and result: {found.folder}")
    if found.outcome == "improved":
        say(f"next: workbench moderate {found.checkpoint} --policy ... --queue")
