"""Hooks stop, save and steer a run, and a run that was killed goes on as they had decided."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_run import home, make_recipe, open_all, same_weights  # noqa: F401
from training.hooks import Hook, Running
from training.ledger import seen_rows
from training.run import Trained, train
from workbench.errors import ConfigError


class Scripted(Hook):
    """Does what it is told at a step, and remembers how often it was asked."""

    name = "scripted"

    def __init__(self, *, shares_at: int = 0, stop_at: int = 0, save_at: int = 0) -> None:
        self.shares_at, self.stop_at, self.save_at = shares_at, stop_at, save_at
        self.asked, self.saved = 0, []

    def on_step(self, run: Running) -> None:
        self.asked += 1
        if run.step == self.shares_at:
            first = run.set_shares({"chat": 1})
            run.note({"event": "shares", "from": first})
        if run.step == self.save_at:
            run.save()
        if run.step == self.stop_at:
            run.stop("enough")

    def on_save(self, run: Running, checkpoint: Path) -> None:
        assert (checkpoint / "model.safetensors").is_file() and (checkpoint / "mixer.json").is_file()
        self.saved.append(run.step)

    def state(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.asked = state["asked"]


def run_with(hook: Hook, home: Path, folder: Path) -> Trained:  # noqa: F811
    recipe = make_recipe(tokens=4000)
    tokenizer, opened, plan = open_all(recipe, home)
    return train(recipe, opened, plan, start=home / "tiny", tokenizer=tokenizer, folder=folder, hooks=[hook])


def sources_by_step(folder: Path) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for seen in seen_rows(folder):
        found.setdefault(seen.step, set()).add(seen.source)
    return found


def test_shares_that_a_hook_sets_hold_from_the_next_unread_step_and_survive_a_kill(home: Path) -> None:  # noqa: F811
    hook = Scripted(shares_at=3, save_at=3)
    made = run_with(hook, home, home / "steered")
    sources = sources_by_step(made.folder)
    assert "domain" in sources[3] | sources[4]
    assert all(names == {"chat"} for step, names in sources.items() if step >= 5)
    assert hook.saved[0] == 3
    assert json.loads((made.folder / "events.jsonl").read_text()) == {"step": 3, "event": "shares", "from": 5}

    cut = home / "steered-cut"
    shutil.copytree(made.folder, cut)
    for checkpoint in cut.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-3":
            shutil.rmtree(checkpoint)
    again_hook = Scripted()  # it decided at step 3, before the kill
    again = run_with(again_hook, home, cut)
    assert same_weights(made.last, again.last)
    assert seen_rows(cut) == seen_rows(made.folder)
    assert again_hook.asked == hook.asked == made.steps


def test_a_run_that_a_hook_stopped_has_a_checkpoint_there_and_is_over(home: Path) -> None:  # noqa: F811
    made = run_with(Scripted(stop_at=4), home, home / "stopped")
    assert (made.steps, made.stopped, made.last.name, made.entry) == (4, "enough", "checkpoint-4", None)
    again = run_with(Scripted(), home, home / "stopped")
    assert again == made


def test_shares_of_a_source_that_is_not_there_are_refused(home: Path) -> None:  # noqa: F811
    recipe = make_recipe()
    _, _, plan = open_all(recipe, home)
    run = Running(recipe=recipe, plan=plan, folder=home, tokenizer=None)
    for shares in ({"replay": 1.0}, {"chat": 0.0}):
        with pytest.raises(ConfigError, match="name sources of the mix"):
            run.set_shares(shares)
