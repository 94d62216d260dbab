"""What a native handle must not meet: a forked child that uses it, and calls that run while Python ends."""

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Iterator

from dca_runtime.errors import DcaError

_MOST_WAIT = 60.0  # seconds at exit for calls to notice that they are to end

_forks = 0  # how many forks lie between the process that imported this and the one that runs


class Home:
    """The process that a handle was made in. Threads and devices do not follow into a forked child."""

    def __init__(self) -> None:
        self._forks = _forks

    def left(self) -> bool:
        """Whether this is a child of that process: the handle may be neither used nor freed here."""
        return self._forks != _forks

    def check(self) -> None:
        """Raises DcaError in a child."""
        if self.left():
            raise DcaError(
                "the process was forked after the model was loaded, and its threads stayed with the parent; "
                "load the model in the child"
            )


class _Calls:
    """The native calls that run now, by thread, and the thread in which Python ends, once it does."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[int, int] = {}
        self._leaver: int | None = None

    def begin(self) -> None:
        with self._changed:
            if self.must_end():
                raise SystemExit
            thread = threading.get_ident()
            self._running[thread] = self._running.get(thread, 0) + 1

    def end(self) -> None:
        with self._changed:
            self._running[threading.get_ident()] -= 1
            self._changed.notify_all()

    def leave(self) -> None:
        """Python ends in this thread: lets the calls of all others end."""
        self._leaver = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self.others_run(), _MOST_WAIT)

    def ends(self) -> bool:
        return self._leaver is not None

    def must_end(self) -> bool:
        return self._leaver is not None and self._leaver != threading.get_ident()

    def others_run(self) -> bool:
        return any(count for thread, count in self._running.items() if thread != self._leaver)


_calls = _Calls()


def must_end() -> bool:
    """Whether Python is about to end, in another thread, so that a call in this one must end too."""
    return _calls.must_end()


def may_free(home: Home) -> bool:
    """Whether handles made in ``home`` can be freed: not in a child, nor under a call that would not end."""
    return not home.left() and not (_calls.ends() and _calls.others_run())


@contextlib.contextmanager
def calling() -> Iterator[None]:
    """Around every use of a session and every load: at exit Python waits for the block to end.

    When Python is about to end, the thread that is in the block ends (SystemExit, which threads keep to
    themselves), and so does one that enters it: only daemon threads can be there at that time.
    """
    calls = _calls
    calls.begin()
    try:
        yield
    except BaseException:  # such as that the call was cancelled
        if not calls.must_end():
            raise
    finally:
        calls.end()
    if calls.must_end():
        raise SystemExit


def _forked() -> None:
    global _forks, _calls
    _forks += 1
    _calls = _Calls()  # the parent's other threads, and perhaps a lock that one held, are not here


def _at_exit() -> None:
    _calls.leave()


os.register_at_fork(after_in_child=_forked)
# Exit handlers run last first. Finalizers free the handles in one that is registered with the first of
# them, so there must be one before ours.
weakref.finalize(_calls, lambda: None)
atexit.register(_at_exit)
