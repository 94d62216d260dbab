"""The tree's second floor: what sleeps there is found as it was, and every slot holds what the tree says."""

from collections import Counter

import numpy as np
import pytest

from dca_runtime import DcaError
from dca_runtime.server.stepping.prefix_tree import LetGo, PrefixTree
from dca_runtime.server.stepping.sleepers import Sleepers


class Pages:
    """A pool, counted, and host memory by slot: what is in a page is all the names up to it."""

    def __init__(self):
        self.held = Counter()
        self.host = {}
        self.numbers = iter(range(10**9))
        self.fails = False

    @property
    def used(self):
        return sum(1 for count in self.held.values() if count)


class Memory:
    """Slots, all of them there from the start."""

    page_bytes = 1

    def __init__(self, limit):
        self.limit = limit
        self.free = list(range(limit))
        self.making = False

    @property
    def used(self):
        return self.limit - len(self.free)

    @property
    def unused(self):
        return len(self.free)

    @property
    def grows(self):
        return self.making

    def keep_ready(self, count):
        self.ready = count

    def coming(self, count):
        return self.making and count > len(self.free)

    def take(self, count):
        taken, self.free = self.free[:count], self.free[count:]
        return taken

    def give(self, slots):
        self.free += slots
        assert len(set(self.free)) == len(self.free)

    def close(self):
        pass


