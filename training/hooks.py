"""What may watch a run from outside and act on it: stop it, save it, feed it otherwise. Knows no model and no disk.

A hook is called in every process of a run, with the same steps, and must come to the same answers in each. What it has
to remember goes through `state` and `restore`: both are kept with every checkpoint, so that a run which was killed goes
on as if it had not been.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.plan import TrainingPlan
from training.recipe import Recipe
from workbench.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewind:
    """A way back in a run."""

    step: int
    """Latest step that may be gone back to."""
    shares: dict[str, float]
    """From there on."""
    event: dict[str, Any]


@dataclass(kw_only=True)
class Running:
    """A run that is on, as a hook sees it."""

    recipe: Recipe
    plan: TrainingPlan
    folder: Path
    tokenizer: Any
    step: int = 0
    """Optimiser steps that are done."""
    model: Any = None
    """As transformers knows it; with adapters if the recipe trains them. Put it back into training mode after use."""
    stopped: str | None = None
    """Why the run was asked to stop."""
    wants_save: bool = False
    kept: set[int] = field(default_factory=set)
    """Steps whose checkpoints stay, however many come later."""
    rewound: "Rewind | None" = None
    """What the run was asked to go back to."""
    steered: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """(step, shares): from that step on, these shares instead of the recipe's."""
    note: Callable[[dict[str, Any]], None] = lambda _: None
    """Write a line to the run's `events.jsonl`, with the step; once, by the first process."""
    _read: int = 0
    """Last step of which rows have been read: the loader is ahead of training."""

    def stop(self, why: str) -> None:
        """End after this step, with a checkpoint; the same command does not take the run up again."""
        self.stopped, self.wants_save = why, True

    def save(self, *, keep: bool = False) -> None:
        """Make a checkpoint after this step; `keep` it, however many come later."""
        self.wants_save = True
        if keep:
            self.kept.add(self.step)

    def rewind(self, step: int, shares: Mapping[str, float], *, event: Mapping[str, Any]) -> None:
        """Go back to the newest checkpoint of this step or an earlier one, or to the start, and mix by these shares.

        `event` is noted at the step that is gone back to; what came after it is forgotten.
        """
        self._check_shares(shares)
        self.rewound = Rewind(step=step, shares=dict(shares), event=dict(event))

    def set_shares(self, shares: Mapping[str, float]) -> int:
        """Mix by these shares, scaled to 1, from the first step on whose rows are not read yet; returns that step.

        Raises ConfigError: a name that is no source of the mix, or no share above 0.
        """
        self._check_shares(shares)
        total = sum(shares.values())
        # two steps on at least: a run that goes on from a checkpoint of this step must begin with the same rows
        first = max(self._read, self.step + 1) + 1
        self.steered.append((first, {name: share / total for name, share in shares.items()}))
        return first

    def _check_shares(self, shares: Mapping[str, float]) -> None:
        known = {source.name for source in self.recipe.mix}
        if not set(shares) <= known or not any(share > 0 for share in shares.values()):
            raise ConfigError(
                f"shares {dict(shares)}: name sources of the mix ({', '.join(sorted(known))}), one above 0"
            )

    def shares_at(self, step: int) -> Mapping[str, float] | None:
        """Shares that were set for a step; None: the recipe's."""
        self._read = max(self._read, step)
        found = [shares for first, shares in self.steered if first <= step]
        return found[-1] if found else None


class Hook:
    """Does nothing; override what you need."""

    name: str = "hook"
    """Key of its state in a checkpoint: one per run."""

    def on_begin(self, run: Running) -> None:
        """Before the first step of this process, after `restore`."""

    def on_step(self, run: Running) -> None:
        """After `run.step`; what it asks for (stop, save, shares) is done before the next."""

    def on_save(self, run: Running, checkpoint: Path) -> None:
        """After a checkpoint is complete on disk. Too late to change what it says: use `on_step` for that."""

    def state(self) -> dict[str, Any]:
        """What to remember: JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""


def state_of(run: Running, hooks: tuple[Hook, ...]) -> dict[str, Any]:
    """What a checkpoint keeps of them."""
    return {
        "steered": copy.deepcopy(run.steered),
        "stopped": run.stopped,
        "kept": sorted(run.kept),
        "hooks": {hook.name: hook.state() for hook in hooks},
    }


def restore(run: Running, hooks: tuple[Hook, ...], kept: Mapping[str, Any]) -> None:
    """Take up what a checkpoint kept."""
    run.steered = [(int(first), dict(shares)) for first, shares in kept.get("steered", [])]
    run.stopped = kept.get("stopped")
    run.kept = set(kept.get("kept", []))
    states = kept.get("hooks", {})
    for hook in hooks:
        if hook.name in states:
            hook.restore(states[hook.name])
