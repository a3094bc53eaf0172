"""`workbench doctor`: what this machine can do, and the command that cures what it cannot."""

from typing import Annotated

import typer

from workbench.cli.checks import Diagnosis, Feature, Machine, Project, diagnose
from workbench.cli.output import print_facts, print_json, tone


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    network: Annotated[bool, typer.Option("--network/--no-network", help="Ask whether the model hub answers.")] = True,
) -> None:
    """Say what this machine can do, and what cures the rest.

    Versions, processors and their measured speed, the project's store and data, the model hub, packages that took the
    place of ours, and for each feature what is missing. Exits with 2 if models cannot be evaluated here.

    Examples:
        workbench doctor
        workbench doctor --json
        workbench doctor --no-network
    """
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