class Sequence:
    """Stands for an engine's: numbered pages of the pool, and what is in them."""

    def __init__(self, pages, held=()):
        self.pages = pages
        self.held = list(held)  # (number, content)
        pages.held.update(number for number, _ in self.held)

    def append(self, content):
        page = next(self.pages.numbers)
        self.held.append((page, content))
        self.pages.held[page] += 1

    def fork(self):
        return Sequence(self.pages, self.held)

    def truncate(self, length):
        for page, _ in self.held[length // 128 :]:
            self.pages.held[page] -= 1
        del self.held[length // 128 :]

    def park_pages(self, first, slots):
        if self.pages.fails:
            raise DcaError("the device was lost")
        for (_, content), slot in zip(self.held[first : first + len(slots)], slots, strict=True):
            self.pages.host[slot] = content

    def close(self):
        self.truncate(0)


def keys(names):
    return [name.encode() for name in names]


class Requests:
    """Requests over a tree, as the scheduler has them."""

    def __init__(self, limit):
        self.pages = Pages()
        self.memory = Memory(limit)
        self.sleepers = Sleepers(self.memory)
        self.tree = PrefixTree(self.sleepers)

    def begin(self, names):
        """An entry with those pages: (entry, pages that were in the pool, pages that slept)."""
        entry, depth = self.tree.find(keys(names))
        sequence = Sequence(self.pages) if entry is None else entry.sequence.fork()
        sequence.truncate(depth * 128)
        mine = self.tree.open(sequence)
        self.tree.grow(mine, keys(names)[:depth])
        slots = self.tree.asleep(keys(names), depth)
        for at, slot in enumerate(slots, depth):
            sequence.append(self.pages.host[slot])
            assert self.pages.host[slot] == tuple(names[: at + 1])
        for at in range(depth + len(slots), len(names)):
            sequence.append(tuple(names[: at + 1]))
        self.tree.grow(mine, keys(names))
        assert [content for _, content in sequence.held] == [tuple(names[: n + 1]) for n in range(len(names))]
        return mine, depth, len(slots)

    def run(self, names):
        entry, depth, woken = self.begin(names)
        self.tree.settle(entry)
        return depth, woken

    def check(self):
        """Every slot is free or some node's, and no node lacks both floors or the page that leads to it."""
        slots = []
        below = [self.tree._root]
        while below:
            node = below.pop()
            for child in node.children.values():
                assert child.entries or child.slot is not None
                assert not child.entries or node.entries or node is self.tree._root
                below.append(child)
                if child.slot is not None:
                    slots.append(child.slot)
        assert sorted(slots + self.memory.free) == list(range(self.memory.limit))


@pytest.fixture
def requests():
    return Requests(8)


def test_what_the_pool_lets_go_of_sleeps(requests):
    requests.run("abcd")
    assert requests.tree.shrink(2) is LetGo.DONE
    assert requests.pages.used == 2
    assert requests.run("abcd") == (2, 2)
    assert requests.sleepers.slept == 2


def test_all_of_a_prompt_can_sleep(requests):
    requests.run("abcd")
    requests.tree.shrink(100)
    assert requests.pages.used == 0
    assert requests.run("abxy") == (0, 2)


def test_what_was_woken_sleeps_again_without_a_copy(requests):
    for _ in range(3):
        requests.run("abcd")
        requests.tree.shrink(100)
    assert requests.sleepers.slept == 4


def test_pages_that_others_hold_are_not_copied(requests):
    entry, *_ = requests.begin("abc")
    requests.run("abxy")
    requests.tree.shrink(100)
    assert requests.sleepers.slept == 2
    assert requests.run("abxy") == (2, 2)
    requests.tree.discard(entry)


def test_where_host_memory_is_full_the_longest_unused_goes_from_its_end(requests):
    for names in ("abcd", "efgh", "ij"):
        requests.run(names)
        requests.tree.shrink(100)
    assert requests.sleepers.dropped == 2
    assert requests.run("abcd") == (0, 2)
    assert requests.run("efgh") == (0, 4)
    assert requests.run("ij") == (0, 2)


def test_what_was_used_last_stays(requests):
    for names in ("abcd", "efgh"):
        requests.run(names)
        requests.tree.shrink(100)
    assert len(requests.tree.asleep(keys("abcd"), 0)) == 4
    requests.run("ij")
    requests.tree.shrink(100)
    assert requests.run("abcd") == (0, 4)


def test_doubles_go_before_what_is_nowhere_else(requests):
    requests.run("abcd")
    requests.tree.shrink(100)
    requests.run("efgh")
    requests.tree.shrink(100)
    requests.begin("abcd")  # in both places now
    requests.run("ijkl")
    requests.tree.shrink(100)
    assert requests.sleepers.dropped == 0
    assert requests.run("efgh") == (0, 4)


def test_more_than_there_is_room_for_keeps_its_beginning():
    requests = Requests(3)
    requests.run("abcdef")
    requests.tree.shrink(100)
    assert requests.run("abcdef") == (0, 3)
    requests.check()


def test_what_stood_on_a_page_that_is_gone_is_gone(requests):
    requests.run("abcd")
    requests.tree.shrink(2)  # c and d sleep
    requests.pages.fails = True
    requests.tree.shrink(2)  # a and b cannot
    requests.check()
    assert requests.memory.used == 0
    assert requests.run("abcd") == (0, 0)


def test_where_copying_fails_pages_are_dropped_and_one_line_says_so(requests, caplog):
    requests.pages.fails = True
    for names in ("abcd", "efgh"):
        requests.run(names)
        assert requests.tree.shrink(100) is LetGo.DONE
    assert requests.pages.used == 0 and requests.memory.used == 0
    assert caplog.text.count("the device was lost") == 1


def test_memory_that_is_being_made_is_waited_for(requests):
    requests.memory.free, kept = [], requests.memory.free
    requests.memory.making = True
    requests.run("abcd")
    assert requests.tree.shrink(2) is LetGo.LATER
    assert requests.pages.used == 4
    requests.memory.free = kept
    assert requests.tree.shrink(2) is LetGo.DONE
    assert requests.run("abcd") == (2, 2)


def test_ahead_of_need_nothing_is_dropped():
    requests = Requests(2)
    requests.run("abcd")
    assert requests.tree.shrink(3, must=False) is LetGo.NOTHING
    assert requests.pages.used == 4
    assert requests.tree.shrink(2, must=False) is LetGo.DONE
    assert requests.run("abcd") == (2, 2)


def test_what_there_is_memory_for_leaves_at_once(requests):
    requests.memory.free, kept = requests.memory.free[:1], requests.memory.free[1:]
    requests.memory.making = True
    requests.run("abcd")
    assert requests.tree.shrink(3) is LetGo.DONE
    assert requests.pages.used == 3
    assert requests.tree.shrink(2) is LetGo.LATER
    requests.memory.free += kept
    assert requests.run("abcd") == (3, 1)


def copied_ahead(requests):
    """Rounds until there is nothing more to copy."""
    for rounds in range(100):
        if not requests.tree.copying_ahead:
            return rounds
        requests.tree.copy_ahead()
    raise AssertionError("it does not end")


def test_idle_pages_are_copied_ahead_and_then_leave_without_a_copy(requests):
    requests.run("abcd")
    copied_ahead(requests)
    assert requests.sleepers.slept == 4 and requests.pages.used == 4
    requests.pages.fails = True
    assert requests.tree.shrink(3) is LetGo.DONE
    assert requests.pages.used == 1
    assert requests.run("abcd") == (1, 3)


def test_a_few_pages_are_copied_at_a_time(requests):
    requests.sleepers._ahead = 2
    requests.run("abcde")
    requests.tree.copy_ahead()
    assert requests.sleepers.slept == 2
    assert requests.tree.shrink(2) is LetGo.DONE  # the last ones are there first
    assert requests.sleepers.slept == 2


def test_pages_of_running_requests_are_not_copied_ahead(requests):
    entry, *_ = requests.begin("abc")
    requests.run("abxy")
    copied_ahead(requests)
    assert requests.sleepers.slept == 2
    requests.tree.settle(entry)
    copied_ahead(requests)
    assert requests.sleepers.slept == 3  # and what two idle ones share stays as long as either


def test_copying_ahead_drops_nothing_and_ends_where_memory_is_full():
    requests = Requests(3)
    requests.run("ab")
    requests.tree.shrink(100)
    requests.run("cdef")
    copied_ahead(requests)
    assert (requests.sleepers.slept, requests.sleepers.dropped) == (3, 0)
    requests.check()


def test_copying_ahead_waits_for_memory_that_is_being_made(requests):
    requests.memory.free, kept = [], requests.memory.free
    requests.memory.making = True
    requests.run("abcd")
    requests.tree.copy_ahead()
    assert requests.tree.copying_ahead
    requests.memory.free, requests.memory.making = kept, False
    copied_ahead(requests)
    assert requests.sleepers.slept == 4


def test_where_copying_ahead_fails_it_ends(requests):
    requests.run("abcd")
    requests.pages.fails = True
    copied_ahead(requests)
    requests.check()
    assert requests.memory.used == 0


def test_memory_is_made_for_what_is_in_the_pool_alone(requests):
    requests.run("abcd")
    requests.sleepers.expect(4)
    assert requests.memory.ready == 4
    copied_ahead(requests)
    requests.sleepers.expect(4)
    assert requests.memory.ready == 0


@pytest.mark.parametrize("limit", [1, 3, 8, 40])
def test_any_history_keeps_the_two_floors_in_order(limit):
    requests, random, live = Requests(limit), np.random.default_rng(limit), []
    for step in range(3000):
        action = random.integers(7)
        if action == 6:
            requests.tree.copy_ahead()
        elif action <= 2:
            names = [str(random.integers(3)) for _ in range(random.integers(1, 7))]
            live.append(requests.begin(names)[0])
        elif action == 3 and live:
            requests.tree.settle(live.pop(random.integers(len(live))))
        elif action == 4 and live:
            requests.tree.discard(live.pop(random.integers(len(live))))
        else:
            requests.pages.fails = bool(step > 2500)
            requests.tree.shrink(int(random.integers(1, 5)), must=bool(random.integers(2)))
        if len(live) > 6:
            requests.tree.settle(live.pop(0))
        requests.check()
    for entry in live:
        requests.tree.settle(entry)
    requests.tree.clear()
    requests.check()
    assert requests.pages.used == 0
