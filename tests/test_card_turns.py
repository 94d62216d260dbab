"""Tests on a card and those that want it alone keep out of each other's way."""

import threading
import time

from card_turns import turn


class Worker(threading.Thread):
    """Takes a turn and notes when it began and ended. Locks are those of open files, so threads will do."""

    def __init__(self, events: list[str], name: str, alone: bool, directory, hold: threading.Event) -> None:
        super().__init__(daemon=True)
        self.inside = threading.Event()
        self._events, self._label, self._alone = events, name, alone
        self._directory, self._hold = directory, hold
        self.start()

    def run(self) -> None:
        with turn(self._alone, self._directory):
            self._events.append(f"{self._label} in")
            self.inside.set()
            self._hold.wait(20)
            self._events.append(f"{self._label} out")


def test_tests_share_the_card(tmp_path):
    go, events = threading.Event(), []
    workers = [Worker(events, str(n), False, tmp_path, go) for n in range(3)]
    assert all(worker.inside.wait(20) for worker in workers)
    go.set()
    for worker in workers:
        worker.join()


def test_one_that_is_alone_waits_for_others_and_those_after_it_wait_for_it(tmp_path):
    first_ends, alone_ends, events = threading.Event(), threading.Event(), []
    first = Worker(events, "first", False, tmp_path, first_ends)
    assert first.inside.wait(20)
    alone = Worker(events, "alone", True, tmp_path, alone_ends)
    time.sleep(0.2)  # it is at the door
    later = Worker(events, "later", False, tmp_path, alone_ends)
    time.sleep(0.2)
    assert events == ["first in"]
    first_ends.set()
    assert alone.inside.wait(20)
    time.sleep(0.2)
    assert events == ["first in", "first out", "alone in"]
    alone_ends.set()
    for worker in (first, alone, later):
        worker.join()
    assert events[3:] == ["alone out", "later in", "later out"]


def test_what_it_starts_is_part_of_its_turn(tmp_path):
    with turn(True, tmp_path), turn(False, tmp_path):
        pass
