"""The plainest engine there can be, the oracle of other tests: one forward pass per request, nothing shared."""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from workbench.engines.base import GenerateRequest, Generation, Score, ScoreRequest, Usage
from workbench.engines.text import encode_pairs, find_prefix_token, text_until
from workbench.errors import RunError


class ReferenceEngine:
    """A Hugging Face model asked one request at a time. Counts the requests it computed; can die after some of them."""

    name = "reference"

    def __init__(self, model: Any, tokenizer: Any, *, tile: int = 4, scorer: str = "reference-1") -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length: int = model.config.max_position_embeddings
        self.scorer = scorer
        self.usage = Usage()
        self.tile = tile
        self.asked = 0
        self.die_after: int | None = None

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[ScoreRequest]:
        prefix = find_prefix_token(self.tokenizer)
        return encode_pairs(self.tokenizer, pairs, max_length=self.max_length, prefix_token_id=prefix)

    def score(
        self, requests: Sequence[ScoreRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Score]]]:
        yield from self._tiles(requests, skip, self._score_one)

    def generate(
        self, requests: Sequence[GenerateRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        yield from self._tiles(requests, skip, self._generate_one)

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        yield self._generate_one(request).text

    def close(self) -> None:
        pass

    def _tiles(self, requests: Sequence[Any], skip: Collection[int], answer: Any) -> Iterator[list[tuple[int, Any]]]:
        self.usage = Usage()
        started = time.perf_counter()
        for start in range(0, len(requests), self.tile):
            tile = []
            for index in range(start, min(start + self.tile, len(requests))):
                if index in skip:
                    continue
                if self.die_after is not None and self.asked >= self.die_after:
                    raise KeyboardInterrupt
                self.asked += 1
                tile.append((index, answer(requests[index])))
            self.usage.seconds = time.perf_counter() - started
            if tile:
                yield tile

    def _score_one(self, request: ScoreRequest) -> Score:
        import torch

        ids = [*request.context_ids, *request.continuation_ids]
        count = len(request.continuation_ids)
        self.usage.prompt_tokens += len(ids) - 1
        self.usage.naive_tokens += len(ids) - 1
        with torch.no_grad():
            logits = self.model(torch.tensor([ids[:-1]])).logits[0, -count:].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        target = torch.tensor(request.continuation_ids)
        logprob = float(logprobs[torch.arange(count), target].sum())
        if math.isnan(logprob):
            raise RunError(f"score: the log-probability of {request.continuation!r} is no number")
        return Score(logprob=logprob, is_greedy=bool((logits.argmax(-1) == target).all()), tokens=count)

    def _generate_one(self, request: GenerateRequest) -> Generation:
        import torch

        ids, new = list(request.prompt_ids), []
        generator = torch.Generator().manual_seed(request.seed)
        self.usage.prompt_tokens += len(ids)
        while len(new) < request.max_new_tokens:
            with torch.no_grad():
                logits = self.model(torch.tensor([ids + new])).logits[0, -1].float()
            if request.temperature:
                chances = torch.softmax(logits / request.temperature, dim=-1)
                token = int(torch.multinomial(chances, 1, generator=generator))
            else:
                token = int(logits.argmax())
            new.append(token)
            text = self.tokenizer.decode(new, skip_special_tokens=True)
            cut = text_until(text, request.stop)
            if token == self.tokenizer.eos_token_id or cut != text:
                self.usage.new_tokens += len(new)
                return Generation(text=cut, tokens=len(new), finish="stop")
        self.usage.new_tokens += len(new)
        return Generation(text=self.tokenizer.decode(new, skip_special_tokens=True), tokens=len(new), finish="length")
