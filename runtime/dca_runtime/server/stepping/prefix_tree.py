"""Which full pages of tokens are in the pool already: a tree over pages, shared by all requests.

A node is a page of tokens after the pages above it. What holds the pages are sequences: each entry is one
whose first pages are the nodes of a path. A running request's entry is live and grows with it; once the
request is over the entry is idle and may be shortened, the longest unused first. What it is shortened by
sleeps in host memory where there is any (sleepers.py): such a node has no entry, and above it is one that is
in the pool, or another that sleeps.
"""

import enum
from collections.abc import Sequence

import numpy as np

from dca_runtime.options import PAGE_TOKENS
from dca_runtime.server.stepping.nodes import Entry, Holder, Node
from dca_runtime.server.stepping.sleepers import Sleepers


class LetGo(enum.IntEnum):
    """What came of the wish for room."""

    NOTHING = 0  # nothing is idle
    LATER = 1  # memory for idle pages to sleep in is being made
    DONE = 2


def page_keys(ids: Sequence[int]) -> list[bytes]:
    """A key for each full page of ``ids``: its tokens' bytes."""
    full = len(ids) // PAGE_TOKENS
    data = np.asarray(ids[: full * PAGE_TOKENS], np.int32).tobytes()
    size = 4 * PAGE_TOKENS
    return [data[at : at + size] for at in range(0, full * size, size)]


