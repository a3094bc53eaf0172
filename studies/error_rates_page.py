"""The measured part of docs/statistics.md, from the study's numbers. Knows no statistics."""

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PLANS = (("planned", "kept"), ("textbook", "kept_textbook"))
RULES = {
    "ours": "`kept`",
    "tango": "Tango alone",
    "wald_90": "Wald, one-sided 5%",
    "nel_gate": "95% t interval (`nel gate`)",
    "mcnemar_ns": "McNemar not significant (one-sided, exact)",
    "unpaired_z": "unpaired z not significant",
    "point": "loss at most the margin",
}


def percent(share: float) -> str:
    """A share as a percentage with one digit."""
    return f"{100 * share:.1f}%"


def points(share: float) -> str:
    """A share as points, without trailing zeros."""
    return f"{100 * share:g}"


def drawn(rate: dict[str, float]) -> str:
    """A Monte Carlo share with its standard error."""
    return f"{percent(rate['rate'])} ± {100 * rate['error']:.1f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]] + [""]


def build_tables(found: dict[str, Any]) -> str:
    """All tables, in the order of the page."""
    lines = ["**Chance to pass, by rule** (exact: all tables' probabilities added up; baseline at 60%).", ""]
    rows = [
        [r["what"], str(r["n"]), points(r["discordance"]), points(r["difference"]), points(r["margin"])]
        + [percent(r["passed"][rule]) for rule in RULES]
        for r in found["published"]
    ]
    lines += table(["model", "items", "% changed", "true difference", "margin", *RULES.values()], rows)
    lines += ["**A loss of exactly the margin, independent items**: the worst of each size (exact).", ""]
    rows = []
    for n in sorted({r["n"] for r in found["boundary"]}):
        of_size = [r["passed"] for r in found["boundary"] if r["n"] == n]
        rows.append([str(n), str(len(of_size))] + [percent(max(r[rule] for r in of_size)) for rule in RULES])
    lines += table(["items", "settings", *RULES.values()], rows)
    lines += ["**A loss of exactly the margin, clusters of 7 items, correlation 0.3** (± Monte Carlo error).", ""]
    lines += table(
        ["clusters", "% changed", "margin", "`kept`", "cluster-robust t alone", "Tango as if independent"],
        [
            [str(r["clusters"]), points(r["discordance"]), points(r["margin"])]
            + [drawn(r["passed"][rule]) for rule in ("ours", "bare_t", "tango_naive")]
            for r in found["clusters"]
        ],
    )
    lines += ["**The same with clusters of 1 to 13 items.**", ""]
    lines += table(
        ["clusters", "% changed", "margin", "`kept`"],
        [
            [str(r["clusters"]), points(r["discordance"]), points(r["margin"]), drawn(r["passed"]["ours"])]
            for r in found["unequal"]
        ],
    )
    lines += ["**No loss, clusters of 7** (10% changed, margin 5 points).", ""]
    lines += table(
        ["clusters", "`kept`", "cluster-robust t alone"],
        [
            [str(r["clusters"]), drawn(r["passed"]["ours"]), drawn(r["passed"]["bare_t"])]
            for r in found["clusters_unchanged"]
        ],
    )
    lines += [
        "**A loss of exactly the margin, per-item scores between 0 and 1** (a changed item moves by up to 1).",
        "",
    ]
    lines += table(
        ["items", "% changed", "margin", "`kept`", "t alone"],
        [
            [str(r["items"]), points(r["changed"]), points(r["margin"])]
            + [drawn(r["passed"][k]) for k in ("ours", "bare_t")]
            for r in found["fractional"]
        ],
    )
    lines += ["**A loss of exactly the margin, F1 pooled over documents.**", ""]
    lines += table(
        ["documents", "margin", "`kept`"],
        [[str(r["documents"]), f"{100 * r['margin']:.1f}", drawn(r["passed"]["ours"])] for r in found["pooled"]],
    )
    lines += [
        "**No loss, the planned items**: kept how often (exact; asked for: 80%; textbook: (z+z)²·p/margin²).",
        "",
    ]
    lines += table(
        ["% changed", "margin", "planned items", "`kept`", "textbook formula", "`kept`"],
        [
            [points(r["discordance"]), points(r["margin"])]
            + [cell for n, k in PLANS for cell in (f"{r[n]:,}", percent(r[k]))]
            for r in found["plans"]
        ],
    )
    suites = found["suites"]
    lines += [
        f"**Nothing changed, suites of {suites['tasks']} tasks** (ten of 300 independent items, five of 40 clusters): "
        f"an alarm in {drawn(suites['holm'])} of suites with Holm, in {drawn(suites['uncorrected'])} without.",
        "",
    ]
    return "\n".join(lines)


def write_page(found: dict[str, Any], page: Path) -> None:
    """Put the tables between the page's two marks; raises ValueError if the page has none."""
    text = page.read_text(encoding="utf-8")
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{page}: no marks {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n\n{build_tables(found)}\n{END}{after}", encoding="utf-8")
