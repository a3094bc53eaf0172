"""`workbench doctor`: what this machine can do, and what cures the rest; `--deep`: is the project in order?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.checks import Diagnosis, Feature, Machine, Project, diagnose
from workbench.cli.output import Progress, print_facts, print_json, print_table, say, tone
from workbench.errors import ConfigError

if TYPE_CHECKING:
    from workbench.upkeep.findings import Checked

SIGNS = {"fault": "■ fault", "left": "▲ left over", "note": "○ note"}
PARTS = 7


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    network: Annotated[bool, typer.Option("--network/--no-network", help="Ask whether the model hub answers.")] = True,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read the whole project instead: every file, row, hash chain and lease.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="With --deep: remove old temporary files, free leases that have ended.")
    ] = False,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
) -> None:
    """Say what this machine can do, and what cures the rest.

    Versions, processors and their measured speed, the project's store and data, the model hub, packages that took the
    place of ours, and for each feature what is missing. Exits with 2 if models cannot be evaluated here.

    With --deep nothing of the machine: every byte of the project is held against the hash on record, every row against
    what it refers to, the audit against its anchors. Exits with 1 if something is not as it was written.

    Examples:
        workbench doctor
        workbench doctor --no-network --json
        workbench doctor --deep
        workbench doctor --deep --repair
    """
    if deep:
        _deep(project, repair=repair, as_json=as_json)
        return
    if repair or project is not None:
        raise ConfigError("--repair and --project: of the deep look only; add --deep")
    diagnosis = diagnose(ask_network=network)
    if as_json:
        print_json(diagnosis)
    else:
        _show(diagnosis)
    if not diagnosis.is_healthy:
        raise typer.Exit(2)


def _show(diagnosis: Diagnosis) -> None:
    python = f"{diagnosis.python} on {diagnosis.platform}"
    versions = [(name, version) for name, version in diagnosis.versions.items() if version]
    print_facts("Versions", [("workbench", diagnosis.workbench), ("python", python), *versions])
    if diagnosis.machine:
        print_facts("Machine", _machine_facts(diagnosis.machine))
    print_facts(
        "Project",
        [
            *_project_facts(diagnosis.project),
            ("model hub", diagnosis.hub),
            ("smollm2", diagnosis.embedded_model or "not here yet: workbench fetch smollm2"),
        ],
    )
    print_facts("Features", [_feature_fact(feature) for feature in diagnosis.features])
    if diagnosis.clashes:
        print_facts("Name clashes", [("■", clash) for clash in diagnosis.clashes])


def _machine_facts(machine: Machine) -> list[tuple[str, str]]:
    units = ", ".join(machine.bfloat16_units) or "none"
    rates = [
        (name, f"{rate / 1e9:,.0f} GFLOP/s{' (what --dtype auto computes with)' if name == machine.auto else ''}")
        for name, rate in machine.rates.items()
    ]
    return [
        ("cpu", machine.cpu),
        ("cores", f"{machine.cores}, {machine.threads} threads for torch"),
        ("bfloat16 units", units),
        ("memory", f"{machine.memory_gb:.1f} GB, {machine.available_gb:.1f} GB available"),
        ("gpu", ", ".join(machine.gpus) or "none"),
        *rates,
    ]


def _project_facts(project: Project) -> list[tuple[str, str]]:
    if project.root is None:
        facts = [("project", "none here: workbench init starts one")]
    else:
        facts = [("project", project.root)]
    if project.store is not None:
        size = f", {project.size_mb:.1f} MB" if project.size_mb is not None else ""
        facts += [
            ("store", f"{project.store}, schema {project.revision}{size}"),
            ("holds", f"{project.reports:,} reports, {project.ledger:,} item scores"),
        ]
    facts.append(("data sets", project.data or "no folder: set WORKBENCH_DATA, or `data:` in workbench.yaml"))
    return facts + [("■ fault", fault) for fault in project.faults]


def _feature_fact(feature: Feature) -> tuple[str, str]:
    if not feature.missing:
        return feature.name, tone("● ready", "good")
    verb = "is" if len(feature.missing) == 1 else "are"
    return feature.name, f"{tone('■', 'bad')} {', '.join(feature.missing)} {verb} missing: {feature.cure}"


def _deep(folder: Path | None, *, repair: bool, as_json: bool) -> None:
    from workbench.cli.projects import find_project
    from workbench.upkeep.check import check_project

    with find_project(folder) as project, Progress("looking", PARTS, unit="parts") as progress:
        found = check_project(project, repair=repair, on_part=lambda _: progress.advance())
    if as_json:
        print_json(
            {
                "root": found.root,
                "in_order": not found.faults,
                "looked_at": found.looked_at,
                "findings": found.findings,
            }
        )
    else:
        _show_deep(found)
    if found.faults:
        raise typer.Exit(1)


def _show_deep(found: "Checked") -> None:
    if found.findings:
        print_table(
            ["", "what", "next"],
            [
                [SIGNS[one.kind], f"{one.area}: {one.what}", "mended" if one.repaired else one.next_step]
                for one in found.findings
            ],
        )
    looked = dict(found.looked_at)
    size = looked.pop("bytes", 0)
    counts = ", ".join(f"{count:,} {name}" for name, count in looked.items() if count)
    say(f"looked at {counts or 'an empty project'}; {size / 1e6:,.1f} MB of files read")
    if found.faults:
        say(f"■ {len(found.faults)} not as written: {found.root}")
    else:
        untidy = sum(one.kind == "left" and not one.repaired for one in found.findings)
        rest = f"; {untidy} left by processes that were killed, harmless" if untidy else ""
        say(f"● everything is as it was written{rest}")
