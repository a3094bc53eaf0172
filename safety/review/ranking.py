"""Which texts people look at: what is lost if nobody does, per second of a reviewer, and a draw of known probability.

    draw = draw_batch(pool, size=500, seed=7)
    draw.items, draw.inclusion, draw.strata

A ranker gives each text a number; the draw turns numbers into probabilities of being looked at, which are written down,
so that `safety.review.estimate` can say of the whole stream what was seen in a ranked part. Knows arrays; knows no
text, queue or reviewer. A million texts take a few seconds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from workbench.errors import ConfigError
from workbench.records import Severity
from workbench.registry import Registry

Floats = npt.NDArray[np.float64]
SCORE_VERSION = "expected-loss/1"
"""Part of what is kept with a draw: other prices, another draw."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
MISS_COST: Mapping[Severity, float] = {"low": 1.0, "medium": 3.0, "high": 10.0, "critical": 100.0}
"""Price of a violation that is served. Only their ratios count; a platform sets its own."""
WRONG_COST, WRONG_EXPRESSIVE_COST = 1.0, 3.0
"""Price of an allowed text that is withheld; more where it is somebody's own expression."""
_STREAM = 0x7265766965
KAPPA = 1.0
"""Standard deviations by which a doubtful probability is read for the worse."""
MUST_PROBABILITY = 0.2
"""From here on a critical text is looked at, whatever the budget."""
MAX_AGEING = 8.0
SLA_S = 4 * 3600.0
SECONDS = 12.0
"""Of one opinion, where nobody measured it yet."""
Stratum = Literal["must_review", "exploration", "diversity", "priority"]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Texts that wait, a number or flag each; of a text with several rules those of the rule that would cost most."""

    probability: Floats
    """That it violates, in [0, 1]; NaN: it could not be scored."""
    severity: npt.NDArray[np.int8]
    """Place in SEVERITIES."""
    withheld: npt.NDArray[np.bool_]
    """What happens if nobody looks: True, it stays withheld; False, it is served."""
    sd: Floats | None = None
    """Standard deviation of the probability over an ensemble or paraphrases."""
    expressive: npt.NDArray[np.bool_] | None = None
    views: Floats | None = None
    """Readers in the next hour."""
    age_s: Floats | None = None
    seconds: Floats | None = None
    """That one opinion takes."""
    cluster: npt.NDArray[np.int64] | None = None
    """Near-duplicates have the same number."""
    novelty: Floats | None = None
    """In [0, 1], 1 is like nothing before."""
    cleared: npt.NDArray[np.bool_] | None = None
    """Cleared alone, under a promise: only the random sample looks at them."""
    sla_s: float = SLA_S

    def __post_init__(self) -> None:
        n = len(self.probability)
        for name in (
            "severity",
            "withheld",
            "sd",
            "expressive",
            "views",
            "age_s",
            "seconds",
            "cluster",
            "novelty",
            "cleared",
        ):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise ValueError(f"{name}: {len(values):,} values for {n:,} texts")
        known = self.probability[~np.isnan(self.probability)]
        if len(known) and not (known.min() >= 0.0 and known.max() <= 1.0):
            raise ValueError(f"probability: {known.min()} to {known.max()}, outside [0, 1]")

    def __len__(self) -> int:
        return len(self.probability)

    @property
    def unscorable(self) -> npt.NDArray[np.bool_]:
        """Texts without a probability."""
        return np.isnan(self.probability)

    @property
    def must_review(self) -> npt.NDArray[np.bool_]:
        """Critical, and likely enough or unscorable: looked at whatever the budget."""
        critical = self.severity == SEVERITIES.index("critical")
        return critical & (self.unscorable | (np.nan_to_num(self.probability) >= MUST_PROBABILITY))


Ranker = Callable[[Pool], Floats]
"""float64 [texts], finite and not negative; what is higher comes first."""
rankers: Registry[Ranker] = Registry("ranker", group="workbench.rankers")


def pool_of(rows: Sequence[Mapping[str, Any]], **more: Floats | npt.NDArray[np.int64] | None) -> Pool:
    """A pool of the lines that `workbench moderate` writes; of each text the rule whose expected loss is highest.

    Args:
        more: `views`, `age_s`, `seconds`, `novelty`, `cluster`: a number a line.
    """
    from safety.resolved import is_withheld

    withheld = np.array([is_withheld(row["action"]) for row in rows], bool)
    owner = np.array([place for place, row in enumerate(rows) for _ in _scored(row)], np.intp)
    pairs = _pairs([one for row in rows for _, one in _scored(row)], withheld[owner])
    if any("cleared" in row for row in rows):
        cleared = np.array([bool(row.get("cleared")) for row in rows], bool)
        return _worst_of(pairs, owner, withheld, {"cleared": cleared, **more})
    return _worst_of(pairs, owner, withheld, more)


def dearest_rule(row: Mapping[str, Any]) -> str:
    """The rule of a line whose expected loss is highest, which people are asked about; empty where none says anything.

    By the model's own probabilities: which rule is in question must not change with a calibration that was fitted, and
    a promise that was made, on texts in which it was in question.
    """
    from safety.resolved import is_withheld

    rules = _scored(row)
    if not rules:
        return ""
    plain = [{name: value for name, value in one.items() if name != "calibrated"} for _, one in rules]
    loss = expected_loss(_pairs(plain, np.full(len(rules), is_withheld(row["action"]))))
    return rules[int(loss.argmax())][0]


def _scored(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """A line's rules, but for those of words that found nothing."""
    rules: Mapping[str, Mapping[str, Any]] = row["rules"]
    return [(n, one) for n, one in rules.items() if one["value"] != "allowed" or one["probability"] is not None]


