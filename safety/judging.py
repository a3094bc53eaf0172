"""Run judges for many requests at once, within time. Knows judges and clocks; knows no policy's actions.

A judge has one worker thread. Texts that wait for it are judged in one call. What takes too long, fails or answers
something else than it was asked is unscorable; a judge that hangs is answered for at once until it comes back, and is
given a new thread after a while.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from safety.judges import CategoryLike, Judge, Passage, unscorable
from workbench.records import Judgement

MAX_BATCH = 64
MAX_WAITING = 1024
"""Passages that may wait for one judge; more are unscorable at once."""
REPLACE_AFTER_S = 30.0
MAX_ABANDONED = 4
"""Threads that hang in a judge and were given up; a thread cannot be ended from outside."""

Verdicts = list[list[Judgement]]


@dataclass(eq=False, slots=True)
class _Job:
    passages: Sequence[Passage]
    categories: Sequence[CategoryLike]
    future: "asyncio.Future[Verdicts]"
    loop: asyncio.AbstractEventLoop


@dataclass(eq=False)
class _Worker:
    """A thread and what it is doing."""

    busy_since: float | None = None
    retired: bool = False
    condition: threading.Condition = field(default_factory=threading.Condition)
    jobs: deque[_Job] = field(default_factory=deque)


class JudgeRunner:
    """One judge with its time limit. Created once; asked from an event loop."""

    def __init__(self, judge: Judge, *, timeout_s: float) -> None:
        self.judge, self.timeout_s = judge, timeout_s
        self.abandoned = 0
        self._worker = self._start()

    async def run(
        self, passages: Sequence[Passage], categories: Sequence[CategoryLike], *, timeout_s: float | None = None
    ) -> Verdicts:
        """[passage][category]; never raises for what a judge does."""
        limit = min(self.timeout_s, timeout_s if timeout_s is not None else self.timeout_s)
        reason = self._why_not()
        if reason is not None or limit <= 0:
            return self._none(passages, categories, reason or "no time was left")
        loop = asyncio.get_running_loop()
        job = _Job(passages, categories, loop.create_future(), loop)
        worker = self._worker
        with worker.condition:
            worker.jobs.append(job)
            worker.condition.notify()
        try:
            return await asyncio.wait_for(job.future, limit)
        except TimeoutError:
            return self._none(passages, categories, f"no answer within {limit * 1000:.0f} ms")

    def close(self) -> None:
        """Let the thread end when it is free."""
        self._retire(self._worker)

    def _why_not(self) -> str | None:
        """Why asking is of no use now."""
        worker = self._worker
        since = worker.busy_since
        hangs_s = time.monotonic() - since if since is not None else 0.0
        if hangs_s > max(REPLACE_AFTER_S, 10 * self.timeout_s) and self.abandoned < MAX_ABANDONED:
            self.abandoned += 1
            self._retire(worker)
            self._worker = self._start()
            return None
        if hangs_s > 2 * self.timeout_s:
            return "the judge hangs"
        return "too many texts wait for the judge" if len(worker.jobs) >= MAX_WAITING else None

    def _none(self, passages: Sequence[Passage], categories: Sequence[CategoryLike], reason: str) -> Verdicts:
        return [[unscorable(category.id, self.judge.name, reason) for category in categories] for _ in passages]

    def _start(self) -> _Worker:
        worker = _Worker()
        threading.Thread(target=self._work, args=(worker,), name=f"judge-{self.judge.name}", daemon=True).start()
        return worker

    @staticmethod
    def _retire(worker: _Worker) -> None:
        with worker.condition:
            worker.retired = True
            worker.condition.notify()

    def _work(self, worker: _Worker) -> None:
        while True:
            with worker.condition:
                while not worker.jobs and not worker.retired:
                    worker.condition.wait()
                if worker.retired:
                    return
                batch = _take(worker.jobs)
            worker.busy_since = time.monotonic()
            self._judge(batch)
            worker.busy_since = None

    def _judge(self, batch: Sequence[_Job]) -> None:
        categories = batch[0].categories
        passages = [passage for job in batch for passage in job.passages]
        try:
            found = self.judge.judge(passages, categories)
            verdicts = _checked(found, passages, categories, self.judge.name)
        except Exception as error:
            verdicts = self._none(passages, categories, f"the judge failed ({type(error).__name__})")
        start = 0
        for job in batch:
            own = verdicts[start : start + len(job.passages)]
            start += len(job.passages)
            if not job.loop.is_closed():
                job.loop.call_soon_threadsafe(_settle, job.future, own)


def _take(jobs: deque[_Job]) -> list[_Job]:
    """The first job and those behind it that ask about the same categories; dead ones are left out."""
    batch: list[_Job] = []
    size = 0
    wanted: list[str] | None = None
    while jobs and size < MAX_BATCH:
        ids = [category.id for category in jobs[0].categories]
        if wanted is not None and ids != wanted:
            break
        job = jobs.popleft()
        if not job.future.done() or not batch:
            wanted = ids
            batch.append(job)
            size += len(job.passages)
    return batch


def _settle(future: "asyncio.Future[Verdicts]", verdicts: Verdicts) -> None:
    if not future.done():  # else the time was over
        future.set_result(verdicts)


def _checked(found: Any, passages: Sequence[Passage], categories: Sequence[CategoryLike], judge: str) -> Verdicts:
    """What the judge said, or unscorable where it is not one Judgement for each passage and category."""
    if len(found) != len(passages):
        raise ValueError("another number of verdicts than of passages")
    verdicts: Verdicts = []
    for row in found:
        own = {one.category: one for one in row if isinstance(one, Judgement)}
        missing = "the judge left a category out"
        verdicts.append([own.get(c.id) or unscorable(c.id, judge, missing) for c in categories])
    return verdicts
