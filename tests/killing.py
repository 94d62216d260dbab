"""kill -9 at random moments."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator

ROUNDS = int(os.environ.get("DCA_KILL_ROUNDS", "15"))


def killed_at_random(work: Callable[[], object], rounds: int = ROUNDS, seed: int = 0) -> Iterator[bool]:
    """Runs ``work`` in a fork that is killed somewhere in it; yields each time if it came to its end.

    The moments are spread over a little more than the time that ``work`` takes, which the first rounds, left
    alone, tell. So one round in ten or so comes to its end.
    """
    moments = random.Random(seed)
    longest = min(_seconds(work) for _ in range(3))
    for _ in range(rounds):
        child = _fork(work)
        time.sleep(moments.uniform(0, 1.1 * longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work itself failed"
        yield not os.WIFSIGNALED(status)


def _fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    _, status = os.waitpid(_fork(work), 0)
    assert status == 0, "the work itself failed"
    return time.perf_counter() - begin
