"""A small OpenAI-compatible HTTP server with a tiny real model behind it, that can be told to fail in real ways."""

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from tests.tiny import tiny_model, tiny_tokenizer

MODEL = "tiny"


@dataclass(kw_only=True)
class Fault:
    """What happens to one request instead of an answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "out of order"
    drop: bool = False
    """Close the connection in the middle of the answer."""
    delay_s: float = 0.0
    """Answer rightly, but late."""


class TinyEndpoint:
    """`url` serves the model; `requests` holds (path, body, headers) of all that came; `faults` are met first."""

    def __init__(self) -> None:
        self.model, self.tokenizer = tiny_model(), tiny_tokenizer()
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.faults: deque[Fault] = deque()
        self.echoes = True
        self.must_write = False
        """max_tokens=0 is refused, as some servers do."""
        self.completes = True
        self.limit_name = "max_tokens"
        self.most_under_way = 0
        self._under_way = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"endpoint": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked(self, path: str = "/v1/completions") -> list[dict[str, Any]]:
        """Bodies of the requests to a path."""
        return [body for own, body, _ in self.requests if own == path]

    def logprobs(self, ids: list[int]) -> torch.Tensor:
        """float32 [T, V]: row t is about token t + 1."""
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def compute(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, answer) as such servers give it."""
        if body.get("model") != MODEL:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}}
        if self.limit_name not in body:
            return 400, {"error": {"message": f"Unsupported parameter: use '{self.limit_name}' instead."}}
        if path == "/v1/chat/completions":
            prompt = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
            ids = self.tokenizer.encode(prompt)
        elif self.completes:
            ids = body["prompt"] if isinstance(body["prompt"], list) else self.tokenizer.encode(body["prompt"])
        else:
            return 404, {"error": {"message": "This is not a completion model."}}
        if body.get("echo") and (not self.echoes or (self.must_write and not body["max_tokens"])):
            return 400, {"error": {"message": "echo is not supported" if not self.echoes else "max_tokens must be 1"}}
        with self._lock:
            new, finish = self.write(ids, body)
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(new)}
        if path == "/v1/chat/completions":
            message = {"role": "assistant", "content": text}
            return 200, {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}
        choice: dict[str, Any] = {"text": text, "finish_reason": finish}
        if body.get("echo"):
            choice |= {"text": self.tokenizer.decode(ids) + text, "logprobs": self.describe(ids + new)}
        return 200, {"choices": [choice], "usage": usage}

    def write(self, ids: list[int], body: dict[str, Any]) -> tuple[list[int], str]:
        new: list[int] = []
        while len(new) < body[self.limit_name]:
            row = self.logprobs(ids + new)[-1]
            token = int(row.argmax())
            if body.get("temperature"):
                generator = torch.Generator().manual_seed(body["seed"] + len(new))
                token = int(torch.multinomial(row.exp(), 1, generator=generator))
            new.append(token)
            text = self.tokenizer.decode(new, skip_special_tokens=True)
            if token == self.tokenizer.eos_token_id or any(stop in text for stop in body.get("stop", ())):
                return new, "stop"
        return new, "length"

    def describe(self, ids: list[int]) -> dict[str, Any]:
        rows = self.logprobs(ids)
        names = [self.tokenizer.decode([token]) for token in ids]
        pairs = [(float(rows[at, token]), rows[at].max(), int(rows[at].argmax())) for at, token in enumerate(ids[1:])]
        offsets = [len(self.tokenizer.decode(ids[:at])) for at in range(len(ids))]
        return {
            "tokens": names,
            "token_logprobs": [None] + [own for own, _, _ in pairs],
            "top_logprobs": [None] + [{self.tokenizer.decode([best]): float(top)} for _, top, best in pairs],
            "text_offset": offsets,
        }


class _Handler(BaseHTTPRequestHandler):
    endpoint: TinyEndpoint

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.endpoint.requests.append((self.path, {}, dict(self.headers)))
        if self.path == "/v1/models":
            self.reply(200, {"data": [{"id": MODEL, "max_model_len": 512}]})
        else:
            self.reply(404, {"error": {"message": "no such path"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.endpoint._lock:
            self.endpoint.requests.append((self.path, body, dict(self.headers)))
            fault = self.endpoint.faults.popleft() if self.endpoint.faults else Fault()
            self.endpoint._under_way += 1
            self.endpoint.most_under_way = max(self.endpoint.most_under_way, self.endpoint._under_way)
        time.sleep(fault.delay_s)
        # Counted out before the answer goes, which is what lets a client send its next request.
        with self.endpoint._lock:
            self.endpoint._under_way -= 1
        self.answer(body, fault)

    def answer(self, body: dict[str, Any], fault: Fault) -> None:
        if fault.status:
            self.reply(fault.status, {"error": {"message": fault.message}}, fault.headers)
            return
        status, answer = self.endpoint.compute(self.path, body)
        if body.get("stream") and status == 200:
            self.stream(answer, broken=fault.drop)
        elif fault.drop:
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        else:
            self.reply(status, answer)

    def stream(self, answer: dict[str, Any], *, broken: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        choice = answer["choices"][0]
        text = choice.get("text") or choice["message"]["content"]
        for place, character in enumerate(text):
            if broken and place == 2:
                return
            piece = {"text": character} if "text" in choice else {"delta": {"content": character}}
            self.wfile.write(f"data: {json.dumps({'choices': [piece]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def reply(self, status: int, answer: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
