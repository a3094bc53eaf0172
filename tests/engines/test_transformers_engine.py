"""The transformers engine against the model's own forward pass and `generate`, over several architectures."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.tiny import tiny_model, tiny_tokenizer
from workbench.engines.base import GenerateRequest, Score, ScoreRequest
from workbench.engines.causal_model import CausalModel
from workbench.engines.transformers_engine import TransformersEngine
from workbench.errors import CheckpointError

COMMON: dict[str, Any] = {"vocab_size": 512, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2}
LLAMA_LIKE = COMMON | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
SHARING: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**LLAMA_LIKE),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA_LIKE),
    "qwen3": lambda: transformers.Qwen3Config(**LLAMA_LIKE, head_dim=16),
    "gpt2": lambda: transformers.GPT2Config(**COMMON, n_embd=64, n_layer=2, n_head=4, n_positions=1024),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        **COMMON, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    ),
    "mistral, window 24": lambda: transformers.MistralConfig(**LLAMA_LIKE, sliding_window=24),
    "gemma3, windows of 16 in every other layer": lambda: transformers.Gemma3TextConfig(
        **LLAMA_LIKE, head_dim=16, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
    ),
    "olmo2": lambda: transformers.Olmo2Config(**LLAMA_LIKE),
}
PLAIN: dict[str, Any] = {
    "bloom": lambda: transformers.BloomConfig(**COMMON, hidden_size=64, n_layer=2, n_head=4),
    "gemma2, soft-capped attention": lambda: transformers.Gemma2Config(**LLAMA_LIKE, head_dim=16),
    "mamba": lambda: transformers.MambaConfig(**COMMON, hidden_size=64, num_hidden_layers=2, state_size=4),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Networks this small lose a hundredfold when two busy cores share one of their products.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(config: Any, **options: Any) -> TransformersEngine:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    wrapped = CausalModel(model, device=torch.device("cpu"), weights="float32", arithmetic="float32")
    return TransformersEngine(wrapped, tiny_tokenizer(), **{"batch_tokens": 160, **options})


def few_shot_requests(*, shots: int = 90, questions: int = 9, choices: int = 4, seed: int = 0) -> list[ScoreRequest]:
    """Two subjects with a long shared prefix, questions of different lengths, choices of one to five tokens."""
    rng = np.random.default_rng(seed)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(2, 400, n).tolist())

    requests = []
    for subject in ("physics", "law"):
        prefix = draw(shots)
        for _ in range(questions):
            context = prefix + draw(int(rng.integers(1, 40)))
            requests += [
                ScoreRequest(
                    context="",
                    continuation="",
                    context_ids=context,
                    continuation_ids=draw(int(rng.integers(1, 6))),
                    tile=subject,
                )
                for _ in range(choices)
            ]
    return requests


def collect(engine: TransformersEngine, requests: list[ScoreRequest], **options: Any) -> dict[int, Score]:
    return dict(itertools.chain.from_iterable(engine.score(requests, **options)))


@torch.inference_mode()
def by_hand(engine: TransformersEngine, request: ScoreRequest) -> tuple[float, bool]:
    """The request alone through the model's own forward pass."""
    model = engine.model.model
    ids = [*request.context_ids, *request.continuation_ids]
    with engine.model.attention(engine.model.standard_attention):
        logits = model(torch.tensor([ids[:-1]]), use_cache=False).logits[0, len(request.context_ids) - 1 :]
    logprobs = logits.double().log_softmax(-1)
    wanted = torch.tensor(request.continuation_ids)
    return float(logprobs.gather(1, wanted[:, None]).sum()), bool((logits.argmax(-1) == wanted).all())


@pytest.mark.parametrize("architecture", SHARING)
def test_shared_prefixes_give_the_models_own_numbers(architecture: str) -> None:
    engine = build(SHARING[architecture]())
    requests = few_shot_requests()
    answers = collect(engine, requests)
    assert engine.usage.notes == []
    assert engine.usage.prompt_tokens < engine.usage.naive_tokens / 8
    for i, request in enumerate(requests):
        logprob, greedy = by_hand(engine, request)
        assert answers[i].logprob == pytest.approx(logprob, abs=1e-4)
        assert answers[i].is_greedy == greedy


