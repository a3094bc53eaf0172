"""How often a verdict over several prompts errs, and what is certified when one prompt is taken for all.

python -m studies.prompts [--quick]

Questions and prompts are drawn anew each time: the loss in a prompt is normal around a mean over all prompts there
could be, and answers to the same question change together over prompts. Rules: ours; the same items without the
prompts' part of the interval, which speaks of these K prompts alone; the first prompt alone, as everybody evaluates;
and a plain t over the K means. Writes studies/results/prompts.json and its part of docs/statistics.md.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special, stats

from workbench import forgetting
from workbench.prompts import judge_over_prompts

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "studies" / "results" / "prompts.json"
PAGE = ROOT / "docs" / "statistics.md"
BEGIN, END = "<!-- prompts: begin -->", "<!-- prompts: end -->"
SEED = 20261125
MARGIN, CHANGED, ALIKE, ALPHA = 0.04, 0.10, 0.5, 0.05
RULES = ("ours", "these prompts", "one prompt", "t over prompts")
SETTINGS = [(n, k, sd) for n in (200, 800) for k in (2, 4, 6) for sd in (0.0, 0.01, 0.02)]
PASSED = ("kept", "improved")


def draw(rng: np.random.Generator, questions: int, k: int, loss: float, sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Answers before and after, float (questions, prompts): so much is lost on average over all prompts.

    A question changes in several prompts together: its latent normal is shared to `ALIKE`.
    """
    by_prompt = rng.normal(-loss, sd, size=k)
    size = np.maximum(CHANGED, np.abs(by_prompt))
    shared = rng.standard_normal((questions, 1))
    latent = math.sqrt(ALIKE) * shared + math.sqrt(1 - ALIKE) * rng.standard_normal((questions, k))
    place = special.ndtr(latent)
    lost, gained = place < (size - by_prompt) / 2, place > 1 - (size + by_prompt) / 2
    before = (rng.random((questions, k)) < 0.6).astype(float)
    before[lost], before[gained] = 1.0, 0.0
    after = before.copy()
    after[lost], after[gained] = 0.0, 1.0
    return before, after


def passes(rng: np.random.Generator, before: np.ndarray, after: np.ndarray) -> dict[str, bool]:
    """Which rules certify."""
    questions, k = before.shape
    groups, prompts = np.repeat(np.arange(questions), k), np.tile(np.arange(k), questions)
    old, new = before.ravel(), after.ravel()
    options: dict[str, Any] = {"margin": MARGIN, "binary": True, "rng": rng, "alpha": ALPHA}
    found = judge_over_prompts(old, new, prompts=prompts.tolist(), groups=groups.tolist(), **options)
    inner = forgetting.judge(old, new, groups=groups.tolist(), **options)
    first = forgetting.judge(before[:, 0], after[:, 0], **options)
    means = (after - before).mean(axis=0)
    low = means.mean() - stats.t.ppf(1 - ALPHA, k - 1) * means.std(ddof=1) / math.sqrt(k)
    verdicts = found.judgement.verdict, inner.verdict, first.verdict
    return dict(zip(RULES, [*(v in PASSED for v in verdicts), bool(low >= -MARGIN)], strict=True))


def rates(
    rng: np.random.Generator, draws: int, questions: int, k: int, sd: float, *, loss: float = MARGIN
) -> dict[str, Any]:
    """Share of draws that each rule certifies."""
    counts = dict.fromkeys(RULES, 0)
    for _ in range(draws):
        for rule, passed in passes(rng, *draw(rng, questions, k, loss, sd)).items():
            counts[rule] += passed
    passed = {
        rule: {"rate": c / draws, "error": math.sqrt(c / draws * (1 - c / draws) / draws)} for rule, c in counts.items()
    }
    return {"questions": questions, "prompts": k, "sd": sd, "loss": loss, "draws": draws, "passed": passed}


def run_study(*, quick: bool = False) -> dict[str, Any]:
    """All rates; `quick` draws a twentieth."""
    rng = np.random.default_rng(SEED)
    start = time.perf_counter()
    draws = 100 if quick else 2_000
    found: dict[str, Any] = {"seed": SEED, "margin": MARGIN, "changed": CHANGED, "alike": ALIKE}
    found["boundary"] = [rates(rng, draws, n, k, sd) for n, k, sd in SETTINGS]
    found["unchanged"] = [rates(rng, draws // 2, n, k, sd, loss=0.0) for n, k, sd in SETTINGS if n == 800]
    return found | {"seconds": round(time.perf_counter() - start)}


def build_tables(found: dict[str, Any]) -> str:
    """Markdown."""
    lines: list[str] = []
    titles = {
        "boundary": f"**A mean loss of the margin ({100 * found['margin']:.0f} points)**: certified, want at most 5%",
        "unchanged": "**No mean loss**: certified, want much",
    }
    for part, title in titles.items():
        draws = found[part][0]["draws"]
        lines += [f"{title} ({draws:,} draws a row, ± Monte Carlo error).", ""]
        lines += ["| questions | prompts | sd between prompts | " + " | ".join(RULES) + " |", "|---:" * 7 + "|"]
        for row in found[part]:
            cells = [f"{100 * one['rate']:.1f}% ± {100 * one['error']:.1f}" for one in row["passed"].values()]
            lines.append(f"| {row['questions']} | {row['prompts']} | {100 * row['sd']:.0f} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def write_page(found: dict[str, Any]) -> None:
    """Put the tables between the page's two marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{PAGE}: no marks {BEGIN} ... {END}"
    PAGE.write_text(f"{before}{BEGIN}\n\n{build_tables(found)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Error rates of verdicts over several prompts.")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the draws; writes nothing")
    options = parser.parse_args()
    found = run_study(quick=options.quick)
    print(build_tables(found))
    if not options.quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write_page(found)
        print(f"{found['seconds']} s; wrote {RESULTS.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
