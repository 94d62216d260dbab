"""The tree's second floor: pages that nobody uses sleep in host memory, for others to have the pool.

What is in a page never changes, so one that was woken keeps its slot as long as there are enough: to let it
sleep again costs nothing. For the same reason idle pages are copied ahead, a few a step, as long as slots are
free: whoever wants their place in the pool then has it at once, and does not wait for memory or a copy.
"""

from collections.abc import Iterator

from dca_runtime.server.incoming import warn
from dca_runtime.server.stepping.host_memory import HostMemory
from dca_runtime.server.stepping.nodes import Entry, Node

_AHEAD_BYTES = 128 << 20  # that are copied ahead at a time: some milliseconds that what wakes may wait


class Sleepers:
    """Which pages are in host memory, and which of them go first where it is full. For the tree's thread."""

    def __init__(self, memory: HostMemory) -> None:
        self.memory = memory
        self.slept = 0  # pages that were copied there, since the start
        self.dropped = 0  # pages that slept and had to go
        self._doubles: dict[Node, None] = {}  # in the pool as well
        # There alone, the longest unused first; no page stands before one that leads to it, so that what is
        # left of a prompt is always its beginning.
        self._alone: dict[Node, None] = {}
        self._broken = False
        self._ahead = max(_AHEAD_BYTES // memory.page_bytes, 1)  # pages

    def later(self, entry: Entry, kept: int) -> bool:
        """Whether memory for the entry's pages behind the first ``kept`` is being made."""
        return not self._broken and self.memory.coming(len(_without_slot(_held_alone(entry, kept))))

    def hold(self, entry: Entry, kept: int) -> bool:
        """Whether there is room for all of those pages, after older ones went."""
        within = len(self._doubles) + len(self._alone) + self.memory.limit - self.memory.used
        return not self._broken and len(_without_slot(_held_alone(entry, kept))) <= within

    def ready(self, entry: Entry, kept: int) -> int:
        """From where on the entry's pages, behind the first ``kept``, have a slot or find a free one."""
        free = self.memory.unused
        for depth in range(len(entry.path), kept, -1):
            node = entry.path[depth - 1]
            if len(node.entries) == 1 and node.slot is None:
                if free == 0:
                    return depth
                free -= 1
        return kept

    def expect(self, pages: int) -> None:
        """So many pages are in the pool: slots are made for those that have none, before they must leave."""
        if not self._broken:
            self.memory.keep_ready(pages - len(self._doubles))

    def copy_ahead(self, entry: Entry) -> bool:
        """Copies some of the idle entry's last pages not looked at yet; False: that was all of it."""
        entry.uncopied = min(entry.uncopied, len(entry.path))
        missing: list[int] = []
        while not self._broken and entry.uncopied and not missing:
            room = min(self.memory.unused, self._ahead)
            if room == 0:
                return self.memory.grows
            end, entry.uncopied = entry.uncopied, max(entry.uncopied - room, 0)
            missing = [
                index
                for index, node in enumerate(entry.path[entry.uncopied : end], entry.uncopied)
                if len(node.entries) == 1 and node.slot is None
            ]
        for index in self._park(entry, missing, self.memory.take(len(missing))):
            self._doubles[entry.path[index]] = None
        return not self._broken and entry.uncopied > 0

    def put(self, entry: Entry, kept: int) -> Iterator[Node]:
        """Copies those pages behind the first ``kept`` that no other entry holds, as many as have room.

        They must leave the entry next. Gives the nodes that lost their only place: they must leave the tree.
        """
        pages = _held_alone(entry, kept)
        for node in pages:
            self._doubles.pop(node, None)
        missing = [] if self._broken else _without_slot(pages)
        slots = self.memory.take(len(missing))
        while len(slots) < len(missing) and (self._doubles or self._alone):
            if self._doubles:
                slots.append(self._emptied(next(iter(self._doubles))))
                continue
            oldest = next(iter(self._alone))
            slots.append(self._emptied(oldest))
            self.dropped += 1
            yield oldest
        at = {node: index for index, node in enumerate(entry.path[kept:], kept)}
        self._park(entry, [at[node] for node in missing[: len(slots)]], slots)

    def left_alone(self, node: Node) -> None:
        """No entry holds the page any more."""
        self._doubles.pop(node, None)
        self.touch(node)

    def touch(self, node: Node) -> None:
        """The page, which is there alone, is used: of several in a path the last one comes first."""
        self._alone.pop(node, None)
        self._alone[node] = None

    def joined(self, node: Node) -> None:
        """An entry holds the page as well now."""
        self._alone.pop(node, None)
        self._doubles[node] = None

    def forget(self, node: Node) -> None:
        """The page cannot be reached any more."""
        self.memory.give([self._emptied(node)])
        self.dropped += 1

    def close(self) -> None:
        """Ends the making of memory, which is freed with the engine."""
        self.memory.close()

    def _park(self, entry: Entry, pages: list[int], slots: list[int]) -> list[int]:
        """Copies those of the entry's pages to as many slots: which ones, all unless the device fails."""
        parked: list[int] = []
        for run in _runs(pages):
            given, slots = slots[: len(run)], slots[len(run) :]
            try:
                entry.sequence.park_pages(run[0], given)
            except Exception as error:
                self._broken = True
                self.memory.give(given + slots)
                warn(f"the host cache takes nothing more: {error}")
                break
            for index, slot in zip(run, given, strict=True):
                entry.path[index].slot = slot
            parked += run
        self.slept += len(parked)
        return parked

    def _emptied(self, node: Node) -> int:
        self._doubles.pop(node, None)
        self._alone.pop(node, None)
        slot, node.slot = node.slot, None
        assert slot is not None
        return slot


def _held_alone(entry: Entry, kept: int) -> list[Node]:
    return [node for node in entry.path[kept:] if len(node.entries) == 1]


def _without_slot(pages: list[Node]) -> list[Node]:
    return [node for node in pages if node.slot is None]


def _runs(numbers: list[int]) -> list[list[int]]:
    """Rising numbers in runs without gaps."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] + 1 == number:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
