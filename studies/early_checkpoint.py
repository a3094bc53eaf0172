"""Does a domain go in better before the learning rate fell? Forks of one family, the same tokens, three seeds.

python -m studies.early_checkpoint [--quick] [--render] [--project FOLDER]

The family of `studies.family` is made first. Then the anatomy textbook is learned from its checkpoint before the rate
fell (early) and from the one after (late): the same rows, rate and schedule, three seeds, at the family's own rate and
at a quarter of it. What was learned: bits per byte of sections that nobody read; what was forgotten: of general ones.
Killed and run again, it goes on where it stopped.
Writes studies/results/early-checkpoint.json, docs/studies/early-checkpoint.md and its plot.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.experiment import (
    ROOT,
    UNFINISHED,
    Point,
    evaluate_arms,
    options,
    publish_page,
    read_found,
    say,
    scatter,
    table,
    train_arm,
    write_found,
)
from studies.family import DOMAIN, GENERAL, make_family, request
from workbench.statistics import t_quantile

TAKES = "about 15 minutes on one core, the family with it"
RECIPE = ROOT / "studies" / "recipes" / "early-checkpoint.yaml"
RATES, SEEDS = (2e-3, 5e-4), (0, 1, 2)
FOUND = "early-checkpoint"
"""Folder of what was found, below the family's."""
ENTRIES = {"early": "before the rate fell", "late": "pretrain"}
LOG2 = float(np.log(2.0))

Items = dict[str, list[list[Any]]]
"""Task -> [document, item, bits, bytes] of each passage."""


def items_of(one: Any) -> Items:
    """Bits and bytes of each passage, as the product's reports keep them."""
    found: Items = {GENERAL: [], DOMAIN: []}
    for item in sorted(one.items, key=lambda item: (item.task, item.item)):
        bits = -item.extra["loglikelihood"] / LOG2
        found[item.task].append([item.group, item.item[:12], round(bits, 3), item.extra["bytes"]])
    return found


def run(folder: Path, *, quick: bool) -> None:
    """The family, then the forks; what is known is written as it comes."""
    project, paths, _ = make_family(folder, quick=quick)
    recipe = folder / "data" / RECIPE.name
    shutil.copy(RECIPE, recipe)
    home = folder / FOUND
    home.mkdir(exist_ok=True)
    found = read_found(home)
    arms: dict[str, Any] = found["arms"]
    late = str(paths[ENTRIES["late"]])
    starts = {f"start/{entry}": paths[name] for entry, name in ENTRIES.items()}
    for rate in RATES:
        made = dict(starts)
        for seed in SEEDS:
            for entry, name in ENTRIES.items():
                arm = f"{entry}-{rate:g}-{seed}"
                overrides = [f"start={paths[name]}", f"schedule.learning_rate={rate:g}", f"seed={seed}"]
                overrides += ["tokens=8192"] if quick else []
                made[arm] = train_arm(recipe, arm, project, overrides).path
        missing = {name: path for name, path in made.items() if name not in arms}
        if missing:
            say(f"asking {len(missing)} checkpoints")
            done = evaluate_arms(list(missing.values()), project, request(folder), baseline=late)
            arms |= {name: items_of(one) for name, one in zip(missing, done.evaluated, strict=True)}
            write_found(home, found)


def level(items: Items, task: str) -> float:
    """Bits per byte over all passages."""
    return sum(row[2] for row in items[task]) / sum(row[3] for row in items[task])


def difference(
    one: Sequence[Items], other: Sequence[Items], task: str, *, rng: np.random.Generator, times: int = 4000
) -> tuple[float, float, float, tuple[float, float] | None]:
    """Mean over seeds of one − other in bits per byte; 95% over documents (bootstrap), and over seeds (Student's t).

    Documents are drawn whole, and the seeds' mean is taken on the same ones.
    """
    rows = one[0][task]
    names = sorted({row[0] for row in rows})
    place = {name: i for i, name in enumerate(names)}
    bits, size = np.zeros(len(names)), np.zeros(len(names))
    each = []
    for a, b in zip(one, other, strict=True):
        if [row[1] for row in a[task]] != [row[1] for row in b[task]]:
            raise ValueError(f"{task}: two checkpoints were asked other passages")
        for x, y in zip(a[task], b[task], strict=True):
            bits[place[x[0]]] += (x[2] - y[2]) / len(one)
        each.append(level(a, task) - level(b, task))
    for row in rows:
        size[place[row[0]]] += row[3]
    drawn = rng.integers(0, len(names), (times, len(names)))
    low, high = np.quantile(bits[drawn].sum(1) / size[drawn].sum(1), (0.025, 0.975))
    seeds = None
    if len(each) > 1:
        half = t_quantile(0.95, len(each) - 1) * float(np.std(each, ddof=1)) / len(each) ** 0.5
        seeds = (float(np.mean(each)) - half, float(np.mean(each)) + half)
    return float(bits.sum() / size.sum()), float(low), float(high), seeds


