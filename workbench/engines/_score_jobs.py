"""Which sequences an engine that takes whole prompts must see to score requests. Knows token ids; knows no engine.

A prompt's own tokens and one token behind it are scored at once. So requests become jobs: the context and all but the
last token of the continuation, with the wanted last tokens. Answers of one token (letters) share one job per context;
a continuation that another one begins with costs nothing.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from workbench.engines.base import ScoreRequest


@dataclass(kw_only=True, slots=True)
class Job:
    """One prompt for the engine."""

    ids: tuple[int, ...]
    start: int
    """First position whose token is scored; `len(ids)` where only tokens behind the prompt are."""
    lasts: tuple[int, ...] = ()
    """Tokens to score behind the prompt."""
    requests: list[int] = field(default_factory=list)
    """Indices of the requests that it answers."""


def plan_jobs(requests: Sequence[ScoreRequest], *, tile_tokens: int, max_lasts: int) -> list[list[Job]]:
    """Tiles of jobs, each in tree order so that neighbours share their prefixes.

    Tiles depend on all requests and on nothing else. Requests with different `tile` never share one. A tile holds at
    most `tile_tokens` prompt tokens, or a single job; a job asks for at most `max_lasts` last tokens.
    """
    groups: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(request.tile, []).append(index)
    tiles: list[list[Job]] = []
    for members in groups.values():
        tile: list[Job] = []
        tokens = 0
        for job in _merge(requests, members, max_lasts):
            if tile and tokens + len(job.ids) > tile_tokens:
                tiles.append(tile)
                tile, tokens = [], 0
            tile.append(job)
            tokens += len(job.ids)
        tiles.append(tile)
    return tiles


def pending_tiles(tiles: Sequence[list[Job]], done: Collection[int]) -> Iterator[list[Job]]:
    """Tiles with a request that is not in `done`; such a tile is computed whole, so that its numbers stay the same."""
    for tile in tiles:
        if any(index not in done for job in tile for index in job.requests):
            yield tile


def _merge(requests: Sequence[ScoreRequest], members: Sequence[int], max_lasts: int) -> list[Job]:
    """Jobs of `members` in the order of their tokens."""
    sequences: dict[tuple[int, ...], list[int]] = {}
    for index in members:
        sequences.setdefault(requests[index].context_ids + requests[index].continuation_ids, []).append(index)
    starts = {ids: min(len(requests[i].context_ids) for i in users) for ids, users in sequences.items()}
    jobs: list[Job] = []
    open_jobs: dict[tuple[int, ...], Job] = {}
    # From the last to the first: a sequence that begins another one comes right before what it begins.
    for ids in sorted(sequences, reverse=True):
        prompt, start, users = ids[:-1], starts[ids], sequences[ids]
        after, same = jobs[-1] if jobs else None, open_jobs.get(prompt)
        if after and after.start <= start and after.ids[: len(ids)] == ids:
            after.requests += users
        elif same and len(same.lasts) < max_lasts:
            same.start = min(same.start, start)
            same.lasts += (ids[-1],)
            same.requests += users
        else:
            jobs.append(Job(ids=prompt, start=start, lasts=(ids[-1],), requests=list(users)))
            open_jobs[prompt] = jobs[-1]
    jobs.reverse()
    return jobs
