"""A request on the event loop: what comes from the stepper for it, with back-pressure, and its cancelling."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from dca_runtime.server.metrics import Metrics
from dca_runtime.server.requests import Event, Failed, Finished, Job, Token

_PAUSE_AT = 256  # events that wait for their reader


class Left(Exception):
    """The client left."""


class Exchange:
    """The events of a request's jobs, in the order they came."""

    def __init__(self, metrics: Metrics, wake: Callable[[], None]) -> None:
        """wake: tells the stepper that something changed for a job."""
        self.jobs: list[Job] = []
        self._metrics = metrics
        self._wake = wake
        self._events: deque[tuple[int, Event]] = deque()
        self._arrived = asyncio.Event()
        self._last: dict[int, float] = {}  # when a job's last token came
        self._running: set[int] = set()
        self._left = False

    def add(self, job: Job) -> None:
        """Takes a job before it is submitted."""
        self._running.add(len(self.jobs))
        self.jobs.append(job)

    def deliver(self, index: int, event: Event) -> None:
        """Takes an event of the job ``index``. Events of one that is over here are dropped."""
        if index not in self._running:
            return
        now = time.monotonic()
        job = self.jobs[index]
        if isinstance(event, Token):
            self._metrics.token(now - self._last.get(index, job.arrived), first=index not in self._last)
            self._last[index] = now
        elif isinstance(event, Finished | Failed):
            self._running.discard(index)
            reason = event.reason if isinstance(event, Finished) else "error"
            self._metrics.finished(reason, now - job.arrived)
        self._events.append((index, event))
        self._arrived.set()
        if len(self._events) >= _PAUSE_AT:
            for other in self.jobs:
                other.paused = True

    async def next(self, seconds: float | None = None) -> list[tuple[int, Event]]:
        """Waits for events; all that are there, none if there are none within ``seconds``. Raises Left."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return []
        if self._left:
            raise Left
        self._arrived.clear()
        events = list(self._events)
        self._events.clear()
        if any(job.paused for job in self.jobs):
            for job in self.jobs:
                job.paused = False
            self._wake()
        return events

    def leave(self) -> None:
        """Nobody waits for events any more: ``next`` raises Left, and what still runs ends."""
        self._left = True
        self._arrived.set()
        self.cancel()

    def end(self, index: int, reason: str) -> None:
        """The job ``index`` is to write no more: its answer is whole ("stop") or unwanted ("abort")."""
        if index in self._running:
            self._running.discard(index)
            self._metrics.finished(reason, time.monotonic() - self.jobs[index].arrived)
            self.jobs[index].cancelled = True
            self._wake()

    def cancel(self) -> None:
        """Ends what still runs: the client left, or the answer failed."""
        for index in list(self._running):
            self.end(index, "abort")
