"""Answer many prompts at once, each from the moment it comes: continuous batching (Orca, OSDI 2022).

One thread owns the model. At each step all growing answers get a token, and a bounded number of tokens of waiting
prompts is read beside them, so that a long prompt holds nobody up for long. transformers' own continuous batching is
made for GPUs: it has no seed, no stop string and no log-probabilities for a single request. Knows a transformers engine
and requests; knows no HTTP.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from workbench.engines.sampling import Sampler, TokenLogprob, describe_token
from workbench.engines.slots import PlainStepper, Reading, SlotStepper, Stepper
from workbench.engines.text import TextStream
from workbench.engines.transformers_engine import TransformersEngine
from workbench.errors import EngineError, RunError


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRequest:
    """A prompt to be continued."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    logprobs: int | None = None
    """Likeliest tokens to tell beside each chosen one; None tells nothing."""
    drawn: bool = False
    """Tell each token as it was drawn, the one that ends the answer too: for training on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """What one step adds to an answer."""

    text: str = ""
    """Text that is certain: whole characters, no beginning of a stop string."""
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    drawn: TokenLogprob | None = None
    """The step's token and its log-probability at the answer's temperature, where it was asked for."""
    finish: str | None = None
    """`stop` or `length`, with the last delta."""
    error: str | None = None
    """The answer ends here because the engine failed."""


@dataclass(eq=False, slots=True)
class _Answer:
    request: DecodeRequest
    deliver: Callable[[Delta], None]
    stream: TextStream
    sampler: Sampler
    reading: Reading
    tokens: int = 0
    last: int = 0
    cancelled: bool = False

    @property
    def size(self) -> int:
        """Columns it may come to need."""
        return len(self.request.prompt_ids) + self.request.max_new_tokens


@dataclass(slots=True)
class BatchState:
    """What the batcher is doing; for metrics."""

    waiting: int = 0
    reading: int = 0
    growing: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0


class ContinuousBatcher:
    """Owns a TransformersEngine's model while it is open. `submit` may be called from any thread."""

    def __init__(
        self,
        engine: TransformersEngine,
        *,
        max_rows: int = 64,
        read_tokens: int | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        """
        Args:
            engine: its model, tokenizer and cache size; nothing else may use the model meanwhile.
            max_rows: most answers that grow at the same time.
            read_tokens: most prompt tokens of a step; None is 256 on a CPU and 2048 on a GPU.
            on_failure: told of errors that ended answers, from the batcher's thread.
        """
        self.engine = engine
        self.max_rows = max_rows
        self.read_tokens = read_tokens or (256 if engine.model.device.type == "cpu" else 2048)
        self.state = BatchState()
        self._on_failure = on_failure or (lambda _: None)
        self._end = engine.model.end_tokens | ({engine.tokenizer.eos_token_id} - {None})
        self._condition = threading.Condition()
        self._inbox: deque[_Answer] = deque()
        self._waiting: deque[_Answer] = deque()
        self._reading: list[_Answer] = []
        self._growing: list[_Answer] = []
        self._closing = self._draining = False
        self._stepper = self._make_stepper()
        self._thread = threading.Thread(target=self._run, name="continuous-batcher", daemon=True)
        self._thread.start()

    def submit(self, request: DecodeRequest, deliver: Callable[[Delta], None]) -> Callable[[], None]:
        """Queue a request; `deliver` is called from the batcher's thread and must return at once.

        Returns:
            A function that cancels the answer: no delta comes after the step that is under way.

        Raises:
            EngineError: prompt and answer do not fit the model's window or the cache.
            RunError: the batcher is closing.
        """
        self.check_size(len(request.prompt_ids), request.max_new_tokens)
        answer = _Answer(
            request=request,
            deliver=deliver,
            stream=TextStream(self.engine.tokenizer, request.stop),
            sampler=Sampler(
                temperature=request.temperature,
                top_p=request.top_p,
                top_k=request.top_k,
                presence_penalty=request.presence_penalty,
                frequency_penalty=request.frequency_penalty,
                rng=np.random.default_rng(request.seed),
            ),
            reading=Reading(request.prompt_ids),
        )
        with self._condition:
            if self._closing or self._draining:
                raise RunError("the engine is shutting down; ask again later")
            self._inbox.append(answer)
            self._condition.notify()

        def cancel() -> None:
            answer.cancelled = True

        return cancel

    def submit_all(self, requests: Sequence[tuple[DecodeRequest, Callable[[Delta], None]]]) -> None:
        """Queue several at the same moment: how they share steps, and so their last bits, is always the same.

        Raises as `submit` does, and then some of them may be queued.
        """
        with self._condition:  # the batcher's thread takes in nothing before all are there
            for request, deliver in requests:
                self.submit(request, deliver)

    def check_size(self, prompt: int, new: int) -> None:
        """Raise EngineError where so many tokens cannot be answered."""
        limit = min(self.engine.max_length, self.engine.path_limit)
        if prompt < 1 or new < 1 or prompt + new > limit:
            raise EngineError(
                f"prompt and answer must fit {limit} tokens; got {prompt} of the prompt and {new} to be written; "
                "shorten the prompt or ask for fewer"
            )

    def drain(self, timeout_s: float) -> bool:
        """Take nothing new, let answers that have begun finish. False: some were cut off after `timeout_s`."""
        with self._condition:
            self._draining = True
        deadline = time.monotonic() + timeout_s
        while self._busy():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Stop; answers under way end with an error."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _make_stepper(self) -> Stepper:
        model = self.engine.model
        return PlainStepper(model) if self.engine.why_plain() else SlotStepper(model)

    def _busy(self) -> bool:
        return bool(self._inbox or self._waiting or self._reading or self._growing)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._busy() and not self._closing:
                    self._condition.wait()
                self._waiting.extend(self._inbox)
                self._inbox.clear()
                closing = self._closing
            if closing:
                self._fail("the server was stopped before this answer was finished")
                return
            try:
                self._forget_cancelled()
                self._admit()
                self._step()
            except Exception as error:
                self._on_failure(error)
                self._fail("the engine failed while it was writing this answer; ask again")
                self._stepper = self._make_stepper()
            self.state.waiting, self.state.reading = len(self._waiting), len(self._reading)
            self.state.growing = len(self._growing)

    def _fail(self, why: str) -> None:
        for answer in (*self._growing, *self._reading, *self._waiting):
            answer.deliver(Delta(error=why))
        self._growing, self._reading = [], []
        self._waiting.clear()

    def _forget_cancelled(self) -> None:
        for row in reversed(range(len(self._growing))):
            if self._growing[row].cancelled:
                self._drop(row)
        self._reading = [a for a in self._reading if not a.cancelled]
        self._waiting = deque(a for a in self._waiting if not a.cancelled)

    def _admit(self) -> None:
        """In the order they came, as long as rows and the block of keys and values (rows x longest) have room."""
        held = [*self._growing, *self._reading]
        longest = max((a.size for a in held), default=0)
        while self._waiting and len(held) < self.max_rows:
            longest = max(longest, self._waiting[0].size)
            if held and (len(held) + 1) * longest > self.engine.path_limit:
                return
            answer = self._waiting.popleft()
            held.append(answer)
            self._reading.append(answer)

    def _step(self) -> None:
        if not self._growing and not self._reading:
            return
        reads: list[tuple[_Answer, int]] = []
        room = self.read_tokens
        for answer in self._reading:
            if room <= 0:
                break
            reads.append((answer, min(room, answer.reading.left)))
            room -= reads[-1][1]
        logits = self._stepper.step([a.last for a in self._growing], [(a.reading, size) for a, size in reads])
        self.state.steps += 1
        self.state.prompt_tokens += sum(size for _, size in reads)
        grown = len(self._growing)
        places = list(range(grown))
        for place, (answer, _) in enumerate(reads):
            if not answer.reading.left:
                self._reading.remove(answer)
                self._stepper.add(answer.reading)
                answer.reading = Reading(())  # its keys and values live in the block now
                self._growing.append(answer)
                places.append(grown + place)
        self._choose(logits, places)

    def _choose(self, logits: Tensor, places: Sequence[int]) -> None:
        """A token for each growing row; `places` are the rows' places in the logits."""
        best = logits.argmax(-1).tolist()
        ended: list[int] = []
        for row, (answer, place) in enumerate(zip(self._growing, places, strict=True)):
            token = best[place] if answer.sampler.is_greedy else answer.sampler.choose(logits[place])
            top = answer.request.logprobs
            described = () if top is None else (describe_token(logits[place], token, top),)
            drawn = None
            if answer.request.drawn:
                drawn = TokenLogprob(token=token, logprob=answer.sampler.logprob(logits[place], token))
            if self._advance(answer, token, described, drawn):
                ended.append(row)
        self.state.new_tokens += len(places)
        for row in reversed(ended):
            self._drop(row)

    def _advance(
        self, answer: _Answer, token: int, logprobs: tuple[TokenLogprob, ...], drawn: TokenLogprob | None
    ) -> bool:
        """Take the token in and tell of it; has the answer ended?"""
        answer.tokens += 1
        answer.last = token
        is_end = token in self._end
        text = "" if is_end else answer.stream.push(token)
        finish = "stop" if is_end or answer.stream.stopped else None
        if finish is None and answer.tokens >= answer.request.max_new_tokens:
            finish = "length"
        if finish is not None:
            text += answer.stream.finish()
            finish = "stop" if answer.stream.stopped else finish
        answer.deliver(Delta(text=text, tokens=1, logprobs=() if is_end else logprobs, drawn=drawn, finish=finish))
        return finish is not None

    def _drop(self, row: int) -> None:
        self._stepper.drop(row)
        self._growing[row] = self._growing[-1]
        self._growing.pop()
