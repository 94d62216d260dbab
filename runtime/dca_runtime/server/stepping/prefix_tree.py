"""Which full pages of tokens are in the pool already: a tree over pages, shared by all requests.

A node is a page of tokens after the pages above it. What holds the pages are sequences: each entry is one
whose first pages are the nodes of a path. A running request's entry is live and grows with it; once the
request is over the entry is idle and may be shortened, the longest unused first.
"""

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from dca_runtime.options import PAGE_TOKENS


class Holder(Protocol):
    """What the tree needs of an engine's sequence."""

    def fork(self) -> Self: ...
    def truncate(self, length: int) -> None: ...
    def close(self) -> None: ...


def page_keys(ids: Sequence[int]) -> list[bytes]:
    """A key for each full page of ``ids``: its tokens' bytes."""
    full = len(ids) // PAGE_TOKENS
    data = np.asarray(ids[: full * PAGE_TOKENS], np.int32).tobytes()
    size = 4 * PAGE_TOKENS
    return [data[at : at + size] for at in range(0, full * size, size)]


class _Node:
    __slots__ = ("children", "entries", "key", "live", "parent")

    def __init__(self, parent: "_Node | None", key: bytes) -> None:
        self.parent = parent
        self.key = key
        self.children: dict[bytes, _Node] = {}
        self.entries: dict[Entry, None] = {}  # whose paths lead through here, in the order they came
        self.live = 0  # how many of them are live


class Entry:
    """A sequence and the path of the pages it begins with."""

    def __init__(self, sequence: Holder) -> None:
        self.sequence = sequence
        self.path: list[_Node] = []
        self.live = True
        self.used = 0


class PrefixTree:
    """The pages in the pool by their tokens. For one thread, the one that steps the engine."""

    def __init__(self) -> None:
        self._root = _Node(None, b"")
        self._idle: set[Entry] = set()
        self._clock = 0  # counts uses
        self.live_pages = 0  # pages that running requests hold, shared ones once

    def find(self, keys: Sequence[bytes]) -> tuple[Entry | None, int]:
        """An entry that begins with the most of those pages, and how many: (None, 0) if none does."""
        node = self._root
        depth = 0
        for key in keys:
            child = node.children.get(key)
            if child is None:
                break
            node = child
            depth += 1
        if depth == 0:
            return None, 0
        entry = next(iter(node.entries))
        self._touch(entry)
        return entry, depth

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
                child = node.children[key] = _Node(node, key)
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

    def discard(self, entry: Entry) -> None:
        """Forgets a live entry and frees its sequence."""
        for node in entry.path:
            self._one_less_live(node)
        entry.live = False
        self._drop(entry)

    def shrink(self, pages: int) -> bool:
        """Lets go of up to ``pages`` pages at the end of the idle entry that was not used for the longest.

        False: there is no idle entry. Pages that others share stay in the pool.
        """
        if not self._idle:
            return False
        entry = min(self._idle, key=lambda entry: entry.used)
        kept = max(len(entry.path) - pages, 0)
        if kept == 0:
            self._drop(entry)
            return True
        for node in reversed(entry.path[kept:]):
            self._leave(node, entry)
        del entry.path[kept:]
        entry.sequence.truncate(kept * PAGE_TOKENS)
        return True

    def clear(self) -> None:
        """Frees every idle entry."""
        for entry in list(self._idle):
            self._drop(entry)

    def _touch(self, entry: Entry) -> None:
        self._clock += 1
        entry.used = self._clock

    def _one_less_live(self, node: _Node) -> None:
        node.live -= 1
        if node.live == 0:
            self.live_pages -= 1

    def _drop(self, entry: Entry) -> None:
        for node in reversed(entry.path):
            self._leave(node, entry)
        entry.path.clear()
        self._idle.discard(entry)
        entry.sequence.close()

    def _leave(self, node: _Node, entry: Entry) -> None:
        del node.entries[entry]
        if not node.entries and node.parent is not None:
            del node.parent.children[node.key]
