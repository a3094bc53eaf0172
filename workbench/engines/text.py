"""Text to tokens and back, as lm-eval does it. Knows tokenizers and requests; knows no model.

`encode_pairs` gives what lm-eval's `HFLM` would give; `StopStrings` and `TextStream` give text that may still grow.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from workbench.engines._encoder import Encoder
from workbench.engines.base import GenerateRequest, ScoreRequest
from workbench.errors import EngineError


def find_prefix_token(tokenizer: Any) -> int:
    """The token that stands for an empty context: BOS, else EOS. Raises EngineError where there is neither."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise EngineError(
        "tokenizer: it has neither a BOS nor an EOS token, got none to stand for an empty context; set one"
    )


def encode_pairs(
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    max_length: int,
    prefix_token_id: int,
    add_special_tokens: bool | None = None,
) -> list[ScoreRequest]:
    """Tokenise (context, continuation) pairs with the ids that lm-eval's `HFLM` would score.

    Trailing white space of the context moves to the continuation; continuation ids are the ids of the whole less the
    context's number of ids; an empty context is `prefix_token_id`. `add_special_tokens` is HFLM's `add_bos_token`:
    None leaves it to the tokenizer. A text which already opens with the prefix token gets no second one.
    Context plus continuation keep the last `max_length + 1` ids (the last one is only predicted), the number cut is in
    `truncated`. Where lm-eval would fail because a continuation melts into the context's last token, the split
    lies where both encodings part. Raises EngineError for an empty continuation and one longer than `max_length`.
    """
    encoder = Encoder(tokenizer, prefix_token_id, add_special_tokens)
    split = [_move_trailing_space(context, continuation) for context, continuation in pairs]
    ids = encoder.encode_split(split)
    cut: dict[tuple[int, int], tuple[int, ...]] = {}
    requests: list[ScoreRequest] = []
    for (context, continuation), (context_ids, continuation_ids) in zip(pairs, ids, strict=True):
        room = max_length + 1 - len(continuation_ids)
        if not continuation_ids or room < 1:
            raise EngineError(
                f"score: a continuation must have 1 to {max_length} tokens (the model's window); "
                f"got {len(continuation_ids)} in {continuation[:60]!r}; fill or shorten it"
            )
        truncated = max(0, len(context_ids) - room)
        if truncated:  # one tuple per distinct cut: choices go on sharing their context
            context_ids = cut.setdefault((id(context_ids), truncated), context_ids[truncated:])
        requests.append(
            ScoreRequest(
                context=context,
                continuation=continuation,
                context_ids=context_ids,
                continuation_ids=continuation_ids,
                truncated=truncated,
            )
        )
    return requests


def encode_prompts(
    tokenizer: Any,
    requests: Sequence[GenerateRequest],
    *,
    max_length: int,
    prefix_token_id: int,
    add_special_tokens: bool | None = None,
) -> list[GenerateRequest]:
    """Fill `prompt_ids` where they are empty; prompts keep their last `max_length - max_new_tokens` ids, cuts counted.

    Raises EngineError where `max_new_tokens` leaves no room for a prompt.
    """
    encoder = Encoder(tokenizer, prefix_token_id, add_special_tokens)
    encoded = encoder.encode_distinct(request.prompt for request in requests if not request.prompt_ids)
    filled: list[GenerateRequest] = []
    for request in requests:
        room = max_length - request.max_new_tokens
        if room < 1:
            raise EngineError(
                f"generate: max_new_tokens leaves no room for a prompt in a window of {max_length} tokens; "
                f"got {request.max_new_tokens}; ask for fewer"
            )
        ids = request.prompt_ids or encoded[request.prompt] or (prefix_token_id,)
        over = max(0, len(ids) - room)
        filled.append(replace(request, prompt_ids=ids[over:], truncated=request.truncated + over))
    return filled


def text_until(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first stop string: the one complete first; among those ending together, the longest.

    >>> text_until("Paris. Question: next", ["Question:", "\\n"])
    'Paris. '
    """
    found = _first_stop(text, stops)
    return text if found is None else text[:found]


class StopStrings:
    """Cut a stream of text pieces at the first stop string, which may be spread over pieces.

    Joined, what `feed` and `flush` return equals `text_until` of everything fed; nothing is ever taken back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stop for stop in stops if stop)
        self.stopped = False
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece; return the text that is now certain to come before any stop string."""
        if self.stopped:
            return ""
        self._held += piece
        found = _first_stop(self._held, self.stops)
        if found is not None:
            certain, self._held, self.stopped = self._held[:found], "", True
            return certain
        keep = max((_overlap(self._held, stop) for stop in self.stops), default=0)
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        return certain

    def flush(self) -> str:
        """The stream is over: return what was held back as the possible beginning of a stop string."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """Text of a growing list of new tokens, cut at stop strings. Characters spread over tokens come out whole.

    `text` is everything returned so far; `stopped` tells that a stop string was met.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.text = ""
        self.tokens = 0
        self._tokenizer = tokenizer
        self._stops = StopStrings(stops)
        # Ids of the last whole piece and of what came after it: some decoders treat a text's first token differently,
        # so a piece is what the new ids add to the text of the piece before.
        self._ids: list[int] = []
        self._shown = ""
        self._shown_ids = 0

    @property
    def stopped(self) -> bool:
        """Has a stop string been met?"""
        return self._stops.stopped

    def push(self, token: int) -> str:
        """Take one token (not the end-of-sequence one); return the text that is now certain."""
        self._ids.append(token)
        self.tokens += 1
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        if text.endswith("\ufffd"):  # a character whose other bytes are still to come
            return ""
        piece = text[len(self._shown) :]
        if piece:
            self._ids = self._ids[self._shown_ids :]
            self._shown = self._tokenizer.decode(self._ids, skip_special_tokens=True)
            self._shown_ids = len(self._ids)
        return self._emit(piece)

    def finish(self) -> str:
        """No token follows: return the rest, broken characters as U+FFFD."""
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True) if self._ids else ""
        piece = self._emit(text[len(self._shown) :])
        self._ids, self._shown, self._shown_ids = [], "", 0
        rest = self._stops.flush()
        self.text += rest
        return piece + rest

    def _emit(self, piece: str) -> str:
        certain = self._stops.feed(piece)
        self.text += certain
        return certain


def _move_trailing_space(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Start of the stop string that is complete first; the longest of those that end together."""
    found = [(start + len(stop), start) for stop in stops if stop and (start := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
