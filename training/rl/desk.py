"""Who has which episode: given out, spoken with, rewarded, finished, lost. Knows conversations and times; no HTTP.

An attempt has a key of its own; what comes under the key of a lost one is refused, so nothing counts twice. All calls
may come from any thread.
"""

import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.rl.collect import Task
from training.rl.conversation import Conversation, Message, Template
from training.rl.episodes import Episode
from training.rl.options import Orchestrated

LOST = "lost: not finished within {:g} s, {} times"


class Refused(Exception):
    """A call that is not served; `status` is HTTP's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(eq=False, kw_only=True)
class Attempt:
    """An episode in somebody's hands."""

    place: int
    task: Task
    key: str
    number: int
    """From 0; above 0 an earlier one was lost."""
    deadline: float
    talks: list[Conversation] = field(default_factory=list)
    busy: set[int] = field(default_factory=set)
    """Conversations (by id) that wait for an answer."""
    turns: int = 0
    truncated: bool = False
    posted: dict[str, float] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    """Of rewards that were taken in."""
    calls: dict[str, Any] = field(default_factory=dict)
    """Idempotency key -> what was answered, or is being answered."""


@dataclass(kw_only=True)
class Counts:
    """What became of episodes; for the log."""

    claimed: int = 0
    finished: int = 0
    lost: int = 0
    branches: int = 0
    """Calls that went on from nothing said before: nested calls, rewritten histories."""


