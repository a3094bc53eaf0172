"""A real HTTP server with a real tiny model: its numbers and texts come through, whatever the network does."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.engines.tiny_endpoint import MODEL, Fault, TinyEndpoint
from tests.reference import ReferenceEngine
from workbench.engines._endpoint import RateLimit
from workbench.engines.base import Engine, GenerateRequest, Generation, Score, ScoreRequest
from workbench.engines.openai import OpenAIEngine
from workbench.errors import EngineError, RunError

PAIRS = [
    ("The heart pumps blood through the", " arteries."),
    ("The heart pumps blood through the", " bread."),
    ("Answer:", " A"),
    ("Answer:", " B"),
    ("Answer:", " B. the kidney"),
    ("How many apples does she have? ", "15"),
    ("How many apples", " does she have? 15"),
]
PROMPTS = ["The heart pumps", "Answer:", "Janet has 3 apples", "He went to the market", "A. the liver\nB."]


@pytest.fixture
def server() -> Iterator[TinyEndpoint]:
    server = TinyEndpoint()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def connect(server: TinyEndpoint, *, tokenizer: bool = True, **options: Any) -> OpenAIEngine:
    options = {"first_wait_s": 0.02, **options}
    return OpenAIEngine(server.url, model=MODEL, tokenizer=server.tokenizer if tokenizer else None, **options)


def score_all(engine: OpenAIEngine, pairs: list[tuple[str, str]], **kwargs: Any) -> dict[int, Score]:
    return {index: score for tile in engine.score(engine.encode(pairs), **kwargs) for index, score in tile}


def generate_all(engine: OpenAIEngine, requests: list[GenerateRequest], **kwargs: Any) -> dict[int, Generation]:
    return {index: answer for tile in engine.generate(requests, **kwargs) for index, answer in tile}


def reference_scores(server: TinyEndpoint, pairs: list[tuple[str, str]]) -> list[Score]:
    oracle = ReferenceEngine(server.model, server.tokenizer)
    return [score for tile in oracle.score(oracle.encode(pairs)) for _, score in tile]


@pytest.mark.parametrize("must_write", [False, True])
@pytest.mark.parametrize("tokenizer", [True, False])
def test_scores_equal_the_model_behind_the_endpoint(server: TinyEndpoint, tokenizer: bool, must_write: bool) -> None:
    server.must_write = must_write
    engine = connect(server, tokenizer=tokenizer)
    scores = score_all(engine, PAIRS)
    for index, expected in enumerate(reference_scores(server, PAIRS)):
        assert scores[index].logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert (scores[index].is_greedy, scores[index].tokens) == (expected.is_greedy, expected.tokens)
    assert engine.usage.prompt_tokens > 0
    assert engine.usage.notes == []
    assert isinstance(engine, Engine)


def test_what_the_model_would_say_is_greedy(server: TinyEndpoint) -> None:
    context = server.tokenizer.encode("Answer:")
    said, _ = server.write(context, {"max_tokens": 3})
    other = [*said[:-1], (said[-1] + 1) % 400]
    requests = [
        ScoreRequest(context="", continuation="", context_ids=tuple(context), continuation_ids=tuple(ids))
        for ids in (said, other)
    ]
    scores = {index: score for tile in connect(server).score(requests) for index, score in tile}
    assert scores[0].is_greedy
    assert not scores[1].is_greedy


def test_the_same_text_is_sent_once_however_it_is_split(server: TinyEndpoint) -> None:
    for tokenizer in (True, False):
        engine = connect(server, tokenizer=tokenizer)
        score_all(engine, [("a b", " c d"), ("a", " b c d"), ("a b", " c d")])
        assert len([body for body in server.asked() if body["prompt"] not in ([], None)]) <= 2  # the probe and the text
        server.requests.clear()


def test_without_a_tokenizer_the_first_token_of_a_bare_text_is_left_out_and_said(server: TinyEndpoint) -> None:
    engine = connect(server, tokenizer=False)
    text = "The heart pumps blood."
    score = score_all(engine, [("", text)])[0]
    assert score.tokens == len(server.tokenizer.encode(text)) - 1
    assert any("first token" in note for note in engine.usage.notes)


def test_what_is_known_is_not_asked_again(server: TinyEndpoint) -> None:
    engine = connect(server)
    scores = score_all(engine, PAIRS, skip=(0, 1, 2, 3, 4))
    assert sorted(scores) == [5, 6]
    server.requests.clear()
    assert score_all(engine, PAIRS, skip=range(len(PAIRS))) == {}
    assert generate_all(engine, [GenerateRequest(prompt="x")], skip=(0,)) == {}
    assert server.requests == []


def test_an_endpoint_without_log_probabilities_says_which_tasks_work(server: TinyEndpoint) -> None:
    server.echoes = False
    engine = connect(server)
    with pytest.raises(EngineError, match=r"no log-probabilities.*echo is not supported.*generate text work"):
        score_all(engine, PAIRS)
    assert generate_all(engine, [GenerateRequest(prompt="Answer:", max_new_tokens=2)])[0].tokens == 2


def test_a_tokenizer_of_another_model_is_found_out(server: TinyEndpoint) -> None:
    inner = Tokenizer(models.WordLevel({"<s>": 0, "The": 1, "capital": 2, "of": 3, "France": 4}, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<s>")
    engine = OpenAIEngine(server.url, model=MODEL, tokenizer=foreign)
    with pytest.raises(EngineError, match="not the model's"):
        score_all(engine, PAIRS)


@pytest.mark.parametrize("completes", [True, False])
def test_text_ends_before_the_first_of_many_stop_strings(server: TinyEndpoint, completes: bool) -> None:
    server.completes = completes
    engine = connect(server)
    free = generate_all(engine, [GenerateRequest(prompt=PROMPTS[0], max_new_tokens=12)])[0]
    assert (free.tokens, free.finish) == (12, "length")
    stop = free.text[3:5]
    stops = ("@1", "@2", "@3", "@4", "@5", stop)  # more than an endpoint takes
    cut = generate_all(engine, [GenerateRequest(prompt=PROMPTS[0], max_new_tokens=12, stop=stops)])[0]
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish == "stop"
    assert all(len(body.get("stop", ())) <= 4 for path, body, _ in server.requests)
    assert any("chat" in note for note in engine.usage.notes) == (not completes)


def test_texts_equal_the_model_behind_the_endpoint(server: TinyEndpoint) -> None:
    oracle = ReferenceEngine(server.model, server.tokenizer)
    engine = connect(server)
    requests = [GenerateRequest(prompt=prompt, max_new_tokens=8) for prompt in PROMPTS]
    answers = generate_all(engine, requests)
    filled = engine._encode_prompts(requests)
    assert [answers[i].text for i in range(len(requests))] == [
        answer.text for tile in oracle.generate(filled) for _, answer in tile
    ]
    assert engine.usage.new_tokens >= sum(answer.tokens for answer in answers.values())


def test_a_seed_gives_the_same_sample_and_another_one_another(server: TinyEndpoint) -> None:
    engine = connect(server)

    def ask(seed: int) -> GenerateRequest:
        return GenerateRequest(prompt="Answer:", max_new_tokens=8, temperature=1.0, seed=seed)

    answers = generate_all(engine, [ask(1), ask(1), ask(2)])
    assert answers[0].text == answers[1].text != answers[2].text


def test_newer_chat_models_take_the_limit_by_its_other_name(server: TinyEndpoint) -> None:
    server.limit_name = "max_completion_tokens"
    engine = connect(server, generation="chat")
    assert generate_all(engine, [GenerateRequest(prompt="Hi", max_new_tokens=3)])[0].tokens == 3


@pytest.mark.parametrize("generation", ["completions", "chat"])
def test_a_stream_joins_to_the_generated_text(server: TinyEndpoint, generation: Any) -> None:
    engine = connect(server, generation=generation)
    free = generate_all(engine, [GenerateRequest(prompt=PROMPTS[1], max_new_tokens=12)])[0].text
    for stop in ((), (free[4:6],)):
        request = GenerateRequest(prompt=PROMPTS[1], max_new_tokens=12, stop=stop)
        pieces = list(engine.stream(request))
        assert len(pieces) > 1
        assert "".join(pieces) == generate_all(engine, [request])[0].text


def test_a_stream_that_breaks_off_is_an_error_and_not_a_short_text(server: TinyEndpoint) -> None:
    engine = connect(server, generation="completions")
    server.faults.append(Fault(drop=True))
    with pytest.raises(RunError, match="broke off"):
        list(engine.stream(GenerateRequest(prompt=PROMPTS[1], max_new_tokens=12)))


def test_a_busy_endpoint_is_asked_again_after_the_time_it_names(server: TinyEndpoint) -> None:
    engine = connect(server, concurrency=1)
    score_all(engine, PAIRS[:1])
    server.requests.clear()
    server.faults.append(Fault(status=429, headers={"Retry-After": "0.6"}))
    start = time.monotonic()
    assert len(score_all(engine, PAIRS[2:3])) == 1
    assert time.monotonic() - start >= 0.6
    assert len(server.asked()) == 2


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500), Fault(status=503), Fault(drop=True), Fault(delay_s=1.5)],
    ids=["500", "503", "drop", "slow"],
)
def test_a_fault_that_passes_changes_nothing(server: TinyEndpoint, fault: Fault) -> None:
    engine = connect(server, timeout_s=0.7)
    calm = score_all(engine, PAIRS)
    server.faults.extend([fault, fault])
    assert score_all(engine, PAIRS) == calm


def test_an_endpoint_that_stays_down_is_named_with_its_status_and_what_came_before_is_kept(
    server: TinyEndpoint,
) -> None:
    engine = connect(server, concurrency=1, attempts=3)
    score_all(engine, PAIRS[:1])
    server.requests.clear()
    kept: dict[int, Score] = {}
    requests = engine.encode(PAIRS)

    def read() -> None:
        for tile in engine.score(requests):
            kept.update(tile)
            if len(server.asked()) == 2:
                server.faults.extend([Fault(status=503, message="overloaded")] * 50)

    with pytest.raises(RunError, match=r"127\.0\.0\.1.*gave up after 3 attempts.*status 503 \(overloaded\)"):
        read()
    assert kept
    server.faults.clear()
    rest = score_all(engine, PAIRS, skip=kept)
    assert sorted([*kept, *rest]) == list(range(len(PAIRS)))


def test_a_refused_connection_is_one_clear_line() -> None:
    with pytest.raises(RunError, match="gave up after 2 attempts") as caught:
        OpenAIEngine("http://127.0.0.1:9/v1", model="x", attempts=2, first_wait_s=0.01)
    assert "\n" not in str(caught.value)


def test_the_key_is_sent_and_never_shown(server: TinyEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    engine = connect(server, api_key_env="MY_KEY", attempts=1)
    assert server.requests[-1][2]["Authorization"] == "Bearer sk-secret-123"
    for fault, kind in (
        (Fault(status=401, message="bad key sk-secret-123"), EngineError),
        (Fault(status=500), RunError),
    ):
        server.faults.append(fault)
        with pytest.raises(kind) as caught:
            score_all(engine, PAIRS[:1])
        assert "sk-secret-123" not in str(caught.value)
    server.faults.append(Fault(status=401, message="bad key sk-secret-123"))
    with pytest.raises(EngineError, match="MY_KEY"):
        score_all(engine, PAIRS[:1])


def test_a_spent_account_is_not_asked_again(server: TinyEndpoint) -> None:
    engine = connect(server)
    server.requests.clear()
    server.faults.append(Fault(status=429, message="insufficient_quota: pay first"))
    with pytest.raises(RunError, match="account is spent"):
        generate_all(engine, [GenerateRequest(prompt="x", max_new_tokens=1)])
    assert len(server.asked()) == 1


def test_an_unknown_model_is_named_with_those_served(server: TinyEndpoint) -> None:
    engine = OpenAIEngine(server.url, model="large")
    with pytest.raises(EngineError, match=r"does not exist.*it serves tiny"):
        score_all(engine, PAIRS)


@pytest.mark.parametrize("url", ["https://api.example.org/v1", "http://10.0.0.7:8000/v1", "https://evil-localhost/v1"])
def test_prompts_go_to_no_host_that_was_not_allowed(url: str) -> None:
    with pytest.raises(EngineError, match=r"allowed_endpoints.*--allow-endpoint"):
        OpenAIEngine(url, model="x")


@pytest.mark.parametrize("allowed", ["no-such-host.invalid", "no-such-host.invalid:8000"])
def test_an_allowed_host_is_asked(allowed: str) -> None:
    with pytest.raises(RunError, match="gave up"):  # it does not exist, but it was tried
        OpenAIEngine("http://no-such-host.invalid:8000/v1", model="x", allowed_endpoints=[allowed], attempts=1)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost/v1", "http://user:pw@localhost/v1", "http://[bad/v1"]
)
def test_a_url_that_is_none_or_holds_a_password_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(EngineError) as caught:
        OpenAIEngine(url, model="x")
    assert "pw" not in str(caught.value)


def test_a_key_does_not_travel_unprotected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    with pytest.raises(EngineError, match="plain http"):
        OpenAIEngine("http://api.example.org/v1", model="x", allowed_endpoints=["api.example.org"])


def test_no_more_requests_than_allowed_are_under_way(server: TinyEndpoint) -> None:
    engine = connect(server, concurrency=3)
    requests = [GenerateRequest(prompt=f"{i}", max_new_tokens=1) for i in range(12)]
    generate_all(engine, requests[:1])
    server.faults.extend([Fault(delay_s=0.05)] * 12)
    assert len(generate_all(engine, requests)) == 12
    assert 2 <= server.most_under_way <= 3


def test_the_window_is_the_endpoints_and_long_contexts_are_cut_and_counted(server: TinyEndpoint) -> None:
    engine = connect(server)
    assert engine.max_length == 510
    (request,) = engine.encode([("word " * 2000, " end")])
    assert len(request.context_ids) + len(request.continuation_ids) == 511
    assert request.truncated > 0


def test_rates_are_kept_by_waiting() -> None:
    now, slept = [100.0], list[float]()
    rate = RateLimit(60, 600, clock=lambda: now[0], sleep=slept.append)
    rate.wait(5)  # at once; the next may go after a second
    rate.wait(20)  # after 1 s; the next after 2 s more, as 20 tokens take two seconds
    rate.wait(1)
    assert slept == pytest.approx([1.0, 3.0])
    now[0] += 60
    rate.wait(1)
    assert slept == pytest.approx([1.0, 3.0])
    rate.pause(7)
    rate.wait(1)
    assert slept[-1] == pytest.approx(7.0)


def test_a_rate_limit_slows_the_requests_down(server: TinyEndpoint) -> None:
    engine = connect(server, requests_per_minute=600)
    start = time.monotonic()
    generate_all(engine, [GenerateRequest(prompt=f"{i}", max_new_tokens=1) for i in range(5)])
    assert time.monotonic() - start >= 0.5  # the probe and five requests, a tenth of a second apart
