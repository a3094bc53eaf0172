"""A reward tried out on recorded answers: what it gives, and what smells of cheating. Knows records and numbers only.

What is looked for: all or nothing the same (nothing to learn), scores that change when asked again, scores that go with
length or repetition (the cheapest ways to please), and answers without substance that score well.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.rewards.base import Failed, Reward, Sample, Score, Services, build_reward, checked
from training.rl.episodes import FOLDER, Episode, read_episodes
from training.rl.options import Reinforce
from training.sources import RowDocuments
from workbench.errors import ConfigError

STRONG = 0.4
"""Rank correlation from which on a score goes with length or repetition."""
BINS = 12
EMPTY = ("", " ", ".", "Yes.", "I do not know.")
"""Answers that should score badly wherever something is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What one reward gave."""

    name: str
    kind: str
    samples: int
    failed: int
    faults: Mapping[str, int]
    """Why it failed -> how often; the commonest first."""
    mean: float | None
    interval: tuple[float, float] | None
    """95%, from bootstrap samples of prompts."""
    low: float
    high: float
    histogram: tuple[int, ...]
    """Counts of equal parts of its range, or of what it gave."""
    distinct: int
    commonest: float
    """Share of the scores that are the commonest one."""
    tied_groups: float | None
    """Share of prompts whose answers all score the same; None: each prompt has one answer."""
    seconds: float
    smells: tuple[str, ...] = field(default=())


def read_samples(
    path: Path, options: Reinforce, prompts: RowDocuments | None, *, limit: int, answer: str = "answer"
) -> list[Sample]:
    """Answers of a run's folder, of one file of its rollouts, or of plain rows. Raises ConfigError: there are none."""
    files = sorted((path / FOLDER if path.is_dir() else path.parent).glob("generation-*.jsonl"))
    if path.is_file():
        files = [path] if path in files else []
    found: list[Sample] = []
    for file in files:
        recorded = read_episodes(file.parents[1], int(file.stem.rpartition("-")[2]))
        assert recorded is not None
        found += [_recorded(one, options, prompts, f"{file.stem}-{at}") for at, one in enumerate(recorded[1])]
    if not files and path.is_file():
        found = _plain(path, options, answer)
    if not found:
        raise ConfigError(f"{path}: holds no rollouts and no rows; name a run's folder, or a JSONL file of answers")
    places = np.linspace(0, len(found) - 1, min(limit, len(found))).astype(int)
    return [found[at] for at in dict.fromkeys(places.tolist())]


def _recorded(episode: Episode, options: Reinforce, prompts: RowDocuments | None, name: str) -> Sample:
    asked = [one for one in episode.messages if one.get("role") == "user"]
    known = prompts is not None and episode.row < len(prompts)
    return Sample(
        id=name,
        prompt=str(asked[0]["content"]) if asked else "",
        answer=episode.answer,
        row=prompts.record(episode.row) if known and prompts is not None else {},
        messages=tuple(episode.messages),
        tokens=episode.drawn,
        truncated=episode.truncated,
    )


def _plain(path: Path, options: Reinforce, answer: str) -> list[Sample]:
    found: list[Sample] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            said = row[answer]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{path}: row {number}: no JSON object with a column {answer!r}; --answer names it"
            ) from None
        value = row.get(options.column, "")
        prompt = value if isinstance(value, str) else str(value[-1]["content"])
        found.append(Sample(id=str(number), prompt=prompt, answer=str(said), row=row, tokens=len(str(said).split())))
    return found


def try_rewards(options: Reinforce, services: Services, samples: Sequence[Sample]) -> list[Trial]:
    """Every reward of a recipe. Raises UserError: one cannot be built."""
    found: list[Trial] = []
    for part in options.rewards:
        reward = build_reward(part, services, where="rl.rewards")
        try:
            found.append(try_reward(part.label, part.kind, reward, samples))
        finally:
            reward.close()
    return found


