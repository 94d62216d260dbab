"""Slots of a page each in host memory, made piece by piece beside the steps: to pin memory takes long."""

import heapq
import threading
from collections.abc import Iterable
from typing import Protocol

from dca_runtime.server.incoming import warn

_PIECE_BYTES = 64 << 20  # that are made at once, and kept ready: steps wait some milliseconds meanwhile


class Owner(Protocol):
    """What it needs of an engine."""

    def add_slots(self, count: int) -> int: ...


class HostMemory:
    """Which slots are free. For the thread that steps; a thread of its own makes more of them."""

    def __init__(self, engine: Owner, page_bytes: int, limit: int) -> None:
        """page_bytes: of a slot; limit: bytes, of which whole slots are used."""
        self.page_bytes = page_bytes
        self.limit = limit // page_bytes  # slots; fewer once more cannot be had
        self._engine = engine
        self._piece = max(min(_PIECE_BYTES // page_bytes, self.limit), 1)
        self._free: list[int] = []  # a heap: neighbours are copied at once
        self._made = 0
        self._wanted = self._ready = self._piece  # free ones: that somebody waits for, that are to be there
        self._stopping = False
        self._changed = threading.Condition()
        self._maker = threading.Thread(target=self._make, name="host-memory", daemon=True)
        self._maker.start()

    @property
    def used(self) -> int:
        """Slots that hold a page."""
        with self._changed:
            return self._made - len(self._free)

    @property
    def unused(self) -> int:
        """Slots that hold none."""
        with self._changed:
            return len(self._free)

    @property
    def grows(self) -> bool:
        """Whether there are fewer slots than there may be."""
        with self._changed:
            return self._made < self.limit

    def coming(self, count: int) -> bool:
        """Whether fewer than ``count`` slots are free, and more are being made."""
        with self._changed:
            if len(self._free) >= count or self._made >= self.limit:
                return False
            self._wanted = max(self._wanted, count)
            self._changed.notify_all()
            return True

    def keep_ready(self, count: int) -> None:
        """Has memory made until ``count`` slots are free, or there are as many as there may be."""
        with self._changed:
            self._ready = max(count, self._piece)
            if self._short():
                self._changed.notify_all()

    def take(self, count: int) -> list[int]:
        """Up to ``count`` free slots."""
        with self._changed:
            slots = [heapq.heappop(self._free) for _ in range(min(count, len(self._free)))]
            self._wanted = self._piece
            self._changed.notify_all()
            return slots

    def give(self, slots: Iterable[int]) -> None:
        """They are free again."""
        with self._changed:
            for slot in slots:
                heapq.heappush(self._free, slot)

    def close(self) -> None:
        """Waits for the memory that is being made; no more is made afterwards."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._maker.join()

    def _short(self) -> bool:
        return self._made < self.limit and len(self._free) < max(self._wanted, self._ready)

    def _make(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._short())
                if self._stopping:
                    return
                count = min(self._piece, self.limit - self._made)
            try:
                self._engine.add_slots(count)
            except Exception as error:  # that there is no memory, or what nobody thought of
                with self._changed:
                    self.limit = self._made
                size = self.limit * self.page_bytes / 1e9
                warn(f"the host cache stays at {size:.1f} GB, no more can be had: {error}")
                return
            with self._changed:
                for slot in range(self._made, self._made + count):
                    heapq.heappush(self._free, slot)
                self._made += count
