"""Work that takes long, done beside the server's own thread: in bounded queues, and searches that wait in one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from threeshnet.app.guard import Refused
from threeshnet.errors import ThreeSHNetError
from threeshnet.index.query import Answer, Query

Result = TypeVar("Result")
TOGETHER = 16  # queries in a call of the index: text encoders gain little beyond it


class Job(NamedTuple):
    """A search, or another call of the model."""

    work: Query | Callable[[], Any]
    top: int  # of a search
    done: asyncio.Future[Any]


class ModelQueue:
    """Calls of the model in one thread; it is no faster in several.

    Searches for the same number of photos that wait one behind the other are answered in one call. More than `longest`
    waiting jobs are refused with status 503.
    """

    def __init__(self, search: Callable[[Sequence[Query], int], list[Answer]], *, longest: int) -> None:
        self.search, self.longest = search, longest
        self.waiting: deque[Job] = deque()
        self.thread = ThreadPoolExecutor(1, "model")
        self.runner: asyncio.Task[None] | None = None

    async def ask(self, query: Query, top: int) -> Answer:
        """The answer to one query.  Raises what the search raises, and Refused when too many wait."""
        return await self._put(query, top)

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Another call of the model, in turn."""
        return await self._put(lambda: function(*arguments))

    async def _put(self, work: Any, top: int = 0) -> Any:
        if len(self.waiting) >= self.longest:
            raise Refused(503, "too many searches wait; try again in a moment")
        job = Job(work, top, asyncio.get_running_loop().create_future())
        self.waiting.append(job)
        if self.runner is None or self.runner.done():
            self.runner = asyncio.create_task(self._run())
        return await job.done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            jobs = [job for job in self._next() if not job.done.done()]  # done: nobody waits for it any more
            results = await loop.run_in_executor(self.thread, self._results, jobs)
            for job, result in zip(jobs, results, strict=True):
                if job.done.done():
                    continue
                if isinstance(result, Exception):
                    job.done.set_exception(result)
                else:
                    job.done.set_result(result)

    def _next(self) -> list[Job]:
        """The first job, and the searches behind it that can go with it."""
        jobs = [self.waiting.popleft()]
        first = jobs[0]
        while isinstance(first.work, Query) and self.waiting and len(jobs) < TOGETHER:
            other = self.waiting[0]
            if not isinstance(other.work, Query) or other.top != first.top:
                break
            jobs.append(self.waiting.popleft())
        return jobs

    def _results(self, jobs: Sequence[Job]) -> list[Any]:
        """What each job gives, or the error that it raises."""
        queries = [job.work for job in jobs if isinstance(job.work, Query)]
        if len(queries) > 1:
            try:
                return list(self.search(queries, jobs[0].top))
            except ThreeSHNetError:
                pass  # of one of them: each alone says which
        return [self._alone(job) for job in jobs]

    def _alone(self, job: Job) -> Any:
        try:
            return self.search([job.work], job.top)[0] if isinstance(job.work, Query) else job.work()
        except Exception as error:
            return error


class PictureThreads:
    """Decoding and encoding of pictures: `threads` at a time, `longest` waiting."""

    def __init__(self, *, threads: int = 2, longest: int = 500) -> None:
        self.pool, self.longest, self.waiting = ThreadPoolExecutor(threads, "pictures"), longest, 0

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The result of `function`.  Raises Refused when too many wait."""
        if self.waiting >= self.longest:
            raise Refused(503, "too many photos are being read; try again in a moment")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)
        finally:
            self.waiting -= 1
