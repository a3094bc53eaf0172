"""The gate inside training: what was measured of retained tasks -> ok, watch, re-mix, roll back or stop. Pure.

The test is the one that decides about a finished checkpoint (`workbench.forgetting`): paired by item, one-sided,
clusters respected. Looking again and again at several tasks would find a loss by chance, so a loss counts only if it is
certain over all tasks together (Holm) and has used a part of the task's budget up, twice in a row; or if the whole
interval lies beyond the budget, at a level shared out over the tasks (Bonferroni).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from workbench import forgetting, paired
from workbench.config import StrictModel
from workbench.records import Direction

Answer = Literal["warn", "remix", "roll_back", "stop"]
Verdict = Literal["ok", "watch", "warn", "remix", "roll_back", "stop"]
_GROWTH, _STEP = 1.5, 0.05
"""A replay share grows by half of itself, and by no less than five points."""


class Control(StrictModel):
    """What is watched while a run goes on, and what is done where it is forgotten."""

    suites: tuple[str, ...] = ()
    """Retained suites. Best of other sources than the replay: a probe that shares its source proves nothing."""
    tasks: tuple[str, ...] = ()
    limit: int = Field(default=100, ge=20)
    """Items of a task at most, always the same ones."""
    every: int | None = Field(default=None, ge=1)
    """Steps between evaluations; default: as few as `share` of the time allows, measured in the run's first steps."""
    share: float = Field(default=0.05, gt=0, le=0.5)
    """Most of the training time that evaluations take where `every` is not given."""
    on_forgetting: Answer = "warn"
    """`warn` says so; `stop` ends the run; `remix` raises the replay that belongs to what slipped; `roll_back` does so
    from the last checkpoint that was good, where the loss is big."""
    replay: tuple[str, ...] | dict[str, tuple[str, ...]] = ()
    """Sources of the mix that may be raised; or a task, suite or role -> the sources that belong to it. Default: the
    sources whose role is `replay`."""
    max_replay: float = Field(default=0.5, gt=0, lt=1)
    """Largest share that replay is raised to, all its sources together."""
    max_changes: int = Field(default=3, ge=1)
    """Re-mixes and roll-backs of a run; the next one stops it."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance that an evaluation at which nothing was lost counts as a hit, over all tasks."""
    hits: int = Field(default=2, ge=1)
    """Evaluations in a row at which a task must have lost before something is done."""
    budget_used: float = Field(default=0.5, ge=0, le=1)
    """Part of its budget (margin) that a task must have lost to count as a hit."""
    self_written: int = Field(default=0, ge=0)
    """Texts that the start writes before the run, and whose loss is watched: a probe that needs no old data."""
    self_written_margin: float = Field(default=0.25, gt=0)
    """Budget of that probe, nats per token."""
    kl_every: int | None = Field(default=None, ge=1)
    """Steps between measurements of the forward KL from the start on tokens of the new task."""
    kl_limit: float | None = Field(default=None, gt=0)
    """Nats per token above which an evaluation is made at once. The KL on the new task predicts forgetting (Shenfeld et
    al. 2025, RL's Razor, arXiv 2509.04259)."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        faults: list[str] = []
        if not self.suites and not self.tasks and not self.self_written:
            faults.append("control: nothing is watched; name suites or tasks, or set self_written: 48")
        if self.kl_limit is not None and self.kl_every is None:
            faults.append("control.kl_limit: nothing measures it; set kl_every")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def replay_sources(self) -> tuple[str, ...]:
        """All sources that may be raised, each once."""
        if isinstance(self.replay, dict):
            return tuple(dict.fromkeys(name for names in self.replay.values() for name in names))
        return self.replay

    def sources_for(self, keys: Sequence[str]) -> tuple[str, ...]:
        """The sources that belong to a task, suite or role; all where they are not told apart or none belongs."""
        if not isinstance(self.replay, dict):
            return self.replay
        found = [name for key in keys for name in self.replay.get(key, ())]
        return tuple(dict.fromkeys(found)) or self.replay_sources


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One retained task at one moment: a value of each item, in an order that never changes."""

    values: npt.NDArray[np.float64]
    margin: float
    binary: bool
    direction: Direction = "higher"
    groups: tuple[str, ...] = ()
    """Cluster of each item; empty where each is its own."""
    keys: tuple[str, ...] = ()
    """What the task is known by in `Control.replay`: its name, suites, role."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What one evaluation says of one task. Losses are negative whatever the metric's direction."""

    task: str
    change: float
    low: float | None
    high: float | None
    margin: float
    p_loss: float
    """Holm's, over the tasks of this evaluation."""
    n: int
    hit: bool
    big: bool
    """The whole interval lies beyond the budget."""


@dataclass(kw_only=True)
class Memory:
    """What is remembered from one evaluation to the next; JSON values."""

    hits: dict[str, int] = field(default_factory=dict)
    changes: int = 0
    pause: int = 0
    """Evaluations that are waited for a change to show before it counts again."""
    last_good: int = 0
    """Step of the last evaluation without a hit."""
    kl_alarmed: bool = False
    looks: int = 0
    """Evaluations so far."""
    verdict: Verdict = "ok"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """An evaluation, and what is to be done."""

    step: int
    verdict: Verdict
    why: str
    tasks: tuple[Watched, ...]
    slipped: tuple[str, ...] = ()
    """Tasks that the verdict is about."""


