"""Episodes in this process: one answer a prompt, or several turns with an environment. Knows a policy and messages."""

from collections.abc import Callable, Sequence
from typing import Any

from training.rl.collect import Task
from training.rl.conversation import Conversation
from training.rl.environments import Environment
from training.rl.episodes import Episode
from training.rl.options import Reinforce
from training.rl.sampling import Ask, Drawn, Policy, seed_of


class PlainDriver:
    """One answer a prompt."""

    def __init__(self, policy: Policy, options: Reinforce) -> None:
        self.policy, self.options = policy, options

    def drive(self, tasks: Sequence[Task]) -> list[Episode]:
        """As in Driver."""
        talks = [Conversation(template=self.policy.template) for _ in tasks]
        for task, talk in zip(tasks, talks, strict=True):
            talk.tell(task.messages)
        with self.policy.awake():
            asks = [
                Ask(prompt=talk.strand.tokens, max_tokens=self.options.max_tokens, seed=seed_of(task.seed, 0))
                for task, talk in zip(tasks, talks, strict=True)
            ]
            found = self.policy.ask_all(asks)
        return [take(task, talk, drawn) for task, talk, drawn in zip(tasks, talks, found, strict=True)]

    def close(self) -> None:
        """Let go of the policy."""
        self.policy.close()


def take(task: Task, talk: Conversation, drawn: Drawn) -> Episode:
    """The episode that one answer makes."""
    talk.draw(drawn.tokens, drawn.logprobs, drawn.text)
    return Episode(
        row=task.row,
        epoch=task.epoch,
        sample=task.sample,
        sequences=[talk.strand],
        messages=talk.messages,
        truncated=drawn.cut,
        turns=1,
    )


class EnvironmentDriver:
    """Several turns with an environment each; all that wait for an answer get it in the same batch."""

    def __init__(
        self, policy: Policy, options: Reinforce, build: Callable[[], Environment], *, max_turns: int = 16
    ) -> None:
        self.policy, self.options, self.build, self.max_turns = policy, options, build, max_turns

    def drive(self, tasks: Sequence[Task]) -> list[Episode]:
        """As in Driver."""
        acts = [_Act(task, self.build(), Conversation(template=self.policy.template)) for task in tasks]
        for act in acts:
            act.begin()
        with self.policy.awake():
            for turn in range(self.max_turns):
                waiting = [act for act in acts if not act.over and self._has_room(act)]
                if not waiting:
                    break
                asks = [
                    Ask(
                        prompt=act.talk.strand.tokens,
                        max_tokens=self._room(act),
                        seed=seed_of(act.task.seed, turn),
                    )
                    for act in waiting
                ]
                for act, drawn in zip(waiting, self.policy.ask_all(asks), strict=True):
                    act.take(drawn, last=turn == self.max_turns - 1)
        return [act.episode for act in acts]

    def close(self) -> None:
        """Let go of the policy."""
        self.policy.close()

    def _room(self, act: "_Act") -> int:
        most = min(self.options.max_episode_tokens or self.policy.window, self.policy.window)
        return min(self.options.max_tokens, most - len(act.talk.strand.tokens))

    def _has_room(self, act: "_Act") -> bool:
        if self._room(act) >= 1:
            return True
        act.end(cut=True)
        return False


class _Act:
    """An episode that is under way."""

    def __init__(self, task: Task, environment: Environment, talk: Conversation) -> None:
        self.task, self.environment, self.talk = task, environment, talk
        self.over = False
        self.episode = Episode(
            row=task.row, epoch=task.epoch, sample=task.sample, sequences=[talk.strand], messages=talk.messages
        )

    def begin(self) -> None:
        told = self._guarded(lambda: self.environment.reset(self.task.record, list(self.task.messages)))
        if told is not None:
            self.talk.tell(told)

    def take(self, drawn: Drawn, *, last: bool) -> None:
        self.talk.draw(drawn.tokens, drawn.logprobs, drawn.text)
        self.episode.turns += 1
        self.episode.truncated |= drawn.cut
        turn = self._guarded(lambda: self.environment.step(drawn.text))
        if turn is None:
            return
        for name, value in turn.rewards.items():
            self.episode.posted[name] = self.episode.posted.get(name, 0.0) + float(value)
        if turn.done or last:
            self.end(cut=False)
        else:
            self.talk.tell([*self.talk.messages, *turn.messages])

    def end(self, *, cut: bool) -> None:
        self.over = True
        self.episode.truncated |= cut
        final = self._guarded(self.environment.close)
        for name, value in (final or {}).items():
            self.episode.posted[name] = self.episode.posted.get(name, 0.0) + float(value)

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """An environment that fails loses its episode, and no other."""
        try:
            return call()
        except Exception as error:
            self.over = True
            self.episode.dropped = f"environment: {type(error).__name__}: {error}"[:300]
            return None
