"""The engine for many requests at once: vLLM, on GPUs or a CPU. Knows requests; vLLM's own ways are in _vllm_runtime.

Log-probabilities are vLLM's raw ones: log-softmax in float32 over the whole vocabulary, before any sampling option.
Logits are float32 as well: vLLM's head would work in the model's type (bfloat16 keeps 8 bits, so that choices tie),
so scoring asks it for a float32 head. The trunk stays in the model's type. Where a model's head cannot be widened,
`usage.notes` says so.

The last token of a continuation is scored as a label token behind the prompt, the ones before it as the prompt's own
(`prompt_logprobs`). vLLM reads no cached prefix for those, since it would leave out what was cached; here it may, as
only the end is wanted, and the few prompts whose cached part reached into the continuation are asked again.

Same numbers after a kill: a tile begins with an empty prefix cache and is always computed whole.
"""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

from workbench.engines._score_jobs import Job, pending_tiles, plan_jobs
from workbench.engines._vllm_runtime import MAX_LASTS, Runtime
from workbench.engines.base import GenerateRequest, Generation, Score, ScoreRequest, Usage
from workbench.engines.text import encode_pairs, encode_prompts, find_prefix_token
from workbench.errors import CheckpointError, EngineError, RunError

SCORER = 1
"""Raised whenever numbers may change; part of every ledger key."""
_HANDED_OUT = 16
"""Answers of a tile are handed out when so many are there, for progress and the ledger."""


