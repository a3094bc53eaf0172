"""The engine that runs here: transformers on CPU or GPU, sharing prefixes. Knows requests and models; no task.

Scoring lays all requests of a call out as a prefix tree and computes each of its tokens once. Before the first tile of
a model, 16 requests are scored both ways; a model whose numbers differ is scored in plain batches, and `usage.notes`
says so.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from workbench.engines.base import GenerateRequest, Generation, Score, ScoreRequest, Usage
from workbench.engines.causal_model import CausalModel
from workbench.engines.decoding import Decoder, Piece, generate_plainly, plan_tiles
from workbench.engines.device import Precision, pick_device
from workbench.engines.prefix_tree import Batch, Plan, plan_requests
from workbench.engines.text import encode_pairs, encode_prompts, find_prefix_token
from workbench.engines.tree_attention import PathCache, UnsupportedArchitectureError
from workbench.errors import CheckpointError

SCORER = 1
"""Raised whenever numbers may change; part of every ledger key."""
SELF_TEST_REQUESTS, SELF_TEST_TOKENS = 16, 24
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference in nats a token that the self-test takes for rounding."""


class TransformersEngine:
    """Any causal language model of transformers."""

    name = "transformers"

    def __init__(
        self,
        model: CausalModel,
        tokenizer: Any,
        *,
        batch_tokens: int | None = None,
        cache_gb: float = 2.0,
        share_prefixes: bool = True,
    ) -> None:
        """
        Args:
            model: weights in memory.
            tokenizer: a Hugging Face tokenizer; its ids must be rows of the model's embedding.
            batch_tokens: tokens of one forward pass; None is 2048 on a CPU and 8192 on a GPU.
            cache_gb: most memory for keys and values that are kept between passes, in GB.
            share_prefixes: False computes every request on its own.
        """
        if len(tokenizer) > model.vocabulary:
            raise CheckpointError(
                f"tokenizer: it has {len(tokenizer):,} tokens and the model's embedding {model.vocabulary:,} rows: "
                "not the tokenizer of this model; put the right one into the checkpoint's folder"
            )
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens = batch_tokens or (2048 if model.device.type == "cpu" else 8192)
        self.path_limit = max(16, int(cache_gb * 1e9 / model.path_bytes))
        self.cache_gb = cache_gb
        self.max_length = model.max_length
        self.prefix_token = find_prefix_token(tokenizer)
        self.usage = Usage()
        self._fallback = "asked for" if not share_prefixes else model.why_no_tree()
        self._tested = False
        self._planned: tuple[Any, Plan] | None = None
        types = model.weights if model.weights == model.arithmetic else f"{model.weights} in {model.arithmetic}"
        shape = f"tree/{self.batch_tokens}" if share_prefixes else f"plain/{self.batch_tokens}"
        self.scorer = f"transformers/{SCORER} {types} {model.device.type} {shape}"

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        dtype: Precision = "auto",
        trust_remote_code: bool = False,
        **options: Any,
    ) -> "TransformersEngine":
        """Load a folder of safetensors and its tokenizer; `options` as in the constructor.

        Raises:
            CheckpointError: the folder holds no causal language model, or a tokenizer that does not fit.
            EngineError: the device is not there.
        """
        from transformers import AutoTokenizer

        model = CausalModel.load(
            folder, device=pick_device(device), precision=dtype, trust_remote_code=trust_remote_code
        )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder}: no tokenizer: {str(error).splitlines()[0]}") from None
        return cls(model, tokenizer, **options)

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[ScoreRequest]:
        """Tokenise (context, continuation) pairs; see `workbench.engines.text.encode_pairs`."""
        return encode_pairs(self.tokenizer, pairs, max_length=self.max_length, prefix_token_id=self.prefix_token)

    def score(
        self, requests: Sequence[ScoreRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Score]]]:
        """Yield tiles of (index, Score). Only tiles with a request outside `skip` are computed."""
        self.usage = Usage()
        start = time.perf_counter()
        requests = self._encoded(requests)
        done = set(skip)
        if len(done) < len(requests):
            self._self_test(requests)
            tiles = self._score_plain(requests, done) if self._fallback else self._score_tree(requests, done)
            for tile in tiles:
                self.usage.seconds = time.perf_counter() - start
                if tile:
                    yield tile
        self.usage.seconds = time.perf_counter() - start

    def generate(
        self, requests: Sequence[GenerateRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Yield tiles of (index, Generation). A tile is decoded whole or not at all."""
        self.usage = Usage()
        start = time.perf_counter()
        requests = self._prompts(requests)
        if len(set(skip)) < len(requests):
            self._self_test(_as_scores(requests))
            for tile in self._tiles(requests):
                if all(i in skip for i in tile):
                    continue
                members = [requests[i] for i in tile]
                self.usage.prompt_tokens += sum(len(r.prompt_ids) for r in members)
                pieces = generate_plainly(self.model, self.tokenizer, members) if self._fallback else self._run(members)
                answers = {p.row: p.generation for p in pieces if p.generation}
                self.usage.new_tokens += sum(g.tokens for g in answers.values())
                self.usage.seconds = time.perf_counter() - start
                yield [(tile[row], answers[row]) for row in sorted(answers)]
        self.usage.seconds = time.perf_counter() - start

    def embed(
        self, texts: Sequence[str], *, pooling: Literal["mean", "last"] = "mean", max_tokens: int = 256
    ) -> np.ndarray:
        """Last hidden states float32 [texts, d]: the mean over a text's tokens, or the last token's.

        Only the first `max_tokens` tokens of a text are read. Texts of like length are computed together, each distinct
        one once; a row does not depend on the others but for rounding.
        """
        self.usage = Usage()
        start = time.perf_counter()
        longest = min(max_tokens, self.max_length)
        known: dict[tuple[int, ...], list[int]] = {}
        for place, text in enumerate(texts):
            ids = self.tokenizer.encode(text.encode("utf-8", "replace").decode())[:longest]
            known.setdefault(tuple(ids) or (self.prefix_token,), []).append(place)
        found = np.zeros((len(texts), int(self.model.config.hidden_size)), np.float32)
        batch: list[tuple[int, ...]] = []
        for row in [*sorted(known, key=lambda ids: (len(ids), ids)), None]:
            if batch and (row is None or len(row) * (len(batch) + 1) > self.batch_tokens):
                for ids, vector in zip(batch, self._pooled(batch, pooling), strict=True):
                    found[known[ids]] = vector
                batch = []
            if row is not None:
                batch.append(row)
        self.usage.prompt_tokens = self.usage.naive_tokens = sum(len(ids) for ids in known)
        self.usage.seconds = time.perf_counter() - start
        return found

    @torch.inference_mode()
    def _pooled(self, batch: Sequence[tuple[int, ...]], pooling: Literal["mean", "last"]) -> np.ndarray:
        lengths = torch.tensor([len(ids) for ids in batch])
        tokens = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        for place, ids in enumerate(batch):
            tokens[place, : len(ids)] = torch.tensor(ids)
        mask = (torch.arange(tokens.shape[1])[None] < lengths[:, None]).long()
        hidden = self.model.plain_hidden(tokens, mask).cpu()
        if pooling == "last":
            return hidden[torch.arange(len(batch)), lengths - 1].numpy()
        return ((hidden * mask[..., None]).sum(1) / lengths[:, None]).numpy()

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """Yield pieces of text as they are produced."""
        requests = self._prompts([request])
        self._self_test(_as_scores(requests))
        pieces = generate_plainly(self.model, self.tokenizer, requests) if self._fallback else self._run(requests)
        for piece in pieces:
            if piece.text:
                yield piece.text

    def _prompts(self, requests: Sequence[GenerateRequest]) -> list[GenerateRequest]:
        return encode_prompts(self.tokenizer, requests, max_length=self.max_length, prefix_token_id=self.prefix_token)

    def _tiles(self, requests: Sequence[GenerateRequest]) -> list[list[int]]:
        """Rows of a tile: as many as the cache holds."""
        names = [r.tile for r in requests]
        rows = 128 if self.model.device.type == "cpu" else 256
        return plan_tiles(requests, names, rows=rows, columns=self.path_limit)

    def _run(self, requests: Sequence[GenerateRequest]) -> Iterator[Piece]:
        decoder = Decoder(
            model=self.model,
            tokenizer=self.tokenizer,
            batch_tokens=self.batch_tokens,
            path_limit=self.path_limit,
            eos=self.model.end_tokens | ({self.tokenizer.eos_token_id} - {None}),
        )
        return decoder.run(requests)

    def why_plain(self) -> str | None:
        """Why prefixes are not shared, after a self-test on a few tokens; None where they are."""
        ids = tuple(range(min(12, self.model.vocabulary)))
        self._self_test([ScoreRequest(context="", continuation="", context_ids=ids[:6], continuation_ids=ids[6:])])
        return self._fallback

    def close(self) -> None:
        """Free the model's memory."""
        del self.model

    def plan(self, requests: Sequence[ScoreRequest]) -> Plan:
        """How the requests would be computed, and what that costs; computes nothing. A tuple's plan is kept."""
        if self._planned is not None and self._planned[0] is requests:
            return self._planned[1]
        asked, requests = requests, self._encoded(requests)
        plan = plan_requests(
            [(r.context_ids, r.continuation_ids) for r in requests],
            budget=self.batch_tokens,
            path_limit=self.path_limit,
            tiles=[r.tile for r in requests],
        )
        self._planned = (asked, plan) if isinstance(asked, tuple) else None
        return plan

    def tiles(self, requests: Sequence[ScoreRequest] | Sequence[GenerateRequest]) -> list[list[int]]:
        """Indices of the requests of each tile, in the order in which tiles are computed."""
        asked: Any = requests
        if requests and isinstance(requests[0], GenerateRequest):
            return self._tiles(self._prompts(asked))
        asked = self._encoded(asked)
        self._self_test(asked)
        if self._fallback:
            return [[i for s in batch for i in users[s]] for batch, users in self._plain_batches(asked)]
        return [list(batch.requests) for batch in self.plan(asked).batches if batch.requests]

    def _encoded(self, requests: Sequence[ScoreRequest]) -> Sequence[ScoreRequest]:
        if all(r.context_ids for r in requests):
            return requests
        return self.encode([(r.context, r.continuation) for r in requests])

    def _score_tree(self, requests: Sequence[ScoreRequest], done: set[int]) -> Iterator[list[tuple[int, Score]]]:
        plan = self.plan(requests)
        pending = plan.pending(done)
        answers = _Answers(requests)
        cache = PathCache(max(1, plan.path_length))
        share = sum(len(r.context_ids) + len(r.continuation_ids) - 1 for i, r in enumerate(requests) if i not in done)
        self.usage.naive_tokens = share
        self.usage.limit_seconds = 0.0
        for b in pending:
            batch = plan.batches[b]
            self._score_batch(batch, cache, answers)
            self.usage.prompt_tokens += len(batch.tokens)
            self.usage.limit_seconds += self.model.limit_seconds(
                tokens=len(batch.tokens),
                rows=len(batch.rows),
                depth_sum=int((batch.positions + 1).sum()),
                batch_tokens=self.batch_tokens,
            )
            yield [(r, answers.take(r)) for r in batch.requests if r not in done]

    @torch.inference_mode()
    def _score_batch(
        self, batch: Batch, cache: PathCache, answers: "_Answers", *, block: int | None = None, carry: int | None = None
    ) -> None:
        sizes = {} if block is None or carry is None else {"block": block, "carry": carry}
        hidden = self.model.tree_hidden(batch, cache, **sizes)
        if not len(batch.rows):
            return
        order = np.argsort(batch.targets[:, 0], kind="stable")
        targets = batch.targets[order]
        device = self.model.device
        logprobs, greedy = self.model.log_probabilities(
            hidden[torch.from_numpy(batch.rows).to(device)],
            torch.from_numpy(np.ascontiguousarray(targets[:, 0])).to(device),
            torch.from_numpy(np.ascontiguousarray(targets[:, 1])).to(device),
        )
        answers.put(targets[:, 2], targets[:, 3], logprobs.cpu().numpy(), greedy.cpu().numpy())

    def _score_plain(self, requests: Sequence[ScoreRequest], done: set[int]) -> Iterator[list[tuple[int, Score]]]:
        """Padded batches, the model's own attention and head; each distinct sequence once."""
        batches = self._plain_batches(requests)
        for batch, users in batches:
            members = [i for s in batch for i in users[s]]
            if all(i in done for i in members):
                continue
            answers = self._plain_answers(batch, users, requests)
            size = sum(len(s) for s in batch)
            self.usage.prompt_tokens += size
            self.usage.naive_tokens += size
            yield [(i, answers.take(i)) for i in sorted(members) if i not in done]

    def _plain_batches(
        self, requests: Sequence[ScoreRequest]
    ) -> list[tuple[list[tuple[int, ...]], dict[tuple[int, ...], list[int]]]]:
        """Distinct sequences, longest first, in batches; with each batch, the requests of every sequence."""
        users: dict[tuple[int, ...], list[int]] = {}
        for i, r in enumerate(requests):
            users.setdefault(r.context_ids + r.continuation_ids[:-1], []).append(i)
        batches: list[tuple[list[tuple[int, ...]], dict[tuple[int, ...], list[int]]]] = []
        for sequence in sorted(users, key=lambda s: (-len(s), s)):
            if not batches or len(batches[-1][0][0]) * (len(batches[-1][0]) + 1) > self.batch_tokens:
                batches.append(([], users))
            batches[-1][0].append(sequence)
        return batches

    def _plain_answers(
        self,
        batch: Sequence[tuple[int, ...]],
        users: dict[tuple[int, ...], list[int]],
        requests: Sequence[ScoreRequest],
    ) -> "_Answers":
        width = len(batch[0])
        tokens = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, sequence in enumerate(batch):
            tokens[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        logits = self.model.plain_logits(tokens, mask)
        answers = _Answers(requests)
        for row, sequence in enumerate(batch):
            for i in users[sequence]:
                wanted = torch.tensor(requests[i].continuation_ids, device=logits.device)
                at = logits[row, len(sequence) - len(wanted) : len(sequence)].log_softmax(-1)
                logprobs, places = at.gather(1, wanted[:, None])[:, 0], np.arange(len(wanted))
                greedy = (at.argmax(-1) == wanted).cpu().numpy()
                answers.put(np.full(len(wanted), i), places, logprobs.cpu().numpy(), greedy)
        return answers

    def _self_test(self, requests: Sequence[ScoreRequest]) -> None:
        """Score a few short requests as a tree and plainly; fall back where they differ by more than rounding."""
        if not self._tested and not self._fallback:
            probes = _probes(requests)
            try:
                worst = self._worst_difference(probes)
                limit = TOLERANCE[self.model.arithmetic]
                if not worst <= limit:
                    self._fallback = f"prefix sharing changed a log-probability by {worst:.3g} nats, over {limit:g}"
            except (
                UnsupportedArchitectureError,
                RuntimeError,
                TypeError,
                ValueError,
                KeyError,
                AttributeError,
            ) as error:
                self._fallback = str(error).splitlines()[0] if str(error) else type(error).__name__
        self._tested = True
        if self._fallback:
            note = f"scored in plain batches, without sharing prefixes: {self._fallback}"
            if note not in self.usage.notes:
                self.usage.notes.append(note)

    def _worst_difference(self, probes: Sequence[ScoreRequest]) -> float:
        plan = plan_requests(
            [(p.context_ids, p.continuation_ids) for p in probes], budget=64, path_limit=self.path_limit
        )
        tree, cache = _Answers(probes), PathCache(max(1, plan.path_length))
        for batch in plan.batches:
            # small parts, so that 16 short requests go through every kind of them
            self._score_batch(batch, cache, tree, block=8, carry=2)
        users: dict[tuple[int, ...], list[int]] = {}
        for i, p in enumerate(probes):
            users.setdefault(p.context_ids + p.continuation_ids[:-1], []).append(i)
        batch = sorted(users, key=len, reverse=True)
        plain = self._plain_answers(batch, users, probes)
        # a model of NaN is no fault of the tree: it is refused where its numbers are read
        return float(
            np.nanmax([0.0, *(np.abs(tree.logprobs[i] - plain.logprobs[i]).max() for i in range(len(probes)))])
        )


class _Answers:
    """Token log-probabilities of requests, filled in any order."""

    def __init__(self, requests: Sequence[ScoreRequest]) -> None:
        self.starts = np.concatenate([[0], np.cumsum([len(r.continuation_ids) for r in requests])])
        self._logprobs = np.full(int(self.starts[-1]), np.nan, np.float32)
        self._greedy = np.zeros(int(self.starts[-1]), bool)

    @property
    def logprobs(self) -> list[np.ndarray]:
        """float32 [tokens] of each request."""
        return [self._logprobs[a:b] for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def put(self, requests: np.ndarray, places: np.ndarray, logprobs: np.ndarray, greedy: np.ndarray) -> None:
        """Note the log-probabilities of continuation tokens."""
        at = self.starts[requests] + places
        self._logprobs[at], self._greedy[at] = logprobs, greedy

    def take(self, request: int) -> Score:
        """The request's Score, summed in float64 in the order of its tokens."""
        a, b = int(self.starts[request]), int(self.starts[request + 1])
        return Score(
            logprob=float(self._logprobs[a:b].astype(np.float64).sum()),
            is_greedy=bool(self._greedy[a:b].all()),
            tokens=b - a,
        )


def _as_scores(requests: Sequence[GenerateRequest]) -> list[ScoreRequest]:
    """Prompts as score requests, for the self-test."""
    return [
        ScoreRequest(
            context="",
            continuation="",
            context_ids=r.prompt_ids[:-1] or r.prompt_ids,
            continuation_ids=r.prompt_ids[-1:],
        )
        for r in requests
    ]


def _probes(requests: Sequence[ScoreRequest]) -> list[ScoreRequest]:
    """Up to 16 short requests made of the run's own tokens, half of them sharing a prefix."""
    picked = [requests[i] for i in np.linspace(0, len(requests) - 1, SELF_TEST_REQUESTS).astype(int)]
    stem = picked[0].context_ids[: SELF_TEST_TOKENS // 2]
    probes = []
    for i, r in enumerate(picked):
        context = r.context_ids[-SELF_TEST_TOKENS // 2 :]
        probes.append(
            ScoreRequest(
                context="",
                continuation="",
                context_ids=(*stem, *context) if i % 2 else r.context_ids[-SELF_TEST_TOKENS:],
                continuation_ids=r.continuation_ids[: SELF_TEST_TOKENS // 2],
            )
        )
    return probes
