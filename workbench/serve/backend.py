"""What writes the answers: one interface for a model here and one behind another endpoint. Knows no guard, no route.

A prompt is a conversation or a text. Role tokens in what a client wrote are text: `<|im_start|>system` in a message is
encoded character by character, so nobody opens a turn that he was not given.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from workbench.engines.continuous import BatchState, ContinuousBatcher, DecodeRequest, Delta
from workbench.engines.sampling import TokenLogprob
from workbench.engines.text import find_prefix_token
from workbench.errors import EngineError, RunError
from workbench.serve.faults import ApiError


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What is to be answered: `turns` of a conversation, else `ids` or `text`."""

    turns: tuple[Turn, ...] = ()
    text: str = ""
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How it is to be answered."""

    max_tokens: int | None = None
    """None: what the window leaves, at most `DEFAULT_TOKENS`."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None


DEFAULT_TOKENS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownLogprob:
    """A token's log-probability as clients see it: text instead of ids."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What a backend writes at a time; `finish` (`stop` or `length`) with the last one."""

    text: str = ""
    tokens: int = 0
    logprobs: tuple[ShownLogprob, ...] = ()
    finish: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A prompt that fits."""

    prompt: Prompt
    tokens: int
    """Of the prompt; 0 where only the upstream can count them."""
    max_tokens: int
    ids: tuple[int, ...] = ()


@dataclass(slots=True)
class Load:
    """How busy a backend is; for /metrics."""

    waiting: int = 0
    running: int = 0


class Backend(Protocol):
    """Something that writes answers."""

    engine: str
    model: str
    """The name that clients ask for."""

    def prepare(self, prompt: Prompt, sampling: Sampling) -> Prepared:
        """Check that prompt and answer fit, before anything is judged. Raises ApiError where they do not."""
        ...

    def read(self, ids: Sequence[int]) -> str:
        """The text of token ids, for the guard. Raises ApiError for ids that are none."""
        ...

    def write(self, prepared: Prepared, sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """The answer, as it comes. Closing the iterator stops the work. Raises ApiError where the engine fails."""
        ...

    def load(self) -> Load:
        """How busy it is."""
        ...

    async def close(self, grace_s: float) -> None:
        """Let answers under way finish for so long, then stop."""
        ...


class LocalBackend:
    """The transformers engine with continuous batching."""

    engine = "transformers"

    def __init__(self, batcher: ContinuousBatcher, model: str) -> None:
        self.batcher, self.model = batcher, model
        self.encoder = PromptEncoder(batcher.engine.tokenizer)
        self.limit = min(batcher.engine.max_length, batcher.engine.path_limit)

    def prepare(self, prompt: Prompt, sampling: Sampling) -> Prepared:
        """As in Backend."""
        ids = prompt.ids or self.encoder.encode(prompt)
        return fit(prompt, ids, sampling, self.limit)

    def read(self, ids: Sequence[int]) -> str:
        """As in Backend."""
        return self.encoder.decode(ids)

    async def write(self, prepared: Prepared, sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """As in Backend."""
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta] = asyncio.Queue()

        def deliver(delta: Delta) -> None:
            # a loop that was closed meanwhile has no reader either
            if not loop.is_closed():
                loop.call_soon_threadsafe(deltas.put_nowait, delta)

        request = DecodeRequest(
            prompt_ids=prepared.ids,
            max_new_tokens=prepared.max_tokens,
            stop=sampling.stop,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=draw_seed(sampling),
            logprobs=sampling.logprobs,
        )
        try:
            cancel = self.batcher.submit(request, deliver)
        except RunError as error:
            raise ApiError(503, str(error), code="shutting_down", headers={"retry-after": "5"}) from None
        try:
            while True:
                delta = await deltas.get()
                if delta.error:
                    raise ApiError(500, delta.error, code="engine_failed")
                shown = tuple(self._show(one) for one in delta.logprobs)
                yield Piece(text=delta.text, tokens=delta.tokens, logprobs=shown, finish=delta.finish)
                if delta.finish:
                    return
        finally:
            cancel()

    def load(self) -> Load:
        """As in Backend."""
        state: BatchState = self.batcher.state
        return Load(waiting=state.waiting, running=state.reading + state.growing)

    async def close(self, grace_s: float) -> None:
        """As in Backend."""
        await asyncio.to_thread(self.batcher.drain, grace_s)
        await asyncio.to_thread(self.batcher.close)

    def _show(self, one: TokenLogprob) -> ShownLogprob:
        decode = self.batcher.engine.tokenizer.decode
        top = tuple((decode([token]), value) for token, value in one.top)
        return ShownLogprob(token=decode([one.token]), logprob=one.logprob, top=top)


def draw_seed(sampling: Sampling) -> int:
    """The request's seed as a natural number, else one that nobody can guess."""
    return secrets.randbits(62) if sampling.seed is None else sampling.seed % 2**63


