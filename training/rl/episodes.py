"""An episode as it was sampled: tokens, which of them are the policy's, their log-probabilities; what it scored.

Nothing is ever tokenised again: what the policy read and wrote stands here by its ids, and training reads these.
An episode is one or more sequences: a call that goes on where an earlier one ended lengthens it, any other begins one
of its own. Knows records and files; knows no model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.checkpoints import write_whole
from workbench.errors import RunError

FOLDER = "rollouts"
SCHEMA = 1


@dataclass(kw_only=True, slots=True)
class Strand:
    """Tokens that one forward pass sees."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    """Of each token that the policy drew, in nats, at its temperature; None: it was told that token."""

    def tell(self, tokens: Sequence[int]) -> None:
        """The policy is told these."""
        self.tokens.extend(tokens)
        self.logprobs.extend([None] * len(tokens))

    def draw(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """The policy drew these."""
        self.tokens.extend(tokens)
        self.logprobs.extend(logprobs)

    @property
    def drawn(self) -> int:
        """Tokens of the policy."""
        return sum(one is not None for one in self.logprobs)


@dataclass(kw_only=True, slots=True)
class Episode:
    """One attempt at one prompt."""

    row: int
    """Place in the prompts, from 0."""
    epoch: int
    sample: int
    """Which of its group, from 0."""
    sequences: list[Strand] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The conversation, for rewards and for people."""
    truncated: bool = False
    """An answer was cut off at its longest."""
    turns: int = 0
    posted: dict[str, float] = field(default_factory=dict)
    """Rewards that an environment or orchestrator gave, by name."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What it told besides."""
    parts: dict[str, float | None] = field(default_factory=dict)
    """Every reward on its own; None: it failed."""
    reward: float | None = None
    """Their weighted sum."""
    advantage: float = 0.0
    dropped: str = ""
    """Why it is not learned from; empty: it is."""

    @property
    def answer(self) -> str:
        """The policy's last words."""
        said = [one for one in self.messages if one.get("role") == "assistant"]
        return str(said[-1].get("content") or "") if said else ""

    @property
    def drawn(self) -> int:
        """Tokens of the policy."""
        return sum(one.drawn for one in self.sequences)


def path_of(folder: Path, generation: int) -> Path:
    """Where a generation's episodes are kept."""
    return folder / FOLDER / f"generation-{generation:06d}.jsonl"


def write_episodes(folder: Path, generation: int, episodes: Sequence[Episode], facts: Mapping[str, Any]) -> None:
    """Whole or not at all: what is there is learned from again, bit by bit, after a kill."""
    path = path_of(folder, generation)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"schema_version": SCHEMA, "generation": generation, "episodes": len(episodes), **facts}
    lines = [json.dumps(head), *(json.dumps(asdict(one), ensure_ascii=False) for one in episodes)]
    write_whole(path, "\n".join(lines) + "\n")


def read_episodes(folder: Path, generation: int) -> tuple[dict[str, Any], list[Episode]] | None:
    """What was recorded; None: nothing was. Raises RunError: the file is damaged."""
    path = path_of(folder, generation)
    if not path.is_file():
        return None
    try:
        # not splitlines(): a policy may write a line separator of Unicode, which ends no line of the file
        head, *lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        facts = json.loads(head)
        episodes = [_episode(json.loads(line)) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path}: damaged ({error}); remove it, and its episodes are sampled anew") from None
    if facts.get("schema_version") != SCHEMA or facts.get("episodes") != len(episodes):
        raise RunError(f"{path}: not whole, or of another version; remove it, and its episodes are sampled anew")
    return facts, episodes


def _episode(record: dict[str, Any]) -> Episode:
    sequences = [Strand(**one) for one in record.pop("sequences")]
    return Episode(sequences=sequences, **record)
