"""What a soak found, as a page of docs/studies and a file of results. Knows the results; runs nothing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "studies" / "results" / "soak.json"
PAGE = ROOT / "docs" / "studies" / "soak.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"


def write(found: Mapping[str, Any]) -> None:
    """Write the results, and the marked part of the page."""
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    parts = "\n\n".join(section(one) for one in found["soaks"])
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{parts}\n{END}{after}", encoding="utf-8")


def section(one: Mapping[str, Any]) -> str:
    """The tables of one soak."""
    name = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}[one["store"]]
    faults = ", ".join(f"{count} × {what}" for what, count in sorted(one["faults"].items(), key=lambda f: -f[1]))
    killed = ", ".join(f"{who} {count}" for who, count in sorted(one["killed"].items(), key=lambda k: -k[1]))
    wrong = "nothing" if not one["wrong"] else f"{len(one['wrong'])}: " + "; ".join(one["wrong"][:10])
    labels, answers, doctor = one["labels"], one["answers"], one["doctor"]
    looked = ", ".join(f"{count:,} {what}" for what, count in doctor.get("looked_at", {}).items() if what != "bytes")
    left = ", ".join(f"{count} in {area}" for area, count in doctor.get("left_over", {}).items()) or "none"
    rows = [
        ("minutes of faults", f"{one['minutes']:g}, seed {one['seed']}"),
        ("faults", f"{sum(one['faults'].values())}: {faults}"),
        ("processes killed", killed or "none"),
        ("commands that came to their end", ", ".join(f"{kind} {count}" for kind, count in one["jobs"].items())),
        ("attempts that took", ", ".join(f"{kind} {count}" for kind, count in one["attempts"].items())),
        ("finished by the same command afterwards", str(one["finished_after"])),
        ("labels acknowledged / in the store", f"{labels.get('acknowledged', 0):,} / {labels.get('stored', 0):,}"),
        ("acknowledged a second time, written once", f"{labels.get('acknowledged again', 0):,}"),
        ("told to come again (503)", f"{labels.get('server errors', 0):,}"),
        ("answers of the served model, each in the audit", f"{answers.get('answered', 0):,}"),
        ("dashboard pages opened", f"{one['pages'].get('opened', 0):,}"),
        ("same as the calm run", ", ".join(f"{count} {what}" for what, count in one["same_as_calm"].items())),
        ("`doctor --deep` looked at", looked),
        ("left over by killed processes, harmless", left),
        ("tracebacks in any log", str(sum(one["tracebacks"].values()))),
        ("lost or wrong", wrong),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    return f"### {name}\n\n| | |\n|---|---|\n{table}"


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text(encoding="utf-8")))
