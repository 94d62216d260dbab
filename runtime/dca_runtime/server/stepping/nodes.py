"""What the tree of pages consists of."""

from typing import Protocol, Self


class Holder(Protocol):
    """What the tree needs of an engine's sequence."""

    def fork(self) -> Self: ...
    def truncate(self, length: int) -> None: ...
    def park_pages(self, first: int, slots: list[int]) -> None: ...
    def close(self) -> None: ...


class Node:
    """A page of tokens after the pages above it: in the pool, in host memory, or in both."""

    __slots__ = ("children", "entries", "key", "live", "parent", "slot")

    def __init__(self, parent: "Node | None", key: bytes) -> None:
        self.parent = parent
        self.key = key
        self.children: dict[bytes, Node] = {}
        self.entries: dict[Entry, None] = {}  # whose paths lead through here, in the order they came
        self.live = 0  # how many of them are live
        self.slot: int | None = None  # where it is in host memory


class Entry:
    """A sequence and the path of the pages it begins with."""

    def __init__(self, sequence: Holder) -> None:
        self.sequence = sequence
        self.path: list[Node] = []
        self.live = True
        self.used = 0
        self.uncopied = 0  # pages at its start that were not copied ahead to host memory
