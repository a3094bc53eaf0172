"""An emerging threat: how long until it is noticed, and until the classifier finds it, with and without what is there?

python -m studies.emerging_threat [--quick] [--project FOLDER] [--render]

A kind of violation that the classifier has never seen enters a stream of posts and grows to a twentieth of it. Each
day some texts are looked at, chosen by expected loss alone or drawn as the review queue draws; the classifier (TF-IDF,
logistic regression) is fitted anew every day. With the alarm, too much that is new opens a lane for people.
The four ways see the same streams. Each resample is a file, so a killed run goes on.
Writes studies/results/emerging-threat.json, docs/studies/emerging-threat.md and its plots.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from safety.drift import NoveltyAlarm, lane_items
from safety.review.estimate import Sample, Stream, estimate_quality
from safety.review.ranking import Pool, draw_batch, rank
from safety.uncertainty import Novelty
from studies.experiment import RESULTS, ROOT, read_rows, say

TAKES = "20 minutes on one quiet core"
DAYS, PER_DAY, ONSET = 30, 100, 6
"""Days of the stream, its texts a day, the day on which the new kind comes."""
PEAK, RAMP = 0.05, 20
"""Share of the new kind at last, and days until it is reached."""
BUDGET = 15
"""Texts that people look at each day."""
LANE, RECENT = 40, 3
"""Texts of an alarm's lane (the shipped 100, for a stream a fraction as large), out of so many days."""
SUSPECT = 0.05
"""p-value of novelty up to which a text of those days is thought to be of the new kind."""
HISTORY, LABELLED = 1000, 600
DIMENSIONS = 512
FALSE_POSITIVES = 0.05
"""Recall is told at the threshold at which so many allowed texts would be flagged."""
SEEN_BY_PEOPLE = 5
"""Labels of the new kind after which people know that there is one."""
RECOVERED = 0.8
"""Of the recall that labels of the whole stream would give."""
RESAMPLES = 50
WAYS = ("ranked", "ranked+alarm", "drawn", "drawn+alarm")
SCENARIOS = ("spam", "hate", "threats")
WEEKS = (7, 14, 21, 28)
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Posts:
    """All texts of a scenario with what they are."""

    texts: list[str]
    kind: npt.NDArray[np.int8]
    """0 allowed, 1 a violation of a known kind, 2 of the new kind."""


def load(scenario: str) -> Posts:
    """EDOS (posts of Reddit and Gab) with sexism as what is known, and a kind that nobody has labelled.

    `spam`: SMS advertising, unlike any post. `hate`: hate speech in tweets. `threats`: EDOS's own threats to women,
    which are worded much like the sexism that is known.
    """
    seen: dict[str, int] = {}
    for row in read_rows("edos_sexism", "posts_sample.jsonl"):
        threat = str(row["category"]).startswith("1")
        if threat and scenario != "threats":
            continue
        seen.setdefault(row["text"], 2 if threat else int(row["category"] != "none"))
    if scenario == "spam":
        new = [row["text"] for row in read_rows("sms_spam", "messages.jsonl") if str(row["label"]) == "1"]
    elif scenario == "hate":
        rows = read_rows("davidson_hate_offensive", "tweets_sample.jsonl")
        new = [row["text"] for row in rows if row["class"] == "hate_speech"]
    else:
        new = []
    for text in new:
        seen.setdefault(text, 2)
    return Posts(texts=list(seen), kind=np.array(list(seen.values()), np.int8))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One resample: who is where, the vectors that its history gives, and how new each text is."""

    x: Any
    """TF-IDF, weights from the history."""
    vectors: Floats
    """The same in few dimensions: by random projection, which keeps what the history did not have, too."""
    p_values: Floats
    """Of novelty against the history, of every text of the stream."""
    kind: npt.NDArray[np.int8]
    days: list[Rows]
    labelled: Rows
    history: Rows
    allowed: Rows
    """By which the threshold is set."""
    tests: dict[str, Rows]


def count_words(texts: Sequence[str]) -> Any:
    """Hashed counts of words, pairs and runs of letters: nothing is fitted."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    size = {"n_features": 2**14, "alternate_sign": False, "norm": None}
    words = HashingVectorizer(ngram_range=(1, 2), **size).transform(texts)
    runs = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), **size).transform(texts)
    return csr_matrix(hstack([words, runs]))


def share_new(day: int) -> float:
    """Of the stream, on a day from 0."""
    return 0.0 if day < ONSET else PEAK * min(1.0, (day - ONSET + 1) / RAMP)


