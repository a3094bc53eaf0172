"""The loop once: labels -> rows -> a run -> gate -> a test on held-out labels -> a better checkpoint, or why not.

Knows the pipeline, the review queue and the recipe's keys; trains and judges by their front doors. Every step leaves
what it made in a folder of the labels' own digest, so a killed `improve` goes on where it was, and the same labels give
the same run.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.errors import ConfigError
from workbench.evaluation import EvaluationRequest, engine_options
from workbench.records import Checkpoint

if TYPE_CHECKING:
    from safety.resolved import ResolvedPolicy
    from safety.review.feedback import Feedback, HeldOut
    from workbench.pipeline import Listener, TrainedRun
    from workbench.statistics import Interval
    from workbench.store import Project

FOLDER = "feedback"
FEWEST_ITEMS = 50
"""Decided items that train, below which a run is refused: it would learn the few by heart."""
FEWEST_OF_A_KIND = 10
"""Held-out violations, and held-out texts that are none, below which nothing is said about better or worse."""
LEAST_MASS = 1e-9
RESAMPLES = 1000
EPOCHS = 2
LABEL_SHARE = 0.5
BATCH_TOKENS = 4096
Outcome = Literal["improved", "not_better", "worse", "gate_failed", "gate_held", "too_few_held_out"]
RECIPE = """# Written by workbench improve. The labels' rows are in labels.jsonl, what they came from in manifest.json.
recipe: {name}
start: {start}
method: sft
mix:
  - {{name: labels, data: labels.jsonl, share: {share}, max_epochs: {epochs}, weight_column: weight}}
  - {{name: general, data: {general}, share: {rest}, max_epochs: 8, role: replay}}
tokens: {tokens}
sequence_length: {length}
batch_tokens: {batch}
schedule: {{kind: cosine, learning_rate: 1e-4, warmup: 0.1}}
save_every: 10
keep: 1
evaluation:
  suites: [{suites}]
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImproveRequest:
    """What to learn from, and what must not be lost."""

    policy: str | Path
    start: str = "smollm2"
    """The checkpoint that is to become better."""
    queue: str = "default"
    general: Path | None = None
    """Rows against forgetting; None: the sample that comes with the workbench."""
    suites: tuple[str, ...] = ("sample-general",)
    """What the gate asks; every task of them must be kept."""
    overrides: tuple[str, ...] = ()
    """Of the recipe: `schedule.learning_rate=5e-5`."""
    twins: bool = True
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutTest:
    """Two checkpoints on answers that neither was trained on."""

    n: int
    positives: int
    before: float
    """Average precision of the start."""
    after: float
    gain: "Interval | None"
    """Paired, groups of near-duplicates drawn together; None: too few."""
    accuracy_before: float
    """Balanced accuracy at probability 0.5."""
    accuracy_after: float
    unscorable_before: int
    """Rows that would be unscorable in use: the two words hold too little of the probability."""
    unscorable_after: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Improvement:
    """What came of it."""

    outcome: Outcome
    reason: str
    folder: Path
    items: int
    rows: int
    left_out: Mapping[str, int]
    run: "TrainedRun | None" = None
    test: HeldOutTest | None = None
    checkpoint: str = ""
    """Reference of the new checkpoint; for the queue only with outcome `improved`."""

    def document(self) -> dict[str, Any]:
        """Plain values, for `--json` and `improvement.json`."""
        gate = None if self.run is None or self.run.gated is None else self.run.gated.decision.outcome
        return {
            "schema_version": 1,
            "outcome": self.outcome,
            "reason": self.reason,
            "folder": str(self.folder),
            "items": self.items,
            "rows": self.rows,
            "left_out": dict(self.left_out),
            "gate": gate,
            "checkpoint": self.checkpoint,
            "test": None if self.test is None else asdict(self.test),
        }


