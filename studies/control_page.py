"""The page of `studies.control`: what was measured, as tables. Knows its numbers' names; measures nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from studies.control import BATCH, DOMAIN, GENERAL, ITEMS, WATCHED


def render(found: Mapping[str, Any]) -> str:
    """Markdown."""
    minutes = found["seconds"] / 60
    parts = [
        "# The gate inside training: what it sees and what it costs",
        "",
        f"`python -m studies.control`, {minutes:.0f} minutes on {found['machine']} that other jobs shared;",
        "seed 0, one run an arm, so differences between arms carry the luck of one run. SmolLM2-135M-Instruct,",
        f"continued pre-training on the OpenStax anatomy text, {found['steps']} steps of {BATCH:,} tokens,",
        "highest rate 4e-4, float32.",
        "",
        "## What was watched while it trained",
        "",
        f"Three sets of at most {ITEMS} items ({', '.join(WATCHED)}), 32 texts that the start",
        "wrote, and the KL from the start on 256 tokens of the new task. Changes against the start; losses are",
        "negative.",
        "",
    ]
    for name, run in found["runs"].items():
        parts += [f"### {name}", "", *_looks(run), ""]
        parts += [f"- {line}" for line in _done(run)] + [""]
    parts += ["## Afterwards, on other sets", "", *_arms(found["evaluated"]), ""]
    parts += ["## The merge frontier of the first run", "", *_frontier(found["evaluated"]), ""]
    parts += ["## What watching costs", "", *_cost(found["runs"]), ""]
    parts += ["## False alarms", "", *_alarms(found), ""]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def _looks(run: Mapping[str, Any]) -> list[str]:
    kl = {event["step"]: event["nats"] for event in run["events"] if event["event"] == "kl"}
    looks = [event for event in run["events"] if "tasks" in event]
    if not looks:
        return ["No look came before the end."]
    names = [task["task"] for task in looks[0]["tasks"]]
    rows = [
        [
            str(look.get("at", look["step"])),
            *(
                f"{task['change']:+.3f}{' **big**' if task['big'] else ' hit' if task['hit'] else ''}"
                for task in look["tasks"]
            ),
            f"{kl[look['step']]:.3f}" if look["step"] in kl else "–",
            look["verdict"],
        ]
        for look in looks
    ]
    return _table(["step", *names, "KL", "verdict"], rows)


def _done(run: Mapping[str, Any]) -> list[str]:
    told: list[str] = []
    for event in run["events"]:
        if event["event"] == "shares":
            told.append(f"step {event['step']}: shares {_shares(event['shares'])} from step {event['from']} on")
        if event["event"] == "rolled back":
            told.append(
                f"rolled back from step {event['at']} to {event['step']}, then shares {_shares(event['shares'])}"
            )
    if run["stopped"]:
        told.append(f"stopped at step {run['steps']}: {run['stopped']}")
    given = ", ".join(f"{name} {tokens:,}" for name, tokens in run["given"].items())
    return [*told, f"loss {run['loss'][0]:.3f} → {run['loss'][1]:.3f}; tokens given: {given}"]


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _arms(evaluated: Mapping[str, Any]) -> list[str]:
    rows = [
        [task, "domain" if task in DOMAIN else "retained", *(_change(arm[task]) for arm in evaluated["arms"].values())]
        for task in [*DOMAIN, *GENERAL]
    ]
    head = ["task", "role", *(f"{name}, points [90%]" for name in evaluated["arms"])]
    return [*_table(head, rows), "", f"n = {_sizes(next(iter(evaluated['arms'].values())))}."]


def _frontier(evaluated: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"{100 * point['weight']:g}%",
            f"{point['domain_in_margins']:+.2f}",
            f"{point['worst_retained_in_margins']:+.2f}",
            *(
                f"{100 * point['tasks'][task]['change']:+.1f} {point['tasks'][task]['verdict']}"
                for task in [*DOMAIN, *GENERAL]
            ),
        ]
        for point in evaluated["points"]
    ]
    head = ["tuned share", "domain (margins)", "worst retained (margins)", *DOMAIN, *GENERAL]
    certified = ", ".join(f"{task} {_change(row)} {row['verdict']}" for task, row in evaluated["certified"].items())
    return [
        "Changes in points on the half of the items that the choice is made on.",
        "",
        *_table(head, rows),
        "",
        f"Chosen: {100 * evaluated['best']:g}%. On the other half: {certified}.",
    ]


def _cost(runs: Mapping[str, Any]) -> list[str]:
    rows: list[list[str]] = []
    for name, run in runs.items():
        cost = run["cost"]
        if cost is None:
            continue
        rest = cost["seconds"] - cost["watching"]
        step_s, look_s = rest / cost["steps"], run["pace"]["evaluation_s"]
        rows.append(
            [
                name,
                f"{step_s:.1f} s",
                f"{100 * cost['mixing'] / rest:.2f}%",
                f"{100 * cost['recording'] / rest:.2f}%",
                f"{look_s:.0f} s",
                f"{100 * cost['watching'] / cost['seconds']:.1f}%",
                f"{max(1, round(look_s / (0.05 * step_s)))}",
            ]
        )
    head = ["run", "step", "mixing", "recording", "first look", "watching, as run", "steps between looks for 5%"]
    return [
        *_table(head, rows),
        "",
        "Mixing and recording are shares of the time without watching. As run, looks came every few steps, which is",
        "more often than the default: left to itself the run keeps them within 5% of its time.",
    ]


def _alarms(found: Mapping[str, Any]) -> list[str]:
    same = found["same model"]
    items, changed = (sum(row[key] for row in same) for key in ("items", "changed"))
    alarms = sum(row["verdict"] != "ok" for row in same)
    rows = [
        [
            str(row["tasks"]), str(row["items"]), f"{100 * row['churn']:.0f}%", f"{100 * row['loss']:.0f} points",
            _share(row["hit"], row["runs"]), _share(row["acted"], row["runs"]),
        ]
        for row in found["false alarms"]
    ]  # fmt: skip
    return [
        f"The start asked {len(same)} times again in batches of other sizes: {changed} of {items} answers differed,",
        f"{alarms} alarms.",
        "",
        "Simulated runs of eight looks, in which a share of the items flips at each look (half of it as at the look",
        "before), as many right as wrong, budget 5 points, defaults; and with a loss planted in one task.",
        "95% intervals (Wilson).",
        "",
        *_table(["tasks", "items", "churn", "true loss", "runs with a hit", "runs acted upon"], rows),
    ]


def _share(count: int, of: int) -> str:
    from workbench.statistics import wilson_interval

    interval = wilson_interval(count, of)
    return f"{100 * count / of:.1f}% [{100 * (interval.low or 0):.1f}, {100 * (interval.high or 0):.1f}]"


def _change(row: Mapping[str, Any]) -> str:
    if row["change"] is None:
        return "–"
    ends = "" if row["low"] is None else f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{100 * row['change']:+.1f}{ends}"


def _sizes(tasks: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {row['n']}" for name, row in tasks.items())
