"""Slots in host memory: made beside the steps, up to a limit, and no more where none can be had."""

import threading
import time

import pytest

from dca_runtime import DcaError
from dca_runtime.server.stepping import host_memory
from dca_runtime.server.stepping.host_memory import HostMemory


class Engine:
    """Makes slots when it is let, as many as it has memory for."""

    def __init__(self, most=10**9):
        self.made = 0
        self.most = most
        self.let = threading.Semaphore(10**6)

    def add_slots(self, count):
        self.let.acquire()
        if self.made + count > self.most:
            raise DcaError("out of memory")
        self.made += count
        return self.made


@pytest.fixture
def make(monkeypatch):
    made = []

    def make(engine, limit, piece=4):
        monkeypatch.setattr(host_memory, "_PIECE_BYTES", piece * 100)
        made.append(HostMemory(engine, 100, limit * 100))
        return made[-1]

    yield make
    for memory in made:
        memory.close()


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def taken(memory, count):
    wait_for(lambda: not memory.coming(count))
    return memory.take(count)


def test_a_piece_is_made_ahead(make):
    engine = Engine()
    memory = make(engine, limit=100)
    assert sorted(taken(memory, 3)) == [0, 1, 2]
    wait_for(lambda: engine.made == 8)
    assert memory.used == 3


def test_what_was_given_back_is_taken_again(make):
    memory = make(Engine(), limit=100)
    slots = taken(memory, 4)
    memory.give(slots)
    assert memory.used == 0
    assert taken(memory, 4) == slots


def test_as_many_as_are_wanted_are_made_at_last(make):
    memory = make(Engine(), limit=100)
    assert len(taken(memory, 50)) == 50


def test_there_are_no_more_than_the_limit(make):
    engine = Engine()
    memory = make(engine, limit=10)
    assert len(taken(memory, 50)) == 10
    assert engine.made == 10
    assert not memory.coming(1)
    assert memory.take(1) == []


def test_as_many_as_are_to_be_ready_are_made_before_they_are_wanted(make):
    engine = Engine()
    memory = make(engine, limit=30)
    memory.keep_ready(9)
    wait_for(lambda: memory.unused == 12)
    memory.take(4)
    wait_for(lambda: memory.unused == 12)
    memory.keep_ready(0)
    memory.take(6)
    assert engine.made == 16 and memory.grows
    memory.keep_ready(100)
    wait_for(lambda: engine.made == 30)
    assert not memory.grows


def test_slots_are_coming_while_they_are_made(make):
    engine = Engine()
    engine.let = threading.Semaphore(0)
    memory = make(engine, limit=100)
    assert memory.coming(1)
    assert memory.take(1) == []
    engine.let.release(100)
    assert len(taken(memory, 1)) == 1


def test_where_no_more_can_be_had_it_stays_as_it_is(make, caplog):
    memory = make(Engine(most=9), limit=100)
    assert len(taken(memory, 50)) == 8
    assert memory.limit == 8
    assert caplog.text.count("no more can be had: out of memory") == 1


def test_closing_waits_for_what_is_being_made(make):
    engine = Engine()
    engine.let = threading.Semaphore(0)
    memory = make(engine, limit=100)
    closing = threading.Thread(target=memory.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    engine.let.release(100)
    closing.join(20)
    assert engine.made == 4
