"""Text from ids that come one by one."""

from collections.abc import Sequence

import numpy as np

from dca_runtime.text.decoding import Decoder

_UNKNOWN = "\ufffd"
# An unfinished UTF-8 sequence has at most three bytes, each of which may show as a U+FFFD of its own and be
# a token of its own.
_MOST_UNFINISHED = 3
_LEAST_KEPT, _MOST_KEPT = 8, 16  # tokens decoded again in each step


class TextStream:
    """Turns ids into text as they come; the pieces joined are the text of all ids.

    A token may end inside a character, even begin inside another one, and a decoder may treat the first
    token of a text differently (SentencePiece drops the leading space). So each step decodes the last
    tokens together and gives what their text grew by, without an end that may still become a character.
    Few tokens are kept, and none that show nothing, so a step costs the same after any number of them.
    """

    def __init__(self, decoder: Decoder, after: Sequence[int] | np.ndarray, skip_special: bool) -> None:
        """``after``: ids of the text before, which is not given again.

        Where it ends inside a character, that character, once whole, is the first one given.
        """
        self._decoder = decoder
        self._skip_special = skip_special
        self._kept: list[str] = []  # spellings of the last tokens
        self._text = ""  # of those
        self._given = 0  # characters of it that have been given out
        for id_ in after[-_MOST_KEPT:]:
            self._kept += decoder.spellings([id_], skip_special)
        self._text = decoder.text(self._kept)
        self._given = self._certain()
        self._shown_before = len(self._text) - self._given  # U+FFFD that the text before ended with

    def push(self, id_: int) -> str:
        """Takes one more id; the text that is certain now, often one word, sometimes nothing."""
        spelling = self._decoder.spellings([id_], self._skip_special)
        if not spelling:
            return ""
        self._kept += spelling
        self._text = self._decoder.text(self._kept)
        piece = self._give(self._certain())
        if len(self._kept) > _MOST_KEPT:
            self._forget()
        return piece

    def flush(self) -> str:
        """What is left at the end; an unfinished character shows as U+FFFD."""
        return self._give(len(self._text))

    def _certain(self) -> int:
        """Characters of the text that no further token can change."""
        unfinished = len(self._text) - len(self._text.rstrip(_UNKNOWN))
        return len(self._text) - min(unfinished, _MOST_UNFINISHED)

    def _give(self, end: int) -> str:
        piece = self._text[self._given : end]
        self._given = max(self._given, end)
        if piece and self._shown_before:
            piece = piece.removeprefix(_UNKNOWN * self._shown_before)
            self._shown_before = 0
        return piece

    def _forget(self) -> None:
        """Drops the oldest tokens; what has not been given yet is the same end of the shorter text."""
        left = len(self._text) - self._given
        self._kept = self._kept[-_LEAST_KEPT:]
        self._text = self._decoder.text(self._kept)
        self._given = len(self._text) - left