def improve(
    request: ImproveRequest,
    *,
    project: "Project | str | Path",
    settled: Iterable[Any] | None = None,
    on_exported: "Callable[[Feedback], None]" = lambda _: None,
    on_prepared: Callable[[Any], None] = lambda _: None,
    on_step: Callable[[Any], None] = lambda _: None,
    listener: "Listener | None" = None,
) -> Improvement:
    """One turn of the loop.

    Args:
        settled: decided items (`safety.review.feedback.Settled`) instead of the queue's.

    Raises:
        UserError: no labels, too few of them, a recipe that cannot work.
        RunError: the run failed; the same call goes on from its last checkpoint.
    """
    from safety.policy import load_policy
    from safety.review.feedback import build_feedback
    from workbench import pipeline

    home = pipeline.open_project(project)
    policy = load_policy(request.policy, folders=[home.root / "policies"])
    if settled is None:
        settled = decided_items(home, request.queue)
    found = build_feedback(settled, policy, seed=request.seed, twins=request.twins)
    if found.items < FEWEST_ITEMS:
        raise ConfigError(
            f"queue {request.queue}: {found.items} decided items to train on, and {FEWEST_ITEMS} are the fewest"
            f"{_told(found.left_out)}; label more: workbench review"
        )
    on_exported(found)
    folder = write_feedback(found, policy, home, request)
    recipe = _write_recipe(found, folder, home, request)
    run = pipeline.train(
        recipe,
        project=home,
        overrides=request.overrides,
        on_prepared=on_prepared,
        on_step=on_step,
        listener=listener,
    )
    made = f"run/{run.prepared.recipe.recipe}"
    test = check_held_out(run.prepared.start, run.checkpoints[-1], found.held_out, policy, home)
    outcome, reason = _judge(run, test)
    done = Improvement(
        outcome=outcome,
        reason=reason,
        folder=folder,
        items=found.items,
        rows=len(found.train),
        left_out=found.left_out,
        run=run,
        test=test,
        checkpoint=made,
    )
    _write(folder / "improvement.json", json.dumps(done.document(), indent=1, default=str) + "\n")
    return done


def decided_items(project: "Project", queue: str) -> list[Any]:
    """Decided items of a queue, as feedback takes them; the export is written into the audit."""
    from safety.review.people import Operator
    from safety.review.queue import ReviewQueue
    from safety.review.settled import read_settled

    return read_settled(ReviewQueue.open(project), queue, actor=Operator(name="improve"))


