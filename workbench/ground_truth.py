"""What people's labels say of a model: curves that make its probabilities hold, what it may clear alone, and precision,
recall and misses of a whole stream.

Knows the texts that were drawn into a queue, the lines of `workbench moderate`, a policy, and by its front door a model
(for what it says of texts without content). The random sample of a draw (exploration) is what curves and promises rest
on; a draw's whole batch is what estimates rest on.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safety.calibration import FEW, Binding, Calibrator, Clearance, Curve, How, fit_curve, measure
from safety.review.drawn import Drawn, read_drawn
from safety.review.estimate import Quality, Sample, Stream, estimate_quality
from safety.triage import Labelled, Triage, triage
from workbench.errors import ConfigError
from workbench.records import Checkpoint, Estimate

if TYPE_CHECKING:
    from safety.resolved import ResolvedPolicy
    from safety.review.queue import Actor, ReviewQueue
    from workbench.store import Project

MOST_OPEN = 0.05
"""Share of a batch that may be undecided: more, and what is decided leans to the top of the queue."""
CONTENT_FREE = ("N/A", "[MASK]", ".")
_FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRequest:
    """What to fit, and what to promise."""

    queue: str = "default"
    model: str = ""
    """Fingerprint; empty: the one model that the labelled texts were judged by."""
    miss: float = 0.05
    """Share of violations that may be cleared, at most."""
    confidence: float = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryFit:
    """One rule's curve, and how well probabilities hold before it and after."""

    category: str
    how: str
    n: int
    positives: int
    before: Estimate | None
    """Calibration error of the model's own probabilities; None: too few labels to say."""
    after: Estimate | None
    """Of curves that were fitted on the other labels, a fifth at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibrated:
    """What came of a queue's labels."""

    calibrator: Calibrator
    fits: tuple[CategoryFit, ...]
    promises: tuple[Triage, ...]
    labels: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> texts of the random sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamQuality:
    """What a batch's labels say of all texts that it was drawn from."""

    quality: Quality
    texts: int
    flagged: int
    drawn: int
    decided: int
    seed: int | None
    left_out: Mapping[str, int] = field(default_factory=dict)


def calibrate_queue(
    review: "ReviewQueue",
    actor: "Actor",
    policy: "ResolvedPolicy",
    request: CalibrationRequest,
    *,
    project: "Project | None" = None,
    checkpoint: Checkpoint | None = None,
) -> Calibrated:
    """Curves and promises of each rule, from the labels of a queue's random sample.

    Args:
        checkpoint: asked about texts without content for rules with few labels, whose prior is then taken off.

    Raises:
        ConfigError: no labels to fit on, or of more than one model.
        ReviewError: no right to this queue's numbers.
    """
    from safety.resolved import Risk

    wanted = request.model or (checkpoint.fingerprint if checkpoint else "")
    labels, left_out = _labels_of(read_drawn(review, request.queue, actor=actor), policy, wanted, request.queue)
    binding = Binding(
        model=labels[0].model, policy_hash=policy.hash, prompt_version=prompt_version_of(labels[0].score_version)
    )
    by_rule: dict[str, list[Drawn]] = defaultdict(list)
    for one in labels:
        by_rule[one.category].append(one)
    few = [name for name in sorted(by_rule) if len(by_rule[name]) < FEW]
    priors = {} if checkpoint is None or project is None else _priors(checkpoint, project, policy, few, binding)
    curves: dict[str, Curve] = {}
    fits: list[CategoryFit] = []
    for name in sorted(by_rule):
        curves[name], fit = _fit(name, by_rule[name], priors.get(name))
        fits.append(fit)
    promises = triage(
        {name: _labelled(own) for name, own in by_rule.items()},
        Risk(miss=request.miss, confidence=request.confidence),
        days=_days(labels),
    )
    clear = {one.category: Clearance(below=one.threshold.low, promise=one.sentence) for one in promises if one.feasible}
    calibrator = Calibrator(binding=binding, curves=curves, clear=clear)
    return Calibrated(
        calibrator=calibrator, fits=tuple(fits), promises=tuple(promises), labels=len(labels), left_out=left_out
    )


