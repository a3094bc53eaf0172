"""A real vLLM (`make test-vllm`) against plain Hugging Face in float32; elsewhere only that it is missing is tested."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.engines.base import Engine, GenerateRequest, Generation, Score, ScoreRequest
from workbench.engines.vllm import VllmEngine
from workbench.errors import EngineError, RunError

installed = importlib.util.find_spec("vllm") is not None
# Importing vLLM warns of things that are its own business.
real = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

SHOTS = (
    "The following are multiple choice questions (with answers) about anatomy.\n\n"
    "Which bone is the longest?\nA. femur\nB. tibia\nC. ulna\nD. radius\nAnswer: A\n\n"
    "Which organ pumps blood?\nA. liver\nB. kidney\nC. heart\nD. lung\nAnswer: C\n\n"
)
QUESTIONS = [
    ("Which gas do we breathe out?", ["oxygen", "carbon dioxide", "helium", "argon"]),
    ("Where is the retina?", ["in the eye", "in the ear", "in the nose", "in the hand"]),
    ("What carries oxygen in the blood?", ["red cells", "white cells", "platelets", "plasma"]),
]
LETTERS = [
    (SHOTS + q + "\n" + "".join(f"{k}. {c}\n" for k, c in zip("ABCD", choices, strict=True)) + "Answer:", f" {letter}")
    for q, choices in QUESTIONS
    for letter in "ABCD"
]
CLOZE = [(SHOTS + q + "\nAnswer:", " " + choice) for q, choices in QUESTIONS for choice in choices]
LONG_ENDING = " of the body that is made of many cells which work together and need food, water and air to live" * 2
ODD = [
    ("", "The heart is a muscle."),
    ("The capital of France is ", "Paris"),
    ("日本の首都は", "東京です。"),
    ("Q: yes or no?\nA:", " yes"),
    ("Q: yes or no?\nA:", " yes, of course"),
    ("The heart is a part", LONG_ENDING + " long."),
    ("The heart is a part", LONG_ENDING + " well."),
    ("The capital of France", " is Paris"),
    ("The capital of France is", " Paris"),
]
PROMPTS = [
    "Question: What is the capital of France?\nAnswer:",
    "Question: Name three colours.\nAnswer:",
    "Once upon a time there was",
    "def add(a, b):\n    return",
    "The heart pumps blood through",
    "1, 2, 3, 4,",
    "日本の首都は",
    "List of fruits:\n- apple\n-",
]


@pytest.fixture(scope="module")
def engine(real_model: Path) -> Iterator[VllmEngine]:
    engine = VllmEngine(str(real_model), dtype="float32", max_model_len=1024, cache_gb=2, tile_tokens=300)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain(real_model: Path) -> Any:
    """The same weights in transformers, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32).eval()


def plain_score(model: Any, request: ScoreRequest) -> tuple[float, bool]:
    import torch

    ids = request.context_ids + request.continuation_ids
    wanted = torch.tensor(request.continuation_ids)
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0, -len(wanted) :]
    logprobs = logits.log_softmax(-1).gather(1, wanted[:, None])
    return float(logprobs.sum()), bool((logits.argmax(-1) == wanted).all())


def plain_generate(engine: VllmEngine, model: Any, prompt: str, tokens: int) -> str:
    import torch

    ids = engine.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        new = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
    return engine.tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True)


def score_all(engine: VllmEngine, requests: list[ScoreRequest], skip: tuple[int, ...] = ()) -> dict[int, Score]:
    return {index: score for tile in engine.score(requests, skip=skip) for index, score in tile}


def generate_all(engine: VllmEngine, requests: list[GenerateRequest], **kwargs: Any) -> dict[int, Generation]:
    return {index: answer for tile in engine.generate(requests, **kwargs) for index, answer in tile}


