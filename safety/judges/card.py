"""A judge's card: what it was measured on, and how far it agrees with people. Written beside its artefact.

`card.json` is for programs (the correction of rates reads it), `CARD.md` for people.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safety.judges.agreement import Agreement
from safety.rates import JudgeError
from workbench.errors import ConfigError
from workbench.statistics import Interval


def write_card(
    folder: Path, *, title: str, intro: Sequence[str], measured: Mapping[str, Sequence[Agreement]], command: str
) -> None:
    """Write both forms. `measured`: what it was measured on -> agreement by category."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "title": title,
        "command": command,
        "measured": {on: [asdict(one) for one in rows] for on, rows in measured.items()},
    }
    (folder / "card.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = [f"# {title}", "", *intro, ""]
    for on, rows in measured.items():
        lines += [f"## {on}", "", *agreement_table(rows), ""]
    lines += ["Made and measured by:", "", "```text", command, "```", ""]
    (folder / "CARD.md").write_text("\n".join(lines), encoding="utf-8")


def agreement_table(rows: Sequence[Agreement]) -> list[str]:
    """A Markdown table, intervals at 95%."""
    heads = "| category | n | positive | kappa | sensitivity | specificity | macro-F1 | AUPRC | ECE | unscorable |"
    lines = [heads, "|---|---:|---:|---|---|---|---|---|---:|---:|"]
    for row in rows:
        cells = [
            row.category,
            f"{row.n:,}",
            f"{row.positives:,}",
            *(show_interval(one) for one in (row.kappa, row.sensitivity, row.specificity, row.macro_f1)),
            show_interval(row.auprc) if row.auprc else "–",
            f"{row.ece:.3f}" if row.ece is not None else "–",
            f"{row.unscorable:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def show_interval(interval: Interval) -> str:
    """`0.963 [0.950, 0.975]`"""
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def read_errors(folder: Path) -> dict[str, JudgeError]:
    """Category -> counts of the judge's errors; empty without a card. Raises ConfigError: a broken card."""
    path = folder / "card.json"
    if not path.is_file():
        return {}
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, JudgeError] = {}
        for on, rows in document["measured"].items():
            for row in rows:
                found.setdefault(row["category"], _error_of(row, on))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"judge card {path}: cannot be read: {error}; measure again: workbench judge audit") from None
    return found


def _error_of(row: Mapping[str, Any], source: str) -> JudgeError:
    violations, n = int(row["positives"]), int(row["n"])
    return JudgeError(
        caught=round(row["sensitivity"]["value"] * violations),
        violations=violations,
        cleared=round(row["specificity"]["value"] * (n - violations)),
        allowed=n - violations,
        source=source,
    )