def _pairs(rules: Sequence[Mapping[str, Any]], withheld: npt.NDArray[np.bool_]) -> Pool:
    found = np.full(len(rules), np.nan)
    for place, one in enumerate(rules):
        given = one.get("calibrated", one["probability"])
        if given is not None:
            found[place] = given
        elif one["value"] == "violates":
            found[place] = 1.0
    return Pool(
        probability=found,
        severity=np.array([SEVERITIES.index(one["severity"]) for one in rules], np.int8),
        withheld=withheld,
        expressive=np.array([bool(one.get("expressive")) for one in rules], bool),
    )


def _worst_of(
    pairs: Pool, owner: npt.NDArray[np.intp], withheld: npt.NDArray[np.bool_], more: Mapping[str, Any]
) -> Pool:
    n = len(withheld)
    order = np.lexsort((np.arange(len(owner)), -expected_loss(pairs), owner))
    first = np.ones(len(order), bool)
    first[1:] = owner[order][1:] != owner[order][:-1]
    chosen = order[first]
    probability, severity, expressive = np.zeros(n), np.zeros(n, np.int8), np.zeros(n, bool)
    places = owner[chosen]
    probability[places] = pairs.probability[chosen]
    severity[places] = pairs.severity[chosen]
    expressive[places] = np.asarray(pairs.expressive)[chosen]
    return Pool(
        probability=probability,
        severity=severity,
        expressive=expressive,
        withheld=withheld,
        **more,
    )


@rankers.register("expected_loss")
def expected_loss(pool: Pool) -> Floats:
    """What is lost if nobody looks, per second of a reviewer, more the longer it waits.

    A text that is served costs its probability times the price of its severity times its readers; one that is withheld
    costs the chance that it was allowed. A doubtful probability counts for the worse by KAPPA standard deviations, and
    what could not be scored may be anything.
    """
    p = np.where(pool.unscorable, 0.5, pool.probability)
    sd = np.where(pool.unscorable, 0.5, 0.0 if pool.sd is None else pool.sd)
    upper, lower = np.minimum(1.0, p + KAPPA * sd), np.maximum(0.0, p - KAPPA * sd)
    reach = 1.0 if pool.views is None else np.log2(2.0 + pool.views)
    prices = np.array([MISS_COST[name] for name in SEVERITIES])
    wrong: Floats | float = WRONG_COST
    if pool.expressive is not None:
        wrong = np.where(pool.expressive, WRONG_EXPRESSIVE_COST, WRONG_COST)
    loss = np.where(pool.withheld, (1.0 - lower) * wrong, upper * prices[pool.severity]) * reach
    return loss / (SECONDS if pool.seconds is None else pool.seconds) * _ageing(pool)


@rankers.register("margin")
def margin(pool: Pool) -> Floats:
    """1 - |2p - 1|: nearest to a coin first, and what could not be scored. Of two classes the order of entropy."""
    return np.where(pool.unscorable, 1.0, 1.0 - np.abs(2.0 * np.nan_to_num(pool.probability) - 1.0))


