"""The engine that asks an OpenAI-compatible endpoint. Knows requests; HTTP, keys and rates are in _endpoint.

Scoring asks `/completions` to echo prompts with log-probabilities, which few public endpoints do; those that do not
only generate. Generation asks `/completions` with the prompt as it is, or `/chat/completions` with the prompt as one
user's message. What an endpoint answers may change from call to call: each answer stands alone, nothing is tiled.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Literal

from workbench.engines._echo import CHARS_PER_TOKEN, EchoScorer
from workbench.engines._endpoint import Endpoint, RefusedError
from workbench.engines.base import GenerateRequest, Generation, Score, ScoreRequest, Usage
from workbench.engines.text import StopStrings, encode_pairs, encode_prompts, find_prefix_token, text_until
from workbench.errors import CheckpointError, EngineError, RunError

SCORER = 1
"""Raised whenever numbers may change; part of every ledger key."""
_MOST_STOPS = 4
"""Stop strings that every endpoint takes; at the others the text is cut here."""
_UNKNOWN_WINDOW = 4096


class OpenAIEngine:
    """A model behind a URL. `tokenizer` is None unless one is given.

    `max_length` is two less than the model's window: one token is only predicted, and one may have to be written.
    """

    name = "openai"

    def __init__(
        self,
        url: str,
        *,
        model: str,
        tokenizer: Any = None,
        generation: Literal["auto", "completions", "chat"] = "auto",
        window: int | None = None,
        allowed_endpoints: Collection[str] = (),
        concurrency: int = 8,
        **connection: Any,
    ) -> None:
        """
        Args:
            url: base URL of the API, up to and with `/v1`.
            model: the model's name there.
            tokenizer: a Hugging Face tokenizer of that model, or the folder or hub id of one.
            generation: which API writes text; `auto` is completions where the endpoint has them, else chat.
            window: the model's window in tokens; None asks the endpoint, and takes 4096 where it does not tell.
            allowed_endpoints: hosts (`host` or `host:port`) that prompts may be sent to besides this machine.
            concurrency: requests under way at a time.
            connection: `api_key_env`, `requests_per_minute`, `tokens_per_minute`, `timeout_s`, `attempts`,
                `first_wait_s`: see `workbench.engines._endpoint.Endpoint`.

        Raises:
            EngineError: no model is named, the host is not allowed, or the key is refused.
            RunError: the endpoint cannot be reached.
        """
        if not model:
            raise EngineError(f"endpoint {url}: it may serve several models; name one as {url}#MODEL")
        self.endpoint = Endpoint(url, allowed=allowed_endpoints, concurrency=concurrency, **connection)
        self.model, self.concurrency = model, concurrency
        self.tokenizer = _load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        self.usage = Usage()
        self._served = self._ask_models()
        self.max_length = (window or self._served.get(model) or _UNKNOWN_WINDOW) - 2
        self._generation = generation
        self._limit_name = "max_tokens"
        self._lock = threading.Lock()
        self._echo = EchoScorer(self._post, where=f"{self.endpoint.url}#{model}", tokenizer=self.tokenizer)
        kind = "text" if self.tokenizer is None else "ids"
        self.scorer = f"openai/{SCORER} {self.endpoint.url} {model} {kind} {generation}"

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[ScoreRequest]:
        """With a tokenizer as every engine does; without one the requests hold text alone."""
        if self.tokenizer is None:
            return [ScoreRequest(context=context, continuation=continuation) for context, continuation in pairs]
        prefix = find_prefix_token(self.tokenizer)
        return encode_pairs(self.tokenizer, pairs, max_length=self.max_length, prefix_token_id=prefix)

    def score(
        self, requests: Sequence[ScoreRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Score]]]:
        """Yield (index, Score) as the answers come.

        Raises:
            EngineError: the endpoint gives no log-probabilities.
            RunError: the endpoint fails; answers that came before it did are yielded first.
        """
        self.usage = Usage()
        done = set(skip)
        todo = [index for index in range(len(requests)) if index not in done]
        if todo:
            self._echo.probe()
            asked = [requests[index] for index in todo]
            if self.tokenizer is not None:
                asked = [r if r.context_ids else self.encode([(r.context, r.continuation)])[0] for r in asked]
            yield from self._answers(self._echo.calls(asked, todo))
            self.usage.notes += sorted(self._echo.notes)

    def generate(
        self, requests: Sequence[GenerateRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Yield (index, Generation) as the answers come.

        Raises RunError when the endpoint fails; answers that came before it did are yielded first.
        """
        self.usage = Usage()
        done = set(skip)
        todo = [index for index in range(len(requests)) if index not in done]
        if todo:
            self._choose_generation()
            filled = self._encode_prompts([requests[index] for index in todo])
            yield from self._answers(
                (lambda index=index, request=request: [(index, self._generate_one(request))])
                for index, request in zip(todo, filled, strict=True)
            )

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """Yield pieces of text as they come; what may begin a stop string is held back until it does not."""
        self._choose_generation()
        (request,) = self._encode_prompts([request])
        path, body = self._generation_call(request)
        stops = StopStrings(request.stop)
        for event in self.endpoint.stream(path, {"model": self.model, **body}, tokens=self._cost(request)):
            for choice in event.get("choices") or ():
                piece = stops.feed(choice.get("text") or (choice.get("delta") or {}).get("content") or "")
                if piece:
                    yield piece
            if stops.stopped:
                return
        if rest := stops.flush():
            yield rest

    def close(self) -> None:
        """Close the connections; requests that wait for another attempt give up."""
        self.endpoint.close()

    def _answers(self, calls: Iterable[Callable[[], list[tuple[int, Any]]]]) -> Iterator[list[tuple[int, Any]]]:
        """Run the calls on threads and yield what they return as it comes. After a failure nothing new is begun."""
        start = time.perf_counter()
        queue, running = deque(calls), set[Future[list[tuple[int, Any]]]]()
        failure: BaseException | None = None
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="endpoint")
        try:
            while running or (queue and failure is None):
                while queue and failure is None and len(running) < self.concurrency:
                    running.add(pool.submit(queue.popleft()))
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                failure = failure or next((error for future in finished if (error := future.exception())), None)
                answers = [answer for future in finished if not future.exception() for answer in future.result()]
                self.usage.seconds = time.perf_counter() - start
                if answers:
                    yield answers
            if failure is not None:
                raise failure
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _post(self, path: str, body: Mapping[str, Any], *, tokens: int) -> dict[str, Any]:
        try:
            answer = self.endpoint.post(path, {"model": self.model, **body}, tokens=tokens)
        except RefusedError as error:
            if error.status == 404 and self._served and self.model not in self._served:
                raise EngineError(f"{error}; it serves {', '.join(list(self._served)[:8])}") from None
            raise
        if not answer.get("choices"):
            raise RunError(f"{self.endpoint.url}{path}: an answer without choices (got {str(answer)[:80]})")
        counted = answer.get("usage") or {}
        with self._lock:
            self.usage.prompt_tokens += counted.get("prompt_tokens") or 0
            self.usage.naive_tokens += (counted.get("prompt_tokens") or 0) + (counted.get("completion_tokens") or 0)
            self.usage.new_tokens += counted.get("completion_tokens") or 0
        return answer

    def _note(self, note: str) -> None:
        with self._lock:
            if note not in self.usage.notes:
                self.usage.notes.append(note)

    def _ask_models(self) -> dict[str, int | None]:
        """Models that the endpoint serves, with their windows where it tells them."""
        try:
            entries = self.endpoint.get("/models").get("data") or []
        except RefusedError as error:
            if error.status in (401, 403):
                raise
            return {}
        windows: dict[str, int | None] = {}
        for entry in entries:
            if isinstance(entry, dict) and "id" in entry:
                told = [entry.get(name) for name in ("max_model_len", "context_length", "context_window")]
                windows[str(entry["id"])] = next((int(window) for window in told if window), None)
        return windows

    def _encode_prompts(self, requests: Sequence[GenerateRequest]) -> list[GenerateRequest]:
        if self.tokenizer is None:
            return list(requests)
        prefix = find_prefix_token(self.tokenizer)
        return encode_prompts(self.tokenizer, requests, max_length=self.max_length, prefix_token_id=prefix)

    def _choose_generation(self) -> None:
        """`auto`: completions where the endpoint takes them. Learnt once, with a request of one token."""
        if self._generation == "auto":
            try:
                self._post("/completions", {"prompt": "Hello", "max_tokens": 1, "temperature": 0}, tokens=4)
                self._generation = "completions"
            except RefusedError as error:
                if error.status in (401, 403):
                    raise
                self._generation = "chat"
        if self._generation == "chat":
            self._note("prompts were sent as a user's message in a chat")

    def _generation_call(self, request: GenerateRequest) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {self._limit_name: request.max_new_tokens, "temperature": request.temperature}
        if request.temperature:
            body |= {"top_p": request.top_p, "seed": request.seed} | ({"top_k": request.top_k} if request.top_k else {})
        if request.stop:
            body["stop"] = sorted(set(request.stop), key=lambda stop: (len(stop), stop))[:_MOST_STOPS]
        ids = list(request.prompt_ids)
        if self._generation == "chat":
            text = self.tokenizer.decode(ids) if request.truncated and self.tokenizer else request.prompt
            return "/chat/completions", {"messages": [{"role": "user", "content": text}], **body}
        return "/completions", {"prompt": ids or request.prompt, **body}

    def _generate_one(self, request: GenerateRequest) -> Generation:
        path, body = self._generation_call(request)
        try:
            answer = self._post(path, body, tokens=self._cost(request))
        except RefusedError as error:
            if "max_completion_tokens" not in error.reason or "max_completion_tokens" in body:
                raise
            self._limit_name = "max_completion_tokens"  # newer chat models take the limit by this name only
            return self._generate_one(request)
        choice = answer["choices"][0]
        whole = choice.get("text") or (choice.get("message") or {}).get("content") or ""
        text = text_until(whole, request.stop)
        tokens = (answer.get("usage") or {}).get("completion_tokens")
        if tokens is None:
            tokens = 0 if self.tokenizer is None else len(self.tokenizer.encode(whole, add_special_tokens=False))
            self._note("the endpoint counts no tokens; the usage is too low")
        stopped = text != whole or choice.get("finish_reason") != "length"
        return Generation(text=text, tokens=tokens, finish="stop" if stopped else "length")

    def _cost(self, request: GenerateRequest) -> int:
        return request.max_new_tokens + (len(request.prompt_ids) or len(request.prompt) // CHARS_PER_TOKEN)


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name}: no tokenizer: {str(error).splitlines()[0]}") from None
