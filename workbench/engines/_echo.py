"""Log-probabilities out of an OpenAI-compatible endpoint that echoes its prompts. Knows the answer's format; no HTTP.

With a tokenizer of the same model prompts are token ids and split as lm-eval does. Without one they are text, and the
continuation is the tokens that hold any of its characters.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from workbench.engines._endpoint import RefusedError
from workbench.engines._score_jobs import Job, plan_jobs
from workbench.engines.base import Score, ScoreRequest
from workbench.errors import EngineError, RunError

CHARS_PER_TOKEN = 3
"""A low guess, for rate limits where nothing counts tokens."""
_PROBE = "The capital of France is Paris."

Call = Callable[[], list[tuple[int, Score]]]
Post = Callable[..., dict[str, Any]]
"""Path, body, tokens it may cost -> the endpoint's answer."""


class EchoScorer:
    """Scores requests by echoed prompts. `notes` collects what a reader of the numbers must know."""

    def __init__(self, post: Post, *, where: str, tokenizer: Any) -> None:
        self.notes: set[str] = set()
        self._post, self._where, self._tokenizer = post, where, tokenizer
        self._extra_tokens: int | None = None

    def probe(self) -> None:
        """Learn once whether the endpoint echoes log-probabilities, and whether it must write a token to do so.

        Raises EngineError where it does not, or counts other tokens than the tokenizer given.
        """
        if self._extra_tokens is not None:
            return
        ids = None if self._tokenizer is None else tuple(self._tokenizer.encode(_PROBE))
        refused = "it echoed none"
        for extra in (0, 1):
            try:
                echoed = self._echo(ids or _PROBE, extra)
            except RefusedError as error:
                if error.status in (401, 403, 404):
                    raise
                refused = error.reason or f"status {error.status}"
                continue
            if len(echoed.get("token_logprobs") or ()) > 1:
                self._check_tokenizer(ids, echoed)
                self._extra_tokens = extra
                return
        raise EngineError(
            f"{self._where}: no log-probabilities of a prompt ({refused}); tasks that generate text work (e.g. gsm8k, "
            "ifeval), multiple choice and perplexity need --engine transformers or vllm"
        )

    def _check_tokenizer(self, ids: tuple[int, ...] | None, echoed: Mapping[str, Any]) -> None:
        tokens = echoed.get("tokens")
        if ids is None or tokens is None:
            return
        # Single tokens may have lost their spaces, or show them as U+2581; special tokens may stand around the text.
        seen = "".join(map(str, tokens)).replace("\u2581", "")
        if len(tokens) != len(ids) or "".join(_PROBE.split()) not in "".join(seen.split()):
            raise EngineError(
                f"{self._where}: the tokenizer given is not the model's (it reads {seen[:40]!r} in the ids of "
                f"{_PROBE!r}); give the right one, or none"
            )

    def calls(self, requests: Sequence[ScoreRequest], names: Sequence[int]) -> Iterator[Call]:
        """One call per prompt that must be sent; each returns (name, Score) of the requests it answers."""
        if self._tokenizer is not None:
            for tile in plan_jobs(requests, tile_tokens=1, max_lasts=1):
                for job in tile:
                    yield lambda job=job: self._score_ids(job, requests, names)
            return
        users: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            users.setdefault(request.context + request.continuation, []).append(place)
        for text, places in users.items():
            yield lambda text=text, places=places: self._score_text(text, places, requests, names)

    def _echo(self, prompt: str | Sequence[int], extra: int) -> dict[str, Any]:
        """Log-probabilities of the prompt's own tokens."""
        text = isinstance(prompt, str)
        body = {"prompt": prompt if text else list(prompt), "max_tokens": extra, "temperature": 0}
        cost = (len(prompt) // CHARS_PER_TOKEN if text else len(prompt)) + extra
        answer = self._post("/completions", {**body, "echo": True, "logprobs": 1}, tokens=cost)
        logprobs = answer["choices"][0].get("logprobs") or {}
        size = len(logprobs.get("token_logprobs") or ()) - extra
        return {name: values[:size] for name, values in logprobs.items() if isinstance(values, list)}

    def _score_ids(self, job: Job, requests: Sequence[ScoreRequest], names: Sequence[int]) -> list[tuple[int, Score]]:
        logprobs = self._echo(job.ids + job.lasts, self._extra_tokens or 0)
        scores: list[tuple[int, Score]] = []
        for place in job.requests:
            start = len(requests[place].context_ids)
            own = slice(start, start + len(requests[place].continuation_ids))
            scores.append((names[place], self._read(logprobs, own, requests[place])))
        return scores

    def _score_text(
        self, text: str, places: Sequence[int], requests: Sequence[ScoreRequest], names: Sequence[int]
    ) -> list[tuple[int, Score]]:
        logprobs = self._echo(text, self._extra_tokens or 0)
        offsets = logprobs.get("text_offset") or []
        if not offsets:
            raise EngineError(f"{self._where}: it tells no text offsets; give the engine the model's tokenizer")
        ends = [*offsets[1:], offsets[0] + len(text)]
        scores: list[tuple[int, Score]] = []
        for place in places:
            # As everywhere, white space at the context's end belongs to the continuation.
            border = offsets[0] + len(requests[place].context.rstrip())
            first = next((token for token, end in enumerate(ends) if end > border), len(ends))
            scores.append((names[place], self._read(logprobs, slice(first, None), requests[place])))
        return scores

    def _read(self, logprobs: Mapping[str, Any], own: slice, request: ScoreRequest) -> Score:
        values = logprobs["token_logprobs"][own]
        tops = (logprobs.get("top_logprobs") or [])[own]
        if own.start == 0 and values and values[0] is None:
            self.notes.add("the endpoint cannot score the first token of a text without context; it is left out")
            values, tops = values[1:], tops[1:]
        if not values or any(value is None or math.isnan(value) for value in values):
            raise RunError(
                f"{self._where}: no log-probability for {request.continuation[:40]!r} (got {values[:4]}); score it "
                "with --engine transformers"
            )
        if len(tops) < len(values):
            self.notes.add("the endpoint does not tell its likeliest tokens; no answer counts as greedy")
        greedy = len(tops) >= len(values) and all(
            value >= max((top or {}).values(), default=math.inf) for value, top in zip(values, tops, strict=True)
        )
        return Score(logprob=math.fsum(values), is_greedy=greedy, tokens=len(values))