@rankers.register("entropy")
def entropy(pool: Pool) -> Floats:
    """Of the verdict, in bits."""
    p = np.where(pool.unscorable, 0.5, pool.probability).clip(1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


@rankers.register("probability")
def probability(pool: Pool) -> Floats:
    """The likeliest violations first: what a queue without uncertainty does."""
    return np.where(pool.unscorable, 1.0, pool.probability)


@rankers.register("disagreement")
def disagreement(pool: Pool) -> Floats:
    """Standard deviation over an ensemble or paraphrases; without one, 0."""
    return np.zeros(len(pool)) if pool.sd is None else np.asarray(pool.sd, np.float64)


@rankers.register("doubt")
def doubt(pool: Pool) -> Floats:
    """Chance that the verdict is wrong by the likelier of two readings: the margin, widened by disagreement."""
    sd = 0.0 if pool.sd is None else pool.sd
    p = np.where(pool.unscorable, 0.5, pool.probability)
    return np.minimum(1.0, np.minimum(p, 1.0 - p) + KAPPA * sd)


@rankers.register("novelty")
def novelty(pool: Pool) -> Floats:
    """What is least like anything before; without distances, 0."""
    return np.zeros(len(pool)) if pool.novelty is None else np.asarray(pool.novelty, np.float64)


def _ageing(pool: Pool) -> Floats | float:
    """Doubles in each half of the time that is promised, up to MAX_AGEING."""
    if pool.age_s is None:
        return 1.0
    return np.minimum(MAX_AGEING, np.exp2(np.minimum(pool.age_s / (pool.sla_s / 2.0), math.log2(MAX_AGEING))))


def rank(pool: Pool, ranker: str = "expected_loss") -> npt.NDArray[np.intp]:
    """Places of the texts, what must be looked at first, then by the ranker; equal ones in the order of the pool."""
    return np.lexsort((np.arange(len(pool)), -scores_of(pool, ranker), ~pool.must_review))


def scores_of(pool: Pool, ranker: str) -> Floats:
    """A ranker's numbers. Raises UserError: unknown; ConfigError: it gave numbers that are none."""
    found = np.asarray(rankers.get(ranker)(pool), np.float64)
    if found.shape != (len(pool),) or not np.all(np.isfinite(found)) or (found < 0).any():
        raise ConfigError(f"ranker {ranker!r}: expected {len(pool):,} finite numbers from 0 on, got others")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """What a batch is made of."""

    priority: float = 0.70
    diversity: float = 0.15
    exploration: float = 0.10
    gold: float = 0.05

    def __post_init__(self) -> None:
        parts = (self.priority, self.diversity, self.exploration, self.gold)
        if min(parts) < 0 or not math.isclose(sum(parts), 1.0):
            raise ConfigError(f"shares of a batch: {parts}: none below 0, and 1 together")
        if self.exploration < 0.05:
            raise ConfigError(
                f"exploration: {self.exploration:g} of a batch is under 0.05; with less, estimates of the whole stream "
                "have no honest interval"
            )


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Texts to be looked at, each with the probability with which it was drawn."""

    items: npt.NDArray[np.intp]
    """Places in the pool, in the order in which to look at them."""
    inclusion: Floats
    """Of each of them, in (0, 1]."""
    strata: tuple[Stratum, ...]
    """By which part of the draw each came in. `exploration` is a plain random sample, whatever else it is."""
    all_inclusion: Floats = field(repr=False)
    """Of every text of the pool: what was not drawn had a chance, too."""
    gold_slots: int
    """Items with known answers to mix in."""
    size: int
    seed: int
    ranker: str
    score_version: str = SCORE_VERSION

    @property
    def exploration(self) -> npt.NDArray[np.bool_]:
        """Which of the drawn are of the plain random sample."""
        return np.array([stratum == "exploration" for stratum in self.strata], bool)


def draw_batch(
    pool: Pool, *, size: int, seed: int, ranker: str = "expected_loss", shares: Shares | None = None
) -> Draw:
    """A batch of about `size` texts, besides those that must be looked at and the gold.

    Two independent Poisson draws: one uniform (exploration), one by `c q`, where q is half the ranker's share and half
    that of sqrt(p), with a part for what is new; c makes the expected size right. Of near-duplicates only the first by
    rank has a ranked chance. Nothing about a text decides but its numbers and the seed.

    Raises ConfigError: no texts, or no room.
    """
    shares = shares or Shares()
    n = len(pool)
    if n == 0 or size < 1:
        raise ConfigError(f"a draw needs texts and room for one, got {n:,} texts and a size of {size}")
    # a stream of its own: whoever else draws by the same number must not draw the same
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, n, _STREAM])))
    score = scores_of(pool, ranker)
    must = pool.must_review
    room = (1.0 - shares.gold) * size
    uniform = np.full(n, min(1.0, shares.exploration * size / n))
    by_rank, by_novelty = _weights(pool, score, ~must)
    total = shares.priority + shares.diversity
    q = (shares.priority * by_rank + shares.diversity * by_novelty) / total if total else np.zeros(n)
    ranked = _scaled(q, np.where(must, 0.0, uniform), room)
    explored = rng.random(n) < uniform
    picked = rng.random(n) < ranked
    inclusion = np.where(must, 1.0, 1.0 - (1.0 - uniform) * (1.0 - ranked))
    items = np.flatnonzero(explored | picked | must)
    items = items[np.lexsort((items, -score[items], ~must[items]))]
    is_new = rng.random(n) * (shares.priority * by_rank + shares.diversity * by_novelty) < shares.diversity * by_novelty
    strata: list[Stratum] = []
    for i in items:
        if explored[i]:
            strata.append("exploration")
        elif must[i]:
            strata.append("must_review")
        else:
            strata.append("diversity" if is_new[i] else "priority")
    return Draw(
        items=items,
        inclusion=inclusion[items],
        strata=tuple(strata),
        all_inclusion=inclusion,
        gold_slots=round(shares.gold * size),
        size=size,
        seed=seed,
        ranker=ranker,
    )


def _weights(pool: Pool, score: Floats, free: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Shares of the ranked draw by rank and by novelty; only the first of near-duplicates has any, and what must be
    looked at needs none."""
    if pool.cleared is not None:
        free &= ~pool.cleared
        score = np.where(pool.cleared, -1.0, score)  # the first of a cluster that is not cleared stands for it
    first = _first_of_clusters(pool, score) & free
    p = np.where(pool.unscorable, 0.5, pool.probability)
    by_rank = 0.5 * _share(np.where(first, score, 0.0)) + 0.5 * _share(np.where(first, np.sqrt(p), 0.0))
    fresh = np.ones(len(pool)) if pool.novelty is None else np.asarray(pool.novelty, np.float64)
    return by_rank, _share(np.where(first, fresh, 0.0))


def _share(values: Floats) -> Floats:
    total = values.sum()
    return values / total if total > 0 else np.zeros_like(values)


def _first_of_clusters(pool: Pool, score: Floats) -> npt.NDArray[np.bool_]:
    if pool.cluster is None:
        return np.ones(len(pool), bool)
    order = np.lexsort((np.arange(len(pool)), -score, pool.cluster))
    clusters = pool.cluster[order]
    first = np.zeros(len(pool), bool)
    heads = np.ones(len(order), bool)
    heads[1:] = clusters[1:] != clusters[:-1]
    first[order[heads]] = True
    return first | (pool.cluster < 0)


def _scaled(q: Floats, uniform: Floats, room: float) -> Floats:
    """min(1, c q), with c such that as many texts are expected in both draws together as there is room for."""
    room -= float(uniform.sum())
    some = np.flatnonzero(q)
    if not len(some) or room <= 0.0:
        return np.zeros_like(q)
    weights, left = q[some], 1.0 - uniform[some]

    def expected(c: float) -> float:
        return float(np.minimum(1.0, c * weights) @ left)

    if not (possible := float(weights @ left)):
        return np.zeros_like(q)  # exploration takes everything already
    low = high = room / possible  # too few: what is cut off at 1 is missing
    while expected(high) < room and high < 1e18:
        low, high = high, 2.0 * high
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if expected(middle) < room else (low, middle)
        if high - low < 1e-9 * high:
            break
    found = np.zeros_like(q)
    found[some] = np.minimum(1.0, high * weights)
    return found


def is_kept_aside(keys: Sequence[str], *, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Which texts of the exploration stream are for calibration and tests for ever, and never for training: half.

    `keys` name clusters, so that near-duplicates are on one side; the same key is always on the same side.
    """
    import hashlib

    digests = (hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()[0] for key in keys)
    return np.fromiter((digest < 128 for digest in digests), bool, len(keys))
