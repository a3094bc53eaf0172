"""One way to ask any model: `score` and `generate`. Knows requests and answers; knows no task, no store.

Both calls are generators that yield finished *tiles*, so that a caller can write each one down before the next is
computed. Tiles are planned from all requests, whatever is in `skip`, so an item is computed in the same tile whether
or not the run was interrupted.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """How likely is `continuation` after `context`? Without ids, the engine scores text or encodes it."""

    context: str
    continuation: str
    context_ids: tuple[int, ...] = ()
    """At least one token wherever ids are used: an empty context is the model's prefix token (BOS or EOS)."""
    continuation_ids: tuple[int, ...] = ()
    truncated: int = 0
    """Context tokens cut from the left to fit the model's window; counted and reported by the caller."""
    tile: str = ""
    """Requests of different tiles are never computed together: give the task's name, and an item's numbers do not
    depend on which other tasks a run holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Answer to a ScoreRequest."""

    logprob: float
    """Sum over the continuation's tokens, in nats; float32 log-softmax. NaN if the model gives NaN: callers refuse."""
    is_greedy: bool
    """Would greedy decoding have produced the continuation?"""
    tokens: int
    """Length of the continuation in tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRequest:
    """Continue `prompt`."""

    prompt: str
    prompt_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these strings; they are not part of the text."""
    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all tokens."""
    seed: int = 0
    truncated: int = 0
    tile: str = ""
    """As in ScoreRequest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """Answer to a GenerateRequest."""

    text: str
    tokens: int
    """New tokens, the stop string's included."""
    finish: str
    """`stop` (a stop string or end of sequence) or `length`."""


@dataclass(kw_only=True, slots=True)
class Usage:
    """What the last call cost; engines fill what they know."""

    seconds: float = 0.0
    prompt_tokens: int = 0
    """Tokens that were computed (unique trie tokens where prefixes are shared)."""
    new_tokens: int = 0
    naive_tokens: int = 0
    """Tokens that one pass per request would have computed."""
    limit_seconds: float | None = None
    """Physical limit: FLOPs of the work over the matrix-product rate measured in this process."""
    notes: list[str] = field(default_factory=list)
    """Fallbacks and their reasons; shown to the user and kept in the report."""


@runtime_checkable
class Engine(Protocol):
    """A model that answers. Implementations: transformers, vllm, openai."""

    name: str
    """`transformers`, `vllm` or `openai`."""
    scorer: str
    """Version string of how numbers come to be (engine, its version, dtype, tiling): part of every ledger key."""
    max_length: int
    """Tokens that fit the model's window."""
    tokenizer: Any
    """A Hugging Face tokenizer, or None (an endpoint without one)."""
    usage: Usage

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[ScoreRequest]:
        """Tokenise (context, continuation) pairs as lm-eval does: trailing spaces of the context move to the
        continuation, continuation ids are the whole encoding less the context's own length; contexts that do not
        fit are cut from the left and counted in `truncated`."""
        ...

    def score(
        self, requests: Sequence[ScoreRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Score]]]:
        """Yield tiles of (index into `requests`, Score); indices in `skip` may be left out."""
        ...

    def generate(
        self, requests: Sequence[GenerateRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Yield tiles of (index into `requests`, Generation); indices in `skip` may be left out."""
        ...

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """Yield pieces of text as they are produced; their concatenation equals the Generation's text."""
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...
