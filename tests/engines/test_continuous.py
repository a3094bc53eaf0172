"""Continuous batching: the same answers as alone, whatever comes and goes beside them."""

import queue
import threading
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model, tiny_tokenizer
from workbench.engines.base import GenerateRequest
from workbench.engines.causal_model import CausalModel
from workbench.engines.continuous import ContinuousBatcher, DecodeRequest, Delta
from workbench.engines.sampling import Sampler, describe_token
from workbench.engines.transformers_engine import TransformersEngine
from workbench.errors import EngineError, RunError

PROMPTS = (
    "The heart pumps blood",
    "Question: Which gas do plants take in? Answer:",
    "Janet has 3 apples and buys 12 more. How many apples does she have? " * 4,
    "He went to the market",
    "A",
)


def make_engine(**options: Any) -> TransformersEngine:
    model = CausalModel(
        options.pop("model", None) or tiny_model(), device=torch.device("cpu"), weights="float32", arithmetic="float32"
    )
    return TransformersEngine(model, tiny_tokenizer(), **options)


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    """Computes what is compared with; the batcher has its model for itself."""
    return make_engine()


@pytest.fixture
def batcher():
    batcher = ContinuousBatcher(make_engine(), max_rows=4, read_tokens=16)
    yield batcher
    batcher.close()


