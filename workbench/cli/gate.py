"""`workbench gate`: may this checkpoint ship? Told by the exit code, and by one sentence for each rule."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.output import print_json, print_line, print_table, say

if TYPE_CHECKING:
    from workbench.overrides import Override
    from workbench.pipeline import Gated
    from workbench.store import Project

EXIT_CODES = {"pass": 0, "fail": 1, "hold": 3}


def command(
    candidate: Annotated[str, typer.Argument(help="Report id (or its beginning), checkpoint, or latest.")] = "latest",
    baseline: Annotated[
        str | None, typer.Option(help="Report or checkpoint to compare with (default: the rules', the project's).")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="Gate file (default: every task of the suites kept, as they say).")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy (file or id) whose gates its assessment has to pass as well.")
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Draft a gate file from this report, print it, and decide nothing.")
    ] = False,
    override: Annotated[
        list[str] | None, typer.Option(help="Rule to let pass although it stops the checkpoint; needs --reason.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why the rule is overridden.")] = None,
    sign_key: Annotated[
        Path | None, typer.Option(help="SSH private key that signs the override; who signs is recorded.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write it for a pull request.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as one page that needs no network.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write it as JUnit XML for a CI job.")] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Decide whether a checkpoint may ship: exit code 0 pass, 1 fail, 3 hold for lack of evidence.

    A rule passes only if the bad end of its interval is inside the limit, and no data is never a pass. All required
    rules must pass.

    Examples:
        workbench gate runs/shop/checkpoint-300 --baseline smollm2
        workbench gate latest --rules release.yaml --junit gate.xml --markdown gate.md
        workbench gate latest --baseline smollm2 --policy security-testing
    """
    from workbench.cli.documents import write_documents
    from workbench.cli.policies import open_library
    from workbench.cli.projects import find_project
    from workbench.pipeline import find_flips, gate

    home = find_project(project)
    if init:
        _print_draft(home, candidate)
        return
    signed = _sign(home, candidate, override or [], reason, sign_key)
    resolved = open_library(None, None).load(policy) if policy is not None else None
    found = gate(candidate, project=home, baseline=baseline, rules=rules, overrides=signed, policy=resolved)
    changed = find_flips(found.comparison, project=home) if found.comparison and (markdown or html) else []
    if as_json:
        print_json({"decision": found.decision, "comparison": found.comparison})
    else:
        _print_decision(found)
    again = ["workbench", *sys.argv[1:]] if sys.argv[1:2] == ["gate"] else []
    write_documents(
        {"markdown": markdown, "html": html, "junit": junit},
        comparison=found.comparison,
        decision=found.decision,
        flips=changed,
        reproduce=[shlex.join(again)] if again else [],
    )
    say(f"decision {found.decision.id[:12]} is recorded")
    if found.comparison is not None and found.decision.outcome != "pass":
        pair = f"{found.comparison.baseline[:12]} {found.comparison.candidate[:12]}"
        option = "" if project is None else f" --project {project}"
        say(f"next: workbench compare {pair} --flips 20{option}")
    raise SystemExit(EXIT_CODES[found.decision.outcome])


def _print_draft(home: "Project", candidate: str) -> None:
    from workbench.gate import draft_gate

    print_line(draft_gate(home.store.report(candidate)).rstrip())


def _print_decision(found: "Gated") -> None:
    from workbench.cli import verdicts
    from workbench.publish.wording import decision_headline

    print_line(decision_headline(found.decision, found.comparison))
    print_table(*verdicts.decision_table(found.decision, found.comparison))
    for note in verdicts.verdict_notes(found.comparison) if found.comparison else []:
        say(f"note: {note}")


def _sign(
    home: "Project", candidate: str, rules: list[str], reason: str | None, sign_key: Path | None
) -> "list[Override]":
    from workbench.errors import ConfigError
    from workbench.overrides import sign_override

    if not rules:
        return []
    if not reason or sign_key is None:
        raise ConfigError("--override: needs --reason TEXT and --sign-key FILE; an override is signed, or it is none")
    report = home.store.report(candidate)
    allowed = home.config.override_signers
    return [
        sign_override(
            rule,
            reason,
            key=sign_key.expanduser(),
            report=report.id,
            weights=report.checkpoint.fingerprint,
            allowed_signers=home.root / allowed if allowed else None,
        )
        for rule in rules
    ]
