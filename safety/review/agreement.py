"""How far reviewers agree, with each other, with known answers and with what the model had told them. Pure arithmetic.

Krippendorff's alpha for nominal labels with missing ones (Hayes & Krippendorff 2007, doi:10.1080/19312450709336664) and
Gwet's AC1 (2008, doi:10.1348/000711006X126600). Where nearly everything is allowed alpha falls towards 0 although
reviewers agree on nearly everything, and AC1 does not, so both are told. Intervals are percentile bootstraps over the
items.
Dawid & Skene's model (1979) weighs reviewers by how often they are right; each one's rates have a Beta(9, 1) prior,
so a reviewer with few labels counts as a good one and not as a perfect or hopeless one.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.statistics import wilson_interval

_RESAMPLES = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rating:
    """What one person said of one item."""

    item: str
    member: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreed:
    """A coefficient with its interval; None where the ratings cannot tell, and `reason` says why."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    items: int
    """Items with at least two ratings: what the number rests on."""
    ratings: int
    members: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share with Wilson's 95% interval."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bias:
    """What showing the model's view does to labels, on items where chance decided whether it was shown."""

    with_hint: Share
    """Share of labels that say what the model says, with its view shown."""
    without: Share
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Skilled:
    """Dawid and Skene's answer."""

    probability: Mapping[str, float]
    """Item -> probability that it violates."""
    prevalence: float
    sensitivity: Mapping[str, float]
    """Member -> share of violations that he or she labels so."""
    specificity: Mapping[str, float]
    iterations: int


def krippendorff_alpha(ratings: Sequence[Rating], *, rng: np.random.Generator) -> Agreed:
    """1 = they agree, 0 = as if labels were dealt out by chance from all that were given."""
    return _with_interval("krippendorff_alpha", ratings, _alpha, rng)


def gwet_ac1(ratings: Sequence[Rating], *, rng: np.random.Generator) -> Agreed:
    """1 = they agree, 0 = as if by chance; chance as Gwet has it, which stays small where one answer is rare."""
    return _with_interval("gwet_ac1", ratings, _ac1, rng)


def count_table(ratings: Sequence[Rating]) -> np.ndarray:
    """Items by values: how many said so. Rows and columns in the order of their names."""
    items = {item: place for place, item in enumerate(sorted({rating.item for rating in ratings}))}
    values = {value: place for place, value in enumerate(sorted({rating.value for rating in ratings}))}
    table = np.zeros((len(items), len(values)))
    for rating in ratings:
        table[items[rating.item], values[rating.value]] += 1
    return table


def _alpha(table: np.ndarray) -> float | None:
    """From counts; items with one rating pair with nothing and are left out."""
    paired = table[table.sum(axis=1) >= 2]
    if not len(paired):
        return None
    per_item = paired.sum(axis=1)
    total = per_item.sum()
    observed = ((per_item**2 - (paired**2).sum(axis=1)) / (per_item - 1)).sum() / total
    by_value = paired.sum(axis=0)
    expected = (total**2 - (by_value**2).sum()) / (total * (total - 1))
    return None if expected == 0 else float(1 - observed / expected)


def _ac1(table: np.ndarray) -> float | None:
    """From counts; prevalence is the mean of the items' shares, single ratings included."""
    per_item = table.sum(axis=1)
    paired, sizes = table[per_item >= 2], per_item[per_item >= 2]
    if not len(paired):
        return None
    values = table.shape[1]
    if values == 1:
        return 1.0
    observed = float((((paired * (paired - 1)).sum(axis=1)) / (sizes * (sizes - 1))).mean())
    prevalence = (table / per_item[:, None]).mean(axis=0)
    chance = float((prevalence * (1 - prevalence)).sum() / (values - 1))
    return (observed - chance) / (1 - chance)


def _with_interval(
    metric: str,
    ratings: Sequence[Rating],
    coefficient: Callable[[np.ndarray], float | None],
    rng: np.random.Generator,
) -> Agreed:
    _refuse_repeats(ratings)
    members = len({rating.member for rating in ratings})
    table = count_table(ratings) if ratings else np.zeros((0, 0))
    pairs = int((table.sum(axis=1) >= 2).sum()) if ratings else 0
    value = coefficient(table) if ratings else None
    if value is None:
        reason = (
            "every label is the same, so chance cannot be told from agreement" if pairs else ("no item has two labels")
        )
        return Agreed(
            metric=metric, value=None, low=None, high=None, items=pairs, ratings=len(ratings), members=members,
            reason=reason,
        )  # fmt: skip
    drawn = [coefficient(table[rng.integers(0, len(table), len(table))]) for _ in range(_RESAMPLES)]
    known = [one for one in drawn if one is not None]
    low, high = (float(edge) for edge in np.quantile(known, [0.025, 0.975])) if len(known) >= 100 else (None, None)
    return Agreed(metric=metric, value=value, low=low, high=high, items=pairs, ratings=len(ratings), members=members)


