"""How new texts are: a model's last hidden states of them, beside those of texts that were there before.

Knows engines and files of posts; decides nothing. What it gives goes into a draw (`moderation_queue`) or an alarm
(`drifting`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from workbench.errors import ConfigError, EngineError
from workbench.evaluation import EvaluationRequest, engine_options
from workbench.posts import read_posts
from workbench.records import Checkpoint

if TYPE_CHECKING:
    from safety.moderation import Post
    from workbench.engines.transformers_engine import TransformersEngine
    from workbench.store import Project

Floats = npt.NDArray[np.float64]
LEAST_REFERENCE = 200
"""Texts of before; with fewer, p-values are too coarse to tell a new text."""
MOST_REFERENCE = 5_000
"""Of a longer file so many are taken, evenly spread over it."""
MAX_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Newness:
    """Of each text, how unlike the reference it is."""

    p_value: Floats
    """Share of usual texts that lie as far out, in (0, 1]."""
    vectors: Floats
    """[texts, d]."""

    @property
    def novelty(self) -> Floats:
        """In [0, 1], 1 is like nothing before."""
        return 1.0 - self.p_value


def find_novelty(
    checkpoint: Checkpoint,
    posts: "Iterable[Post]",
    *,
    reference: str | Path,
    project: "Project",
    text_column: str | None = None,
) -> Newness:
    """Embed posts and those of before, and say how new each is.

    Raises:
        ConfigError: the reference is too small, or cannot be read.
        EngineError: the checkpoint is an endpoint, which gives no hidden states.
    """
    from safety.uncertainty import Novelty
    from workbench.engines.loading import load
    from workbench.engines.transformers_engine import TransformersEngine

    before = [as_read(post) for post in read_posts(reference, text_column=text_column)]
    if len(before) < LEAST_REFERENCE:
        raise ConfigError(f"{reference}: {len(before):,} posts, and {LEAST_REFERENCE} of before are the fewest")
    if len(before) > MOST_REFERENCE:
        before = [before[int(place)] for place in np.linspace(0, len(before) - 1, MOST_REFERENCE)]
    engine = load(checkpoint, **engine_options(checkpoint, project, EvaluationRequest()))
    try:
        if not isinstance(engine, TransformersEngine):
            raise EngineError(f"{checkpoint.name}: the engine {engine.name} gives no hidden states; take transformers")
        usual, vectors = _embed(engine, before), _embed(engine, [as_read(post) for post in posts])
    finally:
        engine.close()
    return Newness(p_value=Novelty(usual).p_value(vectors), vectors=vectors)


def as_read(post: "Post") -> str:
    """A post as a reader meets it: its title, and what it says."""
    return f"{post.title}\n{post.text}" if post.title else post.text


def _embed(engine: "TransformersEngine", texts: Sequence[str]) -> Floats:
    return engine.embed(texts, max_tokens=MAX_TOKENS).astype(np.float64)
