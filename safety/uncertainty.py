"""How unsure a verdict is, of what kind, and whose work that is. Pure functions on arrays of probabilities.

Two doubts are told apart by asking several models (or dropouts) and several wordings of a rule. Where models differ,
the model is unsure: more labels help, so its texts go to moderators. Where wordings of the same rule differ, the rule
is unclear: labels do not help, so it goes to whoever owns the policy, with the texts that show it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workbench.records import Estimate
from workbench.statistics import wilson_interval

Floats = npt.NDArray[np.float64]
NEIGHBOURS = 10
UNCLEAR_SHARE = 0.05
"""A rule whose verdict turns with its wording on more of its texts than this is its owner's work."""
SHOWN = 20


def entropy_of(p: Floats) -> Floats:
    """Of a yes or no with probability p, in nats.

    >>> entropy_of(np.array([0.5, 1.0])).round(4).tolist()
    [0.6931, 0.0]
    """
    from scipy.special import entr

    return entr(p) + entr(1.0 - np.asarray(p, np.float64))


def margin_of(p: Floats) -> Floats:
    """1 - (likeliest - second), over the last axis of probabilities of classes; 1 is a tie."""
    best = np.sort(p, axis=-1)
    return 1.0 - (best[..., -1] - best[..., -2])


def mutual_information(p: Floats) -> Floats:
    """Between a verdict and who gave it: entropy of the mean less mean entropy, over the first axis, in nats (BALD)."""
    return np.maximum(0.0, entropy_of(p.mean(axis=0)) - entropy_of(p).mean(axis=0))


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Of each text, in nats: what is unsure whoever is asked, and what depends on who is asked, and how."""

    probability: Floats
    """Mean over models and wordings."""
    sd: Floats
    """Over models and wordings."""
    noise: Floats
    """Mean entropy: a text that lies on the line."""
    model: Floats
    """Mutual information with the model, its wordings averaged."""
    wording: Floats
    """Mutual information with the wording, the models averaged."""
    turns: npt.NDArray[np.bool_]
    """Whether the verdict at one half turns with the wording."""


def split_doubt(p: Floats) -> Doubt:
    """Take apart probabilities [models, wordings, texts]; one model, or one wording, has none of its kind of doubt."""
    if p.ndim != 3 or not p.size:
        raise ValueError(f"expected [models, wordings, texts], got a shape of {p.shape}")
    by_wording = p.mean(axis=0)
    return Doubt(
        probability=p.mean(axis=(0, 1)),
        sd=p.std(axis=(0, 1)),
        noise=entropy_of(p).mean(axis=(0, 1)),
        model=mutual_information(p.mean(axis=1)),
        wording=mutual_information(by_wording),
        turns=(by_wording >= 0.5).any(axis=0) & (by_wording < 0.5).any(axis=0),
    )


@dataclass(frozen=True, kw_only=True)
class UnclearRule:
    """A rule that its owner should read again."""

    category: str
    turns: Estimate
    """Share of its texts on which the verdict turns with the wording."""
    texts: tuple[int, ...]
    """Those that show it best, the clearest first."""


@dataclass(frozen=True, kw_only=True)
class Inboxes:
    """Whose work the doubt is."""

    moderators: tuple[tuple[str, int], ...]
    """(category, text), the most doubtful first: the model is unsure of them."""
    owners: tuple[UnclearRule, ...]
    """The least clear rule first."""


def sort_doubts(
    doubts: Mapping[str, Doubt], *, least: float = 0.05, unclear: float = UNCLEAR_SHARE, level: float = 0.95
) -> Inboxes:
    """Of each rule's doubts, those of the model to moderators; rules that are surely unclear to their owners.

    Args:
        least: nats of doubt of the model from which on a text is worth a look.
        unclear: a rule goes to its owner where the lower bound of the share of turns lies above it.
    """
    moderators: list[tuple[float, str, int]] = []
    owners: list[UnclearRule] = []
    for category, doubt in doubts.items():
        n = len(doubt.turns)
        if not n:
            continue
        interval = wilson_interval(int(doubt.turns.sum()), n, level=level)
        order = np.lexsort((np.arange(n), -doubt.wording))
        assert interval.low is not None
        if interval.low > unclear:
            turns = Estimate(
                metric="turns_with_wording",
                value=float(doubt.turns.mean()),
                low=interval.low,
                high=interval.high,
                n=n,
                method="wilson",
                level=level,
                direction="lower",
            )
            shown = tuple(int(i) for i in order[:SHOWN] if doubt.turns[i])
            owners.append(UnclearRule(category=category, turns=turns, texts=shown))
        # of an unclear text a moderator's label would only say which wording they had in mind
        mine = np.flatnonzero((doubt.model >= least) & (doubt.model >= doubt.wording))
        moderators += [(float(doubt.model[i]), category, int(i)) for i in mine]
    moderators.sort(key=lambda one: (-one[0], one[1], one[2]))
    owners.sort(key=lambda one: (-one.turns.value, one.category))
    return Inboxes(moderators=tuple((category, text) for _, category, text in moderators), owners=tuple(owners))


class Novelty:
    """How unlike what was there before a text is: cosine distance to its neighbours, as a conformal p-value.

    Half of the reference is searched, the other half says which distances are usual: the p-value of a text like the
    reference is uniform, so 1% of them is below 0.01. Vectors are a model's last hidden states, or any others.
    """

    def __init__(self, reference: Floats, *, neighbours: int = NEIGHBOURS, seed: int = 0) -> None:
        """Raises ValueError: fewer than four times as many vectors as neighbours."""
        if len(reference) < 4 * neighbours:
            raise ValueError(f"{len(reference)} vectors; {4 * neighbours} are needed for {neighbours} neighbours")
        order = np.random.default_rng([seed, len(reference)]).permutation(len(reference))
        unit = _unit(np.asarray(reference, np.float64))
        self.neighbours = neighbours
        self._searched = unit[order[: len(order) // 2]]
        self._usual = np.sort(self.distance(unit[order[len(order) // 2 :]]))

    def distance(self, vectors: Floats) -> Floats:
        """Mean cosine distance to the nearest vectors of the reference."""
        found = np.empty(len(vectors))
        for start in range(0, len(vectors), 4096):
            near = _unit(np.asarray(vectors[start : start + 4096], np.float64)) @ self._searched.T
            top = np.partition(near, -self.neighbours, axis=1)[:, -self.neighbours :]
            found[start : start + 4096] = 1.0 - top.mean(axis=1)
        return found

    def p_value(self, vectors: Floats) -> Floats:
        """Share of usual texts that lie as far out, in (0, 1]; small is new."""
        at_least = len(self._usual) - np.searchsorted(self._usual, self.distance(vectors), side="left")
        found: Floats = np.asarray((1.0 + at_least) / (1.0 + len(self._usual)), np.float64)
        return found


def _unit(vectors: Floats) -> Floats:
    norm = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    unit = np.empty_like(vectors)
    np.divide(vectors, np.where(norm > 0, norm, 1.0), out=unit)
    return unit