def _refuse_repeats(ratings: Sequence[Rating]) -> None:
    seen = {(rating.item, rating.member) for rating in ratings}
    if len(seen) < len(ratings):
        raise ValueError("a person has two labels on one item; take the one that stands")


def dawid_skene(
    ratings: Sequence[Rating],
    *,
    positive: str = "violates",
    prior: tuple[float, float] = (9.0, 1.0),
    tolerance: float = 1e-8,
    most: int = 500,
) -> Skilled:
    """Expectation-maximisation of the two-class model; ratings other than `positive` count as the other class.

    `prior`: pseudo-labels that each member got right and wrong, of each class, beforehand.

    Raises:
        ValueError: no rating, or a person with two on one item.
    """
    if not ratings:
        raise ValueError("no ratings")
    _refuse_repeats(ratings)
    items = {item: place for place, item in enumerate(sorted({rating.item for rating in ratings}))}
    members = {member: place for place, member in enumerate(sorted({rating.member for rating in ratings}))}
    row = np.array([items[rating.item] for rating in ratings])
    column = np.array([members[rating.member] for rating in ratings])
    says = np.array([rating.value == positive for rating in ratings], dtype=float)
    right, wrong = prior
    probability = np.bincount(row, says, len(items)) / np.bincount(row, minlength=len(items))
    sensitivity = specificity = np.full(len(members), right / (right + wrong))
    prevalence, done, moved = 0.5, 0, 1.0
    while done < most and moved >= tolerance:
        done += 1
        sure = probability[row]
        prevalence = float((probability.sum() + 1) / (len(items) + 2))
        sensitivity = _rate(column, sure * says, sure, right, wrong, len(members))
        specificity = _rate(column, (1 - sure) * (1 - says), 1 - sure, right, wrong, len(members))
        evidence = says * np.log(sensitivity[column] / (1 - specificity[column]))
        evidence += (1 - says) * np.log((1 - sensitivity[column]) / specificity[column])
        logit = np.log(prevalence / (1 - prevalence)) + np.bincount(row, evidence, len(items))
        fresh = 1 / (1 + np.exp(-np.clip(logit, -700, 700)))
        moved, probability = float(np.abs(fresh - probability).max()), fresh
    return Skilled(
        probability={item: float(probability[place]) for item, place in items.items()},
        prevalence=prevalence,
        sensitivity={member: float(sensitivity[place]) for member, place in members.items()},
        specificity={member: float(specificity[place]) for member, place in members.items()},
        iterations=done,
    )


def _rate(
    column: np.ndarray, hits: np.ndarray, trials: np.ndarray, right: float, wrong: float, size: int
) -> np.ndarray:
    """Posterior mean of a rate with a Beta prior. The mean, and not the mode, is never 0 or 1."""
    return (np.bincount(column, hits, size) + right) / (np.bincount(column, trials, size) + right + wrong)


def gold_accuracy(given: Sequence[tuple[str, str, str]]) -> dict[str, Share]:
    """Member -> share of items with a known answer that were answered so. `given`: member, answer, known answer."""
    by_member: dict[str, list[bool]] = {}
    for member, answer, known in given:
        by_member.setdefault(member, []).append(answer == known)
    return {member: share(sum(hits), len(hits)) for member, hits in sorted(by_member.items())}


def automation_bias(given: Sequence[tuple[bool, bool]]) -> Bias:
    """How much more often labels say what the model says when its view was shown. `given`: shown, agrees.

    Give only labels of items where chance decided what is shown (no blind ones, none given again after an undo); the
    interval is Newcombe's for two independent shares (1998, method 10).
    """
    shown = [agrees for hint, agrees in given if hint]
    hidden = [agrees for hint, agrees in given if not hint]
    one, two = share(sum(shown), len(shown)), share(sum(hidden), len(hidden))
    if one.value is None or two.value is None:
        return Bias(with_hint=one, without=two, difference=None, low=None, high=None)
    assert one.low is not None and one.high is not None and two.low is not None and two.high is not None
    difference = one.value - two.value
    below = ((one.value - one.low) ** 2 + (two.high - two.value) ** 2) ** 0.5
    above = ((one.high - one.value) ** 2 + (two.value - two.low) ** 2) ** 0.5
    return Bias(with_hint=one, without=two, difference=difference, low=difference - below, high=difference + above)


def share(hits: int, n: int) -> Share:
    """A share with Wilson's interval; no data is not zero."""
    if n == 0:
        return Share(value=None, low=None, high=None, n=0)
    found = wilson_interval(hits, n)
    return Share(value=hits / n, low=found.low, high=found.high, n=n)


def group_by(rows: Sequence[Mapping[str, Hashable]], *keys: str) -> dict[tuple[Hashable, ...], list[Rating]]:
    """Labels (rows with item_id, member, decision) as ratings, by category, policy hash or whatever they have."""
    found: dict[tuple[Hashable, ...], list[Rating]] = {}
    for row in rows:
        rating = Rating(item=str(row["item_id"]), member=str(row["member"]), value=str(row["decision"]))
        found.setdefault(tuple(row[key] for key in keys), []).append(rating)
    return found
