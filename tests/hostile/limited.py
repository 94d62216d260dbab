"""Runs a case in a forked child with limits on memory and time, so that whatever it does the tests go on."""

import contextlib
import io
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 10.0  # as for the files of a stranger: an answer within them
MEMORY = 4 << 30  # bytes beyond what the tests' own process has mapped


@dataclass(frozen=True)
class Ended:
    """What became of a case: its exit code, or minus the signal that ended it, and what it said on stderr."""

    code: int
    errors: str


def limited(case: Callable[[], int], seconds: float = SECONDS, memory: int = MEMORY) -> Ended:
    """``case`` gives an exit code. One that takes too long ends by SIGKILL."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.close(reads)
            mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, mapped + memory))
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                code = case()
            os.write(writes, errors.getvalue().encode(errors="replace")[:60_000])
        except BaseException as error:
            os.write(writes, f"{type(error).__name__}: {error}".encode(errors="replace")[:60_000])
        finally:
            os._exit(code)
    os.close(writes)
    code = _wait(child, seconds)
    with open(reads, "rb") as pipe:
        return Ended(code, pipe.read().decode(errors="replace"))


def _wait(child: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
