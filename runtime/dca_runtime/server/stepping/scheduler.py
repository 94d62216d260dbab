"""Who gets rows of the next step: those who write first, then pieces of prompts, as many as keep it short."""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import cast

from dca_runtime.engine import Engine, TokenSequence
from dca_runtime.options import PAGE_TOKENS
from dca_runtime.server.requests import Job, Stage
from dca_runtime.server.stepping import waking
from dca_runtime.server.stepping.prefix_tree import LetGo, PrefixTree
from dca_runtime.server.stepping.sleepers import Sleepers
from dca_runtime.server.stepping.stored import MOST_LOADING, Stored

# Of reading in a step: the longest gap in other people's streams, and the wait until a stop is heard.
STEP_SECONDS = 0.18
_FIRST_SPEED = 1000.0  # tokens/s, until reading has been measured
_LEAST_ROWS = 32  # of reading in a step: the panels of products have so many rows
_LEAST_SERVICE = 0.01  # seconds: below it all waiting requests are alike
# Looked for in every job at every step.
_LOADING, _READING, _WAKING, _WRITING = Stage.LOADING, Stage.READING, Stage.WAKING, Stage.WRITING
_arrived = attrgetter("arrived")


class _Room(enum.Enum):
    NOW = "now"
    SOON = "soon"  # pages are leaving for host memory
    NONE = "none"


@dataclass
class Plan:
    """The rows of one step."""

    writes: list[Job] = field(default_factory=list)
    reads: list[tuple[Job, int]] = field(default_factory=list)  # (job, tokens of its prompt)
    loads: list[Job] = field(default_factory=list)  # one of them gets pages from the store
    wakes: list[Job] = field(default_factory=list)  # whose pages are on their way from host memory
    woken: list[tuple[Job, int]] = field(default_factory=list)  # (job, tokens that came from there)
    later: bool = False  # somebody waits for pages that are leaving

    def without(self, job: Job) -> None:
        """Takes the job's rows out."""
        self.loads = [other for other in self.loads if other is not job]
        self.wakes = [other for other in self.wakes if other is not job]
        self.woken = [(other, count) for other, count in self.woken if other is not job]
        self.writes = [other for other in self.writes if other is not job]
        self.reads = [(other, count) for other, count in self.reads if other is not job]


