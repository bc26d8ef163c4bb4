"""Runs networks in threads, as many as the machine has cores, behind a queue with an end.

The event loop never decodes a picture and never runs a network. Requests beyond the queue are refused at once, because
a client that waits for long gives up and asks again, and then the service only works for clients that have gone.

Batches: requests are not collected into batches. On processors, a batch gains nothing over one picture per thread, and
makes the first request wait for the others; docs/service.md has the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.types import Receive

from .limits import ClientGone, Limits, Refused
from .metrics import Metrics

_T = TypeVar("_T")
# The weight of a new duration in the running mean.
_NEW = 0.1


class Workers:
    """Runs jobs in a fixed number of threads.

    Args:
        limits: The number of threads, the length of the queue, and the longest time for an answer.
        metrics: Counts what waits and what runs.

    Attributes:
        admitted: The number of jobs that wait or run. Only the event loop changes it.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="picture")
        self._mean_seconds = 0.05
        self.admitted = 0

    def check_room(self) -> None:
        """Check that another job may wait.

        Raises:
            Refused: If the queue is full.
        """
        if self.admitted >= self._limits.concurrency + self._limits.queue:
            raise self.busy(f"{self.admitted} requests are being answered or wait already, and no more may wait")

    def busy(self, reason: str) -> Refused:
        """Return the error for a request that came while there was too much to do, with the time to wait."""
        wait = math.ceil(self.admitted * self._mean_seconds / self._limits.concurrency)
        seconds = min(max(wait, 1), 60)
        message = f"The service is busy: {reason}. Ask again in {seconds} s."
        return Refused(503, "Busy", message, {"Retry-After": str(seconds)})

    async def run(self, job: Callable[[bool], _T], receive: Receive) -> _T:
        """Run a job in a thread, and return its result.

        Args:
            job: Called in a thread. Its argument says whether no other job waits or runs.
            receive: The ASGI function of the request, whose body has been read. If the client goes, a job that waits
                is dropped.

        Raises:
            Refused: If the queue is full, or the job takes too long. A job that runs is not stopped by that: it keeps
                its thread until it ends.
            ClientGone: If the client has closed the connection.
        """
        self.check_room()
        loop = asyncio.get_running_loop()
        self.admitted += 1
        future = self._pool.submit(self._run, job)

        def left(_: object) -> None:
            # When the process ends, the loop may be closed before the last job is done.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._leave)

        future.add_done_callback(left)
        answer = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_until_gone(receive))
        futures: set[asyncio.Future[Any]] = {answer, gone}
        try:
            done, _ = await asyncio.wait(futures, timeout=self._limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if answer in done:
            try:
                return answer.result()
            finally:
                # An error holds this frame, and this frame holds the error: the body would stay until Python looks.
                del answer, future, futures, done
        answer.cancel()
        if gone in done:
            raise ClientGone
        raise self.busy(f"the answer took longer than {self._limits.seconds:g} s")

    def _run(self, job: Callable[[bool], _T]) -> _T:
        started = time.perf_counter()
        with self._metrics.running.track_inprogress():
            try:
                return job(self.admitted == 1)
            finally:
                self._mean_seconds += _NEW * (time.perf_counter() - started - self._mean_seconds)

    def _leave(self) -> None:
        self.admitted -= 1

    def waiting(self) -> int:
        """Return how many jobs wait for a thread."""
        return max(0, self.admitted - self._limits.concurrency)

    def close(self) -> None:
        """Drop the jobs that wait, and let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
