"""Any engine, several at once: each Ray worker holds the model and answers shards of a call. Knows engines by name.

A shard is some of the engine's own tiles, neighbours in the order of their tokens: what they share is computed once by
whoever has the shard. Every worker is given all requests of the call and told which to leave out, and an engine lays
its tiles out from all requests, whatever is left out: so the numbers are those of one process, bit for bit, wherever
the engine's own are. Shards come back as they are done. A worker that dies loses the one it was at, which is asked
again of another; a new worker takes its place.
"""

import re
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.engines._ray_cluster import connect, last_line, read_workers, share
from workbench.engines.base import Engine, GenerateRequest, Generation, Score, ScoreRequest, Usage
from workbench.engines.text import encode_pairs, find_prefix_token
from workbench.errors import CheckpointError, EngineError, RunError, WorkbenchError
from workbench.records import Checkpoint

SHARDS_PER_WORKER = 6
"""More: less is lost with a worker and the last one is waited for shorter; fewer: less is computed twice at borders."""
TILES_PER_SHARD = 8
"""At least, unless workers would stay idle: what lies above a shard in the tree is computed again for it."""
TRIES = 3
"""Workers that may die of the same shard before the run ends."""

Request = ScoreRequest | GenerateRequest
Answers = list[tuple[int, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a worker says of its engine."""

    name: str
    scorer: str
    max_length: int
    tokenizer: Any


class Worker:
    """One engine in a process of its own. An actor: Ray makes it where there is room."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._call: tuple[int, tuple[Any, ...]] = (-1, ())

    def open(self, checkpoint: Checkpoint, engine: str | None, options: Mapping[str, Any]) -> Facts:
        """Load the model from the checkpoint's own files. Raises CheckpointError: other weights lie there."""
        from workbench.engines.loading import load
        from workbench.store.checkpoints import resolve

        found = resolve(checkpoint.source)
        if (found.fingerprint, found.tokenizer) != (checkpoint.fingerprint, checkpoint.tokenizer):
            raise CheckpointError(
                f"{checkpoint.name}: a worker found other weights at {checkpoint.source}; give all machines of the "
                "cluster the same files"
            )
        own = self._engine = load(checkpoint, engine=engine, **options)
        return Facts(name=own.name, scorer=own.scorer, max_length=own.max_length, tokenizer=own.tokenizer)

    def tiles(self, call: int, held: list[Any]) -> list[list[int]]:
        """The engine's tiles of a call, in its own order."""
        assert self._engine is not None
        requests = self._requests(call, held)
        tiled = getattr(self._engine, "tiles", None)
        return [[i] for i in range(len(requests))] if tiled is None else tiled(requests)

    def answer(self, call: int, held: list[Any], shard: Collection[int]) -> tuple[Answers, Usage]:
        """The shard's answers, computed in the tiles of the whole call, and what they cost."""
        assert self._engine is not None
        requests = self._requests(call, held)
        wanted = set(shard)
        skip = [index for index in range(len(requests)) if index not in wanted]
        ask: Any = self._engine.generate if isinstance(requests[0], GenerateRequest) else self._engine.score
        found = [one for tile in ask(requests, skip=skip) for one in tile if one[0] in wanted]
        return found, self._engine.usage

    def _requests(self, call: int, held: list[Any]) -> tuple[Any, ...]:
        """A call's requests, taken over once: engines keep the layout of the same tuple."""
        import ray

        if self._call[0] != call:
            self._call = (call, ray.get(held[0]))
        return self._call[1]


class RayEngine:
    """An Engine whose answers come from workers. Name, scorer and numbers are those of the engine it stands for."""

    def __init__(self, checkpoint: Checkpoint, *, workers: str, engine: str | None, options: Mapping[str, Any]) -> None:
        """Start the workers and load the model in each.

        Raises:
            EngineError: Ray is not installed, the cluster cannot be reached or has no room, workers differ.
            CheckpointError: a worker cannot find the checkpoint, or finds other weights.
        """
        asked = read_workers(workers)
        self._ray = connect(asked)
        self._opening = (checkpoint, engine, dict(options))
        self._resources, self.count = share(self._ray, asked, options)
        self._calls = 0
        self._idle: list[Any] = []
        self._hired: list[Any] = []
        self._joining: dict[Any, Any] = {}
        self._lost_new = 0
        self.usage = Usage()
        try:
            facts = self._open_all()
        except BaseException:
            self.close()
            raise
        self._facts = facts
        self.name, self.scorer, self.max_length = facts.name, facts.scorer, facts.max_length
        self.tokenizer = facts.tokenizer

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[ScoreRequest]:
        """Tokenise (context, continuation) pairs; see `workbench.engines.text.encode_pairs`."""
        prefix = find_prefix_token(self.tokenizer)
        return encode_pairs(self.tokenizer, pairs, max_length=self.max_length, prefix_token_id=prefix)

    def score(
        self, requests: Sequence[ScoreRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Score]]]:
        """Yield shards of (index, Score) as they are done, in no order."""
        if not all(r.context_ids for r in requests):
            requests = self.encode([(r.context, r.continuation) for r in requests])
        yield from self._run(requests, skip)

    def generate(
        self, requests: Sequence[GenerateRequest], *, skip: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Yield shards of (index, Generation) as they are done, in no order."""
        yield from self._run(requests, skip)

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """The whole text at once: workers are for many requests."""
        for tile in self.generate([request]):
            for _, generation in tile:
                yield generation.text

    def close(self) -> None:
        """Let the workers go; a cluster of this process's own ends with the process."""
        for worker in self._hired:
            self._ray.kill(worker)
        self._hired, self._idle, self._joining = [], [], {}

    def _run(self, requests: Sequence[Request], skip: Collection[int]) -> Iterator[Answers]:
        """Shards to whoever is idle, until all are answered."""
        self.usage, started = Usage(), time.perf_counter()
        done = set(skip)
        if len(done) >= len(requests):
            return
        self._calls += 1
        held = [self._ray.put(tuple(requests))]
        tiles = [[i for i in tile if i not in done] for tile in self._tiles(held)]
        sequences = [_tokens_of(request) for request in requests]
        names = [request.tile for request in requests]
        queue = deque(_Shard(indices=one) for one in cut_shards(tiles, sequences, names, self.count))
        flying: dict[Any, tuple[Any, _Shard]] = {}
        try:
            while queue or flying:
                while self._idle and queue:
                    worker, shard = self._idle.pop(), queue.popleft()
                    flying[worker.answer.remote(self._calls, held, shard.indices)] = (worker, shard)
                self._replace_lost()
                (ready,), _ = self._ray.wait([*flying, *self._joining], num_returns=1)
                if ready in self._joining:
                    self._welcome(ready)
                    continue
                worker, shard = flying.pop(ready)
                try:
                    answers, usage = self._get(ready)
                except _WorkerDiedError as error:
                    self._hired.remove(worker)
                    _note(self.usage, "a worker died; what it was at was asked of another")
                    queue.appendleft(shard.tried_again(error))
                    continue
                self._idle.append(worker)
                _add(self.usage, usage)
                self.usage.seconds = time.perf_counter() - started
                if answers:
                    yield answers
        finally:
            for worker, _ in flying.values():  # only where the caller stopped early, or a worker's engine failed
                self._ray.kill(worker)
                self._hired.remove(worker)

    def _replace_lost(self) -> None:
        """Hire for those who died; they load the model while the others work, over several calls if need be."""
        while len(self._hired) < self.count:
            worker = self._hire()
            self._joining[worker.open.remote(*self._opening)] = worker

    def _welcome(self, ready: Any) -> None:
        """A new worker has loaded the model, or died of it."""
        worker = self._joining.pop(ready)
        try:
            self._check(self._get(ready))
            self._idle.append(worker)
        except _WorkerDiedError as error:
            self._hired.remove(worker)
            self._lost_new += 1
            if self._lost_new >= TRIES:
                raise RunError(
                    f"{error}; {TRIES} new workers died while they loaded the model: fewer need less memory; what was "
                    "answered before is kept"
                ) from None

    def _tiles(self, held: list[Any]) -> list[list[int]]:
        """One worker lays the call out; where it dies, another does."""
        while self._idle or self._joining:
            if not self._idle:
                (ready,), _ = self._ray.wait(list(self._joining), num_returns=1)
                self._welcome(ready)
                continue
            worker = self._idle[-1]
            try:
                return self._get(worker.tiles.remote(self._calls, held))
            except _WorkerDiedError as error:
                self._idle.remove(worker)
                self._hired.remove(worker)
                self._give_up_if_alone(error)
        raise RunError("no worker is left that has the model; what was answered before is kept, run it again")

    def _open_all(self) -> Facts:
        """The whole crew, each with the model, which all load at once."""
        facts: list[Facts] = []
        crew = [self._hire() for _ in range(self.count)]
        for worker, opening in [(worker, worker.open.remote(*self._opening)) for worker in crew]:
            try:
                facts.append(self._get(opening))
            except _WorkerDiedError as error:
                raise RunError(f"{error}; it was loading the model: fewer workers need less memory") from None
            self._idle.append(worker)
        for one in facts:
            self._check(one, facts[0])
        return facts[0]

    def _check(self, facts: Facts, first: Facts | None = None) -> None:
        """All workers compute alike, or their numbers would not be those of one process."""
        known = first or self._facts
        if (facts.name, facts.scorer, facts.max_length) != (known.name, known.scorer, known.max_length):
            raise EngineError(
                f"--workers: workers compute in different ways ({known.scorer}; {facts.scorer}); give --dtype, and "
                "device in --model-args, or take machines of one kind"
            )

    def _hire(self) -> Any:
        worker = self._ray.remote(**self._resources, max_restarts=0)(Worker).remote()
        self._hired.append(worker)
        return worker

    def _give_up_if_alone(self, error: Exception) -> None:
        if not self._hired:
            raise RunError(f"{error}; none is left, what was answered before is kept") from None

    def _get(self, ref: Any) -> Any:
        """A worker's answer; what its engine complained about is raised here as it was there."""
        from ray.exceptions import RayActorError, RayError, RayTaskError

        try:
            return self._ray.get(ref)
        except RayActorError as error:
            raise _WorkerDiedError(f"a worker died ({_reason(error)})") from None
        except RayTaskError as error:
            cause: Any = getattr(error, "cause", None)
            if isinstance(cause, WorkbenchError):
                raise cause from None
            raise RunError(f"a worker failed: {last_line(error)}; what was answered before is kept") from None
        except (RayError, ConnectionError) as error:
            raise RunError(f"Ray: {last_line(error)}; what was answered before is kept, run it again") from None


class _WorkerDiedError(Exception):
    """A worker's process is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    indices: tuple[int, ...]
    tries: int = 0

    def tried_again(self, error: Exception) -> "_Shard":
        """Raises RunError: it was tried often enough."""
        if self.tries + 1 >= TRIES:
            raise RunError(
                f"{error}; the same {len(self.indices)} requests ended {TRIES} workers: a smaller --batch-tokens or "
                "fewer workers need less memory; what was answered before is kept"
            )
        return _Shard(indices=self.indices, tries=self.tries + 1)


def cut_shards(
    tiles: Sequence[Sequence[int]], sequences: Sequence[tuple[int, ...]], names: Sequence[str], workers: int
) -> list[tuple[int, ...]]:
    """Cut tiles, in their order, into shards; each cut where neighbours share least of their beginnings.

    Args:
        tiles: indices of the requests of each, without those that are answered already.
        sequences: token ids of each request.
        names: of each request; those of different names share nothing.
        workers: shards become about SHARDS_PER_WORKER times as many, fewer where they would be too small.
    """
    left = [list(tile) for tile in tiles if tile]
    wanted = max(workers, min(workers * SHARDS_PER_WORKER, len(left) // TILES_PER_SHARD))
    weights = [sum(len(sequences[i]) + 1 for i in tile) for tile in left]
    aim = sum(weights) / wanted
    shards: list[tuple[int, ...]] = []
    start = 0
    while start < len(left):
        sizes, size, end = [0], 0, start
        while end < len(left) and size < 1.5 * aim:
            size += weights[end]
            sizes.append(size)
            end += 1
        within = [k for k in range(1, len(sizes)) if sizes[k] >= 0.5 * aim] or [len(sizes) - 1]
        best = min(within, key=lambda k: (_shared(left, start + k, sequences, names), abs(sizes[k] - aim)))
        shards.append(tuple(i for tile in left[start : start + best] for i in tile))
        start += best
    return shards


def _shared(tiles: Sequence[Sequence[int]], at: int, sequences: Sequence[tuple[int, ...]], names: Sequence[str]) -> int:
    """Tokens that the last request before a cut and the first behind it begin with together."""
    if at >= len(tiles):
        return 0
    before = max(tiles[at - 1], key=lambda i: (names[i], sequences[i]))
    after = min(tiles[at], key=lambda i: (names[i], sequences[i]))
    if names[before] != names[after]:
        return 0
    pair = sequences[before], sequences[after]
    return next((k for k, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), min(map(len, pair)))


def _tokens_of(request: Request) -> tuple[int, ...]:
    if isinstance(request, ScoreRequest):
        return request.context_ids + request.continuation_ids[:-1]
    return request.prompt_ids


def _add(total: Usage, part: Usage) -> None:
    total.prompt_tokens += part.prompt_tokens
    total.new_tokens += part.new_tokens
    total.naive_tokens += part.naive_tokens
    if part.limit_seconds is not None:
        total.limit_seconds = (total.limit_seconds or 0.0) + part.limit_seconds
    for note in part.notes:
        _note(total, note)


def _note(usage: Usage, text: str) -> None:
    if text not in usage.notes:
        usage.notes.append(text)


def _reason(error: Exception) -> str:
    found = re.search(r"Worker exit type: (\w+)", str(error))
    return found[1].lower().replace("_", " ") if found else "its process ended"
