"""A project with recorded reports of made-up answers, for tests of what comes after an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.records import Checkpoint, Estimate, ItemScore, Report, Role, TaskResult
from workbench.statistics import mean_interval
from workbench.store import Project, report_id

TOKENIZER = "7" * 64


def record_report(
    project: Project,
    name: str,
    answers: Mapping[str, Sequence[float]],
    *,
    roles: Mapping[str, Role] | None = None,
    margin: float = 0.02,
    chance: float | None = 0.25,
    scorer: str = "transformers/1",
    shots: int = 0,
    fingerprint: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Report:
    """Right (1) and wrong (0) answers by task -> a recorded report; items pair by their place."""
    items: list[ItemScore] = []
    results: list[TaskResult] = []
    for task, values in answers.items():
        labels = (groups or {}).get(task)
        items += [_item(task, i, value, labels[i] if labels else None) for i, value in enumerate(values)]
        interval = mean_interval(list(values), binary=True)
        estimate = Estimate(
            metric="acc", value=interval.value, low=interval.low, high=interval.high, n=interval.n, method="wilson"
        )
        role: Role = (roles or {}).get(task, "general")
        results.append(
            TaskResult(
                task=task,
                role=role,
                margin=margin,
                required=True,
                metric="acc",
                estimates=(estimate,),
                n=len(values),
                num_fewshot=shots,
                chance=chance,
            )
        )
    checkpoint = Checkpoint(
        name=name,
        source=f"/models/{name}",
        kind="folder",
        fingerprint=(fingerprint or name.encode().hex()).ljust(64, "0")[:64],
        tokenizer=TOKENIZER,
    )
    report = Report(
        id="",
        checkpoint=checkpoint,
        suites=("made-up",),
        results=tuple(results),
        settings={"scorer": scorer},
        created_at="2026-01-01T00:00:00+00:00",
        environment={},
    )
    report = replace(report, id=report_id(report, items))
    project.store.add_report(report, items)
    return report


def right(n: int, count: int) -> list[float]:
    """`count` right answers of n, the right ones first."""
    return [1.0] * count + [0.0] * (n - count)


def lose(values: Sequence[float], lost: int, gained: int = 0) -> list[float]:
    """The first `lost` right answers become wrong and the last `gained` wrong ones right."""
    out = list(values)
    for i in range(lost):
        out[i] = 0.0
    for i in range(gained):
        out[-1 - i] = 1.0
    return out


def project_in(folder: Path) -> Project:
    """A new project."""
    return Project.open_or_init(folder)


def _item(task: str, place: int, value: float, group: str | None) -> ItemScore:
    name = f"{task} {place}"
    extra: dict[str, Any] = {"doc": name}
    return ItemScore(
        task=task,
        item=name,
        doc_id=place,
        group=group or name,
        metrics={"acc": value},
        logprobs=(-1.0, -2.0) if value else (-2.0, -1.0),
        answer="right" if value else "wrong",
        target="right",
        prompt=f"Question {place} of {task}?",
        extra=extra,
    )
