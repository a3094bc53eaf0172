"""What would a platform of 100,000 communities and a billion posts a day cost, and where would it break first?

`make simulate` prints the table of docs/scale.md; `--set NAME=VALUE` changes an assumption of studies/assumptions.yaml,
`--write` puts the table into the page. What machines do is arithmetic on what was measured here. How long texts wait
for people is simulated: a day of one pool, event by event, after a day to warm up. The most urgent class is served
first, within a class the oldest text, and who is at work on a text finishes it.
"""

import argparse
import heapq
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from workbench.config import StrictModel, apply_overrides, read_yaml, validate

TAKES = "half a minute"
ASKS_NO_MODEL = True
ROOT = Path(__file__).parents[1]
ASSUMPTIONS = ROOT / "studies" / "assumptions.yaml"
PAGE = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- simulated: begin -->\n", "<!-- simulated: end -->\n"
DAY_S = 86_400.0


class Assumptions(StrictModel):
    """The keys of studies/assumptions.yaml, which says what each means."""

    posts_per_day: float = Field(gt=0)
    communities: int = Field(gt=0)
    peak_over_mean: float = Field(ge=1, lt=2)
    rules_per_post: float = Field(gt=0)
    decided_before_model: float = Field(ge=0, lt=1)
    core_hour_usd: float = Field(gt=0)
    times_faster_per_usd: float = Field(gt=0)
    core_use: float = Field(gt=0, le=1)
    cores_available: int = Field(gt=0)
    share_with_own_model: float = Field(ge=0, le=1)
    cores_per_machine: int = Field(gt=0)
    memory_per_machine_gb: float = Field(gt=0)
    moderators: int = Field(gt=0)
    hours_a_day: float = Field(gt=0, le=24)
    seconds_per_label: float = Field(gt=0)
    moderator_hour_usd: float = Field(gt=0)
    opinions: float = Field(ge=1)
    pools: int = Field(gt=0)
    share_to_people: dict[str, float]
    database_cores: int = Field(gt=0)
    bytes_per_post_kept: float = Field(gt=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured here; the page says where each number stands."""

    pairs_per_core_s: float
    """Posts × rules that SmolLM2-135M judges in a CPU second: studies/results/moderate_speed.json."""
    claim_s: float
    label_s: float
    """CPU time of a claim and of a label with 200,000 items, SQLite, one client: docs/performance.md."""
    policy_mb_per_community: float
    """Memory of a resolved policy: studies/results/policy_scale.json."""
    decide_s: float
    """From judgements to a decision: studies/results/policy_scale.json."""
    exploration: float
    gold: float
    """Shares of a draw that are not chosen by urgency: safety/review/ranking.py."""


def read_measured() -> Measured:
    """From the files that the measurements wrote, and for the queue from the sentence that reports it."""
    from safety.review.ranking import Shares

    speed = json.loads((ROOT / "studies/results/moderate_speed.json").read_text())
    policies = json.loads((ROOT / "studies/results/policy_scale.json").read_text())
    said = " ".join((ROOT / "docs/performance.md").read_text().split())
    told = re.search(r"([0-9.]+) ms and ([0-9.]+) ms with 200,000", said)
    assert told, "docs/performance.md: the sentence about claims and labels with 200,000 items is gone"
    return Measured(
        pairs_per_core_s=float(speed["ours_per_s"]),
        claim_s=float(told[1]) / 1000,
        label_s=float(told[2]) / 1000,
        policy_mb_per_community=policies["memory_mib"] * 1.048576 / policies["communities"],
        decide_s=policies["decide_us"] / 1e6,
        exploration=Shares().exploration,
        gold=Shares().gold,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """How long texts of a severity wait for the first person, in seconds."""

    p50: float
    p95: float
    texts: int
    unanswered: int
    """Of those that came on the day that counts, still waiting at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A resource: how much of it is used at the busiest moment."""

    name: str
    use: float
    """Above 1 it is overloaded."""
    told: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a set of assumptions comes to."""

    judging_usd_per_million: float
    people_usd_per_million: float
    usd_per_day: float
    """Judging and people; nothing else is counted."""
    cores: float
    models: int
    texts_per_day: float
    load_of_people: float
    """Work over working time; above 1 the least severe are never reached."""
    stored_tb_per_day: float
    waits: Mapping[str, Wait]
    limits: Sequence[Limit]
    """The fullest first."""


def read_assumptions(overrides: Sequence[str] = ()) -> Assumptions:
    """The file, with some values replaced. Raises ConfigError."""
    return validate(apply_overrides(read_yaml(ASSUMPTIONS), overrides), Assumptions, where="assumptions")


def simulate(given: Assumptions, measured: Measured, *, seed: int = 0) -> Outcome:
    """All of it; the same seed gives the same numbers."""
    posts_per_s = given.posts_per_day / DAY_S
    judged = 1 - given.decided_before_model
    core_s_per_post = judged * given.rules_per_post / measured.pairs_per_core_s + measured.decide_s
    speed = given.times_faster_per_usd
    cores = posts_per_s * core_s_per_post / given.core_use / speed
    texts = {name: share * given.posts_per_day for name, share in given.share_to_people.items()}
    # what is known already, and what is drawn to keep estimates honest, takes people's time too
    extra = 1 / (1 - measured.gold - measured.exploration)
    opinions_per_day = sum(texts.values()) * given.opinions * extra
    hours = opinions_per_day * given.seconds_per_label / 3600
    on_shift = given.moderators * given.hours_a_day / 24
    acts_per_s = opinions_per_day / DAY_S * given.peak_over_mean
    machines = math.ceil(cores * given.peak_over_mean / given.cores_per_machine)
    policies_gb = given.communities * measured.policy_mb_per_community / 1000
    limits = [
        _limit("processors for judging", cores * given.peak_over_mean, given.cores_available, "cores at the peak"),
        _limit("people", hours, given.moderators * given.hours_a_day, "hours a day, on average"),
        _limit(
            "the audit's chain, one act at a time",
            acts_per_s * (measured.claim_s + measured.label_s),
            1.0,
            "seconds of claims and labels each second at the peak",
        ),
        _limit(
            "processors of one database",
            acts_per_s * (measured.claim_s + measured.label_s),
            given.database_cores,
            "cores at the peak",
        ),
        _limit("memory for policies", policies_gb, given.memory_per_machine_gb, f"GB on each of {machines:,} machines"),
    ]
    judging_usd, people_usd = cores * 24 * given.core_hour_usd, hours * given.moderator_hour_usd
    return Outcome(
        judging_usd_per_million=judging_usd / given.posts_per_day * 1e6,
        people_usd_per_million=people_usd / given.posts_per_day * 1e6,
        usd_per_day=judging_usd + people_usd,
        cores=cores,
        models=1 + round(given.communities * given.share_with_own_model),
        texts_per_day=sum(texts.values()),
        load_of_people=hours / (given.moderators * given.hours_a_day),
        stored_tb_per_day=given.posts_per_day * given.bytes_per_post_kept / 1e12,
        waits=simulate_pool(
            {name: n * given.opinions * extra / given.pools / DAY_S for name, n in texts.items()},
            people=max(1, round(on_shift / given.pools)),
            seconds=given.seconds_per_label,
            peak=given.peak_over_mean,
            rng=np.random.default_rng(seed),
        ),
        limits=sorted(limits, key=lambda one: -one.use),
    )


def _limit(name: str, used: float, there: float, unit: str) -> Limit:
    return Limit(name=name, use=used / there, told=f"{_short(used)} of {_short(there)} {unit}")


def simulate_pool(
    per_s: Mapping[str, float],
    *,
    people: int,
    seconds: float,
    peak: float,
    rng: np.random.Generator,
    day_s: float = DAY_S,
) -> dict[str, Wait]:
    """Two days of one pool; the second one counts.

    Args:
        per_s: arrivals a second of each class, the most urgent first; Poisson, on a sine over the day.
        people: at work at any moment.
        seconds: mean of the time a text takes; exponential.
        peak: busiest moment over the mean.
    """
    times, kinds = [], []
    for kind, rate in enumerate(per_s.values()):
        count = rng.poisson(2 * rate * day_s * peak)
        came = rng.uniform(0, 2 * day_s, count)
        share = (1 + (peak - 1) * np.sin(2 * np.pi * came / day_s)) / peak
        came = came[rng.uniform(size=count) < share]
        times.append(came)
        kinds.append(np.full(len(came), kind))
    order = np.argsort(np.concatenate(times), kind="stable")
    arrivals, classes = np.concatenate(times)[order], np.concatenate(kinds)[order]
    works = rng.exponential(seconds, len(arrivals))
    waited = _serve(arrivals.tolist(), classes.tolist(), works.tolist(), people, end=2 * day_s)
    counted = arrivals >= day_s
    found: dict[str, Wait] = {}
    for kind, name in enumerate(per_s):
        mine = waited[counted & (classes == kind)]
        # who still waits has waited this long at least
        known = np.where(np.isinf(mine), 2 * day_s - arrivals[counted & (classes == kind)], mine)
        p50, p95 = np.quantile(known, [0.5, 0.95]) if len(known) else (0.0, 0.0)
        found[name] = Wait(p50=float(p50), p95=float(p95), texts=len(mine), unanswered=int(np.isinf(mine).sum()))
    return found


def _serve(arrivals: list[float], classes: list[int], works: list[float], people: int, *, end: float) -> np.ndarray:
    """Seconds that each text waits, infinity for those not begun by `end`: the most urgent first, then the oldest."""
    waited = np.full(len(arrivals), np.inf)
    free_at = [0.0] * people
    heapq.heapify(free_at)
    waiting: list[tuple[int, int]] = []
    coming = 0
    while coming < len(arrivals) or waiting:
        now = free_at[0]
        if not waiting:
            now = max(now, arrivals[coming])
        if now >= end:
            break
        while coming < len(arrivals) and arrivals[coming] <= now:
            heapq.heappush(waiting, (classes[coming], coming))
            coming += 1
        _, index = heapq.heappop(waiting)
        waited[index] = now - arrivals[index]
        heapq.heapreplace(free_at, now + works[index])
    return waited


VARIED = (
    ("as assumed", ()),
    ("twice the posts", ("posts_per_day=2.0e+9",)),
    ("half the moderators", ("moderators=2500",)),
    ("twice the moderators", ("moderators=10000",)),
    ("9 of 10 posts decided before the model", ("decided_before_model=0.9",)),
    ("hardware 20 times faster per dollar", ("times_faster_per_usd=20.0",)),
)


def render(measured: Measured, varied: Sequence[tuple[str, Sequence[str]]] = VARIED) -> str:
    """Markdown: the limits of the first set of assumptions, then a row for each set."""
    outcomes = [(name, simulate(read_assumptions(changes), measured)) for name, changes in varied]
    first, given = outcomes[0][1], read_assumptions(varied[0][1])
    lines = [
        f"Of {_short(given.posts_per_day)} posts a day in {given.communities:,} communities, "
        f"{_short(first.texts_per_day)} go to {given.moderators:,} moderators; {first.models:,} models; "
        f"{first.stored_tb_per_day:.1f} TB of decisions a day. "
        f"**{_first_to_break(first)}**",
        "",
        "| resource | in use | of it |",
        "|---|---:|---|",
        *(f"| {one.name} | {one.use:.0%} | {one.told} |" for one in first.limits),
        "",
        "| assumptions | judging, $ a million posts | people, $ a million posts | $ a day | cores | work of people | "
        + " | ".join(f"{name}: p50, p95" for name in first.waits)
        + " | breaks first |",
        "|---|---:|---:|---:|---:|---:|" + "---:|" * len(first.waits) + "---|",
    ]
    for name, one in outcomes:
        cells = [
            name,
            f"{one.judging_usd_per_million:,.2f}",
            f"{one.people_usd_per_million:,.2f}",
            f"{one.usd_per_day:,.0f}",
            f"{one.cores:,.0f}",
            f"{one.load_of_people:.0%}",
            *(_waits(wait) for wait in one.waits.values()),
            one.limits[0].name,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Measured here: {measured.pairs_per_core_s:.2f} pairs a core second, "
        f"a decision {measured.decide_s * 1e6:.0f} µs, "
        f"a claim {measured.claim_s * 1000:.1f} ms, a label {measured.label_s * 1000:.1f} ms, "
        f"a community's policy {measured.policy_mb_per_community * 1000:.0f} kB; "
        f"{measured.exploration:.0%} of a draw is exploration and {measured.gold:.0%} gold.",
    ]
    return "\n".join(lines) + "\n"


def _first_to_break(found: Outcome) -> str:
    first = found.limits[0]
    name = first.name[0].upper() + first.name[1:]
    if first.use > 1:
        return f"{name}: overloaded already, at {first.use:.1f} times what there is."
    return f"{name}: full first, at {1 / first.use:.1f} times this load."


def _waits(wait: Wait) -> str:
    told = f"{_duration(wait.p50)}, {_duration(wait.p95)}"
    is_left = wait.texts and wait.unanswered > 0.01 * wait.texts
    return f"{told} ({wait.unanswered / wait.texts:.0%} not reached)" if is_left else told


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _short(number: float) -> str:
    for size, name in ((1e9, " billion"), (1e6, " million")):
        if number >= size:
            return f"{number / size:.3g}{name}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def main() -> None:
    """Print the table, or write it into the page."""
    from workbench.errors import ConfigError

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change an assumption")
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale.md")
    options = parser.parse_args()
    try:
        varied = [("as assumed", options.set), *((name, [*options.set, *more]) for name, more in VARIED[1:])]
        text = render(read_measured(), varied)
    except ConfigError as error:
        parser.exit(2, f"error: {error}\n")
    print(text)
    if options.write and not options.set:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
