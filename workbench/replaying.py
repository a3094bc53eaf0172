"""Replay that a checkpoint writes itself. Knows what a checkpoint's name means; the writing is `training.replay`'s."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import CheckpointError, ConfigError
from workbench.references import open_project
from workbench.runs import find_start

if TYPE_CHECKING:
    from training.replay import Kind, Written
    from workbench.store import Project


def write_replay(
    checkpoint: str,
    out: str | Path,
    *,
    project: "Project | str | Path",
    tokens: int = 20_000,
    kind: "Kind | None" = None,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 0.95,
    max_new_tokens: int = 256,
    on_round: "Callable[[Written], None]" = lambda _: None,
) -> "Written":
    """Let a checkpoint write `tokens` tokens of rows into a JSONL file, or go on with one that was begun.

    `kind`: None is conversations where there is a chat template. Raises ConfigError for a file that was begun
    otherwise, CheckpointError for an endpoint, RunError if hardly any text is of use.
    """
    from training.replay import Writing, kind_for
    from training.replay import write_replay as write
    from workbench.engines import load
    from workbench.engines.loading import model_folder

    if tokens < 1:
        raise ConfigError(f"--tokens {tokens}: at least 1")
    if temperature <= 0:
        raise ConfigError(f"--temperature {temperature:g}: greedy texts are all the same; above 0, 1 is usual")
    start = find_start(checkpoint, open_project(project))
    if start.kind == "endpoint":
        raise CheckpointError(f"{start.name}: an endpoint cannot be trained further; name the model that will be")
    model_folder(start)  # a GGUF file is made ready once
    engine = load(start, dtype="auto")
    try:
        writing = Writing(
            written_by=start.fingerprint,
            kind=kind or kind_for(engine.tokenizer),
            seed=seed,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
        )
        return write(engine, writing, Path(out), tokens=tokens, on_round=on_round)
    finally:
        engine.close()