class PrefixTree:
    """The pages in the pool by their tokens. For one thread, the one that steps the engine."""

    def __init__(self, sleepers: Sleepers | None = None) -> None:
        """sleepers: None lets idle pages go for good."""
        self.sleepers = sleepers
        self._root = Node(None, b"")
        self._idle: set[Entry] = set()
        self._uncopied: dict[Entry, None] = {}  # idle ones that may have pages to copy ahead, by age
        self._clock = 0  # counts uses
        self.live_pages = 0  # pages that running requests hold, shared ones once

    def find(self, keys: Sequence[bytes]) -> tuple[Entry | None, int]:
        """An entry that begins with the most of those pages, and how many: (None, 0) if none does."""
        node = self._root
        depth = 0
        for key in keys:
            child = node.children.get(key)
            if child is None or not child.entries:
                break
            node = child
            depth += 1
        if depth == 0:
            return None, 0
        entry = next(iter(node.entries))
        self._touch(entry)
        return entry, depth

    def asleep(self, keys: Sequence[bytes], depth: int) -> list[int]:
        """The slots of the pages that follow the first ``depth``, which the pool has, as far as there are."""
        node: Node | None = self._root
        for key in keys[:depth]:
            node = None if node is None else node.children.get(key)
        found: list[Node] = []
        for key in keys[depth:]:
            node = None if node is None else node.children.get(key)
            if node is None or node.slot is None:
                break
            found.append(node)
        if self.sleepers is not None:
            for node in reversed(found):
                if not node.entries:
                    self.sleepers.touch(node)
        return [node.slot for node in found if node.slot is not None]

    def live_prefix(self, keys: Sequence[bytes]) -> int:
        """How many of those pages, from the first on, running requests hold anyway."""
        node, depth = self._root, 0
        for key in keys:
            child = node.children.get(key)
            if child is None or child.live == 0:
                break
            node, depth = child, depth + 1
        return depth

    def open(self, sequence: Holder) -> Entry:
        """A live entry for a running request's sequence, which has no page in the tree yet."""
        entry = Entry(sequence)
        self._touch(entry)
        return entry

    def grow(self, entry: Entry, keys: Sequence[bytes]) -> None:
        """Says that a live entry's sequence begins with the pages ``keys``: those in the tree and more."""
        node = entry.path[-1] if entry.path else self._root
        for key in keys[len(entry.path) :]:
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = Node(node, key)
            if child.slot is not None and not child.entries and self.sleepers is not None:
                self.sleepers.joined(child)
            child.entries[entry] = None
            if child.live == 0:
                self.live_pages += 1
            child.live += 1
            entry.path.append(child)
            node = child

    def settle(self, entry: Entry) -> None:
        """Makes a live entry idle: its request is over, its pages stay as long as there is room."""
        entry.live = False
        for node in entry.path:
            self._one_less_live(node)
        # What another entry holds as well needs no second holder, whose pages may be copies.
        if not entry.path or len(entry.path[-1].entries) > 1:
            self._drop(entry)
            return
        for depth, node in enumerate(entry.path, 1):
            for other in [other for other in node.entries if not other.live and len(other.path) == depth]:
                if other is not entry:
                    self._drop(other)
        entry.sequence.truncate(len(entry.path) * PAGE_TOKENS)
        self._touch(entry)
        self._idle.add(entry)
        if self.sleepers is not None:
            entry.uncopied = len(entry.path)
            self._uncopied[entry] = None

    def discard(self, entry: Entry) -> None:
        """Forgets a live entry and frees its sequence."""
        for node in entry.path:
            self._one_less_live(node)
        entry.live = False
        self._drop(entry)

    def shrink(self, pages: int, must: bool = True) -> LetGo:
        """Lets go of up to ``pages`` pages at the end of the idle entry that was not used for the longest.

        They sleep where there is memory for that, and are free in the pool when they have left. must: they go
        for good where there is none. Pages that others share stay in the pool.
        """
        if not self._idle or not (must or self.sleepers is not None):
            return LetGo.NOTHING
        entry = min(self._idle, key=lambda entry: entry.used)
        kept = max(len(entry.path) - pages, 0)
        if self.sleepers is not None:
            if not must and not self.sleepers.hold(entry, kept):
                return LetGo.NOTHING
            if self.sleepers.later(entry, kept):
                kept = self.sleepers.ready(entry, kept)  # the rest follows
                if kept == len(entry.path):
                    return LetGo.LATER
            for node in self.sleepers.put(entry, kept):
                self._remove(node)
        if kept == 0:
            self._drop(entry)
            return LetGo.DONE
        for node in reversed(entry.path[kept:]):
            self._leave(node, entry)
        del entry.path[kept:]
        entry.sequence.truncate(kept * PAGE_TOKENS)
        return LetGo.DONE

    @property
    def copying_ahead(self) -> bool:
        """Whether idle pages are to be copied to host memory before they must leave."""
        return bool(self._uncopied)

    def copy_ahead(self) -> None:
        """Has some of them copied, as memory allows."""
        if self.sleepers is not None and self._uncopied:
            entry = next(iter(self._uncopied))
            if not self.sleepers.copy_ahead(entry):
                del self._uncopied[entry]

    def leave_uncopied(self) -> None:
        """What is idle now is not copied ahead of need."""
        self._uncopied.clear()

    def clear(self) -> None:
        """Frees every idle entry."""
        for entry in list(self._idle):
            self._drop(entry)

    def _touch(self, entry: Entry) -> None:
        self._clock += 1
        entry.used = self._clock

    def _one_less_live(self, node: Node) -> None:
        node.live -= 1
        if node.live == 0:
            self.live_pages -= 1

    def _drop(self, entry: Entry) -> None:
        for node in reversed(entry.path):
            self._leave(node, entry)
        entry.path.clear()
        self._idle.discard(entry)
        self._uncopied.pop(entry, None)
        entry.sequence.close()

    def _leave(self, node: Node, entry: Entry) -> None:
        del node.entries[entry]
        if node.entries:
            return
        if self.sleepers is not None and node.slot is not None:
            self.sleepers.left_alone(node)
        else:
            self._remove(node)

    def _remove(self, node: Node) -> None:
        """Takes a node out that has no place any more, and what stands on it, which can only be asleep."""
        assert node.parent is not None
        del node.parent.children[node.key]
        below = list(node.children.values())
        while below:
            node = below.pop()
            below += node.children.values()
            assert self.sleepers is not None
            self.sleepers.forget(node)