def watch(
    before: Mapping[str, Measured], now: Mapping[str, Measured], control: Control, *, seed: int
) -> tuple[Watched, ...]:
    """Compare every task with the start."""
    judged = {name: _judge(before[name], now[name], control.alpha / len(before), seed, name) for name in before}
    held = [one.p_loss if one.p_loss is not None else 1.0 for one in judged.values()]
    adjusted = paired.adjust_holm(held)
    found: list[Watched] = []
    for (name, one), p in zip(judged.items(), adjusted, strict=True):
        turn = 1.0 if now[name].direction == "higher" else -1.0
        ends = (one.interval.low, one.interval.high)[:: 1 if turn > 0 else -1]
        change, margin = turn * one.interval.value, now[name].margin
        hit = bool(p <= control.alpha and change <= -control.budget_used * margin)
        low, high = (None if end is None else turn * end for end in ends)
        found.append(
            Watched(
                task=name, change=change, low=low, high=high, margin=margin, p_loss=float(p), n=one.interval.n,
                hit=hit, big=hit and one.verdict == "forgot",
            )
        )  # fmt: skip
    return tuple(found)


def decide(step: int, tasks: Sequence[Watched], memory: Memory, control: Control) -> tuple[Judged, Memory]:
    """What to do after an evaluation, and what to remember of it."""
    hits = {one.task: memory.hits.get(one.task, 0) + 1 if one.hit else 0 for one in tasks}
    kept = replace(memory, hits=hits, pause=max(0, memory.pause - 1), looks=memory.looks + 1, kl_alarmed=False)
    if not any(hits.values()):
        kept.last_good, kept.verdict = step, "ok"
        return Judged(step=step, verdict="ok", why="nothing slipped", tasks=tuple(tasks)), kept
    slipped = tuple(one.task for one in tasks if one.big or hits[one.task] >= control.hits)
    if not slipped or memory.pause:
        first = ", ".join(name for name, count in hits.items() if count)
        why = "a change was made, and is given time" if slipped else f"first hit: {first}"
        kept.verdict = "watch"
        return Judged(step=step, verdict="watch", why=why, tasks=tuple(tasks)), kept
    big = any(one.big for one in tasks if one.task in slipped)
    verdict, why = _answer(control, kept, slipped, big=big)
    kept.verdict = verdict
    if verdict in ("remix", "roll_back"):
        kept.changes, kept.pause, kept.hits = kept.changes + 1, control.hits, {}
    return Judged(step=step, verdict=verdict, why=why, tasks=tuple(tasks), slipped=slipped), kept


def raised_shares(
    shares: Mapping[str, float], sources: Sequence[str], replay: Sequence[str], most: float
) -> dict[str, float] | None:
    """Shares with those of `sources` raised and all that is no replay lowered alike; None where nothing can be raised.

    >>> raised_shares({"new": 0.9, "chat": 0.05, "text": 0.05}, ["text"], ["chat", "text"], 0.5)
    {'new': 0.85, 'chat': 0.05, 'text': 0.1}
    """
    wanted = {name: max(shares[name] * _GROWTH, shares[name] + _STEP / len(sources)) for name in sources}
    others = sum(share for name, share in shares.items() if name in replay and name not in wanted)
    room = most - others
    total = sum(wanted.values())
    if total > room:
        wanted = {name: share * room / total for name, share in wanted.items()}
    if any(wanted[name] < shares[name] + 1e-9 for name in sources):
        return None
    new = sum(share for name, share in shares.items() if name not in replay)
    left = 1 - others - sum(wanted.values())
    return {
        name: round(wanted.get(name, share if name in replay else share * left / new), 6)
        for name, share in shares.items()
    }


def _answer(control: Control, memory: Memory, slipped: Sequence[str], *, big: bool) -> tuple[Verdict, str]:
    names = ", ".join(slipped)
    how = "beyond the budget" if big else f"lost {control.hits} times in a row"
    if control.on_forgetting in ("warn", "stop"):
        return control.on_forgetting, f"{names}: {how}"
    if memory.changes >= control.max_changes:
        return "stop", f"{names}: {how}, after {memory.changes} changes of the mix"
    back = control.on_forgetting == "roll_back" and big
    return ("roll_back" if back else "remix"), f"{names}: {how}"


def _judge(before: Measured, now: Measured, alpha: float, seed: int, name: str) -> forgetting.Judgement:
    return forgetting.judge(
        before.values,
        now.values,
        margin=now.margin,
        binary=now.binary,
        groups=list(now.groups) or None,
        direction=now.direction,
        alpha=alpha,
        rng=np.random.default_rng([seed, *name.encode()]),
    )


def memory_of(state: Mapping[str, Any]) -> Memory:
    """What `vars(memory)` gave."""
    return Memory(**state)
