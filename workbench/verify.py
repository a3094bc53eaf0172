"""Whether a recipe's run that is killed comes to the same state as one that is not: tried out, not argued.

Two processes carry out the first 2k steps of the recipe. One runs through; the other is killed (SIGKILL) a step after
its checkpoint at step k, and the same command goes on. Then weights, optimiser, rate, random state, rows and counters
of both are compared to the last bit. The recipe's own run is not touched.

As a module this is what those processes run: `python -m workbench.verify RECIPE PROJECT FOLDER STEPS KILL OVERRIDE...`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError, RunError

if TYPE_CHECKING:
    from workbench.store import Project


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One part of a run's state, in the run that was killed against the one that was not."""

    part: str
    same: bool
    detail: str
    """What was compared, or the first difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumption:
    """What came of killing a run."""

    recipe: str
    steps: int
    """Steps of both runs."""
    saved: int
    """The checkpoint that was gone on from."""
    killed: int
    """The step after which the process was killed."""
    parts: tuple[Compared, ...]

    @property
    def same(self) -> bool:
        """Whether every part is."""
        return all(part.same for part in self.parts)


def verify_resume(
    path: Path,
    project: "Project",
    overrides: Sequence[str] = (),
    *,
    steps: int = 3,
    together: bool = False,
    on_part: Callable[[str], None] = lambda _: None,
) -> Resumption:
    """Carry out 2 × `steps` steps twice, once with a kill after `steps` + 1; `together`: at the same time.

    Raises:
        ConfigError: the recipe has fewer steps than that.
        RunError: a process of it failed; what it said is in the message.
    """
    from workbench.runs import RUNS, prepare_run

    prepared = prepare_run(path, project, overrides)
    if steps < 2 or 2 * steps > prepared.plan.steps:
        raise ConfigError(
            f"{path}: {2 * steps} steps are asked for, and the run has {prepared.plan.steps}; set --steps between 2 "
            f"and {prepared.plan.steps // 2}, or raise tokens"
        )
    home = project.root / RUNS / f".verify-{prepared.recipe.recipe}"
    shutil.rmtree(home, ignore_errors=True)
    common = [str(path), str(project.root)]
    try:
        with ThreadPoolExecutor(max_workers=2) as pool:
            on_part(f"{2 * steps} steps without a break")
            whole = pool.submit(_process, [*common, str(home / "whole"), str(2 * steps), "0", *overrides])
            if not together:
                whole.result()
            on_part(f"{steps + 1} steps, then SIGKILL")
            _process([*common, str(home / "killed"), str(2 * steps), str(steps + 1), *overrides], dies=True)
            on_part(f"on from step {steps}")
            _process([*common, str(home / "killed"), str(2 * steps), "0", *overrides])
            whole.result()
        parts = compare_runs(home / "whole", home / "killed", 2 * steps)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return Resumption(recipe=prepared.recipe.recipe, steps=2 * steps, saved=steps, killed=steps + 1, parts=tuple(parts))


def compare_runs(whole: Path, killed: Path, step: int) -> list[Compared]:
    """Compare two runs after a step, part by part."""
    one, other = (folder / f"checkpoint-{step}" for folder in (whole, killed))
    return [
        _compare_tensors("weights", one, other),
        _compare_pickled("optimizer", one / "optimizer.pt", other / "optimizer.pt"),
        _compare_pickled("schedule", one / "scheduler.pt", other / "scheduler.pt"),
        *(_compare_pickled("random state", path, other / path.name) for path in sorted(one.glob("rng_state*.pth"))),
        _compare_rows(whole, killed, step),
        _compare_counters(one, other),
    ]


def _process(arguments: list[str], *, dies: bool = False) -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(  # noqa: S603  # ourselves, with arguments that no shell reads
        [sys.executable, "-m", "workbench.verify", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    expected = -signal.SIGKILL if dies else 0
    if done.returncode != expected:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RunError(f"a process of the run ended with {done.returncode}, expected {expected}; it said: {said}")


def _compare_tensors(part: str, one: Path, other: Path) -> Compared:
    import torch
    from safetensors.torch import load_file

    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    count = 0
    for file in files:
        a, b = load_file(one / file), load_file(other / file)
        for name, tensor in a.items():
            count += tensor.numel()
            if name not in b or not torch.equal(tensor, b[name]):
                by = float((tensor - b[name]).abs().max()) if name in b else float("inf")
                return Compared(part=part, same=False, detail=f"{file}: {name} differs by up to {by:.2g}")
    return Compared(part=part, same=bool(files), detail=f"{count:,} numbers in {len(files)} files")


def _compare_pickled(part: str, one: Path, other: Path) -> Compared:
    if not one.is_file() or not other.is_file():
        return Compared(part=part, same=False, detail=f"{one.name} is not there")
    a, b = _load(one), _load(other)
    where = _difference(a, b, one.stem)
    return Compared(part=part, same=not where, detail=f"{where} differs" if where else f"{one.name}, whole")


def _load(path: Path) -> Any:
    import torch
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():
        return torch.load(path, map_location="cpu", weights_only=True)


def _difference(one: Any, other: Any, where: str) -> str:
    """The first place in two nested values that is not the same; empty: there is none."""
    import numpy as np
    import torch

    if type(one) is not type(other):
        return where
    if isinstance(one, torch.Tensor):
        return "" if torch.equal(one, other) else where
    if isinstance(one, np.ndarray):
        return "" if np.array_equal(one, other) else where
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return where
        return next((found for key in one if (found := _difference(one[key], other[key], f"{where}.{key}"))), "")
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return where
        pairs = enumerate(zip(one, other, strict=True))
        return next((found for i, (a, b) in pairs if (found := _difference(a, b, f"{where}[{i}]"))), "")
    return "" if one == other else where


def _compare_rows(whole: Path, killed: Path, step: int) -> Compared:
    from training.ledger import seen_rows

    one, other = ([row for row in seen_rows(folder) if row.step <= step] for folder in (whole, killed))
    for a, b in zip(one, other, strict=False):
        if a != b:
            return Compared(part="rows", same=False, detail=f"step {a.step}: {a.source} row {a.row} and {b.row}")
    return Compared(part="rows", same=len(one) == len(other) > 0, detail=f"{len(one):,} stretches by hash and place")


def _compare_counters(one: Path, other: Path) -> Compared:
    import json

    from training.checkpoints import read_mark

    states = [json.loads((folder / "trainer_state.json").read_text())["global_step"] for folder in (one, other)]
    where = _difference(read_mark(one), read_mark(other), "mixer") or _difference(states[0], states[1], "global_step")
    given = sum(cursor["given"] for cursor in read_mark(one)["cursors"].values())
    detail = f"{where} differs" if where else f"step {states[0]}, {given:,} tokens given"
    return Compared(part="counters", same=not where, detail=detail)


def _carry_out(arguments: Sequence[str]) -> None:
    """What a process of the trial does."""
    from training.hooks import Hook, Running
    from training.run import train
    from workbench.runs import prepare_run
    from workbench.store import Project

    recipe, root, folder, steps, kill, *overrides = arguments
    last, killed = int(steps), int(kill)

    class Trial(Hook):
        name = "trial"

        def on_step(self, run: Running) -> None:
            if run.step == last // 2:
                run.save()
            if run.step == last and run.step < run.plan.steps:
                run.stop("as far as the trial goes")
            if run.step == killed:
                os.kill(os.getpid(), signal.SIGKILL)

    prepared = prepare_run(Path(recipe), Project.find(root), overrides)
    train(
        prepared.recipe,
        prepared.sources,
        prepared.plan,
        start=prepared.start_folder,
        tokenizer=prepared.tokenizer,
        folder=Path(folder),
        hooks=[*prepared.hooks, Trial()],
    )


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        _carry_out(sys.argv[1:])