class VllmEngine:
    """A causal language model in vLLM. `max_length` is one less than vLLM's window, which must hold a new token."""

    name = "vllm"

    def __init__(
        self,
        model: str,
        *,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
        cache_gb: float | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        gpu_memory_utilization: float | None = None,
        compile_model: bool | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
        tile_tokens: int = 65_536,
    ) -> None:
        """
        Args:
            model: folder of safetensors with its tokenizer.
            dtype: type of the weights while they compute.
            device: `auto`, or the kind that the installed wheel of vLLM serves (`cpu`, `cuda`).
            batch_tokens: tokens of one forward pass; None leaves it to vLLM.
            cache_gb: memory for keys and values in GB; None: 4 on a CPU, on a GPU what `gpu_memory_utilization` gives.
            max_model_len: window in tokens; None is the model's own.
            max_num_seqs: sequences in one batch; None: 64 on a CPU, else vLLM's default.
            tensor_parallel_size: GPUs that share the model. Above 1 vLLM runs in processes of its own, and numbers
                may differ in the last bits from run to run.
            pipeline_parallel_size: groups of GPUs that hold the model's layers one after the other.
            gpu_memory_utilization: share (0..1) of the memory that vLLM may take.
            compile_model: let vLLM compile the model: a slower start, then faster; None: on a GPU only.
            trust_remote_code: run code that lies in the model's folder.
            seed: vLLM sets this process's global random seeds to it.
            tile_tokens: prompt tokens of a tile; scoring hands out its answers tile by tile.

        Raises:
            EngineError: vLLM is not installed, or cannot load the model with these options.
            CheckpointError: the folder has no tokenizer.
        """
        self.runtime = Runtime(
            model,
            {
                "dtype": dtype,
                "seed": seed,
                "max_num_batched_tokens": batch_tokens,
                "kv_cache_memory_bytes": None if cache_gb is None else int(cache_gb * 1e9),
                "max_model_len": max_model_len,
                "max_num_seqs": max_num_seqs,
                "tensor_parallel_size": tensor_parallel_size,
                "pipeline_parallel_size": pipeline_parallel_size,
                "gpu_memory_utilization": gpu_memory_utilization,
                "enforce_eager": None if compile_model is None else not compile_model,
                "trust_remote_code": trust_remote_code,
                "enable_prefix_caching": True,
                "disable_log_stats": True,
            },
        )
        if device not in ("auto", self.runtime.device):
            raise EngineError(
                f"--device {device}: the vLLM installed here serves {self.runtime.device}; leave --device out, or "
                "install vLLM's wheel for that device"
            )
        self.tokenizer = _load_tokenizer(model, trust_remote_code=trust_remote_code)
        self.prefix_token = find_prefix_token(self.tokenizer)
        self.max_length = self.runtime.max_model_len - 1
        self.tile_tokens = tile_tokens
        self.tile_requests = 4 * self.runtime.max_num_seqs
        self.usage = Usage()
        parts = [self.runtime.version, self.runtime.device, self.runtime.dtype, f"head {self.runtime.head}"]
        groups = f"tp{tensor_parallel_size}" + (f" pp{pipeline_parallel_size}" if pipeline_parallel_size > 1 else "")
        sizes = f"{groups} seqs{self.runtime.max_num_seqs} batch{self.runtime.batch_tokens}"
        self.scorer = f"vllm/{SCORER} {' '.join(parts)} {sizes} tile{tile_tokens}"

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[ScoreRequest]:
        """Tokenise (context, continuation) pairs; see `workbench.engines.text.encode_pairs`."""
        return encode_pairs(self.tokenizer, pairs, max_length=self.max_length, prefix_token_id=self.prefix_token)

    def score(
        self, requests: Sequence[ScoreRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Score]]]:
        """Yield tiles of (index, Score). Only tiles with a request outside `skip` are computed."""
        self.usage = Usage()
        start = time.perf_counter()
        requests = [r if r.context_ids else self.encode([(r.context, r.continuation)])[0] for r in requests]
        tiles = plan_jobs(requests, tile_tokens=self.tile_tokens, max_lasts=MAX_LASTS)
        if self.runtime.head != "float32":
            self.usage.notes.append(f"logits are {self.runtime.head}: vLLM cannot widen this model's head")
        done = set(skip)
        for tile in pending_tiles(tiles, done):
            answers = self._score_tile(tile, requests)
            self.usage.seconds = time.perf_counter() - start
            yield [(index, score) for index, score in sorted(answers.items()) if index not in done]

    def tiles(self, requests: Sequence[ScoreRequest] | Sequence[GenerateRequest]) -> list[list[int]]:
        """Indices of the requests of each tile, in the order in which tiles are computed."""
        asked: Any = requests
        if requests and isinstance(requests[0], GenerateRequest):
            prompts = self._encode_prompts(asked)
            order = sorted(range(len(prompts)), key=lambda index: prompts[index].prompt_ids)
            return [order[first : first + self.tile_requests] for first in range(0, len(order), self.tile_requests)]
        jobs = plan_jobs(asked, tile_tokens=self.tile_tokens, max_lasts=MAX_LASTS)
        return [[index for job in tile for index in job.requests] for tile in jobs]

    def generate(
        self, requests: Sequence[GenerateRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Yield (index, Generation) as they are done. Only tiles with a request outside `skip` are computed."""
        self.usage = Usage()
        start = time.perf_counter()
        requests = self._encode_prompts(requests)
        order = sorted(range(len(requests)), key=lambda index: requests[index].prompt_ids)
        done = set(skip)
        for first in range(0, len(order), self.tile_requests):
            tile = order[first : first + self.tile_requests]
            if done.issuperset(tile):
                continue
            ready: list[tuple[int, Generation]] = []
            for index, generation in self._generate_tile(tile, requests):
                if index not in done:
                    ready.append((index, generation))
                if len(ready) >= _HANDED_OUT:
                    self.usage.seconds = time.perf_counter() - start
                    yield ready
                    ready = []
            self.usage.seconds = time.perf_counter() - start
            if ready:
                yield ready

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """Yield pieces of text as they are produced; what may begin a stop string is held back until it does not."""
        (request,) = self._encode_prompts([request])
        self._prepare_generation()
        for _, output in self.runtime.run([(request.prompt_ids, self._sampling(request, delta=True))]):
            if output.outputs[0].text:
                yield output.outputs[0].text

    def close(self) -> None:
        """Free the model's memory."""
        self.runtime.close()

    def _encode_prompts(self, requests: Sequence[GenerateRequest]) -> list[GenerateRequest]:
        return encode_prompts(self.tokenizer, requests, max_length=self.max_length, prefix_token_id=self.prefix_token)

    def _score_tile(self, tile: Sequence[Job], requests: Sequence[ScoreRequest]) -> dict[int, Score]:
        self.runtime.forget_prefixes()
        self.runtime.use_float32_head(True)
        answers: dict[int, Score] = {}
        again: list[Job] = []
        for cached_prefixes, jobs in ((True, tile), (False, again)):
            prompts = [(job.ids, self._scoring(job, cached_prefixes)) for job in jobs]
            for place, output in self.runtime.run(prompts):
                job, cached = jobs[place], output.num_cached_tokens or 0
                self.usage.prompt_tokens += len(job.ids) - cached
                if cached_prefixes and job.start < len(job.ids) and cached >= job.start:
                    again.append(job)
                    continue
                for index in job.requests:
                    answers[index] = _read_score(job, output, requests[index])
        self.usage.naive_tokens += sum(
            len(requests[i].context_ids) + len(requests[i].continuation_ids) - 1 for i in answers
        )
        return answers

    def _scoring(self, job: Job, cached_prefixes: bool) -> Any:
        return self.runtime.params(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=list(job.lasts),
            skip_reading_prefix_cache=not cached_prefixes,
            flat_logprobs=True,
            detokenize=False,
            prompt_logprobs=0 if job.start < len(job.ids) else None,
        )

    def _prepare_generation(self) -> None:
        self.runtime.forget_prefixes()
        self.runtime.use_float32_head(False)

    def _generate_tile(
        self, tile: Sequence[int], requests: Sequence[GenerateRequest]
    ) -> Iterator[tuple[int, Generation]]:
        self._prepare_generation()
        prompts = [(requests[index].prompt_ids, self._sampling(requests[index])) for index in tile]
        for place, output in self.runtime.run(prompts):
            answer = output.outputs[0]
            self.usage.prompt_tokens += len(prompts[place][0]) - (output.num_cached_tokens or 0)
            self.usage.naive_tokens += len(prompts[place][0]) + len(answer.token_ids)
            self.usage.new_tokens += len(answer.token_ids)
            finish = "length" if answer.finish_reason == "length" else "stop"
            yield tile[place], Generation(text=answer.text, tokens=len(answer.token_ids), finish=finish)

    def _sampling(self, request: GenerateRequest, *, delta: bool = False) -> Any:
        return self.runtime.params(
            delta=delta,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            seed=request.seed if request.temperature else None,
            # Of stop strings that end together vLLM takes the first in the list, `text_until` the longest.
            stop=sorted((stop for stop in request.stop if stop), key=len, reverse=True),
            max_tokens=request.max_new_tokens,
        )


def _read_score(job: Job, output: Any, request: ScoreRequest) -> Score:
    """Sum over the continuation: its tokens inside the prompt, then the one behind the prompt if it gets there."""
    start = len(request.context_ids)
    end = start + len(request.continuation_ids)
    size = len(job.ids)
    logprobs: list[float] = []
    greedy = True
    if start < size:
        own = output.prompt_logprobs  # flat: one entry a token; counted from the end, as cached tokens may be left out
        inside = slice(start - size, min(end - size, 0) or None)
        logprobs += own.logprobs[inside]
        greedy = all(rank == 1 for rank in own.ranks[inside])
    if end > size:
        behind = output.outputs[0].logprobs  # the token that vLLM chose (the likeliest), then `job.lasts`
        wanted = request.continuation_ids[-1]
        logprobs.append(behind.logprobs[behind.token_ids.index(wanted)])
        greedy = greedy and behind.token_ids[0] == wanted
    total = math.fsum(logprobs)
    if math.isnan(total) or len(logprobs) != end - start:
        raise RunError(
            f"--engine vllm: no log-probability for {request.continuation[:40]!r} (got {total}, {len(logprobs)} of "
            f"{end - start} tokens); the weights may hold NaN: score it with --engine transformers to see"
        )
    return Score(logprob=total, is_greedy=greedy, tokens=end - start)


def _load_tokenizer(model: str, *, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{model}: no tokenizer: {str(error).splitlines()[0]}") from None