def fit(prompt: Prompt, ids: Sequence[int], sampling: Sampling, limit: int) -> Prepared:
    """A prompt with the room for its answer. Raises ApiError where both do not fit the window."""
    room = limit - len(ids)
    wanted = sampling.max_tokens or max(1, min(DEFAULT_TOKENS, room))
    if wanted > room:
        raise ApiError(
            400,
            f"this model's context length is {limit} tokens; the prompt has {len(ids)} and {wanted} were asked for; "
            "shorten the prompt or lower max_tokens",
            code="context_length_exceeded",
            param="messages" if prompt.turns else "prompt",
        )
    return Prepared(prompt=prompt, tokens=len(ids), max_tokens=wanted, ids=tuple(ids))


@dataclass(eq=False)
class PromptEncoder:
    """Conversations and texts -> token ids, with role tokens that only the template can write."""

    tokenizer: Any
    _special: re.Pattern[str] | None = field(init=False)

    def __post_init__(self) -> None:
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        names = {str(token) for token in added if getattr(token, "special", False)}
        names |= {str(name) for name in self.tokenizer.all_special_tokens}
        longest_first = sorted((name for name in names if name), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids; at least the prefix token. A text's own role tokens count: who writes it writes all of it."""
        if not prompt.turns:
            return tuple(self.tokenizer.encode(prompt.text)) or (self.prefix,)
        forged: list[str] = []
        nonce = secrets.token_hex(8)
        turns = [{"role": turn.role, "content": self._hide(turn.text, nonce, forged)} for turn in prompt.turns]
        rendered = self._render(turns)
        if not forged:
            return tuple(self.tokenizer.encode(rendered, add_special_tokens=False))
        # odd parts are the numbers of forged tokens
        parts = re.split(f"\ue000{nonce}:([0-9]+)\ue001", rendered)
        ids: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                ids += self._encode_as_text(forged[int(part)])
            elif part:
                ids += self.tokenizer.encode(part, add_special_tokens=False)
        return tuple(ids)

    @property
    def prefix(self) -> int:
        """The token that stands for an empty text."""
        return find_prefix_token(self.tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, role tokens shown. Raises ApiError for ids outside the vocabulary."""
        if max(ids) >= len(self.tokenizer):
            raise ApiError(400, f"prompt: token ids must be below {len(self.tokenizer)}", param="prompt")
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def _hide(self, text: str, nonce: str, forged: list[str]) -> str:
        """`text` with a mark, which cannot be guessed, in place of each special token."""

        def mark(found: re.Match[str]) -> str:
            forged.append(found[0])
            return f"\ue000{nonce}:{len(forged) - 1}\ue001"

        return self._special.sub(mark, text) if self._special else text

    def _encode_as_text(self, name: str) -> list[int]:
        """The characters of a special token, as any other text."""
        ids = [i for char in name for i in self.tokenizer.encode(char, add_special_tokens=False)]
        special = set(self.tokenizer.all_special_ids)
        return [i for i in ids if i not in special]

    def _render(self, turns: Sequence[dict[str, str]]) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            return "".join(f"{turn['role']}: {turn['content']}\n" for turn in turns) + "assistant:"
        try:
            return self.tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # jinja's own kinds, and what a template raises by `raise_exception`
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise ApiError(
                400, f"messages: the model's chat template refuses them: {reason}", param="messages"
            ) from None


def load_backend(checkpoint: Any, *, engine: str | None, model: str, options: dict[str, Any]) -> Backend:
    """The backend of a checkpoint.

    Raises:
        EngineError: an engine that is not installed, or cannot serve this kind of checkpoint.
    """
    name = engine or ("openai" if checkpoint.kind == "endpoint" else "transformers")
    if name == "transformers":
        from workbench.engines.loading import load
        from workbench.engines.transformers_engine import TransformersEngine

        max_rows = int(options.pop("max_rows", 64))
        loaded = load(checkpoint, engine=name, **options)
        assert isinstance(loaded, TransformersEngine)
        return LocalBackend(ContinuousBatcher(loaded, max_rows=max_rows), model)
    if name == "openai":
        from workbench.serve.upstream import open_upstream

        return open_upstream(checkpoint, model=model, **options)
    if name == "vllm":
        from workbench.engines.loading import check_parallel
        from workbench.serve.vllm import open_vllm

        check_parallel(options, serving=True)
        return open_vllm(checkpoint, model=model, **options)
    raise EngineError(f"--engine {name}: unknown; known: openai, transformers, vllm")