@pytest.mark.skipif(installed, reason="vLLM is installed here")
def test_without_vllm_the_error_says_how_to_get_it() -> None:
    with pytest.raises(EngineError, match=r"not installed here.*make test-vllm"):
        VllmEngine("some/folder")


class TestRealVllm:
    pytestmark = real

    def test_scores_and_greediness_equal_plain_transformers(self, engine: VllmEngine, plain: Any) -> None:
        requests = engine.encode(LETTERS + CLOZE + ODD)
        scores = score_all(engine, requests)
        assert sorted(scores) == list(range(len(requests)))
        for index, request in enumerate(requests):
            logprob, is_greedy = plain_score(plain, request)
            assert scores[index].logprob == pytest.approx(logprob, abs=1e-3), request.continuation
            assert scores[index].is_greedy == is_greedy, request.continuation
            assert scores[index].tokens == len(request.continuation_ids)
        assert engine.usage.notes == []

    def test_what_the_model_would_say_is_greedy_and_one_other_token_makes_it_not(
        self, engine: VllmEngine, plain: Any
    ) -> None:
        prompt = PROMPTS[5]
        said = plain_generate(engine, plain, prompt, 8)
        first, second = score_all(engine, engine.encode([(prompt, said), (prompt, said[:-1] + "#")])).values()
        assert first.is_greedy
        assert not second.is_greedy
        assert second.logprob < first.logprob

    def test_a_shared_prompt_is_not_computed_for_each_choice(self, engine: VllmEngine) -> None:
        score_all(engine, engine.encode(LETTERS + CLOZE))
        assert engine.usage.prompt_tokens * 4 < engine.usage.naive_tokens

    def test_a_cached_prefix_that_reaches_into_the_answer_is_computed_again(self, engine: VllmEngine) -> None:
        pair = [(c, t) for c, t in ODD if t.startswith(LONG_ENDING)]
        both = score_all(engine, engine.encode(pair))
        alone = [score_all(engine, engine.encode([one]))[0] for one in pair]
        assert len(engine.encode(pair)[0].continuation_ids) > 33  # more than a block of the prefix cache
        for index in (0, 1):
            assert both[index].logprob == pytest.approx(alone[index].logprob, abs=1e-3)

    def test_tiles_computed_again_after_a_kill_have_the_same_bits(self, engine: VllmEngine) -> None:
        requests = engine.encode(LETTERS + CLOZE)
        tiles = list(engine.score(requests))
        assert len(tiles) > 2
        written = dict(tiles[0] + tiles[2][:1])  # as if killed while the third was being written down
        rest = score_all(engine, requests, skip=tuple(written))
        assert not set(rest) & set(written)
        assert written | rest == {index: score for tile in tiles for index, score in tile}

    def test_nothing_is_computed_where_all_is_known(self, engine: VllmEngine) -> None:
        requests = engine.encode(LETTERS)
        assert list(engine.score(requests, skip=range(len(requests)))) == []
        assert engine.usage.prompt_tokens == 0

    def test_greedy_text_equals_plain_transformers(self, engine: VllmEngine, plain: Any) -> None:
        answers = generate_all(engine, [GenerateRequest(prompt=prompt, max_new_tokens=24) for prompt in PROMPTS])
        same = [answers[i].text == plain_generate(engine, plain, prompt, 24) for i, prompt in enumerate(PROMPTS)]
        assert sum(same) >= len(PROMPTS) - 1  # a near tie may fall the other way
        assert all(1 <= answer.tokens <= 24 for answer in answers.values())

    def test_text_ends_before_the_first_stop_string(self, engine: VllmEngine) -> None:
        free = generate_all(engine, [GenerateRequest(prompt=PROMPTS[5], max_new_tokens=16)])[0]
        assert (free.finish, free.tokens) == ("length", 16)
        stop = free.text[6:9]  # lies across tokens
        cut = generate_all(engine, [GenerateRequest(prompt=PROMPTS[5], max_new_tokens=16, stop=(stop, "@@"))])[0]
        assert cut.text == free.text[: free.text.index(stop)]
        assert cut.finish == "stop"
        assert cut.tokens < free.tokens

    def test_a_sampled_answer_depends_on_its_seed_and_not_on_its_neighbours(self, engine: VllmEngine) -> None:
        def ask(seed: int, prompt: str = PROMPTS[2]) -> GenerateRequest:
            return GenerateRequest(prompt=prompt, max_new_tokens=12, temperature=1.0, top_p=0.95, top_k=50, seed=seed)

        crowd = generate_all(engine, [ask(1), ask(2), ask(3, PROMPTS[1]), ask(1)])
        assert crowd[0] == crowd[3]
        assert crowd[0].text != crowd[1].text
        assert generate_all(engine, [ask(1)])[0].text == crowd[0].text

    def test_generation_goes_on_where_it_was_killed(self, engine: VllmEngine) -> None:
        requests = [GenerateRequest(prompt=prompt, max_new_tokens=6) for prompt in PROMPTS]
        whole = generate_all(engine, requests)
        rest = generate_all(engine, requests, skip=(0, 1, 5))
        assert rest == {index: answer for index, answer in whole.items() if index not in (0, 1, 5)}

    def test_a_stream_joins_to_the_generated_text(self, engine: VllmEngine) -> None:
        for prompt in (PROMPTS[5], PROMPTS[6]):
            request = GenerateRequest(prompt=prompt, max_new_tokens=20, stop=("\n", "12, 13"))
            pieces = list(engine.stream(request))
            assert len(pieces) > 1
            assert "".join(pieces) == generate_all(engine, [request])[0].text

    def test_a_call_left_half_read_frees_the_engine(self, engine: VllmEngine) -> None:
        stream: Any = engine.stream(GenerateRequest(prompt=PROMPTS[2], max_new_tokens=50))
        next(stream)
        with pytest.raises(RunError, match="still answering"):
            generate_all(engine, [GenerateRequest(prompt=PROMPTS[5], max_new_tokens=2)])
        stream.close()
        assert generate_all(engine, [GenerateRequest(prompt=PROMPTS[5], max_new_tokens=2)])[0].tokens == 2

    def test_what_vllm_refuses_is_one_clear_line(self, engine: VllmEngine) -> None:
        with pytest.raises(EngineError, match="temperature") as caught:
            generate_all(engine, [GenerateRequest(prompt="x", max_new_tokens=2, temperature=9.0)])
        assert "\n" not in str(caught.value)

    def test_it_is_an_engine_whose_scorer_names_what_shapes_its_numbers(self, engine: VllmEngine) -> None:
        assert isinstance(engine, Engine)
        for part in ("vllm/", "float32", "cpu" if engine.runtime.device == "cpu" else "cuda", "tile300"):
            assert part in engine.scorer

    def test_a_folder_without_a_model_is_one_clear_line(self, engine: VllmEngine, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="cannot load") as caught:
            VllmEngine(str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_bfloat16_scores_have_no_ties_of_a_bfloat16_head(self, engine: VllmEngine, real_model: Path) -> None:
        half = VllmEngine(str(real_model), dtype="bfloat16", max_model_len=512, cache_gb=0.5)
        try:
            assert "bfloat16 head float32" in half.scorer
            requests = half.encode(LETTERS)
            scores, exact = score_all(half, requests), score_all(engine, requests)
            steps = [scores[i].logprob - scores[i + 1].logprob for i in range(0, len(requests), 4)]
            # Logits of about 16 in bfloat16 are multiples of 1/8; differences of such are too.
            assert not any((step * 16).is_integer() for step in steps)
            assert all(abs(scores[i].logprob - exact[i].logprob) < 0.5 for i in scores)
            said = generate_all(half, [GenerateRequest(prompt=PROMPTS[5], max_new_tokens=6)])[0]
            assert said.text.startswith(" 5, 6")
        finally:
            half.close()
