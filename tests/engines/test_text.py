"""Encoding equals lm-eval's own class; texts come out of token streams whole and cut at the first stop string."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from workbench.engines.base import GenerateRequest
from workbench.engines.text import StopStrings, TextStream, encode_pairs, encode_prompts, find_prefix_token, text_until
from workbench.errors import EngineError

CORPUS = [
    "The capital of France is Paris. What's the number? 12, 345 or 6789!",
    "Question: which bone is the longest?\n\nA. femur\nB. tibia\nAnswer: A",
    "日本の首都は東京です。質問:金融庁とは何ですか。答え:規制当局。",
    "def f(x):\n    return x + 1  # émigré naïve café 🙂👩‍👩‍👧",
    "<s> opened text </s>",
]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of one of the families that language models use."""
    special = ["<s>", "</s>", "<unk>", "<|im_start|>"]
    trainer: Any = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    if kind in ("gpt2", "bos"):
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "llama3":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    elif kind == "whole":  # one word from end to end: no place to cut
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    if kind in ("bos", "whole"):
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = ("gpt2", "bos", "llama3", "metaspace", "whole", "unigram")
TOKENIZERS = {kind: train_tokenizer(kind) for kind in KINDS}
if (model := os.environ.get("WORKBENCH_MODEL")) and Path(model).is_dir():
    TOKENIZERS["real"] = AutoTokenizer.from_pretrained(model)


class HarnessEncoder(HFLM):
    """lm-eval's own tokenising code, with no model behind it: gives the ids it would have scored."""

    def __init__(self, tokenizer: Any, add_bos_token: bool | None) -> None:
        LM.__init__(self)
        self.tokenizer = tokenizer
        self.add_bos_token = add_bos_token
        self.custom_prefix_token_id = None
        self.enable_thinking = False

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
        return [(context, continuation) for _, context, continuation in requests]

    def encode(self, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        instances = [
            Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0, metadata=("t", 0, 1))
            for pair in pairs
        ]
        return self.loglikelihood(instances, disable_tqdm=True)  # pyright: ignore


def harness_ids(tokenizer: Any, pair: tuple[str, str], add_bos: bool | None) -> tuple[list[int], list[int]] | None:
    """What lm-eval would score, or None where it would fail on the pair."""
    try:
        context, continuation = HarnessEncoder(tokenizer, add_bos).encode([pair])[0]  # pyright: ignore[reportAbstractUsage]
    except IndexError:
        return None
    return (context, continuation) if context and continuation else None


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("add_bos", [None, True, False])
def test_questions_with_shared_prompts_encode_as_in_lm_eval(kind: str, add_bos: bool | None) -> None:
    tokenizer = TOKENIZERS[kind]
    shots = "Question: which bone is the longest?\nA. femur\nB. tibia\nAnswer: A\n\n" * 5
    questions = [
        "Question: what's 1234567?\nAnswer:",
        "Question: 日本の首都は? \nAnswer: ",
        "質問:金融庁とは何ですか。答え:",
        "Q\n\n\n",
        "<s> opened by the prefix token, twelve words or more than that here\nAnswer:",
        "<|im_start|>user\nHow are you? 🙂<|im_start|>assistant\n",
        "the number 123456789",
    ]
    choices = [" A", " Paris", "B", "  two spaces", "\n", "0123", "京都です", "👩‍👩‍👧", "'s", "</s>", " café", "́"]
    pairs = [(prompt + q, c) for prompt in (shots, "", "Hi. ") for q in questions for c in choices]
    pairs += [("", c) for c in choices if c not in ("</s>",)]
    requests = encode_pairs(
        tokenizer, pairs, max_length=4096, prefix_token_id=find_prefix_token(tokenizer), add_special_tokens=add_bos
    )
    compared = 0
    for pair, request in zip(pairs, requests, strict=True):
        expected = harness_ids(tokenizer, pair, add_bos)
        if expected is not None:
            assert (list(request.context_ids), list(request.continuation_ids)) == expected, pair
            compared += 1
    assert compared > len(pairs) * 0.9


