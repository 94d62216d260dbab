"""A timer that looks whether it was needed: cheaper than one that is set and put back at every piece."""

import asyncio
from collections.abc import Callable


class Looks:
    """Within the block calls ``look`` after some seconds, then after as many as it says; None: not again."""

    def __init__(self, seconds: float, look: Callable[[], float | None]) -> None:
        self._seconds: float | None = seconds
        self._look = look
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "Looks":
        self._set()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set(self) -> None:
        if self._seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._fire)

    def _fire(self) -> None:
        self._seconds = self._look()
        self._set()