def estimate_stream(review: "ReviewQueue", actor: "Actor", *, queue: str, lines: Path) -> StreamQuality:
    """Precision, recall and missed violations of all lines that a batch was drawn from.

    Args:
        lines: what `workbench moderate --output` wrote.

    Raises:
        ConfigError: nothing was drawn from these lines, or too much of it is undecided.
        ReviewError: no right to this queue's numbers.
    """
    from safety.resolved import is_withheld
    from safety.review.ranking import pool_of

    rows = read_lines(lines)
    place_of = {str(row["id"]): place for place, row in enumerate(rows)}
    left_out: Counter[str] = Counter()
    drawn: list[tuple[Drawn, int]] = []
    for one in read_drawn(review, queue, actor=actor):
        place = place_of.get(one.post)
        if place is None or (rows[place]["model"], rows[place]["policy_hash"]) != (one.model, one.policy_hash):
            left_out["of another stream"] += 1
        else:
            drawn.append((one, place))
    if not drawn:
        raise ConfigError(
            f"queue {queue}: nothing in it was drawn from {lines}; draw with: workbench moderate ... --queue {queue}"
        )
    seed, version = drawn[0][0].draw_seed, drawn[0][0].score_version
    # a text of both draws bears the first one's probability, so only the first one is whole
    first = [(one, place) for one, place in drawn if (one.draw_seed, one.score_version) == (seed, version)]
    left_out["of a later draw"] += len(drawn) - len(first)
    decided = [(one, place) for one, place in first if one.decided_at]
    if len(decided) < (1 - MOST_OPEN) * len(first):
        raise ConfigError(
            f"queue {queue}: {len(decided):,} of {len(first):,} drawn texts are decided; people see the likeliest "
            f"first, so nothing is said of the stream before {1 - MOST_OPEN:.0%} of them are: workbench review open"
        )
    scale = _response(first)
    probability = np.nan_to_num(pool_of(rows).probability, nan=0.5)
    flagged = np.array([is_withheld(row["action"]) for row in rows], bool)
    places = np.array([place for _, place in decided], np.intp)
    sample = Sample(
        violates=np.array([_share(one) for one, _ in decided], np.float64),
        probability=probability[places],
        flagged=flagged[places],
        inclusion=np.array([one.pi * scale[one.stratum] for one, _ in decided], np.float64),
    )
    return StreamQuality(
        quality=estimate_quality(sample, Stream(probability=probability, flagged=flagged)),
        texts=len(rows),
        flagged=int(flagged.sum()),
        drawn=len(first),
        decided=len(decided),
        seed=seed,
        left_out={why: count for why, count in sorted(left_out.items()) if count},
    )


def prompt_version_of(score_version: str) -> str:
    """In which wording a drawn text was judged; empty where that was not written down.

    >>> prompt_version_of("expected_loss, expected-loss/1, moderation/1/text_first")
    'moderation/1/text_first'
    """
    parts = score_version.split(", ")
    return parts[2] if len(parts) > 2 else ""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a finished moderation. Raises ConfigError."""
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _labels_of(
    drawn: Iterable[Drawn], policy: "ResolvedPolicy", model: str, queue: str
) -> tuple[list[Drawn], dict[str, int]]:
    """Labels of the random sample that say something of the policy's rules as they are, by one model in one wording."""
    left_out: Counter[str] = Counter()
    found: list[Drawn] = []
    for one in drawn:
        if one.stratum == "exploration":
            why = _why_not(one, policy, model)
            if why:
                left_out[why] += 1
            else:
                found.append(one)
    told = f" ({', '.join(f'{count:,} {why}' for why, count in sorted(left_out.items()))})" if left_out else ""
    if not found:
        raise ConfigError(
            f"queue {queue}: no labels of a random sample to fit on{told}; draw one with: workbench moderate ... "
            f"--queue {queue}, and label it: workbench review open"
        )
    models = sorted({one.model for one in found})
    if len(models) > 1:
        names = ", ".join(name[:12] for name in models)
        raise ConfigError(f"queue {queue}: labels of {len(models)} models ({names}); say which: --checkpoint NAME")
    wordings = Counter(one.score_version for one in found)
    chosen = max(wordings, key=lambda name: (wordings[name], name))
    if len(wordings) > 1:
        left_out["drawn or asked in another way"] = len(found) - wordings[chosen]
    return [one for one in found if one.score_version == chosen], dict(left_out)