TEXT = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(
            [
                " ",
                "  ",
                "\n",
                "\n\n",
                "the",
                " bone",
                "12",
                "345",
                "'s",
                "東京",
                "です。",
                "🙂",
                "é",
                "́",
                "<s>",
                "<|im_start|>",
                "<|im_st",
                "art|>",
                "Answer:",
                " A",
                ".",
                "ﬁ",
                "\t",
                "👩‍👩‍👧",
                "</s>",
            ]
        ),
        max_size=25,
    ).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), TEXT, TEXT, st.sampled_from([None, True, False]))
@example("gpt2", "some words and then <|im_st", "art|> more", None)
@example("llama3", "the sum of 1 and 2 is 12345678", "9", None)
@example("gpt2", "", "<s> x", None)
def test_any_pair_encodes_as_in_lm_eval(kind: str, context: str, continuation: str, add_bos: bool | None) -> None:
    tokenizer = TOKENIZERS[kind]
    expected = harness_ids(tokenizer, (context, continuation), add_bos)
    if expected is None:
        return
    (request,) = encode_pairs(
        tokenizer,
        [(context, continuation)],
        max_length=4096,
        prefix_token_id=find_prefix_token(tokenizer),
        add_special_tokens=add_bos,
    )
    assert (list(request.context_ids), list(request.continuation_ids)) == expected


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), TEXT, st.lists(TEXT, min_size=2, max_size=5), TEXT)
@example("llama3", "12345678", ["9", "90 and", "A"], "1")
@example("gpt2", "some words <|im_st", ["art|> more", "art", "x"], "art|>")
def test_questions_behind_any_shared_prompt_encode_as_in_lm_eval(
    kind: str, piece: str, questions: list[str], continuation: str
) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt = ("Shots: " + piece) * (1 + 240 // (7 + len(piece)))
    pairs = [(prompt + question, continuation) for question in questions]
    expected = [harness_ids(tokenizer, pair, None) for pair in pairs]
    kept = [(pair, ids) for pair, ids in zip(pairs, expected, strict=True) if ids]
    requests = encode_pairs(tokenizer, [pair for pair, _ in kept], max_length=9999, prefix_token_id=0)
    assert [(list(r.context_ids), list(r.continuation_ids)) for r in requests] == [ids for _, ids in kept]


def test_choices_of_a_question_share_their_context_tuple() -> None:
    tokenizer = TOKENIZERS["gpt2"]
    requests = encode_pairs(
        tokenizer, [("Which bone?\nAnswer:", c) for c in (" A", "?")], max_length=6, prefix_token_id=0
    )
    assert requests[0].context_ids is requests[1].context_ids
    assert requests[0].truncated > 0


@pytest.mark.parametrize("max_length", [4, 7, 20])
def test_a_long_context_is_cut_from_the_left_as_in_lm_eval_and_counted(max_length: int) -> None:
    tokenizer = TOKENIZERS["gpt2"]
    context, continuation = "The capital of France is", " Paris"
    (request,) = encode_pairs(tokenizer, [(context, continuation)], max_length=max_length, prefix_token_id=0)
    (full_context, full_continuation) = HarnessEncoder(tokenizer, None).encode([(context, continuation)])[0]  # pyright: ignore[reportAbstractUsage]
    model_input = (full_context + full_continuation)[-(max_length + 1) :][:-1]  # lm_eval/models/huggingface.py
    assert [*request.context_ids, *request.continuation_ids][:-1] == model_input
    assert request.truncated == len(full_context) - len(request.context_ids)


def test_a_continuation_that_melts_into_the_context_is_scored_where_both_part() -> None:
    tokenizer = TOKENIZERS["metaspace"]
    whole = tokenizer.encode("the capital")
    (request,) = encode_pairs(tokenizer, [("the c", "apital")], max_length=50, prefix_token_id=0)
    assert [*request.context_ids, *request.continuation_ids][-len(request.continuation_ids) :] == whole[
        -len(request.continuation_ids) :
    ]
    assert len(request.context_ids) >= 1


@pytest.mark.parametrize("pair", [("context", ""), ("", ""), ("context", " many words that do not fit the window")])
def test_an_impossible_continuation_is_a_clear_error(pair: tuple[str, str]) -> None:
    with pytest.raises(EngineError, match="1 to 4 tokens"):
        encode_pairs(TOKENIZERS["gpt2"], [pair], max_length=4, prefix_token_id=0)


def test_prompts_keep_room_for_the_answer() -> None:
    tokenizer = TOKENIZERS["gpt2"]
    request = GenerateRequest(prompt="The capital of France is", max_new_tokens=5)
    (filled,) = encode_prompts(tokenizer, [request], max_length=8, prefix_token_id=0)
    whole = tokenizer.encode(request.prompt)
    assert list(filled.prompt_ids) == whole[-3:]
    assert filled.truncated == len(whole) - 3
    with pytest.raises(EngineError, match="no room for a prompt"):
        encode_prompts(tokenizer, [request], max_length=5, prefix_token_id=0)


def test_a_tokenizer_without_prefix_token_is_a_clear_error() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(EngineError, match="neither a BOS nor an EOS"):
        find_prefix_token(bare)


PIECES = st.lists(st.text(alphabet="abc\n 京🙂", max_size=4), max_size=12)
STOPS = st.lists(st.text(alphabet="abc\n京", max_size=4), max_size=4)


@settings(max_examples=400, deadline=None)
@given(PIECES, STOPS)
@example(["a", "\n", "\nb"], ["\n\nb", "\nb"])
@example(["aab"], ["ab", "aac"])
def test_stop_strings_over_pieces_equal_the_whole_text_cut_once(pieces: list[str], stops: list[str]) -> None:
    stream = StopStrings(stops)
    given_out = "".join(stream.feed(piece) for piece in pieces) + stream.flush()
    whole = "".join(pieces)
    assert given_out == text_until(whole, stops)
    assert stream.stopped == any(stop in whole for stop in stops if stop)


@given(st.text(alphabet="ab\nQ:", max_size=20), st.lists(st.sampled_from(["\n", "\n\n", "Q:", "b\n"]), max_size=3))
def test_text_until_never_holds_a_stop_string_and_is_a_beginning(text: str, stops: list[str]) -> None:
    kept = text_until(text, stops)
    assert text.startswith(kept)
    assert not any(stop in kept for stop in stops)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), TEXT)
