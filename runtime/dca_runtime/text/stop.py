"""Texts that end a generation when they appear."""

from collections.abc import Sequence

from dca_runtime.errors import DcaError


class StopTexts:
    """Holds back what may be the beginning of a stop text, and cuts the text where one begins."""

    def __init__(self, stop: str | Sequence[str] = ()) -> None:
        """Raises DcaError: a stop text is empty or no string."""
        self._stops = (stop,) if isinstance(stop, str) else tuple(stop)
        for text in self._stops:
            if not isinstance(text, str) or not text:
                raise DcaError(f"a stop text must be a string that is not empty, got {text!r}")
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """Takes more text; gives what no stop text can begin in any more. Sets ``found`` at a whole one."""
        if not self._stops:
            return piece
        self._held += piece
        places = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        if places:
            at, self.found = min(places, key=lambda place: (place[0], -len(place[1])))
            given, self._held = self._held[:at], ""
            return given
        cut = len(self._held) - max((_overlap(self._held, stop) for stop in self._stops), default=0)
        given, self._held = self._held[:cut], self._held[cut:]
        return given

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        given, self._held = self._held, ""
        return given


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with, without being all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
