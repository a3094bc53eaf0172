"""An environment as an evaluation task: episodes of a checkpoint that learns nothing, how many succeed, pass@k.

The environment, the rewards and the orchestrator are those of a recipe; what is asked of them stands in a file of its
own. Episodes are recorded in parts, each whole or not at all: what was killed goes on after the last whole part, and a
larger limit keeps every whole one. Knows episodes and estimates; knows no report and no store.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from training.rewards.base import Scorer, Services
from training.rl.collect import Driver, Task, sample_of, take_score
from training.rl.episodes import Episode, read_episodes, write_episodes
from training.rl.options import Orchestrated, Reinforce, RewardPart
from training.rl.prompts import messages_of, open_prompts
from training.rl.sampling import Policy, seed_of
from training.rl.setup import build_driver, check_parts
from training.sources import RowDocuments
from workbench.config import StrictModel, read_yaml, validate
from workbench.errors import ConfigError, RunError, UserError, did_you_mean
from workbench.records import Estimate, ItemScore, Role, TaskResult
from workbench.statistics import Interval, mean_interval

SUCCESS, REWARD = "success", "reward"
EPISODES_A_PART = 32
"""Recorded together; what a killed evaluation may lose."""


class EnvironmentTask(StrictModel):
    """The keys of an environment's file."""

    task: str = Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.-]*\z")
    """What it is called in reports and gates."""
    prompts: str
    """File of rows that no run was trained on, relative to this file, or `hub:OWNER/NAME@SPLIT`."""
    column: str = "prompt"
    system: str = ""
    environment: str = ""
    environment_options: dict[str, Any] = Field(default_factory=dict)
    include: tuple[str, ...] = ()
    orchestrator: Orchestrated | None = None
    rewards: tuple[RewardPart, ...] = ()
    """As in a recipe's `rl`."""
    success: str = ""
    """The reward that says whether an episode succeeded; default: all of them, added up."""
    success_at: float = 1.0
    """From how much of it on an episode succeeded."""
    samples: int = Field(default=1, ge=1)
    """Episodes of each row."""
    pass_at: tuple[int, ...] = ()
    """Estimate for each k the chance that one of k episodes succeeds (pass@k; Chen et al. 2021, arXiv 2107.03374)."""
    temperature: float = Field(default=0.0, ge=0)
    """0: the likeliest token each time."""
    max_tokens: int = Field(default=256, ge=1)
    max_episode_tokens: int | None = Field(default=None, ge=2)
    max_lost: float = Field(default=0.0, ge=0, lt=1)
    """Share of episodes that may be lost (no reward, a lost orchestrator), and then count in no mean; above it the
    evaluation stops, to be gone on with."""
    version: str = "1"
    """Raise it when the environment changes: what was recorded before is then not used, and not compared."""
    cluster: str = ""
    """Column with what rows share (a repository, a template); default: each row is on its own."""
    role: Role = "domain"
    margin: float = Field(default=0.05, ge=0)
    """Loss that still counts as kept, in the headline's unit."""
    required: bool = True
    metric: str = SUCCESS
    """The headline: success, pass@K, reward, or a reward's name."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        faults: list[str] = []
        if self.samples > 1 and not self.temperature:
            faults.append(
                "samples: at temperature 0 all episodes of a row are alike; raise temperature (0.8), or drop it"
            )
        if any(not 1 <= k <= self.samples for k in self.pass_at):
            faults.append(f"pass_at: between 1 and samples ({self.samples}) is possible")
        if self.metric.startswith("pass@") and self.metric not in [f"pass@{k}" for k in self.pass_at]:
            faults.append(f"metric: {self.metric}: pass_at does not name it")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def as_reinforce(self) -> Reinforce:
        """What drives episodes in training, without what learns from them."""
        return Reinforce(
            prompts=self.prompts,
            column=self.column,
            system=self.system,
            steps=2,
            max_tokens=self.max_tokens,
            max_episode_tokens=self.max_episode_tokens,
            temperature=self.temperature or 1.0,
            rewards=self.rewards,
            environment=self.environment,
            environment_options=self.environment_options,
            include=self.include,
            orchestrator=self.orchestrator,
        )


@dataclass(frozen=True, kw_only=True)
class OpenTask:
    """An environment's file with its rows."""

    asked: EnvironmentTask
    options: Reinforce
    rows: RowDocuments
    folder: Path
    """Where the file lies."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what shapes an episode: not of margins, or of where an orchestrator reaches it."""
        shaping = ("column", "system", "environment", "environment_options", "rewards", "success", "success_at")
        shaping += ("samples", "temperature", "max_tokens", "max_episode_tokens", "version")
        told = {name: value for name, value in self.asked.model_dump(mode="json").items() if name in shaping}
        told["driven"] = "orchestrator" if self.asked.orchestrator is not None else "here"
        own = [hashlib.sha256((self.folder / path).read_bytes()).hexdigest() for path in self.asked.include]
        return _digest([told, own])

    def count(self, limit: int | float | None) -> int:
        """Rows that are asked."""
        size = len(self.rows)
        if limit is None:
            return size
        return min(size, math.ceil(size * limit) if limit < 1 else int(limit))