def compared(arms: Mapping[str, Items], rate: float) -> dict[str, Any] | None:
    """Early against late at a rate, and each against the family's own end; None while arms are missing."""
    sides = {entry: [arms.get(f"{entry}-{rate:g}-{seed}") for seed in SEEDS] for entry in ENTRIES}
    if not all(all(side) for side in sides.values()):
        return None
    end = [arms["start/late"]] * len(SEEDS)
    rng = np.random.default_rng(0)
    return {
        task: {
            "early − late": difference(sides["early"], sides["late"], task, rng=rng),  # pyright: ignore[reportArgumentType]
            **{e: difference(sides[e], end, task, rng=rng) for e in ENTRIES},  # pyright: ignore[reportArgumentType]
        }
        for task in (DOMAIN, GENERAL)
    }


def _cell(found: Sequence[Any], *, seeds: bool = False) -> str:
    text = f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]"
    if seeds and found[3] is not None:
        text += f"; seeds [{found[3][0]:+.3f}, {found[3][1]:+.3f}]"
    return text.replace("-", "−")


def _verdict(found: Sequence[Any]) -> str:
    """Only what both intervals say."""
    low, high = min(found[1], found[3][0]), max(found[2], found[3][1])
    return "early is better" if high < 0 else "late is better" if low > 0 else "not told apart"


def render(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    arms = found["arms"]
    done = {rate: one for rate in RATES if (one := compared(arms, rate)) is not None}
    if not done:
        return UNFINISHED
    some = arms["start/late"]
    counts = {task: (len(some[task]), len({row[0] for row in some[task]})) for task in (DOMAIN, GENERAL)}
    levels = [
        [title, *(f"{level(arms[f'start/{entry}'], task):.3f}" for task in (DOMAIN, GENERAL))]
        for entry, title in (("early", "before the rate fell"), ("late", "after it fell"))
    ]
    parts = [
        "**The two entries**, bits per byte (lower is better):\n\n",
        table(["checkpoint", "anatomy", "general"], levels),
    ]
    head = ["rate", "entry", "anatomy", "general"]
    rows = []
    for rate, one in done.items():
        rows += [[f"{rate:g}", entry, _cell(one[DOMAIN][entry]), _cell(one[GENERAL][entry])] for entry in ENTRIES]
    parts += [
        "**After the same 60,000 tokens of the book**, change against the family's checkpoint after the rate fell, "
        f"mean of three seeds [95% over documents]; n: {counts[DOMAIN][0]} passages of {counts[DOMAIN][1]} sections, "
        f"{counts[GENERAL][0]} passages of {counts[GENERAL][1]} documents:\n\n",
        table(head, rows),
        "**Early against late**, paired by seed and passage; below 0 the early entry is better [95% over documents; "
        "95% over three seeds]:\n\n",
        table(
            ["rate", "anatomy (learned)", "", "general (forgotten)", ""],
            [
                [f"{rate:g}"]
                + [
                    c
                    for t in (DOMAIN, GENERAL)
                    for c in (_cell(one[t]["early − late"], seeds=True), _verdict(one[t]["early − late"]))
                ]
                for rate, one in done.items()
            ],
        ),
    ]
    return "".join(parts)


def draw(found: dict[str, Any]) -> str:
    """Each fork's mean: what was forgotten to the left, what was learned upwards, in hundredths of a bit."""
    points = []
    for rate in RATES:
        if (one := compared(found["arms"], rate)) is None:
            continue
        for entry in ENTRIES:
            x, y = one[GENERAL][entry], one[DOMAIN][entry]
            points.append(
                Point(
                    label=f"{entry}, rate {rate:g}",
                    x=(-100 * x[0], -100 * x[2], -100 * x[1]),
                    y=(-100 * y[0], -100 * y[2], -100 * y[1]),
                )
            )
    return scatter(
        points,
        title="Early and late entries: what was learned of anatomy against what was forgotten",
        x_title="general text: hundredths of a bit per byte gained (below 0: forgotten)",
        y_title="anatomy: hundredths of a bit per byte gained",
        margin=2.0,
    )


def main() -> None:
    """Measure, then write the page; --render writes it again from the kept numbers."""
    chosen = options("family", __doc__ or "")
    folder = chosen.project
    if not chosen.render:
        run(folder, quick=chosen.quick)
    if not chosen.quick:
        publish_page("early-checkpoint", folder / FOUND, render, draw)


if __name__ == "__main__":
    main()
