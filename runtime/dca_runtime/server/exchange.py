"""A request on the event loop: what comes from the stepper for it, with back-pressure, and its cancelling."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable

from dca_runtime.server.looks import Looks
from dca_runtime.server.metrics import Metrics
from dca_runtime.server.requests import Event, Failed, Finished, Job, Token

_PAUSE_AT = 16  # events that wait for their reader


def _nobody(event: Event) -> None:
    """Who hears the events of a job that is over. It and its exchange hold each other no longer then, so that
    both, with the prompt and all that was written, are freed at once."""


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
        self._heard = 0.0  # when the last event came, or silence was broken

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
            before = self._last.get(index)
            self._metrics.token(now - (job.arrived if before is None else before), first=before is None)
            self._last[index] = now
        elif isinstance(event, Finished | Failed):
            self._over(index)
            reason = event.reason if isinstance(event, Finished) else "error"
            self._metrics.finished(reason, now - job.arrived)
        self._heard = now
        self._events.append((index, event))
        self._arrived.set()
        if len(self._events) >= _PAUSE_AT:
            for other in self.jobs:
                other.paused = True

    async def next(self) -> list[tuple[int, Event]]:
        """Waits for events; all that are there, none where silence was broken (``broken``). Raises Left."""
        await self._arrived.wait()
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

    def broken(self, seconds: float | None) -> contextlib.AbstractContextManager[object]:
        """Within the block ``next`` comes back without events after so long a silence; None: it does not."""
        if seconds is None:
            return contextlib.nullcontext()

        def look() -> float:
            left = seconds - (time.monotonic() - self._heard)
            if left > 0:
                return left
            self._heard = time.monotonic()
            self._arrived.set()
            return seconds

        self._heard = time.monotonic()
        return Looks(seconds, look)

    def leave(self) -> None:
        """Nobody waits for events any more: ``next`` raises Left, and what still runs ends."""
        self._left = True
        self._arrived.set()
        self.cancel()

    def end(self, index: int, reason: str) -> None:
        """The job ``index`` is to write no more: its answer is whole ("stop") or unwanted ("abort")."""
        if index in self._running:
            self._over(index)
            self._metrics.finished(reason, time.monotonic() - self.jobs[index].arrived)
            self.jobs[index].cancelled = True
            self._wake()

    def _over(self, index: int) -> None:
        self._running.discard(index)
        self.jobs[index].deliver = _nobody

    def cancel(self) -> None:
        """Ends what still runs: the client left, or the answer failed."""
        for index in list(self._running):
            self.end(index, "abort")
