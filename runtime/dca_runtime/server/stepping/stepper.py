"""The thread that owns the engine: it takes jobs, steps, and hands over what came out, once a step."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dca_runtime.engine import Engine
from dca_runtime.errors import DcaError, Status
from dca_runtime.options import PAGE_TOKENS
from dca_runtime.server.errors import ApiError
from dca_runtime.server.metrics import Metrics
from dca_runtime.server.requests import (
    Event,
    Failed,
    Finished,
    Job,
    Loaded,
    Read,
    Stage,
    Started,
    Token,
)
from dca_runtime.server.settings import Settings
from dca_runtime.server.stepping.scheduler import Plan, Scheduler
from dca_runtime.server.stepping.sleepers import Sleepers
from dca_runtime.server.stepping.stored import Stored

Delivery = list[tuple[Job, Event]]
# A job, and what the engine is told of it: (sequence, ids), and in steps that choose its sampling, and a mask
# where not every token may come.
_Item = tuple[Job, tuple[Any, ...]]

_Result = TypeVar("_Result")

_log = logging.getLogger("dca_serve")
_IDLE_SECONDS = 0.05  # between looks at jobs that only wait for their clients
_BESIDE_SECONDS = 0.005  # between looks at what goes on beside the steps: the store, copies ahead of need
_COPY_SECONDS = 0.0005  # between looks at copies to and from host memory
_REPORT_SECONDS = 0.1  # between figures of how full the server is, while it steps
_LIMIT_SECONDS = 0.05  # between looks at jobs whose time may be over


class Stepper(threading.Thread):
    """Runs jobs until it is stopped. ``submit``, ``wake`` and ``stop`` are for any thread."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        metrics: Metrics,
        hand_over: Callable[[Delivery], None],
        stored: Stored | None = None,
        sleepers: Sleepers | None = None,
    ) -> None:
        """hand_over: takes what a step brought; must not block."""
        super().__init__(name="stepper", daemon=True)
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._hand_over = hand_over
        self._sleepers = sleepers
        self._scheduler = Scheduler(engine, settings.max_sequences, stored=stored, sleepers=sleepers)
        self._inbox: list[Job] = []
        self._news = threading.Condition()
        self._stopping = False
        self._refusing: ApiError | None = None  # what all jobs are told from now on
        self._out: Delivery = []
        self._copies = False  # somebody waits for copies to or from host memory
        self._reported = 0.0  # when metrics were told how full it is
        self._stepped: float | None = None  # when the last step ended; None: there was nothing to do since
        self._limited = 0.0  # when jobs' times were looked at
        self.wait = 0.0  # seconds a new prompt would wait for those before it, estimated
        self.unstarted = 0  # jobs that wait for their first row

    def submit(self, job: Job) -> None:
        """Takes a job; its events come through ``hand_over``, the last of which ends it."""
        with self._news:
            if not self._stopping:
                self._inbox.append(job)
                self.unstarted += 1
                self._news.notify()
                return
        self._hand_over([(job, Failed(stopping_error()))])

    def wake(self) -> None:
        """Tells that a job was cancelled, or goes on."""
        with self._news:
            self._news.notify()

    def refuse_all(self, error: ApiError) -> None:
        """Ends all jobs, those still to come too, with ``error``."""
        with self._news:
            self._refusing = error
            self._news.notify()

    def stop(self) -> None:
        """Ends after the step that runs, and with it all jobs."""
        with self._news:
            self._stopping = True
            self._news.notify()

    def run(self) -> None:
        """The thread's life."""
        while self._next_jobs():
            try:
                busy = self._round()
            except Exception as error:  # a mistake of ours must not leave clients waiting for ever
                _log.exception("a step failed")
                for job in self._scheduler.active + self._scheduler.waiting:
                    self._fail(job, error)
                self._scheduler.failed()
                busy = False
            self._report(busy)
            if not busy:
                self._stepped = None
                self._flush()
                with self._news:
                    if not (self._inbox or self._stopping):
                        scheduler = self._scheduler
                        beside = scheduler.loading or scheduler.saving or scheduler.copying_ahead
                        idle = _BESIDE_SECONDS if beside else _IDLE_SECONDS
                        self._news.wait(_COPY_SECONDS if self._copies else idle)
        for job in self._scheduler.active + self._scheduler.waiting:
            self._fail(job, stopping_error())
        self._flush()
        self._scheduler.close()

    def _next_jobs(self) -> bool:
        """Takes new jobs, waiting where there is nothing to do; False: the end."""
        scheduler = self._scheduler
        if not scheduler.active:
            self._stepped = None
            self._flush()
        with self._news:
            while not (
                self._inbox
                or self._stopping
                or scheduler.active
                or scheduler.waiting
                or scheduler.saving
                or scheduler.copying_ahead
            ):
                self._news.wait()
            new, self._inbox = self._inbox, []
            stopping = self._stopping
        for job in new:
            scheduler.add(job)
        return not stopping

    def _round(self) -> bool:
        """One step; False if there was nothing to step."""
        for job in [job for job in self._scheduler.active + self._scheduler.waiting if job.cancelled]:
            self._scheduler.end(job)
        now = time.monotonic()
        if self._refusing is not None or now - self._limited >= _LIMIT_SECONDS:
            self._limited = now
            self._limit(now)
        plan = self._scheduler.plan()
        self._copies = bool(plan.wakes) or plan.later
        self._announce(plan)
        loaded = self._load(plan.loads)
        chosen = [(job, 1) for job in plan.writes] + [read for read in plan.reads if read[1] == read[0].left]
        pieces = [read for read in plan.reads if read[1] < read[0].left]
        if chosen:
            self._choose(chosen)
        if pieces:
            self._read(pieces)
        self._scheduler.save()
        return bool(chosen or pieces or loaded or plan.woken)

    def _limit(self, now: float) -> None:
        """Ends jobs whose time is over, or all where the server stops."""
        for job in self._scheduler.active + self._scheduler.waiting:
            if self._refusing is not None:
                self._fail(job, self._refusing)
            elif now - job.arrived > self._settings.request_seconds:
                self._fail(job, ApiError(408, "the request took longer than this server allows"))
            elif job.started is None and now - job.arrived > self._settings.queue_seconds:
                self._fail(job, busy_error(self._scheduler.wait))

    def _announce(self, plan: Plan) -> None:
        """Tells jobs that get their first rows so."""
        reading = [job for job, _ in plan.reads]
        woken = [job for job, _ in plan.woken]
        for job in plan.wakes + woken + plan.loads + reading:
            if job.started is None:
                job.started = time.monotonic()
                in_pool = job.read - sum(count for other, count in plan.woken if other is job)
                self._metrics.started(job.started - job.arrived, len(job.prompt), in_pool)
        for job, count in plan.woken:
            self._metrics.woken(count)
            if job.progress and not job.announced and job.started is not None:
                self._out.append((job, Loaded(job.read, time.monotonic() - job.started)))
        for job in reading:
            if not job.announced:
                job.announced = True
                self._out.append((job, Started(job.read)))

    def _load(self, jobs: list[Job]) -> bool:
        """Appends to one of the jobs what came for it from the store; False: nothing is there yet."""
        for job in jobs:
            count = self._scheduler.load(job)
            if count:
                self._metrics.loaded(count)
                if job.progress and not job.announced and job.started is not None:
                    self._out.append((job, Loaded(job.read, time.monotonic() - job.started)))
            if count or job.stage is Stage.READING:
                return True
        return False

    # Steps.

    def _choose(self, chosen: list[tuple[Job, int]]) -> None:
        items: list[_Item] = []
        for job, count in chosen:
            try:
                items.append((job, (job.sequence, job.next_ids(count), *job.choosing())))
            except Exception as error:
                self._fail(job, error)

        def call(some: Sequence[_Item]) -> list[Token]:
            feeds = [feed for _, feed in some]
            tops = [job.top_logprobs for job, _ in some]
            if not any(top is not None for top in tops):
                return [Token(token) for token in self._engine.sample(feeds)]
            choices = self._engine.choose(feeds, tops)
            return [job.token(choice) for (job, _), choice in zip(some, choices, strict=True)]

        alone = chosen[0][0].read if len(chosen) == 1 and chosen[0][1] > 1 else None
        results, seconds = self._timed(call, items)
        for (job, feed), token in zip(items, results, strict=True):
            if token is not None:
                self._scheduler.appended(job, len(feed[1]))
                self._take(job, token)
        rows = sum(count for job, count in chosen if count > 1)
        if rows >= len(chosen) - 1 and all(results):
            self._scheduler.measured(rows, seconds, alone)

    def _read(self, pieces: list[tuple[Job, int]]) -> None:
        items: list[_Item] = [(job, (job.sequence, job.next_ids(count))) for job, count in pieces]

        def call(some: Sequence[_Item]) -> list[bool]:
            self._engine.eval([feed for _, feed in some], logits=False)
            return [True] * len(some)

        alone = pieces[0][0].read if len(pieces) == 1 else None
        results, seconds = self._timed(call, items)
        for (job, feed), done in zip(items, results, strict=True):
            if done:
                self._scheduler.appended(job, len(feed[1]))
                self._scheduler.to_save(job)
                if job.progress and job.started is not None:
                    self._out.append((job, Read(job.read, time.monotonic() - job.started)))
        if all(results):
            self._scheduler.measured(sum(count for _, count in pieces), seconds, alone)

    def _timed(
        self, call: Callable[[Sequence[_Item]], Sequence[_Result]], items: list[_Item]
    ) -> tuple[Sequence[_Result | None], float]:
        """``_each`` and the seconds it took."""
        self._flush()
        start = time.perf_counter()
        results = self._each(call, items)
        end = time.perf_counter()
        self._metrics.stepped(end - start, 0.0 if self._stepped is None else start - self._stepped)
        self._stepped = end
        return results, end - start

    def _each(
        self, call: Callable[[Sequence[_Item]], Sequence[_Result]], items: list[_Item]
    ) -> Sequence[_Result | None]:
        """``call`` for all items in one step; where that fails for each alone, so that only the one that
        cannot go on ends."""
        if not items:
            return []
        try:
            return call(items)
        except (DcaError, MemoryError) as error:
            if len(items) == 1:
                self._fail(items[0][0], error)
                return [None]
        results: list[_Result | None] = []
        for item in items:
            job = item[0]
            assert job.sequence is not None
            job.sequence.truncate(job.read)  # a step may have appended before it failed
            results.extend(self._each(call, [item]))
        return results

    def _take(self, job: Job, token: Token) -> None:
        """A token was chosen for the job."""
        whole = False
        if job.constraint is not None:
            try:
                whole = job.constraint.accept(token.id)
            except Exception as error:
                self._fail(job, error)
                return
        job.stage = Stage.WRITING
        job.add(token.id)
        self._out.append((job, token))
        if whole or token.id in job.end_ids:
            self._finish(job, "stop")
        elif len(job.generated) >= job.max_tokens:
            self._finish(job, "length")

    def _finish(self, job: Job, reason: str) -> None:
        self._out.append((job, Finished(reason)))
        self._scheduler.end(job)

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, DcaError) and error.status == Status.CONTEXT:
            error = ApiError(503, f"the server's cache is full: {error}", code="cache_full", retry_after=5)
        self._out.append((job, Failed(ApiError.of(error))))
        self._scheduler.end(job)

    def _flush(self) -> None:
        """Hands over what came out: just before the engine runs, so that what the event loop makes of it and
        what this thread does between steps do not take Python's lock from each other."""
        if self._out:
            out, self._out = self._out, []
            self._hand_over(out)

    def _report(self, busy: bool) -> None:
        scheduler = self._scheduler
        with self._news:
            self.unstarted = len(self._inbox) + sum(job.started is None for job in scheduler.waiting)
        now = time.monotonic()
        if busy and scheduler.active and now - self._reported < _REPORT_SECONDS:
            return
        self._reported = now
        self.wait = scheduler.wait
        self._metrics.state(
            running=len(scheduler.active),
            waiting=len(scheduler.waiting),
            usage=scheduler.pages_used / scheduler.pages,
            set_aside=scheduler.set_aside,
        )
        if self._sleepers is not None:
            memory = self._sleepers.memory
            self._metrics.asleep(
                used=memory.used * memory.page_bytes,
                limit=memory.limit * memory.page_bytes,
                slept=self._sleepers.slept * PAGE_TOKENS,
                dropped=self._sleepers.dropped * PAGE_TOKENS,
            )


def busy_error(wait: float) -> ApiError:
    """What a client is told that would have to wait too long: ``wait`` seconds, estimated."""
    seconds = max(int(wait), 1)
    return ApiError(
        429,
        f"the server is busy: this request would wait about {seconds} s; try again later",
        code="server_busy",
        retry_after=seconds,
    )


def stopping_error() -> ApiError:
    """What a client is told of a server that stops."""
    return ApiError(503, "the server is stopping", code="stopping", retry_after=10)
