"""Token ids to text: the tokens' own spellings, put through the tokenizer's decoder."""

import json
import operator
import re
from collections.abc import Collection, Iterable

from tokenizers import Tokenizer as Backend

from dca_runtime.errors import DcaError, Status
from dca_runtime.text.rust_guard import guarded

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_MOST_ID = 2**32 - 1  # what the package takes for an id
_MOST_KNOWN = 8192  # tokens whose bytes are kept: a text's own, where vocabularies have 256,000


def _byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: its own where that is printable in Latin-1, else one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_letters()


class Decoder:
    """Decodes with ``backend``, which must not change afterwards."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        with guarded("the decoder cannot be read"):
            self._decoder = backend.decoder
        # The decoder as JSON: a sequence, one of whose parts turns byte tokens into characters, or not.
        state = b"{}" if self._decoder is None else self._decoder.__getstate__()
        self._byte_tokens = b'"ByteFallback"' in state
        # Whether texts are the bytes of their tokens one after the other.
        self.byte_level = json.loads(state).get("type") == "ByteLevel"
        self._bytes: dict[bool, dict[int, bytes]] = {
            False: {},
            True: {},
        }  # of tokens seen; without special ones
        added = backend.get_added_tokens_decoder().values()
        self.special = frozenset(token.content for token in added if token.special)

    def spellings(self, ids: Iterable[int], skip_special: bool) -> list[str]:
        """Each id's spelling in the vocabulary; nothing for ids without one, and for special ones if asked.

        Raises DcaError: an id is not an integer.
        """
        spelled = (self._spelling(id_) for id_ in ids)
        return [text for text in spelled if text and not (skip_special and text in self.special)]

    def text(self, spellings: list[str]) -> str:
        """The text that tokens of those spellings make; bytes that are not UTF-8 become U+FFFD."""
        if self._decoder is None:
            return " ".join(spellings)
        with guarded("these tokens cannot be decoded", Status.ARGUMENT):
            return self._decoder.decode(_bytes_apart(spellings) if self._byte_tokens else spellings)

    def reach(self, spellings: Collection[str]) -> tuple[int, bytes] | None:
        """Of a vocabulary whose tokens are bytes: (bytes of the longest one, bytes that are none)."""
        if not self.byte_level:
            return None
        missing = bytes(byte for letter, byte in _BYTE_OF.items() if letter not in spellings)
        return max(len(t) if _BYTE_OF.keys() >= set(t) else len(t.encode()) for t in spellings), missing

    def bytes_of(self, id_: int, skip_special: bool) -> bytes:
        """A token's bytes where ``byte_level``; none of an id without one and, if asked, of special ones.

        Raises DcaError: the id is not an integer.
        """
        known = self._bytes[skip_special]
        data = known.get(id_) if type(id_) is int else None  # one look: another thread may clear them
        if data is not None:
            return data
        spelling = "".join(self.spellings([id_], skip_special))
        if not spelling:
            return b""
        try:
            data = bytes(_BYTE_OF[letter] for letter in spelling)
        except KeyError:  # an added token, which is spelled as it is
            data = spelling.encode()
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known[operator.index(id_)] = data
        return data

    def _spelling(self, id_: int) -> str | None:
        try:
            number = operator.index(id_)
        except TypeError:
            raise DcaError(f"a token id must be an integer, got {id_!r}") from None
        if not 0 <= number <= _MOST_ID:
            return None
        with guarded(f"token {number} cannot be read"):
            return self._backend.id_to_token(number)


def _bytes_apart(spellings: list[str]) -> list[str]:
    """The spellings with U+FFFD in place of every byte token that belongs to no whole character.

    The package's decoder takes a run of byte tokens as a whole: one byte that fits nowhere, such as the
    first of a character still to come, would turn all characters of the run into U+FFFD.
    """
    matches = [_BYTE.fullmatch(spelling) for spelling in spellings]
    if not any(matches):
        return spellings
    apart = list(spellings)
    start = 0
    while start < len(apart):
        if matches[start] is None:
            start += 1
            continue
        end = start
        while end < len(apart) and matches[end] is not None:
            end += 1
        data = bytes(int(match[1], 16) for match in matches[start:end] if match is not None)
        for index in _outside_characters(data):
            apart[start + index] = "\ufffd"
        start = end
    return apart


def _outside_characters(data: bytes) -> list[int]:
    """Indices of the bytes of ``data`` that are part of no UTF-8 sequence."""
    outside: list[int] = []
    start = 0
    while start < len(data):
        try:
            data[start:].decode()
            break
        except UnicodeDecodeError as error:
            outside += range(start + error.start, start + error.end)
            start += error.end
    return outside
