"""One way to ask any model: `load(checkpoint)` gives an Engine with `score`, `generate` and `stream`."""

from workbench.engines.base import Engine, GenerateRequest, Generation, Score, ScoreRequest, Usage
from workbench.engines.loading import ENGINES, load

__all__ = ["ENGINES", "Engine", "GenerateRequest", "Generation", "Score", "ScoreRequest", "Usage", "load"]
