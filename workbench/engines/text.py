"""Text to tokens and back, as lm-eval does it. Knows tokenizers and requests; knows no model.

`encode_pairs` gives what lm-eval's `HFLM` would give, but tokenises each distinct string once. Choices of a question
share a long context, and encoding `context + choice` whole for each would cost as much as the small models themselves.
So only the context's last words are encoded again with the choice, where that is certain to be equal: the cut lies
between two words of the tokenizer's own pre-tokenisation, and the tail alone encodes to the tokens it had in place.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from workbench.engines.base import GenerateRequest, ScoreRequest
from workbench.errors import EngineError

# Splitting patterns of byte-level tokenizers look one character ahead, and a special token may be spelt over the
# border: two whole words and the longest special token's length keep the cut out of reach of whatever is appended.
_TAIL_WORDS = 2


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
    encoder = _Encoder(tokenizer, prefix_token_id, add_special_tokens)
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
    encoder = _Encoder(tokenizer, prefix_token_id, add_special_tokens)
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


class _Encoder:
    """HFLM's `tok_encode` for many strings at once. Memory: one tuple of ids per distinct string."""

    def __init__(self, tokenizer: Any, prefix_token_id: int, add_special_tokens: bool | None) -> None:
        self.tokenizer = tokenizer
        self.prefix_token_id = prefix_token_id
        self.add_special_tokens = add_special_tokens
        self.prefix_text: str = tokenizer.decode(prefix_token_id)
        self.tail_chars = max((len(text) for text in tokenizer.get_added_vocab()), default=0)

    def encode_split(self, split: Sequence[tuple[str, str]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(context ids, continuation ids) of pairs whose contexts have no trailing white space."""
        alone = self._tokenise({continuation for context, continuation in split if not context}, special=False)
        contexts, anchors = self._encode_contexts({context for context, _ in split if context})
        whole = self.encode_distinct(c + t for c, t in split if c and c not in anchors)
        tails = self._tokenise({c[anchors[c][0] :] + t for c, t in split if c in anchors}, special=False)
        ids: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for context, continuation in split:
            if not context:
                own = alone[continuation]
                # A continuation that opens with the prefix token brings its own context.
                cut = 1 if own[:1] == (self.prefix_token_id,) and len(own) > 1 else 0
                ids.append(((self.prefix_token_id,), own[cut:]))
            elif context in anchors:
                start, skip = anchors[context]
                own = tails[context[start:] + continuation][skip:]
                ids.append(self._whole_split(contexts[context], own, context, continuation))
            else:
                own = whole[context + continuation][len(contexts[context]) :]
                ids.append(self._whole_split(contexts[context], own, context, continuation))
        return ids

    def encode_distinct(self, texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Ids of each distinct text, special tokens as HFLM adds them."""
        distinct = set(texts)
        opened = {text for text in distinct if self._opens_with_prefix(text)}
        return self._tokenise(opened, special=False) | self._tokenise(
            distinct - opened, special=self.add_special_tokens
        )

    def _whole_split(
        self, context_ids: tuple[int, ...], own: tuple[int, ...], context: str, continuation: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if own or not continuation:
            return context_ids or (self.prefix_token_id,), own
        # The continuation melted into the context's last token.
        whole = self.encode_distinct([context + continuation])[context + continuation]
        shared = 0
        while shared < len(whole) - 1 and whole[shared] == context_ids[shared]:
            shared += 1
        return whole[:shared] or (self.prefix_token_id,), whole[shared:]

    def _encode_contexts(self, contexts: set[str]) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, int]]]:
        """Ids of each context, and for those with a certain cut: where the tail starts, how many ids it has."""
        opened = {text for text in contexts if self._opens_with_prefix(text)}
        ids: dict[str, tuple[int, ...]] = {}
        cuts: dict[str, tuple[int, int]] = {}
        for group, special in ((opened, False), (contexts - opened, self.add_special_tokens)):
            for text, encoding in self._encodings(group, special):
                ids[text] = tuple(encoding.ids)
                cut = _find_cut(text, encoding, self.tail_chars)
                if cut is not None:
                    cuts[text] = cut
        if len(ids) < len(contexts):  # a tokenizer without the fast backend
            return self.encode_distinct(contexts), {}
        tails = self._tokenise({text[start:] for text, (start, _) in cuts.items()}, special=False)
        anchors: dict[str, tuple[int, int]] = {}
        for text, (start, token) in cuts.items():
            if tails[text[start:]] == ids[text][token:]:
                anchors[text] = (start, len(ids[text]) - token)
        return ids, anchors

    def _opens_with_prefix(self, text: str) -> bool:
        return text.startswith(self.prefix_text)

    def _encodings(self, texts: set[str], special: bool | None) -> Iterator[tuple[str, Any]]:
        if not texts or not self.tokenizer.is_fast:
            return
        # Sorted: a set's order changes from process to process, and the same work should be done in the same order.
        ordered = sorted(texts)
        kwargs = {} if special is None else {"add_special_tokens": special}
        batch = self.tokenizer(ordered, return_attention_mask=False, return_token_type_ids=False, **kwargs)
        yield from zip(ordered, batch.encodings, strict=True)

    def _tokenise(self, texts: set[str], special: bool | None) -> dict[str, tuple[int, ...]]:
        if not texts:
            return {}
        ordered = sorted(texts)
        kwargs = {} if special is None else {"add_special_tokens": special}
        if self.tokenizer.is_fast:
            ids = self.tokenizer(ordered, return_attention_mask=False, return_token_type_ids=False, **kwargs)[
                "input_ids"
            ]
        else:
            ids = [self.tokenizer.encode(text, **kwargs) for text in ordered]
        return {text: tuple(own) for text, own in zip(ordered, ids, strict=True)}


def _move_trailing_space(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _find_cut(text: str, encoding: Any, tail_chars: int) -> tuple[int, int] | None:
    """(character, token) where the last words of `text` begin, at a border between two pre-tokenised words."""
    words = 0
    token = len(encoding.ids) - 1
    following = encoding.token_to_word(token) if token >= 0 else None
    while token > 0:
        word = encoding.token_to_word(token - 1)
        if following is None or word is None:  # special tokens are no words
            return None
        if word != following:
            words += 1
            start = encoding.token_to_chars(token)[0]
            first = text[start]
            # Digits may be grouped from a number's end, accents may join the letter before: neither opens a tail.
            if words > _TAIL_WORDS and len(text) - start > tail_chars and first.isascii() and not first.isdigit():
                # Offsets of byte-level tokenizers leave out the space that belongs to the word.
                return (start - 1 if text[start - 1] == " " else start), token
            following = word
        token -= 1
    return None


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