@pytest.mark.parametrize("architecture", PLAIN)
def test_an_architecture_that_cannot_share_falls_back_and_says_so(architecture: str) -> None:
    engine = build(PLAIN[architecture]())
    requests = few_shot_requests(shots=20, questions=3)
    answers = collect(engine, requests)
    assert any("plain batches" in note for note in engine.usage.notes)
    for i, request in enumerate(requests):
        assert answers[i].logprob == pytest.approx(by_hand(engine, request)[0], abs=1e-4)


def test_the_self_test_catches_a_model_whose_attention_depends_on_its_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = build(SHARING["llama"]())
    trunk = engine.model.model.base_model
    real = type(trunk).forward

    def leaky(self: Any, *args: Any, **kwargs: Any) -> Any:
        # every position learns something of its batch, as a faulty kernel or a batch-wide normalisation would
        out = real(self, *args, **kwargs)
        out.last_hidden_state += 0.5 * out.last_hidden_state.mean(1, keepdim=True)
        return out

    monkeypatch.setattr(type(trunk), "forward", leaky)
    collect(engine, few_shot_requests(questions=2))
    assert any("changed a log-probability" in note for note in engine.usage.notes)


@pytest.mark.parametrize("batch_tokens", [32, 96, 4096])
def test_numbers_do_not_depend_on_the_batch_size(batch_tokens: int) -> None:
    requests = few_shot_requests()
    usual = collect(build(SHARING["llama"]()), requests)
    other = collect(build(SHARING["llama"](), batch_tokens=batch_tokens), requests)
    for i in usual:
        assert other[i].logprob == pytest.approx(usual[i].logprob, abs=1e-4)


def test_a_cache_too_small_for_the_prefix_costs_time_not_accuracy() -> None:
    requests = few_shot_requests()
    engine = build(SHARING["llama"](), cache_gb=1e-9)
    assert engine.path_limit == 16
    answers = collect(engine, requests)
    for i in range(0, len(requests), 5):
        assert answers[i].logprob == pytest.approx(by_hand(engine, requests[i])[0], abs=1e-4)


def test_what_is_skipped_changes_no_bit_of_the_rest() -> None:
    requests = few_shot_requests()
    whole = collect(build(SHARING["llama"]()), requests)
    for seed in range(3):
        skip = set(np.random.default_rng(seed).choice(len(requests), 40, replace=False).tolist())
        rest = collect(build(SHARING["llama"]()), requests, skip=skip)
        assert set(rest) == set(whole) - skip
        assert all(rest[i] == whole[i] for i in rest)


def test_an_items_bits_do_not_depend_on_the_other_tasks_of_the_run() -> None:
    requests = few_shot_requests()
    physics = [r for r in requests if r.tile == "physics"]
    alone, together = collect(build(SHARING["llama"]()), physics), collect(build(SHARING["llama"]()), requests)
    assert [alone[i] for i in range(len(physics))] == [
        together[i] for i, r in enumerate(requests) if r.tile == "physics"
    ]


def test_bfloat16_has_no_ties_that_float32_does_not_have() -> None:
    requests = few_shot_requests(choices=6)
    exact = build(SHARING["llama"]())
    model = exact.model.model.to(torch.bfloat16)
    rounded = TransformersEngine(
        CausalModel(model, device=torch.device("cpu"), weights="bfloat16", arithmetic="bfloat16"), tiny_tokenizer()
    )
    answers = collect(rounded, requests)
    assert rounded.usage.notes == []
    distinct = {(r.context_ids, r.continuation_ids): answers[i].logprob for i, r in enumerate(requests)}
    assert len(set(distinct.values())) == len(distinct)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not the tokenizer of this model"):
        build(transformers.LlamaConfig(**(LLAMA_LIKE | {"vocab_size": 100})))


def prompts(n: int = 7, *, shots: int = 30, new: int = 12) -> list[GenerateRequest]:
    rng = np.random.default_rng(3)
    prefix = tuple(rng.integers(2, 400, shots).tolist())
    return [
        GenerateRequest(
            prompt="", prompt_ids=prefix + tuple(rng.integers(2, 400, rng.integers(1, 25)).tolist()), max_new_tokens=new
        )
        for _ in range(n)
    ]


