"""The tree of pages: what it finds, what it lets go of, and that nothing is held twice or lost."""

from collections import Counter

import numpy as np
import pytest

from dca_runtime.server.stepping.prefix_tree import PrefixTree, page_keys


class Pages:
    """A pool of pages, counted."""

    def __init__(self):
        self.held = Counter()

    @property
    def used(self):
        return sum(1 for count in self.held.values() if count)


class Sequence:
    """Stands for an engine's: a list of numbered pages of a pool."""

    numbers = iter(range(10**9))

    def __init__(self, pages, held=()):
        self.pages = pages
        self.held = list(held)
        self.closed = False
        pages.held.update(self.held)

    def grow(self, count):
        new = [next(self.numbers) for _ in range(count)]
        self.held += new
        self.pages.held.update(new)

    def fork(self):
        return Sequence(self.pages, self.held)

    def truncate(self, length):
        assert not self.closed
        for page in self.held[length // 128 :]:
            self.pages.held[page] -= 1
        del self.held[length // 128 :]

    def close(self):
        assert not self.closed
        self.truncate(0)
        self.closed = True


def keys(*names):
    return [name.encode() for name in names]


@pytest.fixture
def pages():
    return Pages()


@pytest.fixture
def tree():
    return PrefixTree()


def finished(tree, pages, names):
    """A request that came to its end with those pages, sharing what the tree has."""
    entry, depth = tree.find(keys(*names))
    sequence = Sequence(pages) if entry is None else entry.sequence.fork()
    sequence.truncate(depth * 128)
    sequence.grow(len(names) - depth)
    mine = tree.open(sequence)
    tree.grow(mine, keys(*names))
    tree.settle(mine)


def test_only_full_pages_have_keys():
    ids = list(range(300))
    assert page_keys(ids) == [
        np.arange(128, dtype=np.int32).tobytes(),
        np.arange(128, 256, dtype=np.int32).tobytes(),
    ]


def test_the_longest_common_beginning_is_found(tree, pages):
    finished(tree, pages, "abcd")
    finished(tree, pages, "abxy")
    assert tree.find(keys(*"abcz"))[1] == 3
    assert tree.find(keys(*"abxyz"))[1] == 4
    assert tree.find(keys(*"ac"))[1] == 1
    assert tree.find(keys(*"b")) == (None, 0)


def test_requests_with_a_common_beginning_share_its_pages(tree, pages):
    finished(tree, pages, "abcd")
    finished(tree, pages, "abxy")
    assert pages.used == 6


def test_a_beginning_of_what_is_held_is_not_held_twice(tree, pages):
    finished(tree, pages, "abcd")
    short = Sequence(pages)  # read by itself: copies of the same pages
    short.grow(2)
    entry = tree.open(short)
    tree.grow(entry, keys(*"ab"))
    tree.settle(entry)
    assert pages.used == 4


def test_what_goes_on_takes_the_place_of_its_beginning(tree, pages):
    finished(tree, pages, "ab")
    long = Sequence(pages)
    long.grow(3)
    entry = tree.open(long)
    tree.grow(entry, keys(*"abc"))
    tree.settle(entry)
    assert pages.used == 3
    assert tree.find(keys(*"abc"))[1] == 3


def test_the_longest_unused_goes_first_and_from_its_end(tree, pages):
    finished(tree, pages, "abcd")
    finished(tree, pages, "xyz")
    tree.find(keys(*"ab"))  # now x is the longest unused
    assert tree.shrink(1)
    assert tree.find(keys(*"xyz"))[1] == 2
    assert tree.find(keys(*"abcd"))[1] == 4


def test_shrinking_ends_when_nothing_is_idle(tree, pages):
    finished(tree, pages, "abcd")
    live = tree.open(Sequence(pages))
    tree.grow(live, keys())
    assert tree.shrink(100)
    assert not tree.shrink(1)
    assert pages.used == 0
    assert tree.find(keys(*"abcd")) == (None, 0)


def test_live_pages_count_shared_ones_once(tree, pages):
    one, other = tree.open(Sequence(pages)), tree.open(Sequence(pages))
    tree.grow(one, keys(*"abc"))
    tree.grow(other, keys(*"abx"))
    assert tree.live_pages == 4
    assert tree.live_prefix(keys(*"abz")) == 2
    tree.settle(one)
    assert tree.live_pages == 3
    tree.discard(other)
    assert tree.live_pages == 0


def test_any_history_leaves_nothing_behind(tree, pages):
    random = np.random.default_rng(1)
    live = []
    for _ in range(3000):
        action = random.integers(4)
        if action <= 1:
            names = [str(random.integers(3)) for _ in range(random.integers(1, 6))]
            entry, depth = tree.find(keys(*names))
            sequence = Sequence(pages) if entry is None else entry.sequence.fork()
            sequence.truncate(depth * 128)
            sequence.grow(len(names) - depth)
            mine = tree.open(sequence)
            tree.grow(mine, keys(*names))
            live.append((mine, names))
        elif action == 2 and live:
            entry, _ = live.pop(random.integers(len(live)))
            tree.settle(entry)
        else:
            tree.shrink(int(random.integers(1, 4)))
        prefixes = {tuple(names[: depth + 1]) for _, names in live for depth in range(len(names))}
        assert tree.live_pages == len(prefixes)
    for entry, _ in live:
        tree.settle(entry)
    tree.clear()
    assert pages.used == 0
    assert tree.live_pages == 0
