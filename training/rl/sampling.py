"""Answers of the live policy, with the tokens as they were drawn. Knows one model in memory and a batcher of requests.

One `Policy` serves both those who ask in batches (environments in this process) and those who ask as they come (an
orchestrator over HTTP); in between, the weights are trained.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.rl.conversation import Template
from workbench.errors import ConfigError, RunError


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One answer that is wanted."""

    prompt: Sequence[int]
    max_tokens: int
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class Drawn:
    """One answer."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """In nats, at the policy's temperature; the token that ends the answer has one too."""
    cut: bool = False
    """It was as long as it may be, and had not ended."""
    error: str = ""


def seed_of(*parts: int) -> int:
    """A seed that the parts name, below 2**63."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Policy:
    """The model that is trained, asked for answers. Close it when training ends."""

    def __init__(
        self, model: Any, tokenizer: Any, *, temperature: float, max_rows: int = 64, engine: Any = None
    ) -> None:
        """
        Args:
            model: as transformers knows it, adapters within; its weights may change between the answers.
            engine: of that model, where there is one already; nothing else may use it meanwhile.
        """
        from workbench.engines.causal_model import CausalModel
        from workbench.engines.continuous import ContinuousBatcher
        from workbench.engines.transformers_engine import TransformersEngine

        self.model, self.tokenizer, self.temperature = model, tokenizer, temperature
        self.template = Template(tokenizer=tokenizer)
        training = model.training
        if engine is None:
            dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
            inner = CausalModel(model, device=model.device, weights=dtype, arithmetic=dtype)
            engine = TransformersEngine(inner, tokenizer, cache_gb=2.0)
        self._batcher = ContinuousBatcher(engine, max_rows=max_rows)
        self.window = min(engine.max_length, engine.path_limit)
        model.train(training)

    @classmethod
    def of_engine(cls, engine: Any, *, temperature: float, max_rows: int = 64) -> "Policy":
        """A loaded checkpoint that nothing trains. Raises ConfigError: the engine holds no weights here."""
        from workbench.engines.transformers_engine import TransformersEngine

        if not isinstance(engine, TransformersEngine):
            raise ConfigError(
                f"an environment needs the checkpoint's own tokens, which engine {engine.name} does not give; evaluate "
                "weights, with --engine transformers"
            )
        return cls(engine.model.model, engine.tokenizer, temperature=temperature, max_rows=max_rows, engine=engine)

    @contextmanager
    def awake(self) -> Any:
        """Within, the model answers: without dropout, and nothing trains it."""
        training = self.model.training
        self.model.eval()
        try:
            yield self
        finally:
            self.model.train(training)

    def ask_all(self, asks: Sequence[Ask]) -> list[Drawn]:
        """Answers to all, which begin at the same moment, so the same weights give the same bits.

        Raises RunError: the engine failed.
        """
        found = [Drawn() for _ in asks]
        done = threading.Semaphore(0)
        pending = [(self._request(ask), _listener(drawn, done.release)) for ask, drawn in zip(asks, found, strict=True)]
        self._batcher.submit_all(pending)
        for _ in asks:
            done.acquire()
        if failed := [one.error for one in found if one.error]:
            raise RunError(f"rollouts: {failed[0]}")
        return found

    def ask(self, ask: Ask, done: Callable[[Drawn], None]) -> Callable[[], None]:
        """Begin one answer; `done` hears it, from another thread. Returns what takes it back.

        Raises UserError: it cannot fit.
        """
        drawn = Drawn()
        return self._batcher.submit(self._request(ask), _listener(drawn, lambda: done(drawn)))

    def close(self) -> None:
        """Let go of the model."""
        self._batcher.close()

    def _request(self, ask: Ask) -> Any:
        from workbench.engines.continuous import DecodeRequest

        return DecodeRequest(
            prompt_ids=tuple(ask.prompt),
            max_new_tokens=ask.max_tokens,
            stop=ask.stop,
            temperature=self.temperature,
            seed=ask.seed,
            drawn=True,
        )


def _listener(into: Drawn, done: Callable[[], None]) -> Callable[[Any], None]:
    def hear(delta: Any) -> None:
        into.text += delta.text
        if delta.drawn is not None:
            into.tokens.append(delta.drawn.token)
            into.logprobs.append(delta.drawn.logprob)
        if delta.error:
            into.error = delta.error
        if delta.finish or delta.error:
            into.cut = delta.finish == "length"
            done()

    return hear
