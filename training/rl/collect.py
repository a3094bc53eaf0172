"""A generation of episodes: sampled, scored, compared within their groups, recorded, and only then learned from.

What is recorded is learned from again after a kill, so a run that goes on ends with the same bits, pays for nothing
twice and counts nothing twice. Knows prompts, rewards and where episodes come from; knows no loss.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from training.rewards.base import Sample, Scored, Scorer
from training.rl.advantages import advantages, has_signal
from training.rl.episodes import Episode, read_episodes, write_episodes
from training.rl.options import Reinforce
from training.rl.prompts import Order, messages_of
from training.rl.sampling import seed_of
from training.sources import RowDocuments
from workbench.errors import RunError


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One episode that is wanted."""

    id: str
    row: int
    epoch: int
    sample: int
    record: Mapping[str, Any]
    messages: Sequence[dict[str, Any]]
    seed: int
    """Of its sampling; each answer takes its own from it."""


class Driver(Protocol):
    """What lets the policy act: a plain answer, an environment, an orchestrator elsewhere."""

    def drive(self, tasks: Sequence[Task]) -> list[Episode]:
        """An episode for each task, in order; one that was lost says so in `dropped`.

        Raises RunError: nothing can be driven.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


@dataclass(kw_only=True)
class Collector:
    """Episodes of a run, generation by generation."""

    options: Reinforce
    prompts: RowDocuments
    order: Order
    seed: int
    folder: Any
    driver: Callable[[], Driver]
    """Made when the first episode has to be sampled, not where all are recorded."""
    scorer: Scorer
    tell: Callable[[Mapping[str, float]], None] = lambda _: None
    _driver: Driver | None = None
    _last: tuple[int, list[Episode]] | None = None

    def of(self, step: int) -> list[Episode]:
        """The episodes that a step learns from, as recorded.

        Raises RunError: more of them failed than the recipe bears; the step is begun again by the same command.
        """
        generation = self.options.generation_of(step)
        if self._last is None or self._last[0] != generation:
            recorded = read_episodes(self.folder, generation)
            if recorded is None:
                self._collect(generation)
                recorded = read_episodes(self.folder, generation)
                assert recorded is not None
            facts, episodes = recorded
            self._last = generation, episodes
            self.tell(facts["log"])
        return self._last[1]

    def close(self) -> None:
        """Let go of the driver and the rewards."""
        if self._driver is not None:
            self._driver.close()
        self.scorer.close()

    def _collect(self, generation: int) -> None:
        if self._driver is None:
            self._driver = self.driver()
        began = time.perf_counter()
        tasks = self.tasks(generation)
        episodes = self._driver.drive(tasks)
        sampled = time.perf_counter()
        self._score(tasks, episodes)
        scored = time.perf_counter()
        values = np.array([np.nan if one.reward is None else one.reward for one in episodes])
        found = advantages(values, group_size=self.options.group_size, normalise=self.options.normalise)
        for episode, advantage in zip(episodes, found.tolist(), strict=True):
            episode.advantage = advantage
        self._bear(generation, episodes)
        log = summary(episodes, self.options) | {"sampling_s": sampled - began, "scoring_s": scored - sampled}
        write_episodes(self.folder, generation, episodes, {"log": log})

    def tasks(self, generation: int) -> list[Task]:
        """What is asked of the policy: each prompt as often as its group is large."""
        found: list[Task] = []
        for place, (row, epoch) in enumerate(self.order.of(generation)):
            record = self.prompts.record(row)
            found += [
                Task(
                    id=f"{generation}-{place}-{sample}",
                    row=row,
                    epoch=epoch,
                    sample=sample,
                    record=record,
                    messages=messages_of(record, self.options),
                    seed=seed_of(self.seed, generation, place, sample),
                )
                for sample in range(self.options.group_size)
            ]
        return found

    def _score(self, tasks: Sequence[Task], episodes: Sequence[Episode]) -> None:
        whole = [at for at, one in enumerate(episodes) if not one.dropped]
        found = self.scorer.score([sample_of(tasks[at], episodes[at]) for at in whole])
        for at, scored in zip(whole, found, strict=True):
            take_score(episodes[at], scored)

    def _bear(self, generation: int, episodes: Sequence[Episode]) -> None:
        """Raises RunError: a failure where none is borne, or too many."""
        lost = [one for one in episodes if one.dropped]
        if not lost:
            return
        share = len(lost) / len(episodes)
        first = lost[0].dropped
        if self.options.on_failure == "stop" or share > self.options.max_dropped:
            bound = (
                "on_failure: stop" if self.options.on_failure == "stop" else f"max_dropped {self.options.max_dropped:g}"
            )
            raise RunError(
                f"generation {generation}: {len(lost)} of {len(episodes)} episodes have no reward ({bound}): {first}; "
                "mend the cause, then the same command goes on from the last checkpoint"
            )


def sample_of(task: Task, episode: Episode) -> Sample:
    """An episode as rewards see it."""
    asked = [one for one in task.messages if one.get("role") == "user"]
    return Sample(
        id=task.id,
        prompt=str(asked[-1]["content"]) if asked else "",
        answer=episode.answer,
        row=task.record,
        messages=tuple(episode.messages),
        tokens=episode.drawn,
        truncated=episode.truncated,
    )


def take_score(episode: Episode, scored: Scored) -> None:
    """What the recipe's rewards say, added to what the episode was given on its way."""
    episode.parts = {**episode.posted, **scored.parts}
    if scored.total is None:
        episode.dropped = scored.why
    elif not episode.parts:
        episode.dropped = "nobody gave it a reward"
    else:
        episode.reward = scored.total + sum(episode.posted.values())


def summary(episodes: Sequence[Episode], options: Reinforce) -> dict[str, float]:
    """What the log says of a generation; means over the episodes that are learned from."""
    kept = [one for one in episodes if not one.dropped]
    found: dict[str, float] = {"dropped": 1 - len(kept) / len(episodes)}
    if not kept:
        return found
    rewards = np.array([np.nan if one.reward is None else one.reward for one in episodes])
    tokens = np.array([one.drawn for one in kept], float)
    logps = [p for one in kept for strand in one.sequences for p in strand.logprobs if p is not None]
    found |= {
        "reward": float(np.nanmean(rewards)),
        "reward_spread": float(np.nanstd(rewards)),
        "length": float(tokens.mean()),
        "longest": float(tokens.max()),
        "truncated": float(np.mean([one.truncated for one in kept])),
        # the mean of −log p over what was drawn is an unbiased estimate of the entropy
        "entropy": float(-np.mean(logps)) if logps else 0.0,
        "no_signal": float(1 - has_signal(rewards, group_size=options.group_size).mean()),
        "turns": float(np.mean([one.turns for one in kept])),
    }
    names = dict.fromkeys(name for one in kept for name in one.parts)
    for name in names:
        values = [one.parts[name] for one in kept if one.parts.get(name) is not None]
        found[f"reward/{name}"] = float(np.mean(values))  # type: ignore[arg-type]
    return found