def _why_not(one: Drawn, policy: "ResolvedPolicy", model: str) -> str:
    if model and one.model != model:
        return "of another model"
    if not one.decided_at:
        return "not decided yet"
    if not one.is_clear:
        return f"decided {one.decision}"
    if one.category not in policy.categories:
        return "no rule of this policy in question"
    if one.probability is None:
        return "not scored by the model"
    if not prompt_version_of(one.score_version):
        return "asked in a wording that nobody wrote down"
    return "" if one.reads_as(policy.categories[one.category]) else "the rule reads otherwise now"


def _fit(name: str, own: Sequence[Drawn], prior: float | None) -> tuple[Curve, CategoryFit]:
    p = np.array([one.probability for one in own], np.float64)
    y = np.array([float(one.violates_rule) for one in own])
    communities = [one.community for one in own] if any(one.community for one in own) else None
    curve = fit_curve(p, y, communities=communities, content_free=prior)
    before = after = None
    if curve.how in ("platt", "isotonic"):
        before = measure(p, y, rng=np.random.default_rng(0))["ece"]
        crossed = _cross_fitted(p, y, communities, [one.cluster or one.id for one in own], curve.how)
        after = measure(crossed, y, rng=np.random.default_rng(0))["ece"]
    return curve, CategoryFit(
        category=name, how=curve.how, n=curve.n, positives=curve.positives, before=before, after=after
    )


def _cross_fitted(
    p: np.ndarray, y: np.ndarray, communities: Sequence[str] | None, groups: Sequence[str], how: How
) -> np.ndarray:
    """Calibrated by what other labels say: near-duplicates are on one side."""
    import hashlib

    fold = np.array([hashlib.sha256(group.encode()).digest()[0] % _FOLDS for group in groups])
    found = p.copy()
    for side in range(_FOLDS):
        own, rest = fold == side, fold != side
        names = None if communities is None else np.array(communities, object)
        curve = fit_curve(p[rest], y[rest], communities=None if names is None else list(names[rest]), how=how)
        found[own] = curve.apply(p[own], None if names is None else list(names[own]))
    return found


def _priors(
    checkpoint: Checkpoint, project: "Project", policy: "ResolvedPolicy", rules: Sequence[str], binding: Binding
) -> dict[str, float]:
    """What a model says of texts without content, a rule each."""
    from safety.judges.base import Passage
    from safety.judges.model import ModelJudge
    from safety.prompt import Layout
    from workbench.engines.loading import load
    from workbench.evaluation import EvaluationRequest, engine_options

    if not rules:
        return {}
    words = binding.prompt_version.split("/")
    layout: Layout = "text_first" if "text_first" in words else "rules_first"
    engine = load(checkpoint, **engine_options(checkpoint, project, EvaluationRequest()))
    try:
        judge = ModelJudge(
            engine=engine, nonce=policy.hash, layout=layout, swap="both-orders" in words, strict=True, min_mass=1e-9
        )
        if judge.prompt_version != binding.prompt_version:
            return {}  # the wording has changed since: of the old one nothing can be asked
        found = judge.judge([Passage(text=text) for text in CONTENT_FREE], [policy.categories[name] for name in rules])
    finally:
        engine.close()
    priors: dict[str, float] = {}
    for place, name in enumerate(rules):
        said = [row[place].probability for row in found]
        known = [p for p in said if p is not None]
        if known:
            priors[name] = float(np.mean(known))
    return priors


def _labelled(own: Sequence[Drawn]) -> Labelled:
    """For promises a text counts as violating if it violates any rule: clearing it lets that pass, too."""
    scored = [(float(one.probability or 0.0), one.violates) for one in own]
    return Labelled(violating=[p for p, bad in scored if bad], allowed=[p for p, bad in scored if not bad])


def _days(labels: Sequence[Drawn]) -> float | None:
    """Over which the labels came: from the first text to the last decision."""
    first = min(datetime.fromisoformat(one.created_at) for one in labels)
    last = max(datetime.fromisoformat(one.decided_at) for one in labels)
    days = (last - first).total_seconds() / 86_400
    return days if days > 0 else None


def _share(one: Drawn) -> float:
    if not one.is_clear:
        return 0.5
    return one.soft if one.decided_by == "agreement" else float(one.violates)


def _response(drawn: Sequence[tuple[Drawn, int]]) -> dict[str, float]:
    """Share of each part of a draw that was decided: the few that were not are taken to be like the rest of it."""
    all_of = Counter(one.stratum for one, _ in drawn)
    done = Counter(one.stratum for one, _ in drawn if one.decided_at)
    return {stratum: done[stratum] / count for stratum, count in all_of.items()}