class Collected:
    """Deltas of one answer, as they come."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.done = threading.Event()

    def __call__(self, delta: Delta) -> None:
        self.deltas.append(delta)
        if delta.finish or delta.error:
            self.done.set()

    @property
    def text(self) -> str:
        assert self.done.wait(60)
        return "".join(d.text for d in self.deltas)

    @property
    def finish(self) -> str | None:
        assert self.done.wait(60)
        return self.deltas[-1].finish


def ask(batcher: ContinuousBatcher, prompt: str, new: int = 20, **options: Any) -> Collected:
    found = Collected()
    ids = tuple(batcher.engine.tokenizer.encode(prompt))
    options = {"temperature": 0.0, **options}
    batcher.submit(DecodeRequest(prompt_ids=ids, max_new_tokens=new, **options), found)
    return found


def alone(engine: TransformersEngine, prompt: str, new: int = 20, **options: Any) -> str:
    request = GenerateRequest(prompt=prompt, max_new_tokens=new, **options)
    return next(iter(engine.generate([request])))[0][1].text


def test_answers_are_those_of_one_prompt_at_a_time(engine, batcher):
    found = [ask(batcher, prompt, new=5 + 7 * i) for i, prompt in enumerate(PROMPTS)]
    assert [f.text for f in found] == [alone(engine, prompt, new=5 + 7 * i) for i, prompt in enumerate(PROMPTS)]


def test_an_answer_begins_while_others_are_under_way_and_does_not_change_them(engine, batcher):
    first = ask(batcher, PROMPTS[0], new=200)
    while len(first.deltas) < 3:
        first.done.wait(0.001)
    later = [ask(batcher, prompt) for prompt in PROMPTS[1:]]
    assert [f.text for f in later] == [alone(engine, prompt) for prompt in PROMPTS[1:]]
    assert first.text == alone(engine, PROMPTS[0], new=200)
    assert batcher.state.steps < 200 + 4 * 20, "they were computed together"


def test_a_stop_string_ends_the_answer_before_itself(engine, batcher):
    whole = alone(engine, PROMPTS[0], new=30)
    stop = whole[6:9]
    found = ask(batcher, PROMPTS[0], new=30, stop=(stop,))
    assert (found.text, found.finish) == (whole[: whole.index(stop)], "stop")


def test_a_seed_gives_the_same_answer_again_and_another_seed_another(batcher):
    texts = [ask(batcher, PROMPTS[0], temperature=1.0, seed=seed).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_cancelled_answer_stops_and_leaves_its_place(batcher):
    got: queue.Queue[Delta] = queue.Queue()
    ids = tuple(batcher.engine.tokenizer.encode(PROMPTS[0]))
    cancel = batcher.submit(DecodeRequest(prompt_ids=ids, max_new_tokens=1900, temperature=0.0), got.put)
    got.get(timeout=60)
    cancel()
    assert ask(batcher, PROMPTS[1]).text
    assert batcher.drain(60)
    assert got.qsize() < 1900


def test_log_probabilities_are_the_models_own(engine, batcher):
    found = ask(batcher, PROMPTS[0], new=4, logprobs=3)
    assert found.text
    ids = engine.tokenizer.encode(PROMPTS[0])
    for delta in found.deltas:
        (token,) = delta.logprobs
        with torch.no_grad():  # the engine's own model has the attention of single prompts
            row = engine.model.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        values, order = row.topk(3)
        assert token.logprob == pytest.approx(float(row[token.token]), abs=1e-4)
        assert [t for t, _ in token.top] == order.tolist()
        assert [v for _, v in token.top] == pytest.approx(values.tolist(), abs=1e-4)
        ids.append(token.token)


def test_what_does_not_fit_is_refused_and_a_small_cache_only_makes_answers_wait():
    engine = make_engine(cache_gb=130 * 1024 / 1e9)  # room for some 130 tokens
    batcher = ContinuousBatcher(engine)
    try:
        with pytest.raises(EngineError, match="must fit"):
            ask(batcher, "A", new=400)
        found = [ask(batcher, prompt, new=40) for prompt in (*PROMPTS[:2], *PROMPTS[:2])]
        assert [f.text for f in found[:2]] == [f.text for f in found[2:]]
    finally:
        batcher.close()


def test_closing_ends_answers_with_an_error_and_refuses_new_ones(batcher):
    found = ask(batcher, PROMPTS[0], new=2000)
    while not found.deltas:
        found.done.wait(0.001)
    batcher.close()
    assert found.done.wait(60)
    assert found.deltas[-1].error
    with pytest.raises(RunError, match="shutting down"):
        ask(batcher, "A")


def test_a_failing_step_ends_its_answers_with_an_error_and_the_next_are_served():
    engine, failures = make_engine(), []
    batcher = ContinuousBatcher(engine, on_failure=failures.append)
    try:
        found = Collected()
        batcher.submit(DecodeRequest(prompt_ids=(10**6,), max_new_tokens=4), found)  # no such row of the embedding
        assert found.done.wait(60)
        assert found.deltas[-1].error
        assert len(failures) == 1
        assert ask(batcher, PROMPTS[0]).text == alone(make_engine(), PROMPTS[0])
    finally:
        batcher.close()


def sliding_model() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=12,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MistralForCausalLM(config).eval()


def test_a_sliding_window_hides_what_lies_before_it_while_reading_and_while_writing():
    engine = make_engine(model=sliding_model())
    batcher = ContinuousBatcher(engine, read_tokens=16)
    try:
        assert engine.why_plain() is None
        found = [ask(batcher, prompt) for prompt in PROMPTS]
        reference = make_engine(model=sliding_model())
        assert [f.text for f in found] == [alone(reference, prompt) for prompt in PROMPTS]
    finally:
        batcher.close()


def test_a_model_whose_attention_is_not_ours_is_served_row_by_row():
    engine = make_engine(share_prefixes=False)
    batcher = ContinuousBatcher(engine, read_tokens=16)
    try:
        found = [ask(batcher, prompt) for prompt in PROMPTS]
        assert [f.text for f in found] == [alone(make_engine(), prompt) for prompt in PROMPTS]
    finally:
        batcher.close()


def frequencies(sampler: Sampler, logits: torch.Tensor, draws: int = 5_000) -> np.ndarray:
    return np.bincount([sampler.choose(logits) for _ in range(draws)], minlength=len(logits)) / draws


@pytest.mark.parametrize(
    ("options", "kept"), [({}, 6), ({"top_p": 0.8}, 3), ({"top_k": 2}, 2), ({"top_p": 0.8, "top_k": 2}, 2)]
)
def test_tokens_are_drawn_as_often_as_their_share(options, kept):
    share = torch.tensor([0.05, 0.4, 0.3, 0.05, 0.15, 0.05])
    order = share.argsort(descending=True, stable=True)[:kept]
    expected = torch.zeros(6)
    expected[order] = share[order] / share[order].sum()
    seen = frequencies(Sampler(temperature=1.0, rng=np.random.default_rng(0), **options), share.log())
    assert np.abs(seen - expected.numpy()).max() < 0.03


def test_a_temperature_sharpens_and_penalties_push_away_from_what_was_written():
    logits = torch.tensor([1.0, 0.9, -5.0])
    assert frequencies(Sampler(temperature=0.01, rng=np.random.default_rng(0)), logits, 200)[0] == 1.0
    sampler = Sampler(temperature=0.0, frequency_penalty=0.5, rng=np.random.default_rng(0))
    assert [sampler.choose(logits) for _ in range(4)] == [0, 1, 0, 1]
    sampler = Sampler(temperature=0.0, presence_penalty=0.5, rng=np.random.default_rng(0))
    assert [sampler.choose(logits) for _ in range(4)] == [0, 1, 0, 0]
    assert logits.tolist() == pytest.approx([1.0, 0.9, -5.0])


def test_a_described_token_tells_its_rank():
    logits = torch.tensor([0.1, 0.2, 0.7]).log()
    found = describe_token(logits, 0, 2)
    assert [token for token, _ in found.top] == [2, 1]
    assert [value for _, value in found.top] == pytest.approx(np.log([0.7, 0.2]))
    assert found.logprob == pytest.approx(np.log(0.1))
