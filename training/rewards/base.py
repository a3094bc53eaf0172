"""The contract of a reward, the registry of kinds, and several rewards added up. Knows no model and no network.

A reward scores a batch of samples. It gives a number in its range for each, or says why it could not: a failure is
never a 0, which would teach the policy that whatever it wrote was bad.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import ValidationError

from training.rl.options import RewardPart
from workbench.config import StrictModel, validate
from workbench.errors import ConfigError
from workbench.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """An episode as a reward sees it."""

    id: str
    """Its own in a batch."""
    prompt: str
    """The last that a user said before the first answer."""
    answer: str
    """The policy's last words."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """All columns of the prompt's row."""
    messages: Sequence[Mapping[str, Any]] = ()
    """The whole conversation."""
    tokens: int = 0
    """Of the policy."""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A sample that could not be scored."""

    why: str


Score = float | Failed


class Reward(Protocol):
    """Scores samples."""

    low: float
    high: float
    """The range that scores lie in; one outside is a failure."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score a sample, in order."""
        ...

    def close(self) -> None:
        """Let go of processes and connections."""
        ...


@dataclass(frozen=True, kw_only=True)
class Services:
    """What rewards are handed by those who may know more: paths, judges, policies."""

    folder: Path = Path()
    """Relative paths of options are below it."""
    ask: Callable[[str, Sequence[Sequence[Mapping[str, str]]]], list[str]] | None = None
    """(model, conversations) -> answers: for model judges."""
    policy: Callable[[str, Mapping[str, Any], Sequence[Sample]], list[Score]] | None = None
    """(policy, options, samples) -> scores."""
    check_policy: Callable[[str], Any] | None = None
    """Raises ConfigError: no such policy."""


class RewardKind(Protocol):
    """What is registered: a class that is built of its options."""

    Options: ClassVar[type[StrictModel]]

    def __call__(self, options: Any, services: Services) -> Reward:
        """Build it. Raises UserError: the options cannot work here."""
        ...


rewards: Registry[Any] = Registry("reward", group="workbench.rewards")

KINDS = {
    "regex": "training.rewards.text:Regex",
    "format": "training.rewards.text:Format",
    "length": "training.rewards.text:Length",
    "math": "training.rewards.answers:Math",
    "multiple_choice": "training.rewards.answers:MultipleChoice",
    "json_schema": "training.rewards.answers:JsonSchema",
    "python": "training.rewards.code:PythonFunction",
    "code_tests": "training.rewards.code:CodeTests",
    "http": "training.rewards.http:HttpEndpoint",
    "judge": "training.rewards.judge:ModelJudge",
    "policy": "training.rewards.judge:PolicyReward",
}
for _name, _target in KINDS.items():
    rewards.register_lazy(_name, _target)


class Base:
    """What most kinds share: a range of 0 to 1, and nothing to close."""

    low: float = 0.0
    high: float = 1.0

    def close(self) -> None:
        """Nothing to let go of."""


def build_reward(part: RewardPart, services: Services, *, where: str = "rewards") -> Reward:
    """A reward of a recipe.

    Raises UserError: an unknown kind, or options that it does not take.
    """
    kind = rewards.get(part.kind)
    options = validate(dict(part.options), kind.Options, where=f"{where}.{part.label}.options")
    return kind(options, services)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a sample came to."""

    parts: Mapping[str, float | None]
    """Every reward on its own; None: it failed."""
    total: float | None
    """Their weighted sum; None where one failed."""
    why: str = ""
    """What failed."""


@dataclass(kw_only=True)
class Scorer:
    """The rewards of a recipe, by name, with their weights."""

    parts: Mapping[str, tuple[Reward, float]]

    @classmethod
    def build(cls, parts: Sequence[RewardPart], services: Services) -> "Scorer":
        """Of a recipe. Raises ConfigError: one line for each that cannot be built."""
        built: dict[str, tuple[Reward, float]] = {}
        faults: list[str] = []
        for part in parts:
            try:
                built[part.label] = (build_reward(part, services, where="rl.rewards"), part.weight)
            except (ConfigError, ValidationError) as error:
                faults.append(str(error))
        if faults:
            for reward, _ in built.values():
                reward.close()
            raise ConfigError("\n".join(faults))
        return cls(parts=built)

    def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """Every sample by every reward."""
        columns = {name: checked(reward, samples) for name, (reward, _) in self.parts.items()}
        return [self._scored({name: column[at] for name, column in columns.items()}) for at in range(len(samples))]

    def _scored(self, found: Mapping[str, Score]) -> Scored:
        parts = {name: None if isinstance(one, Failed) else one for name, one in found.items()}
        why = "; ".join(f"{name}: {one.why}" for name, one in found.items() if isinstance(one, Failed))
        if why:
            return Scored(parts=parts, total=None, why=why)
        total = sum(self.parts[name][1] * value for name, value in parts.items() if value is not None)
        return Scored(parts=parts, total=float(total))

    def close(self) -> None:
        """Close them all."""
        for reward, _ in self.parts.values():
            reward.close()


def checked(reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    """What a reward gives, where every number is one, and in its range; whatever else it does is a failure."""
    if not samples:
        return []
    try:
        found = list(reward.score(samples))
    except Exception as error:
        return [Failed(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300])] * len(
            samples
        )
    if len(found) != len(samples):
        return [Failed(f"gave {len(found)} scores for {len(samples)} samples")] * len(samples)
    return [_checked(one, reward.low, reward.high) for one in found]


def _checked(found: Any, low: float, high: float) -> Score:
    if isinstance(found, Failed):
        return found
    if isinstance(found, Real):
        value = float(found)
        if not math.isfinite(value):
            return Failed(f"gave {value}, which is no number")
        if low <= value <= high:
            return value
        return Failed(f"gave {value:g}, outside {low:g} to {high:g}")
    return Failed(f"gave {type(found).__name__}, expected a number")