@example("gpt2", "日本の🙂 end")
@example("gpt2", "�x")
def test_a_token_stream_joins_to_the_decoded_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(tokenizer)
    joined = "".join(stream.push(token) for token in ids) + stream.finish()
    assert joined == stream.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert stream.tokens == len(ids)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(min_value=4, max_value=300), max_size=30))
def test_any_tokens_even_broken_characters_join_to_the_decoded_text(ids: list[int]) -> None:
    tokenizer = TOKENIZERS["gpt2"]
    stream = TextStream(tokenizer)
    joined = "".join(stream.push(token) for token in ids) + stream.finish()
    assert joined == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_spread_over_tokens_is_given_out_whole() -> None:
    tokenizer = TOKENIZERS["gpt2"]
    ids = tokenizer.encode("𠮷", add_special_tokens=False)
    assert len(ids) == 4
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in ids] == ["", "", "", "𠮷"]


def test_a_stop_string_spread_over_tokens_is_found_and_left_out() -> None:
    tokenizer = TOKENIZERS["gpt2"]
    ids = tokenizer.encode("Paris.\n\nQuestion: next", add_special_tokens=False)
    stream = TextStream(tokenizer, ["\n\nQuestion:"])
    for token in ids:
        stream.push(token)
        if stream.stopped:
            break
    assert stream.stopped
    assert stream.tokens < len(ids)
    assert stream.text + stream.finish() == "Paris."
