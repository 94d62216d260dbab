"""One prompt on its way from the store into a sequence, between the steps of others."""

import logging
import time
from collections.abc import Callable

from dca_runtime.engine import TokenSequence
from dca_runtime.prompt_store.loading import Loading

_PATIENCE_SECONDS = 2.0  # without a page, then the disk is not waited for

_log = logging.getLogger("dca_serve")


def warn(line: str) -> None:
    """What the store says goes to the log."""
    _log.warning("%s", line)


class Incoming:
    """A prompt on its way from the store into a sequence."""

    def __init__(self, loading: Loading, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = loading.done
        self._loading = loading
        self._clock = clock
        self._last = clock()  # when something came

    def step(self, sequence: TokenSequence) -> bool:
        """Appends what was read next, if it is there; False: nothing came. Never waits."""
        try:
            came = self._loading.step(sequence, wait=False)
        except Exception as error:  # the pool has no room, or what nobody thought of
            warn(f"the prompt store: loading ended: {error}")
            self.close()
            return False
        now = self._clock()
        if came:
            self._last = now
        elif not self._loading.done and now - self._last > _PATIENCE_SECONDS:
            warn(f"the prompt store: no page came within {_PATIENCE_SECONDS:g} s, so the prompt is read")
            self.close()
        self.done = self.done or self._loading.done
        return came

    def close(self) -> None:
        """Ends it; what was appended stays."""
        self._loading.close()
        self.done = True