def draw_setting(posts: Posts, counts: Any, seed: int) -> Setting:
    """Split texts anew: history, stream by days, texts for threshold and tests."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.random_projection import SparseRandomProjection

    rng = np.random.default_rng([seed, 77])
    old, new = (rng.permutation(np.flatnonzero(mask)) for mask in (posts.kind < 2, posts.kind == 2))
    new_test, new_stream = new[: len(new) * 3 // 10], new[len(new) * 3 // 10 :]
    allowed_all = old[posts.kind[old] == 0]
    allowed, known = allowed_all[:300], old[posts.kind[old] == 1][:120]
    rest = np.setdiff1d(old, np.concatenate([allowed, known]))
    rest = rng.permutation(rest)
    history, background = rest[:HISTORY], rest[HISTORY:]
    x = TfidfTransformer(sublinear_tf=True).fit(counts[history]).transform(counts)
    vectors = SparseRandomProjection(DIMENSIONS, random_state=seed, dense_output=True).fit_transform(x)
    vectors = np.asarray(vectors.todense() if hasattr(vectors, "todense") else vectors, np.float64)
    days: list[Rows] = []
    taken = came = 0
    for day in range(DAYS):
        many = min(int(rng.binomial(PER_DAY, share_new(day))), len(new_stream) - came)
        rows = [new_stream[came : came + many], background[taken : taken + PER_DAY - many]]
        came, taken = came + many, taken + PER_DAY - many
        days.append(rng.permutation(np.concatenate(rows)))
    stream = np.concatenate(days)
    p_values = np.ones(len(posts.kind))
    p_values[stream] = Novelty(vectors[history], seed=seed).p_value(vectors[stream])
    return Setting(
        x=x,
        vectors=vectors,
        p_values=p_values,
        kind=posts.kind,
        days=days,
        labelled=history[:LABELLED],
        history=history,
        allowed=allowed,
        tests={"new": new_test, "known": known},
    )


class Classifier:
    """Fitted to what is labelled; flags what lies above the threshold that lets few allowed texts through."""

    def __init__(self, setting: Setting, labelled: Rows) -> None:
        from sklearn.linear_model import LogisticRegression

        self.setting = setting
        y = setting.kind[labelled] > 0
        self.model = LogisticRegression(C=10.0, solver="liblinear", tol=1e-2).fit(setting.x[labelled], y)
        self.threshold = float(np.quantile(self.probability(setting.allowed), 1 - FALSE_POSITIVES))

    def probability(self, rows: Rows) -> Floats:
        """That each violates."""
        return np.asarray(self.model.predict_proba(self.setting.x[rows])[:, 1], np.float64)

    def recall(self, name: str) -> float:
        """On texts that are in no stream."""
        return float((self.probability(self.setting.tests[name]) > self.threshold).mean())


@dataclass(kw_only=True)
class Story:
    """What happened in one stream under one way to look at it."""

    recall: list[float] = field(default_factory=list)
    """Of the new kind, at the end of each day."""
    known: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    """Spent until the end of each day."""
    new_labels: list[int] = field(default_factory=list)
    """Of them of the new kind."""
    alarms: list[int] = field(default_factory=list)
    """Days on which the alarm went off."""
    lane_new: list[int] = field(default_factory=list)
    """Texts of the new kind in each lane."""
    weeks: list[list[float]] = field(default_factory=list)
    """Recall of all violations of a week: estimate, low, high, truth."""


def live(setting: Setting, way: str, seed: int) -> Story:
    """Thirty days."""
    story, labelled = Story(), setting.labelled
    alarm, p_values = NoveltyAlarm(), setting.p_values.copy()
    classifier = Classifier(setting, labelled)
    week: list[tuple[Any, ...]] = []
    for day, rows in enumerate(setting.days):
        p = classifier.probability(rows)
        flagged = p > classifier.threshold
        pool = Pool(probability=p, severity=np.ones(len(rows), np.int8), withheld=flagged, novelty=1.0 - p_values[rows])
        if way.startswith("drawn"):
            batch = draw_batch(pool, size=BUDGET, seed=1000 * seed + day)
            chosen = batch.items
            week.append((p, flagged, setting.kind[rows] > 0, chosen, batch.inclusion))
        else:
            chosen = rank(pool)[:BUDGET]
        labelled = np.concatenate([labelled, rows[chosen]])
        if way.endswith("alarm") and alarm.feed(p_values[rows]):
            lane = _lane(setting, day, p_values, labelled)
            labelled = np.concatenate([labelled, lane])
            story.alarms.append(day)
            story.lane_new.append(int((setting.kind[lane] == 2).sum()))
            alarm.reset()
            # what was looked at is no news any more
            known = np.concatenate([setting.history, *setting.days[max(0, day - 6) : day + 1]])
            if len(later := np.concatenate([*setting.days[day + 1 :], known[:0]])):
                p_values[later] = Novelty(setting.vectors[known], seed=seed).p_value(setting.vectors[later])
        if day + 1 in WEEKS and week:
            story.weeks.append(_estimate(week))
            week = []
        classifier = Classifier(setting, labelled)
        story.recall.append(classifier.recall("new"))
        story.known.append(classifier.recall("known"))
        story.labels.append(len(labelled) - LABELLED)
        story.new_labels.append(int((setting.kind[labelled] == 2).sum()))
    return story


def _lane(setting: Setting, day: int, p_values: Floats, labelled: Rows) -> Rows:
    recent = np.concatenate(setting.days[max(0, day - RECENT + 1) : day + 1])
    recent = np.setdiff1d(recent, labelled)
    return recent[lane_items(setting.vectors[recent], p_values[recent] <= SUSPECT, size=LANE)]


def _estimate(week: Sequence[tuple[Any, ...]]) -> list[float]:
    """Recall of all violations in a week, by the labels that were drawn, beside the truth."""
    p, flagged, truth = (np.concatenate([one[place] for one in week]) for place in range(3))
    starts = np.cumsum([0, *(len(one[0]) for one in week)])
    drawn = np.concatenate([one[3] + start for one, start in zip(week, starts, strict=False)])
    inclusion = np.concatenate([one[4] for one in week])
    sample = Sample(
        violates=truth[drawn].astype(float), probability=p[drawn], flagged=flagged[drawn], inclusion=inclusion
    )
    found = estimate_quality(sample, Stream(probability=p, flagged=flagged)).recall
    real = float(flagged[truth].mean())
    if found is None or found.low is None or found.high is None or found.value is None:
        return [float("nan"), 0.0, 1.0, real]
    return [found.value, found.low, found.high, real]


def resample(posts: Posts, counts: Any, seed: int) -> dict[str, Any]:
    """The same stream in all ways, and what labels of all of it would give."""
    setting = draw_setting(posts, counts, seed)
    everything = Classifier(setting, np.concatenate([setting.labelled, *setting.days]))
    arrived = [int((setting.kind[rows] == 2).sum()) for rows in setting.days]
    found: dict[str, Any] = {"full": everything.recall("new"), "arrived": arrived}
    for way in ("ranked", "drawn"):
        watched = live(setting, f"{way}+alarm", seed)
        # where no alarm goes off both ways are one
        plain = live(setting, way, seed) if watched.alarms else watched
        found |= {way: vars(plain), f"{way}+alarm": vars(watched)}
    return found


def run(folder: Path, *, resamples: int) -> None:
    """Every resample that is not there yet; turn by turn of the scenarios, so that all are there early."""
    folder.mkdir(parents=True, exist_ok=True)
    posts = {name: load(name) for name in SCENARIOS}
    counts = {name: count_words(one.texts) for name, one in posts.items()}
    for seed in range(resamples):
        for name in SCENARIOS:
            path = folder / f"{name}-{seed:03}.json"
            if not path.is_file():
                found = resample(posts[name], counts[name], seed)
                hidden = path.with_name(f".{path.name}")
                hidden.write_text(json.dumps(found), encoding="utf-8")
                hidden.replace(path)
        say(f"resample {seed + 1}/{resamples}")


def collect(folder: Path) -> dict[str, Any]:
    """What the page is made of; no text in it."""
    found: dict[str, Any] = {"scenarios": {}}
    for name in SCENARIOS:
        paths = sorted(folder.glob(f"{name}-[0-9]*.json"))
        if paths:
            found["scenarios"][name] = [_short(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    hidden = folder / "hidden.json"
    if hidden.is_file():
        found["hidden"] = json.loads(hidden.read_text(encoding="utf-8"))
    return found


def _short(value: Any) -> Any:
    """Four digits are enough."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [_short(one) for one in value]
    return {key: _short(one) for key, one in value.items()} if isinstance(value, dict) else value


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "build" / "studies" / "emerging-threat"
    parser.add_argument("--project", type=Path, default=default, help="folder that keeps each resample")
    parser.add_argument("--quick", action="store_true", help="one resample; writes no document")
    parser.add_argument("--render", action="store_true", help="write the page again from the kept numbers")
    asked = parser.parse_args()
    folder = asked.project.with_name(asked.project.name + "-quick") if asked.quick else asked.project
    if not asked.render:
        run(folder, resamples=1 if asked.quick else RESAMPLES)
    if asked.quick:
        return
    from studies.emerging_threat_page import NAME, write_study

    if any(folder.glob("*-[0-9]*.json")):
        text = json.dumps(collect(folder), separators=(",", ":"))
        (RESULTS / f"{NAME}.json").write_text(text + "\n", encoding="utf-8")
    write_study()


if __name__ == "__main__":
    main()