def open_task(path: str | Path, services: Services) -> OpenTask:
    """Read an environment's file and its rows, and build its rewards once.

    Raises ConfigError: what is wrong with the file, its rows, its rewards or its environment.
    """
    path = Path(path)
    asked = validate(read_yaml(path), EnvironmentTask, where=str(path))
    try:
        options = asked.as_reinforce()
        check_parts(options, services)
        rows = open_prompts(options, tokenizer=None, folder=path.parent)
    except ValidationError as error:
        faults = "; ".join(str(fault["msg"]).removeprefix("Value error, ") for fault in error.errors())
        raise ConfigError(f"{path}: {faults}") from None
    except UserError as error:
        raise ConfigError(f"{path}: {str(error).replace('rl.', '')}") from None
    return OpenTask(asked=asked, options=options, rows=rows, folder=path.parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """What came of an environment."""

    result: TaskResult
    items: tuple[ItemScore, ...]
    episodes: int
    """That were driven now."""
    kept: int
    """That were recorded before."""


def evaluate_task(
    task: OpenTask,
    policy: Callable[[], Policy],
    *,
    services: Services,
    folder: Path,
    key: str,
    limit: int | float | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Played:
    """Drive what is not recorded below `folder`, score it, and estimate.

    Args:
        policy: made when the first episode has to be driven.
        key: of whose episodes these are: weights, tokenizer, arithmetic.
        on_progress: hears (episodes that are there, episodes in all).

    Raises RunError: more episodes were lost than the file bears.
    """
    asked = task.asked
    parts = parts_of(task, limit)
    rows = [row for part in parts for row in part]
    player = _Player(task, policy, services, folder, seed, key)
    found: list[Episode] = []
    driven = 0
    try:
        for number, part in enumerate(parts):
            episodes, is_new = player.play(number, part)
            driven += len(episodes) if is_new else 0
            found += episodes
            on_progress(len(found), len(rows) * asked.samples)
    finally:
        player.close()
    groups = [found[at : at + asked.samples] for at in range(0, len(found), asked.samples)]
    return Played(**_summary(task, rows, groups), episodes=driven, kept=len(found) - driven)


class _Player:
    """Parts of an evaluation, from the record or from the policy."""

    def __init__(
        self, task: OpenTask, policy: Callable[[], Policy], services: Services, folder: Path, seed: int, key: str
    ) -> None:
        self.task, self.policy, self.folder, self.seed = task, policy, folder, seed
        self.records = record_folder(task, folder, seed, key)
        self.scorer = Scorer.build(task.asked.rewards, services)
        self._driver: Driver | None = None

    def play(self, number: int, rows: Sequence[int]) -> tuple[list[Episode], bool]:
        """The episodes of some rows, and whether they were driven now."""
        recorded = read_part(self.task, self.records, number, rows)
        if recorded is not None:
            return recorded, False
        if self._driver is None:
            self._driver = build_driver(self.task.options, self.policy(), run=self.task.asked.task, folder=self.folder)
        tasks = [self._task(row, sample) for row in rows for sample in range(self.task.asked.samples)]
        episodes = self._driver.drive(tasks)
        whole = [at for at, one in enumerate(episodes) if not one.dropped]
        scored = self.scorer.score([sample_of(tasks[at], episodes[at]) for at in whole])
        for at, score in zip(whole, scored, strict=True):
            take_score(episodes[at], score)
        self._bear(episodes)
        write_episodes(
            self.records, number, episodes, {"rows": [_digest(dict(self.task.rows.record(r))) for r in rows]}
        )
        return episodes, True

    def close(self) -> None:
        """Let go of the policy and the rewards."""
        if self._driver is not None:
            self._driver.close()
        self.scorer.close()

    def _task(self, row: int, sample: int) -> Task:
        record = self.task.rows.record(row)
        return Task(
            id=f"{row}-{sample}",
            row=row,
            epoch=0,
            sample=sample,
            record=record,
            messages=messages_of(record, self.task.options),
            seed=seed_of(self.seed, row, sample),
        )

    def _bear(self, episodes: Sequence[Episode]) -> None:
        lost = [one for one in episodes if one.dropped]
        if lost and len(lost) > self.task.asked.max_lost * len(episodes):
            raise RunError(
                f"environment {self.task.asked.task}: {len(lost)} of {len(episodes)} episodes were lost (max_lost "
                f"{self.task.asked.max_lost:g}): {lost[0].dropped}; mend the cause, then the same command goes on"
            )


def record_folder(task: OpenTask, folder: Path, seed: int, key: str) -> Path:
    """Where a checkpoint's episodes of an environment are kept."""
    return folder / _digest([task.digest, seed, key])[:16]


def read_part(task: OpenTask, records: Path, number: int, rows: Sequence[int]) -> list[Episode] | None:
    """Recorded episodes of some rows; None: there are none of these very rows."""
    recorded = read_episodes(records, number)
    if recorded is None:
        return None
    facts, episodes = recorded
    wanted = [_digest(dict(task.rows.record(row))) for row in rows]
    if facts.get("rows", [])[: len(wanted)] != wanted:
        return None
    return episodes[: len(wanted) * task.asked.samples]


def parts_of(task: OpenTask, limit: int | float | None) -> list[list[int]]:
    """Rows that are recorded together."""
    rows = list(range(task.count(limit)))
    size = max(1, EPISODES_A_PART // task.asked.samples)
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def pass_at_k(n: int, successes: int, k: int) -> float:
    """Unbiased estimate, from n episodes, that one of k succeeds (Chen et al. 2021, section 2.1).

    >>> pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.5, 1.0)
    """
    return 1.0 - math.comb(n - successes, k) / math.comb(n, k)


def _summary(task: OpenTask, rows: Sequence[int], groups: Sequence[Sequence[Episode]]) -> dict[str, Any]:
    asked = task.asked
    items = _unique([_item(task, row, group) for row, group in zip(rows, groups, strict=True)])
    notes: list[str] = []
    everything = [one for group in groups for one in group]
    if lost := sum(bool(one.dropped) for one in everything):
        notes.append(f"{lost:,} of {len(everything):,} episodes were lost and count in no mean")
    if cut := sum(one.truncated for one in everything):
        notes.append(f"in {cut:,} of {len(everything):,} episodes an answer ran out of tokens")
    if left := sum(not item.metrics for item in items):
        notes.append(f"{left:,} of {len(items):,} rows have too few episodes left for any estimate")
    estimates = _estimates(task, items, groups)
    if not estimates:
        raise RunError(f"environment {asked.task}: no episode came to its end; see {asked.prompts}")
    names = [one.metric for one in estimates]
    if asked.metric not in names:
        raise ConfigError(f"environment {asked.task}: metric: {did_you_mean(asked.metric, names)}")
    result = TaskResult(
        task=asked.task,
        role=asked.role,
        margin=asked.margin,
        required=asked.required,
        metric=asked.metric,
        estimates=tuple(estimates),
        n=len(items),
        num_fewshot=0,
        version=asked.version,
        notes=tuple(notes),
    )
    return {"result": result, "items": tuple(items)}


def _succeeded(asked: EnvironmentTask, episode: Episode) -> bool:
    if not asked.success:
        return episode.reward is not None and episode.reward >= asked.success_at
    value = episode.parts.get(asked.success, 0.0)  # an orchestrator that gave no such reward gave none
    return value is not None and value >= asked.success_at


def _item(task: OpenTask, row: int, group: Sequence[Episode]) -> ItemScore:
    asked, record = task.asked, task.rows.record(row)
    whole = [one for one in group if not one.dropped]
    won = [_succeeded(asked, one) for one in whole]
    metrics: dict[str, float] = {}
    if whole:
        metrics |= {SUCCESS: sum(won) / len(won), REWARD: sum(one.reward or 0.0 for one in whole) / len(whole)}
        for name in dict.fromkeys(name for one in whole for name in one.parts if name not in metrics):
            metrics[name] = sum(one.parts.get(name) or 0.0 for one in whole) / len(whole)
        metrics |= {f"pass@{k}": pass_at_k(len(won), sum(won), k) for k in asked.pass_at if k <= len(won)}
    told = messages_of(record, task.options)
    item = _digest([task.digest, dict(record)])
    return ItemScore(
        task=asked.task,
        item=item,
        doc_id=row,
        group=str(record[asked.cluster]) if asked.cluster and asked.cluster in record else item,
        metrics=metrics,
        answer=whole[0].answer if whole else "",
        target=str(record.get("answer", "")),
        prompt=str(told[-1]["content"]),
        extra={
            "doc": _digest(dict(record)),
            "episodes": [
                {
                    "success": None if one.dropped else _succeeded(asked, one),
                    "reward": one.reward,
                    "turns": one.turns,
                    "tokens": one.drawn,
                    "answer": one.answer,
                    **({"lost": one.dropped} if one.dropped else {}),
                }
                for one in group
            ],
        },
    )


def _unique(items: Sequence[ItemScore]) -> list[ItemScore]:
    """A row that stands twice in a file is two items: hashes must be unique for pairing."""
    from dataclasses import replace

    seen: dict[str, int] = {}
    found: list[ItemScore] = []
    for item in items:
        count = seen[item.item] = seen.get(item.item, 0) + 1
        again = item.item if count == 1 else _digest([item.item, count])
        group = again if item.group == item.item else item.group
        found.append(replace(item, item=again, group=group))
    return found


def _estimates(task: OpenTask, items: Sequence[ItemScore], groups: Sequence[Sequence[Episode]]) -> list[Estimate]:
    """Success over all episodes, with their row as the cluster; everything else is a mean over rows."""
    asked = task.asked
    pairs = [(item, one) for item, group in zip(items, groups, strict=True) for one in group if not one.dropped]
    if not pairs:
        return []
    won = [float(_succeeded(asked, one)) for _, one in pairs]
    found = [_estimate(SUCCESS, mean_interval(won, [item.group for item, _ in pairs], binary=True))]
    for name in dict.fromkeys(name for item in items for name in item.metrics if name != SUCCESS):
        values = [(item.metrics[name], item.group) for item in items if name in item.metrics]
        column = [value for value, _ in values]
        binary = name.startswith("pass@") or set(column) <= {0.0, 1.0}
        whole = binary and set(column) <= {0.0, 1.0}
        interval = mean_interval(column, [group for _, group in values], binary=whole)
        found.append(_estimate(name, interval, within_unit=binary))
    return found


def _estimate(metric: str, interval: Interval, *, within_unit: bool = False) -> Estimate:
    low, high = interval.low, interval.high
    if within_unit and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(
        metric=metric,
        value=interval.value,
        low=low,
        high=high,
        n=interval.n,
        clusters=interval.clusters if interval.clusters != interval.n else None,
        method=interval.method,
    )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