@torch.inference_mode()
def greedy_ids(engine: TransformersEngine, request: GenerateRequest) -> list[int]:
    model = engine.model.model
    prompt = torch.tensor([request.prompt_ids])
    with engine.model.attention(engine.model.standard_attention):
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=request.max_new_tokens,
            do_sample=False,
            pad_token_id=1,
        )
    return [t for t in out[0, prompt.shape[1] :].tolist() if t != 1]


@pytest.mark.parametrize(
    "architecture", ["llama", "gpt2", "gpt_neox", "mistral, window 24", "gemma2, soft-capped attention"]
)
def test_greedy_text_is_what_the_model_itself_generates(architecture: str) -> None:
    engine = build((SHARING | PLAIN)[architecture]())
    requests = prompts()
    answers = dict(itertools.chain.from_iterable(engine.generate(requests)))
    for i, request in enumerate(requests):
        wanted = engine.tokenizer.decode(greedy_ids(engine, request), skip_special_tokens=True)
        assert answers[i].text == wanted


def test_text_ends_before_a_stop_string_and_the_stream_gives_the_same() -> None:
    engine = build(SHARING["llama"]())
    request = prompts(1, new=30)[0]
    ((_, free),) = next(iter(engine.generate([request])))
    stop = free.text[6:8]
    stopped = dataclasses.replace(request, stop=(stop, "never seen"))
    ((_, answer),) = next(iter(engine.generate([stopped])))
    assert answer.text == free.text[: free.text.index(stop)]
    assert answer.finish == "stop"
    assert answer.tokens < free.tokens
    assert "".join(engine.stream(stopped)) == answer.text


def test_a_seed_gives_the_same_sample_whoever_is_in_the_tile() -> None:
    engine = build(SHARING["llama"]())
    sampled = [dataclasses.replace(r, temperature=0.9, top_p=0.95, top_k=50, seed=i) for i, r in enumerate(prompts())]
    together = dict(itertools.chain.from_iterable(engine.generate(sampled)))
    alone = next(iter(engine.generate([sampled[4]])))[0][1]
    other_seed = next(iter(engine.generate([dataclasses.replace(sampled[4], seed=99)])))[0][1]
    assert alone == together[4]
    assert other_seed.text != alone.text


def test_samples_follow_the_models_distribution() -> None:
    engine = build(transformers.LlamaConfig(**(LLAMA_LIKE | {"initializer_range": 0.05})))
    one = prompts(1, new=1)[0]
    requests = [dataclasses.replace(one, temperature=1.0, top_k=5, seed=i, tile=str(i % 2)) for i in range(400)]
    texts = [g.text for tile in engine.generate(requests) for _, g in tile]
    with torch.inference_mode(), engine.model.attention("sdpa"):
        logits = engine.model.model(torch.tensor([one.prompt_ids])).logits[0, -1]
    values, ids = logits.topk(5)
    share = values.softmax(-1).tolist()
    for token, expected in zip(ids.tolist(), share, strict=True):
        observed = texts.count(engine.tokenizer.decode([token], skip_special_tokens=True)) / 400
        assert observed == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5 + 1e-9)


def test_nan_weights_give_nan_not_a_number_that_looks_right() -> None:
    model = tiny_model()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    wrapped = CausalModel(model, device=torch.device("cpu"), weights="float32", arithmetic="float32")
    answers = collect(TransformersEngine(wrapped, tiny_tokenizer()), few_shot_requests(questions=1))
    assert all(np.isnan(a.logprob) for a in answers.values())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba"])
def test_embeddings_are_the_models_own_last_hidden_states_whatever_is_computed_beside_them(kind):
    engine = build({**SHARING, **PLAIN}[kind](), batch_tokens=48)
    texts = ["He went to the market.", "", "The heart pumps blood through the arteries. " * 3, "bread", "bread"]
    for pooling in ("mean", "last"):
        found = engine.embed(texts, pooling=pooling, max_tokens=24)
        assert found.dtype == np.float32 and found.shape[0] == len(texts)
        for row, text in zip(found, texts, strict=True):
            ids = engine.tokenizer.encode(text)[:24] or [engine.prefix_token]
            with torch.inference_mode():
                alone = engine.model.model.base_model(torch.tensor([ids])).last_hidden_state[0]
            wanted = alone.mean(0) if pooling == "mean" else alone[-1]
            np.testing.assert_allclose(row, wanted.numpy(), atol=2e-5)
