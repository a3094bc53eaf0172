"""Ids of many texts that share their beginnings, each part tokenised once. Knows tokenizers; knows no requests.

Questions share a few-shot prompt, the choices of a question share its context; to encode every `context + choice` whole
can take as long as a small model takes to answer. So a shared beginning is encoded once, and each text only from a
place shortly before its own part begins: a border between two words of the tokenizer's own pre-tokenisation, from
which the beginning's last words alone encode to the very ids they have in place. Where there is no such place (a
tokenizer that takes a text as one word), the whole text is encoded.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Ids = tuple[int, ...]

# Splitting patterns of byte-level tokenizers look one character ahead, and a special token may be spelt over the
# border: two whole words and the longest special token's length keep a cut out of reach of whatever is appended.
_TAIL_WORDS = 2
_SHORT_CHARS = 200
"""Shared beginnings below this length are not worth the bookkeeping."""


class _Cut(NamedTuple):
    """Where the last words of a text begin."""

    char: int
    token: int


class Encoder:
    """lm-eval's `HFLM.tok_encode` for many strings at once; `add_special_tokens` is HFLM's `add_bos_token`."""

    def __init__(self, tokenizer: Any, prefix_token_id: int, add_special_tokens: bool | None) -> None:
        self.tokenizer = tokenizer
        self.prefix_token_id = prefix_token_id
        self.add_special_tokens = add_special_tokens
        self.prefix_text: str = tokenizer.decode(prefix_token_id)
        self.tail_chars = max((len(text) for text in tokenizer.get_added_vocab()), default=0)

    def encode_split(self, split: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """(context ids, continuation ids) of pairs whose contexts have no trailing white space."""
        alone = self._tokenise({continuation for context, continuation in split if not context}, special=False)
        contexts, cuts = self._encode_contexts({context for context, _ in split if context})
        whole = self.encode_distinct(c + t for c, t in split if c and c not in cuts)
        tails = self._tokenise({c[cuts[c].char :] + t for c, t in split if c in cuts}, special=False)
        ids: list[tuple[Ids, Ids]] = []
        for context, continuation in split:
            if not context:
                own = alone[continuation]
                # A continuation that opens with the prefix token brings its own context.
                opened = 1 if own[:1] == (self.prefix_token_id,) and len(own) > 1 else 0
                ids.append(((self.prefix_token_id,), own[opened:]))
                continue
            context_ids = contexts[context]
            if cut := cuts.get(context):
                own = tails[context[cut.char :] + continuation][len(context_ids) - cut.token :]
            else:
                own = whole[context + continuation][len(context_ids) :]
            if own or not continuation:
                ids.append((context_ids or (self.prefix_token_id,), own))
            else:
                ids.append(self._split_melted(context_ids, context + continuation))
        return ids

    def encode_distinct(self, texts: Iterable[str]) -> dict[str, Ids]:
        """Ids of each distinct text, special tokens as HFLM adds them."""
        ids: dict[str, Ids] = {}
        for group, special in self._by_special(set(texts)):
            ids |= self._tokenise(group, special)
        return ids

    def _split_melted(self, context_ids: Ids, text: str) -> tuple[Ids, Ids]:
        """The continuation melted into the context's last token (lm-eval fails there): split where both part."""
        whole = self.encode_distinct([text])[text]
        shared = 0
        while shared < len(whole) - 1 and whole[shared] == context_ids[shared]:
            shared += 1
        return whole[:shared] or (self.prefix_token_id,), whole[shared:]

    def _encode_contexts(self, contexts: set[str]) -> tuple[dict[str, Ids], dict[str, _Cut]]:
        """Ids of each context, and a cut for those that have one."""
        if not self.tokenizer.is_fast:
            return self.encode_distinct(contexts), {}
        ids: dict[str, Ids] = {}
        cuts: dict[str, _Cut] = {}
        for group, special in self._by_special(contexts):
            heads = _shared_heads(sorted(group))
            head_ids, head_cuts = self._encode_with_cuts(set(heads.values()), special)
            plain_ids, plain_cuts = self._encode_with_cuts({t for t in group if heads.get(t) not in head_cuts}, special)
            ids |= plain_ids
            cuts |= plain_cuts
            starts = {text: head_cuts[head] for text, head in heads.items() if head in head_cuts}
            rest_ids, rest_cuts = self._encode_with_cuts({text[cut.char :] for text, cut in starts.items()}, False)
            for text, start in starts.items():
                rest = text[start.char :]
                ids[text] = head_ids[heads[text]][: start.token] + rest_ids[rest]
                if cut := rest_cuts.get(rest):
                    cuts[text] = _Cut(start.char + cut.char, start.token + cut.token)
        return ids, cuts

    def _encode_with_cuts(self, texts: Collection[str], special: bool | None) -> tuple[dict[str, Ids], dict[str, _Cut]]:
        """Encode texts whole; find a cut in each that has one: its tail alone encodes to the ids it has in place."""
        encodings = self._call(texts, special).encodings if texts else []
        ids = {text: tuple(encoding.ids) for text, encoding in zip(sorted(texts), encodings, strict=True)}
        found = {t: _find_cut(t, e, self.tail_chars) for t, e in zip(sorted(texts), encodings, strict=True)}
        cuts = {text: cut for text, cut in found.items() if cut}
        tails = self._tokenise({text[cut.char :] for text, cut in cuts.items()}, special=False)
        return ids, {text: cut for text, cut in cuts.items() if tails[text[cut.char :]] == ids[text][cut.token :]}

    def _by_special(self, texts: set[str]) -> list[tuple[set[str], bool | None]]:
        """A text which already opens with the prefix token gets no second one."""
        opened = {text for text in texts if text.startswith(self.prefix_text)}
        return [(opened, False), (texts - opened, self.add_special_tokens)]

    def _tokenise(self, texts: Collection[str], special: bool | None) -> dict[str, Ids]:
        if not texts:
            return {}
        if self.tokenizer.is_fast:
            ids = self._call(texts, special)["input_ids"]
        else:
            ids = [self.tokenizer.encode(text, **_special_kwargs(special)) for text in sorted(texts)]
        return {text: tuple(own) for text, own in zip(sorted(texts), ids, strict=True)}

    def _call(self, texts: Collection[str], special: bool | None) -> Any:
        """One call for all texts, which the fast tokenizer spreads over the cores; in sorted order."""
        return self.tokenizer(
            sorted(texts), return_attention_mask=False, return_token_type_ids=False, **_special_kwargs(special)
        )


def _special_kwargs(special: bool | None) -> Mapping[str, bool]:
    return {} if special is None else {"add_special_tokens": special}


def _find_cut(text: str, encoding: Any, tail_chars: int) -> _Cut | None:
    """Where the last words of `text` begin: a border between two pre-tokenised words."""
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
                return _Cut(start - 1 if text[start - 1] == " " else start, token)
            following = word
        token -= 1
    return None


def _shared_heads(ordered: Sequence[str]) -> dict[str, str]:
    """Sorted texts to the long beginning that each shares with its neighbours (a few-shot prompt)."""
    heads: dict[str, str] = {}
    group: list[str] = []
    shared = 0
    for text in [*ordered, ""]:
        both = _shared_length(group[-1], text) if group else 0
        # A neighbour that shares much less than the group does begins a group of its own.
        if group and both >= _SHORT_CHARS and both * 2 >= shared:
            shared = min(shared, both) if len(group) > 1 else both
            group.append(text)
            continue
        if len(group) > 1:
            heads |= dict.fromkeys(group, group[0][:shared])
        group, shared = [text], 0
    return heads


def _shared_length(first: str, second: str) -> int:
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