class Desk:
    """The episodes of one generation at a time."""

    def __init__(
        self, options: Orchestrated, template: Template, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.options, self.template, self.clock = options, template, clock
        self.counts = Counts()
        self.over = False
        """No episode will come any more."""
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Task, int]] = deque()
        self._open: dict[str, Attempt] = {}
        self._closed: dict[str, str] = {}
        self._done: dict[int, Episode] = {}
        self._touched = clock()

    def open(self, tasks: Sequence[Task]) -> None:
        """A generation begins."""
        with self._changed:
            self._waiting = deque((place, task, 0) for place, task in enumerate(tasks))
            self._open, self._done, self._closed = {}, {}, {}
            self._touched = self.clock()
            self._changed.notify_all()

    def wait(self, count: int) -> list[Episode] | None:
        """All episodes, in order; None where nobody has touched one for `patience_s`."""
        with self._changed:
            while len(self._done) < count:
                self._expire()
                if len(self._done) >= count:
                    break
                now = self.clock()
                if not self._open and now - self._touched > self.options.patience_s:
                    self._waiting.clear()
                    return None
                soon = min(
                    [one.deadline for one in self._open.values()], default=self._touched + self.options.patience_s
                )
                self._changed.wait(min(max(soon - now, 0.01), 1.0))
            return [self._done[place] for place in range(count)]

    def finish_all(self) -> None:
        """The run is over: whoever waits for an episode is told."""
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def claim(self, most: int) -> list[Attempt]:
        """Up to so many episodes; none where there are none now, or too many are out."""
        with self._changed:
            self._expire()
            found = [self._give() for _ in range(min(most, self._room()))]
            if found:
                self._touched = self.clock()
            return found

    def attempt(self, key: str) -> Attempt:
        """Raises Refused: nobody's key, or that of an episode which is over."""
        with self._changed:
            self._expire()
            if key in self._open:
                return self._open[key]
            if key in self._closed:
                raise Refused(410, "episode_over", f"this episode is {self._closed[key]}; claim another one")
            raise Refused(401, "unknown_key", "no episode has this key")

    def begin_call(
        self, attempt: Attempt, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[Conversation, list[int], int]:
        """(conversation, tokens of the prompt, number of the turn); `end_call` must follow."""
        with self._changed:
            if attempt.turns >= self.options.max_turns:
                raise Refused(400, "too_many_turns", f"an episode has at most {self.options.max_turns} answers")
            fitting = [talk for talk in attempt.talks if id(talk) not in attempt.busy and talk.continues(messages)]
            talk = max(fitting, key=lambda one: len(one.messages), default=None)
            if talk is None:
                talk = Conversation(template=self.template)
                self.counts.branches += bool(attempt.talks)
            prompt = [*talk.strand.tokens, *talk.upcoming(messages, tools)]
            attempt.busy.add(id(talk))
            attempt.turns += 1
            return talk, prompt, attempt.turns - 1

    def end_call(
        self,
        attempt: Attempt,
        talk: Conversation,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        drawn: "tuple[Sequence[int], Sequence[float], Message, bool] | None",
    ) -> None:
        """Take in (tokens, log-probabilities, message, cut off) of an answer; None: there is none."""
        with self._changed:
            attempt.busy.discard(id(talk))
            if drawn is None:
                attempt.turns -= 1
                return
            tokens, logprobs, message, cut = drawn
            talk.tell(messages, tools)
            talk.draw(tokens, logprobs, message)
            attempt.truncated |= cut
            if talk not in attempt.talks:
                attempt.talks.append(talk)
            self._touched = self.clock()

    def reward(self, key: str, name: str, value: Any, identity: str) -> None:
        """Add to a reward of an episode; the same identity is taken in once. Raises Refused: it is no number."""
        attempt = self.attempt(key)
        number = _number(value, name)
        with self._changed:
            if identity in attempt.ids:
                return
            attempt.ids.add(identity)
            attempt.posted[name] = attempt.posted.get(name, 0.0) + number
            self._touched = self.clock()

    def finish(self, key: str, rewards: Mapping[str, Any], metrics: Mapping[str, Any], why: str) -> None:
        """The episode is over; said twice it counts once. `why`: not empty, it failed and is begun again.

        Raises Refused: a reward that is no number, or an answer that is still being written.
        """
        with self._changed:
            if self._closed.get(key) in ("finished", "failed"):
                return
        attempt = self.attempt(key)
        found = {name: _number(value, name) for name, value in rewards.items()}
        told = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        with self._changed:
            if why:
                self._retry(attempt, f"the orchestrator says: {why}"[:300], "failed")
                return
            if attempt.busy:
                raise Refused(409, "busy", "an answer of this episode is still being written; wait for it")
            for name, value in found.items():
                attempt.posted[name] = attempt.posted.get(name, 0.0) + value
            self._close(attempt, "finished")
            self._done[attempt.place] = _episode(attempt, told)
            self.counts.finished += 1
            self._touched = self.clock()
            self._changed.notify_all()

    def _room(self) -> int:
        return min(len(self._waiting), self.options.max_open - len(self._open))

    def _give(self) -> Attempt:
        place, task, number = self._waiting.popleft()
        attempt = Attempt(
            place=place,
            task=task,
            key=f"ep-{secrets.token_urlsafe(24)}",
            number=number,
            deadline=self.clock() + self.options.deadline_s,
        )
        self._open[attempt.key] = attempt
        self.counts.claimed += 1
        return attempt

    def _expire(self) -> None:
        now = self.clock()
        for attempt in [one for one in self._open.values() if one.deadline <= now]:
            self._retry(attempt, LOST.format(self.options.deadline_s, attempt.number + 1), "lost")

    def _retry(self, attempt: Attempt, why: str, state: str) -> None:
        """Give it out again, or let it go."""
        self._close(attempt, state)
        self.counts.lost += 1
        self._touched = self.clock()
        if attempt.number + 1 < self.options.attempts:
            self._waiting.append((attempt.place, attempt.task, attempt.number + 1))
        else:
            task = attempt.task
            self._done[attempt.place] = Episode(row=task.row, epoch=task.epoch, sample=task.sample, dropped=why)
        self._changed.notify_all()

    def _close(self, attempt: Attempt, state: str) -> None:
        self._open.pop(attempt.key, None)
        self._closed[attempt.key] = state


def _episode(attempt: Attempt, metrics: dict[str, float]) -> Episode:
    """What is learned from; the longest conversation is the one that people and rewards see."""
    task = attempt.task
    main = max(attempt.talks, key=lambda one: len(one.messages), default=None)
    return Episode(
        row=task.row,
        epoch=task.epoch,
        sample=task.sample,
        sequences=[talk.strand for talk in attempt.talks],
        messages=list(main.messages) if main is not None else [],
        truncated=attempt.truncated,
        turns=attempt.turns,
        posted=dict(attempt.posted),
        metrics=metrics,
        dropped="" if attempt.talks else "finished without a word from the policy",
    )


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(422, "no_number", f"reward {name!r}: {value!r} is no finite number")
    return float(value)