def try_reward(name: str, kind: str, reward: Reward, samples: Sequence[Sample]) -> Trial:
    """What one reward gives, twice."""
    began = time.perf_counter()
    first = checked(reward, samples)
    seconds = time.perf_counter() - began
    again = checked(reward, samples)
    scores = np.array([one for one in first if not isinstance(one, Failed)], float)
    scored = [sample for sample, one in zip(samples, first, strict=True) if not isinstance(one, Failed)]
    faults = Counter(one.why for one in first if isinstance(one, Failed))
    counts = Counter(scores.tolist())
    groups = _groups(scored, scores)
    smells = _smells(scored, scores, counts) + _unsteady(first, again) + _empty(reward, samples, scores)
    return Trial(
        name=name,
        kind=kind,
        samples=len(samples),
        failed=len(samples) - len(scores),
        faults=dict(faults.most_common(3)),
        mean=float(scores.mean()) if len(scores) else None,
        interval=_interval(groups) if len(scores) else None,
        low=float(scores.min()) if len(scores) else reward.low,
        high=float(scores.max()) if len(scores) else reward.high,
        histogram=tuple(int(one) for one in np.histogram(scores, BINS)[0]) if len(scores) else (),
        distinct=len(counts),
        commonest=counts.most_common(1)[0][1] / len(scores) if len(scores) else 0.0,
        tied_groups=_tied(groups),
        seconds=seconds,
        smells=tuple(smells),
    )


def _groups(samples: Sequence[Sample], scores: np.ndarray) -> list[list[float]]:
    found: dict[str, list[float]] = {}
    for sample, score in zip(samples, scores.tolist(), strict=True):
        found.setdefault(sample.prompt, []).append(score)
    return list(found.values())


def _interval(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Answers of one prompt are no independent evidence, so prompts are drawn, not answers."""
    rng = np.random.default_rng(0)
    sums = np.array([(sum(group), len(group)) for group in groups])
    drawn = sums[rng.integers(0, len(groups), (2000, len(groups)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return float(low), float(high)


def _tied(groups: Sequence[Sequence[float]]) -> float | None:
    several = [group for group in groups if len(group) > 1]
    return sum(max(group) - min(group) < 1e-8 for group in several) / len(several) if several else None


def _smells(samples: Sequence[Sample], scores: np.ndarray, counts: Mapping[float, int]) -> list[str]:
    if len(scores) < 10:
        return ["fewer than 10 answers were scored: nothing is said about what they go with"] if len(scores) else []
    if len(counts) == 1:
        return [f"every answer scores {scores[0]:g}: there is nothing to learn from"]
    found: list[str] = []
    measures = {
        "length": np.array([len(sample.answer) for sample in samples], float),
        "repetition": np.array([repetition(sample.answer) for sample in samples]),
    }
    for name, values in measures.items():
        r = _rank_correlation(values, scores)
        if abs(r) >= STRONG:
            way = "more" if r > 0 else "less"
            found.append(f"{name}: {way} of it scores higher (rank correlation {r:+.2f}): see whether it is wanted")
    if scores.mean() > 0.95 * scores.max() and scores.max() > 0:
        found.append("nearly all answers score the highest: little is left to learn")
    return found


def _unsteady(first: Sequence[Score], again: Sequence[Score]) -> list[str]:
    pairs = [
        (a, b) for a, b in zip(first, again, strict=True) if not isinstance(a, Failed) and not isinstance(b, Failed)
    ]
    other = sum(abs(a - b) > 1e-9 for a, b in pairs)
    return [f"asked again, {other:,} of {len(pairs):,} answers score otherwise"] if other else []


def _empty(reward: Reward, samples: Sequence[Sample], scores: np.ndarray) -> list[str]:
    """Answers without substance, put to the rows that there are."""
    if not len(scores):
        return []
    rows = samples[:4]
    probes = [(text, sample) for text in EMPTY for sample in rows]
    found = checked(
        reward,
        [
            Sample(id=f"probe-{at}", prompt=sample.prompt, answer=text, row=sample.row, tokens=len(text.split()))
            for at, (text, sample) in enumerate(probes)
        ],
    )
    bar = float(np.median(scores))
    worth = {
        text
        for (text, _), score in zip(probes, found, strict=True)
        if not isinstance(score, Failed) and score >= bar and score > float(scores.min())
    }
    shown = ", ".join(repr(text) for text in EMPTY if text in worth)
    return [f"answers without substance score as well as the median: {shown}"] if worth else []


def repetition(text: str) -> float:
    """Share of a text's runs of three words that came before in it.

    >>> repetition("a b c a b c"), repetition("a b c d")
    (0.25, 0.0)
    """
    words = text.split()
    runs = [tuple(words[at : at + 3]) for at in range(len(words) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import rankdata

    x, y = (rankdata(values) for values in (a, b))
    return float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else 0.0
