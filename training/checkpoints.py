"""The folder of a run: which checkpoints in it are whole, which lines a killed process did not finish. Knows files.

A checkpoint counts once its `mixer.json`, which is written last, is there.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError

if TYPE_CHECKING:
    from training.hooks import Rewind

MARK = "mixer.json"
"""Written last into a checkpoint: the state of the mix after its step, and of what steers it."""
RESTART = "restart.json"
"""The same for a run that went back to its start, where there is no checkpoint to keep it."""
LOG, EVENTS = "log.jsonl", "events.jsonl"
"""A line a logged step; what hooks did."""


def claim(folder: Path, recipe_json: str) -> None:
    """The folder belongs to this recipe, as it was when the run began. Raises ConfigError: to another."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "recipe.json", recipe_json + "\n"
    if path.is_file() and path.read_text() != text:
        raise ConfigError(f"{folder}: holds a run of another recipe; change the recipe's name, or restore the recipe")
    write_whole(path, text)


def step_of(checkpoint: Path) -> int:
    """Steps that a `checkpoint-N` folder was made after."""
    return int(checkpoint.name.rpartition("-")[2])


def complete_checkpoints(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    return sorted(step_of(path) for path in folder.glob("checkpoint-*") if (path / MARK).is_file())


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    complete = complete_checkpoints(folder)
    return folder / f"checkpoint-{complete[-1]}" if complete else None


def read_mark(checkpoint: Path) -> dict[str, Any]:
    """State of the mix, and of what steers it."""
    return json.loads((checkpoint / MARK).read_text())


def read_restart(folder: Path) -> dict[str, Any] | None:
    """What steers a run that went back to its start."""
    path = folder / RESTART
    return json.loads(path.read_text()) if path.is_file() else None


def go_back(folder: Path, at: int, way: "Rewind", state: Mapping[str, Any]) -> None:
    """Let the newest checkpoint that is no later than `way.step` be the last, steered as `way` and `state` say.

    Whoever is killed within finds a later checkpoint, comes to the same decision again, and ends with the same files.
    """
    complete = complete_checkpoints(folder)
    back = max((step for step in complete if step <= way.step), default=0)
    target = folder / f"checkpoint-{back}" / MARK if back else folder / RESTART
    kept = json.loads(target.read_text()) if back else {}
    earlier = [entry for entry in kept.get("steered", []) if entry[0] <= back]
    mark = kept | {"steered": [*earlier, (back + 1, way.shares)], "stopped": None, "hooks": state["hooks"]}
    write_whole(target, json.dumps(mark))
    forget_lines_after(folder, back)
    append_line(folder / EVENTS, {**way.event, "step": back, "event": "rolled back", "at": at, "shares": way.shares})
    for step in sorted(complete, reverse=True):
        if step > back:
            path = folder / f"checkpoint-{step}"
            (path / MARK).unlink()
            shutil.rmtree(path)


def rates_at(checkpoint: Path) -> tuple[float, float] | None:
    """(learning rate at a checkpoint of a run, the highest up to there); None: no run's, or nothing was logged."""
    path = checkpoint.parent / LOG
    if not path.is_file() or not (checkpoint / MARK).is_file():
        return None
    lines = [json.loads(line) for line in path.read_text().splitlines() if _is_before(line, step_of(checkpoint))]
    rates = [float(line["learning_rate"]) for line in lines]
    return (rates[-1], max(rates)) if rates else None


def remove_incomplete(folder: Path) -> None:
    """Remove what a killed process left of a checkpoint."""
    for path in folder.glob("checkpoint-*"):
        if not (path / MARK).is_file():
            shutil.rmtree(path)


def remove_old(folder: Path, *, keep: int, always: set[int]) -> None:
    """Let go of all checkpoints but the newest `keep` and those of the steps in `always`."""
    complete = complete_checkpoints(folder)
    for step in set(complete) - always - set(complete[-keep:]):
        path = folder / f"checkpoint-{step}"
        (path / MARK).unlink()  # first: half a folder must not count
        shutil.rmtree(path)


def forget_lines_after(folder: Path, step: int) -> None:
    """Of every log: those steps come again."""
    for name in (LOG, EVENTS):
        path = folder / name
        if path.is_file():
            kept = [line for line in path.read_text().splitlines() if _is_before(line, step)]
            write_whole(path, "".join(f"{line}\n" for line in kept))


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """One JSON line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all."""
    hidden = path.with_name(f".{path.name}.new")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)


def _is_before(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError):
        return False  # the line that a killed process did not finish
