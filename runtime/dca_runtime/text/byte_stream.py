"""Text from ids that come one by one, for vocabularies whose tokens are bytes: each byte is decoded once."""

import codecs
from collections.abc import Sequence

import numpy as np

from dca_runtime.text.decoding import Decoder

_UNKNOWN = "\ufffd"
_MOST_BEFORE = 4  # tokens of the text before: an unfinished character has at most three bytes


class ByteStream:
    """As TextStream (stream.py), for a decoder with ``byte_level``: a few times cheaper a token."""

    def __init__(self, decoder: Decoder, after: Sequence[int] | np.ndarray, skip_special: bool) -> None:
        """``after``: ids of the text before, which is not given again but for a character it ends in."""
        self._bytes = decoder.bytes_of
        self._skip_special = skip_special
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        for id_ in after[-_MOST_BEFORE:]:
            self._text.decode(self._bytes(id_, skip_special))
        # What shows of the text before as U+FFFD, and will again if no character comes of it.
        self._shown_before = bool(self._text.getstate()[0])

    def push(self, id_: int) -> str:
        """Takes one more id; the text that is certain now, often one word, sometimes nothing."""
        return self._given(self._text.decode(self._bytes(id_, self._skip_special)))

    def flush(self) -> str:
        """What is left at the end; an unfinished character shows as U+FFFD."""
        return self._given(self._text.decode(b"", final=True))

    def _given(self, piece: str) -> str:
        if piece and self._shown_before:
            self._shown_before = False
            return piece.removeprefix(_UNKNOWN)
        return piece