def write_feedback(found: "Feedback", policy: "ResolvedPolicy", project: "Project", request: ImproveRequest) -> Path:
    """The files of an export, whole or not at all, in a folder that bears the digest of their rows."""
    manifest = found.manifest(policy, as_of=datetime.now(UTC).isoformat(timespec="seconds"))
    key = {"rows": manifest["sha256"], "policy": policy.hash, "start": request.start, "of": list(request.overrides)}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    folder = project.root / FOLDER / digest
    if (folder / "manifest.json").is_file():
        return folder  # the same labels: the run goes on, or is there already
    hidden = folder.with_name(f".{digest}")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    _write_lines(hidden / "labels.jsonl", found.train)
    _write_lines(hidden / "preferences.jsonl", found.preferences)
    _write_lines(hidden / "rewards.jsonl", found.rewards)
    for split in ("calibration", "test"):
        _write_lines(hidden / f"{split}.jsonl", [row.document() for row in found.held_out if row.split == split])
    _write(hidden / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    hidden.replace(folder)
    return folder


def check_held_out(
    start: Checkpoint,
    candidate: Checkpoint,
    rows: "Sequence[HeldOut]",
    policy: "ResolvedPolicy",
    project: "Project",
) -> HeldOutTest | None:
    """Both checkpoints on the held-out answers; None where there are none."""
    if not rows:
        return None
    truth = np.array([float(row.violates) for row in rows])
    before, lost_before = held_out_scores(start, rows, policy, project)
    after, lost_after = held_out_scores(candidate, rows, policy, project)
    return HeldOutTest(
        n=len(rows),
        positives=int(truth.sum()),
        gain=_gain(truth, before, after, [row.item.group for row in rows]),
        before=_precision(truth, before),
        after=_precision(truth, after),
        accuracy_before=_balanced(truth, before),
        accuracy_after=_balanced(truth, after),
        unscorable_before=lost_before,
        unscorable_after=lost_after,
    )


def held_out_scores(
    checkpoint: Checkpoint, rows: "Sequence[HeldOut]", policy: "ResolvedPolicy", project: "Project"
) -> tuple[np.ndarray, int]:
    """Probability of a violation for each row, and how many would be unscorable in use.

    A model that does not answer in one of two words is still ranked by what it gives to them, so that a start which was
    never taught the words is compared by what it knows; what the answers would be worth in use, the second number says.
    """
    from safety.judges.model import MIN_MASS, ModelJudge
    from workbench.engines.loading import load

    engine = load(checkpoint, **engine_options(checkpoint, project, EvaluationRequest()))
    try:
        judge = ModelJudge(engine=engine, nonce="", layout="rules_first", swap=False, strict=True, min_mass=LEAST_MASS)
        found = np.zeros(len(rows))
        lost = 0
        for name in sorted({row.category for row in rows}):
            places = [place for place, row in enumerate(rows) if row.category == name]
            asked = [rows[place].item.passage for place in places], [policy.categories[name]]
            for place, (one,) in zip(places, judge.judge(*asked), strict=True):
                lost += one.mass is None or one.mass < MIN_MASS
                # what cannot be ranked at all counts as wrong with certainty
                found[place] = float(not rows[place].violates) if one.probability is None else one.probability
    finally:
        engine.close()
    return found, lost


def _judge(run: "TrainedRun", test: HeldOutTest | None) -> tuple[Outcome, str]:
    gate = run.gated.decision.outcome if run.gated is not None else "pass"
    if gate == "fail":
        return "gate_failed", "the gate failed: the checkpoint forgot; see workbench show latest"
    if gate == "hold":
        return "gate_held", "the gate holds for lack of evidence; ask larger suites (--suite)"
    kinds = 0 if test is None else min(test.positives, test.n - test.positives)
    if test is None or kinds < FEWEST_OF_A_KIND or test.gain is None or test.gain.low is None or test.gain.high is None:
        return "too_few_held_out", (
            f"{0 if test is None else test.n} held-out labels, {kinds} of the rarer kind; {FEWEST_OF_A_KIND} of each "
            "are needed to say whether it is better: label more of the exploration stream"
        )
    low, high = test.gain.low, test.gain.high
    points = f"{100 * test.gain.value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    if low > 0:
        return "improved", f"average precision on {test.n} held-out labels {points}, and the gate passed"
    if high < 0:
        return "worse", f"average precision on {test.n} held-out labels {points}"
    return "not_better", f"average precision on {test.n} held-out labels {points}: not told from no change"


def _gain(truth: np.ndarray, before: np.ndarray, after: np.ndarray, groups: Sequence[str]) -> "Interval | None":
    """Percentile bootstrap of the difference in average precision, groups drawn whole."""
    from workbench.statistics import Interval

    if len(set(truth.tolist())) < 2:
        return None
    names = sorted(set(groups))
    members = {name: np.array([i for i, group in enumerate(groups) if group == name]) for name in names}
    rng = np.random.default_rng(0)
    drawn: list[float] = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[names[i]] for i in rng.integers(len(names), size=len(names))])
        if len(set(truth[rows].tolist())) == 2:
            drawn.append(_precision(truth[rows], after[rows]) - _precision(truth[rows], before[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = _precision(truth, after) - _precision(truth, before)
    return Interval(
        value=value, low=float(low), high=float(high), n=len(truth), clusters=len(names), method="bootstrap-percentile"
    )


def _precision(truth: np.ndarray, scores: np.ndarray) -> float:
    from safety.judges.agreement import average_precision

    return float("nan") if len(set(truth.tolist())) < 2 else float(average_precision(truth, scores))


def _balanced(truth: np.ndarray, scores: np.ndarray) -> float:
    seen = scores >= 0.5
    parts = [float((seen[truth == kind] == bool(kind)).mean()) for kind in (0, 1) if (truth == kind).any()]
    return float(np.mean(parts))


def _write_recipe(found: "Feedback", folder: Path, project: "Project", request: ImproveRequest) -> Path:
    from training.recipe import FOLDER as RECIPES

    general = request.general or RECIPES.parent / "samples" / "general_pairs.jsonl"
    if not general.is_file():
        raise ConfigError(f"{general}: no such file of general rows")
    copied = folder / f"general{general.suffix}"
    if not copied.is_file():
        shutil.copy(general, copied)
    path = folder / "recipe.yaml"
    if not path.is_file():
        loss_tokens, longest = _sizes(folder / "labels.jsonl", request, project)
        length = max(512, -(-longest // 128) * 128)
        text = RECIPE.format(
            name=f"improve-{folder.name}",
            start=request.start,
            share=LABEL_SHARE,
            rest=1 - LABEL_SHARE,
            epochs=EPOCHS + 1,
            general=copied.name,
            tokens=int(EPOCHS * loss_tokens / LABEL_SHARE),
            length=length,
            batch=length * max(1, BATCH_TOKENS // length),
            suites=", ".join(request.suites),
        )
        _write(path, text)
    return path


def _sizes(path: Path, request: ImproveRequest, project: "Project") -> tuple[int, int]:
    """Tokens of all answers, and of the longest row."""
    from transformers import AutoTokenizer

    from training.recipe import Source
    from training.sources import open_source
    from workbench.engines.loading import model_folder
    from workbench.references import resolve_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(
        model_folder(resolve_checkpoint(request.start, project)), local_files_only=True
    )
    source = Source(name="labels", data=path.name, share=1, weight_column="weight")
    rows = open_source(source, tokenizer=tokenizer, method="sft", folder=path.parent)
    documents = [rows.document(row) for row in range(len(rows))]
    return sum(int(one.loss.sum()) for one in documents), max(len(one.tokens) for one in documents)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)


def _told(left_out: Mapping[str, int]) -> str:
    return f" (left out: {', '.join(f'{count} {why}' for why, count in left_out.items())})" if left_out else ""