class Scheduler:
    """The jobs of a server, and the pages they hold. For one thread, the one that steps the engine."""

    def __init__(
        self,
        engine: Engine,
        max_sequences: int,
        clock: Callable[[], float] = time.monotonic,
        stored: Stored | None = None,
        sleepers: Sleepers | None = None,
    ) -> None:
        self.tree = PrefixTree(sleepers)
        self.waiting: list[Job] = []  # by arrival
        self.active: list[Job] = []  # those that have a sequence
        self.set_aside = 0  # how often a job had to give its pages up
        self._engine = engine
        self._stored = stored
        self._max_sequences = max_sequences
        self._clock = clock
        self._pages = engine.info.tokens // PAGE_TOKENS
        self._promise: int | None = None  # of pages, while a step is planned; None: to be counted
        self._speed = _FIRST_SPEED
        self._speed_is_known = False

    # What happens to jobs.

    def add(self, job: Job) -> None:
        """Takes a new job."""
        self._queue(job)

    def end(self, job: Job) -> None:
        """The job is over: its pages stay for others as long as there is room."""
        self._release(job)
        job.stage = Stage.OVER

    def appended(self, job: Job, count: int) -> None:
        """``count`` tokens of the job were appended to its sequence."""
        job.read += count
        if job.entry is not None and job.read // PAGE_TOKENS > len(job.entry.path):
            self.tree.grow(job.entry, job.keys[: job.read // PAGE_TOKENS])

    def load(self, job: Job) -> int:
        """Appends what came from the store for a loading job, without waiting: how many tokens."""
        assert job.incoming is not None and job.sequence is not None
        job.incoming.step(job.sequence)
        count = job.sequence.length - job.read
        self.appended(job, count)
        if job.incoming.done:
            self._stop_loading(job)
            job.stored = job.read  # less than was found where a page was missing or damaged
            job.stage = Stage.READING
        return count

    def to_save(self, job: Job) -> None:
        """A piece of the job's prompt was read: it is to be stored."""
        if self._stored is not None:
            self._stored.to_save(job)

    def save(self) -> None:
        """Copies some pages for the store, without waiting."""
        if self._stored is not None:
            self._stored.save(self.tree)

    @property
    def saving(self) -> bool:
        """Whether pages are to be saved."""
        return self._stored is not None and self._stored.unsaved

    @property
    def copying_ahead(self) -> bool:
        """Whether idle pages are to be copied to host memory."""
        return self.tree.copying_ahead

    def failed(self) -> None:
        """A step failed: what goes on beside steps is left, which would have the next one tried at once, and
        failing, for ever."""
        self.tree.leave_uncopied()
        if self._stored is not None:
            self._stored.leave_unsaved()

    @property
    def loading(self) -> bool:
        """Whether pages are to come from the store."""
        return bool(self._loading_jobs())

    def close(self) -> None:
        """Ends all jobs and saves what is not saved yet."""
        for job in self.active + self.waiting:
            self.end(job)
        if self._stored is not None:
            self._stored.close(self.tree)
        if self.tree.sleepers is not None:
            self.tree.sleepers.close()

    def measured(self, rows: int, seconds: float, start: int | None = None) -> None:
        """Reading ``rows`` tokens of prompts took so long; of one prompt alone, from ``start`` on."""
        if self._stored is not None and start is not None:
            self._stored.read_in(start, start + rows, seconds)
        if rows >= _LEAST_ROWS and seconds > 0:
            # What was only supposed goes at once: a card reads forty times as fast.
            weight = 0.3 if self._speed_is_known else 1.0
            self._speed += weight * (rows / seconds - self._speed)
            self._speed_is_known = True

    @property
    def wait(self) -> float:
        """Seconds until all prompts that are here now will have been read, estimated."""
        return sum(job.to_read for job in self.waiting + self.active) / self._speed

    @property
    def pages_used(self) -> int:
        """Pages that running jobs hold."""
        return self.tree.live_pages + sum(self._unpublished(job) for job in self.active)

    @property
    def pages(self) -> int:
        """Pages in all."""
        return self._pages

    # The next step.

    def plan(self) -> Plan:
        """The rows of the next step, with pages in the pool for all of them."""
        plan = Plan()
        self._promise = None
        reserved = 0
        for job in sorted(self.active, key=_arrived):
            if job.stage is _WRITING and not job.paused and job.sequence is not None:
                pages = 0 if job.read % PAGE_TOKENS else 1
                if pages == 0 or self._room(job, reserved + pages, plan):
                    plan.writes.append(job)
                    reserved += pages
        for job in [job for job in self.active if job.stage is _WAKING]:
            if job.stage is _WAKING:  # and was not set aside for one before it
                self._wake(job, reserved, plan)
        for job in self._loading_jobs():
            assert self._stored is not None
            pages = min(self._stored.most_pages, self._pages_for(job, job.left))
            if job.stage is Stage.LOADING and self._room(job, reserved + pages, plan):
                plan.loads.append(job)
                reserved += pages
        rows = self._rows()
        for job in self._readers():
            if rows <= 0:
                break
            if job.stage is Stage.WAITING:
                if not self._start(job, plan):
                    continue
                self._wake(job, reserved, plan)
            count = min(rows, job.left)
            pages = self._pages_for(job, count)
            if job.stage is Stage.READING and self._room(job, reserved + pages, plan):
                plan.reads.append((job, count))
                reserved += pages
                rows -= count
        self._make_ready(reserved, plan)
        return plan

    def _rows(self) -> int:
        """Tokens of prompts that a step reads at most."""
        return max(round(self._speed * STEP_SECONDS / _LEAST_ROWS), 1) * _LEAST_ROWS

    def _loading_jobs(self) -> list[Job]:
        return [job for job in self.active if job.stage is _LOADING]

    def _readers(self) -> list[Job]:
        """Jobs with something to read, the one first whose wait is longest beside what it asks for.

        Short requests pass long documents that way, and nobody waits for ever: the longer a job has waited
        and the less of it is left, the sooner its turn.
        """
        now = self._clock()
        readers = [job for job in self.active if job.stage is _READING and not job.paused]

        def urgency(job: Job) -> float:
            service = max(job.to_read / self._speed, _LEAST_SERVICE)
            return (now - job.arrived) / service

        if self.waiting and self._takes_more():
            readers += [job for job in self.waiting if not job.paused]
        return sorted(readers, key=urgency, reverse=True)

    def _takes_more(self) -> bool:
        """Whether a waiting job may find room: one look, however many wait."""
        if not self.active or any(job.paused for job in self.active):
            return True
        return len(self.active) < self._max_sequences and self._promised() < self._pages

    def _paused_makes_way(self, plan: Plan) -> bool:
        """Sets the youngest job aside whose client does not keep up; False: there is none."""
        paused = [job for job in self.active if job.paused]
        if paused:
            youngest = max(paused, key=_arrived)
            plan.without(youngest)  # it may have been paused since it was planned
            self._set_aside(youngest)
        return bool(paused)

    def _start(self, job: Job, plan: Plan) -> bool:
        """Gives a waiting job a sequence with what the pool holds of its prompt; False: not now."""
        keys = job.keys[: (job.length - 1) // PAGE_TOKENS]  # the last token must be evaluated in any case
        while True:
            entry, depth = self.tree.find(keys) if job.cache_prompt else (None, 0)
            awake = depth + (len(self.tree.asleep(keys, depth)) if job.cache_prompt else 0)
            if job.cache_prompt and self._is_being_read(keys, depth, awake):
                return False
            if job.stored > awake * PAGE_TOKENS and len(self._loading_jobs()) >= MOST_LOADING:
                return False
            if self._has_room(job, min(depth, self.tree.live_prefix(keys)) if job.cache_prompt else 0):
                break
            if not self._paused_makes_way(plan):
                return False
        sequence = self._engine.sequence() if entry is None else cast(TokenSequence, entry.sequence.fork())
        sequence.truncate(depth * PAGE_TOKENS)
        job.sequence, job.read = sequence, 0
        if job.cache_prompt:
            job.entry = self.tree.open(sequence)
        self.appended(job, depth * PAGE_TOKENS)
        job.asleep = awake * PAGE_TOKENS
        job.stage = Stage.WAKING
        self.waiting.remove(job)
        self.active.append(job)
        self._promise = None
        return True

    def _wake(self, job: Job, reserved: int, plan: Plan) -> None:
        """Has what sleeps of the job's prompt come, a part at a time; then the job loads or reads."""
        waits = not self._has_come(job, plan)
        if not waits and (count := len(waking.asleep(self.tree, job))):
            waits = not self._room(job, reserved + count, plan)
            # Making room may have cost some of them their place.
            if not waits and (slots := waking.asleep(self.tree, job)) and waking.begin(job, slots):
                waits = not self._has_come(job, plan) or bool(waking.asleep(self.tree, job))
        if job.stage is not Stage.WAKING:  # it was set aside
            return
        if waits:
            plan.wakes.append(job)
            return
        if self._stored is not None and job.stored > job.read:
            job.incoming = self._stored.incoming(job)
        job.stage = Stage.READING if job.incoming is None else Stage.LOADING

    def _has_come(self, job: Job, plan: Plan) -> bool:
        """Whether nothing is on its way into the job's sequence (any more)."""
        count = waking.come(self.tree, job)
        if count:
            self.appended(job, count)
            self._promise = None
            plan.woken.append((job, count))
        return count is not None

    def _has_room(self, job: Job, shared: int) -> bool:
        """Whether a waiting job finds a place and the pages it asks for, of which others hold ``shared``."""
        if len(self.active) >= self._max_sequences:
            return False
        return not self.active or self._promised() + _pages(job.length + 1) - shared <= self._pages

    def _stop_loading(self, job: Job) -> None:
        if job.incoming is not None:
            job.incoming.close()
            job.incoming = None

    def _is_being_read(self, keys: list[bytes], depth: int, awake: int) -> bool:
        """Whether a job reads pages beyond ``awake`` just now that this prompt begins with too, or wakes some
        beyond ``depth``."""
        for other in self.active:
            wakes = other.stage is _WAKING
            reads = (
                wakes or other.stage is Stage.LOADING or (other.stage is Stage.READING and not other.paused)
            )
            if reads and other.cache_prompt:
                shared = 0
                for mine, theirs in zip(keys, other.keys, strict=False):
                    if mine != theirs:
                        break
                    shared += 1
                if shared > max(depth if wakes else awake, other.read // PAGE_TOKENS):
                    return True
        return False

    # Pages.

    def _promised(self) -> int:
        """Pages that active jobs hold or will need: all of their prompts, and one more to write in."""
        if self._promise is None:
            reading = sum(_pages(job.length) - _pages(job.read) for job in self.active)
            self._promise = self.pages_used + reading + len(self.active)
        return self._promise

    def _unpublished(self, job: Job) -> int:
        return _pages(job.read) - (0 if job.entry is None else len(job.entry.path))

    def _pages_for(self, job: Job, count: int) -> int:
        return _pages(job.read + count) - _pages(job.read)

    def _room(self, job: Job, pages: int, plan: Plan) -> bool:
        """Makes room for ``pages`` pages: idle ones go first, then jobs whose clients do not keep up are set
        aside, then the youngest.

        False: ``job`` was itself set aside, or must wait for pages that are leaving.
        """
        while job.sequence is not None and (room := self._free(pages)) is not _Room.NOW:
            if room is _Room.SOON:
                plan.later = True
                return False
            if self._paused_makes_way(plan):
                continue
            youngest = max(self.active, key=_arrived)
            if youngest is job and len(self.active) == 1:
                return True  # the engine says what it lacks
            plan.without(youngest)
            self._set_aside(youngest)
        return job.sequence is not None

    def _set_aside(self, job: Job) -> None:
        self.set_aside += 1
        self._release(job)
        self._queue(job)

    def _free(self, pages: int) -> _Room:
        while True:
            free, leaving = self._engine.room
            if free >= pages:
                return _Room.NOW
            if free + leaving >= pages:
                return _Room.SOON
            let_go = self.tree.shrink(pages - free - leaving)
            if let_go is LetGo.LATER or (leaving and not let_go):
                return _Room.SOON
            if not let_go:
                return _Room.NONE

    def _make_ready(self, reserved: int, plan: Plan) -> None:
        """Lets idle pages leave while the step runs, as many as the next one will lack."""
        if self.tree.sleepers is None:
            return
        readers = [job for job in self.active if job.stage is _READING or job.stage is _LOADING]
        left = sum(job.left for job in readers) - sum(count for _, count in plan.reads)
        wanted = reserved + _pages(min(max(left, 0), self._rows())) + len(self.active)
        there = sum(self._engine.room)
        if wanted > there:
            self.tree.shrink(wanted - there, must=False)
        self.tree.sleepers.expect(self._pages - there)
        self.tree.copy_ahead()

    def _release(self, job: Job) -> None:
        if job in self.active:
            self.active.remove(job)
        elif job in self.waiting:
            self.waiting.remove(job)
        self._stop_loading(job)
        if job.entry is not None:
            self.to_save(job)
            self.tree.settle(job.entry)
        elif job.sequence is not None:
            job.sequence.close()
        job.entry = job.sequence = None
        job.read = job.coming = 0
        self._promise = None

    def _queue(self, job: Job) -> None:
        job.stage = Stage.WAITING
        self.waiting.append(job)
        self.waiting.sort(key=lambda job: job.arrived)


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)
