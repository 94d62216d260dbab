"""Where a sentence may be put into a text: between two others."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_SEARCHED = 400  # tokens on either side of the place asked for; the longest sentences of novels are as long
_SEEN_BEFORE, _SEEN_AFTER = 24, 6  # tokens that tell whether a sentence ends

_CLOSING = "\"')\\]}»”’*_"
_END = re.compile(rf"[.!?…][{_CLOSING}]*\s*\Z")
_END_WITHOUT_SPACE = re.compile(r"[。！？][」』”’）]*\s*\Z")
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*\Z")
# A full stop after these ends no sentence: titles, initials, "e.g.".
_ABBREVIATION = re.compile(
    r"(\b(Mr|Mrs|Ms|Dr|St|Prof|Rev|Hon|Capt|Col|Gen|Lt|Sgt|No|vs|etc|cf|vol|pp?)|\b[A-Za-z])\.\s*\Z"
)
_NEW_SENTENCE = re.compile(r"[\s\"'(\[{«“‘*_]*[^a-z\s]")


@dataclass(frozen=True)
class Cut:
    """A place in a text: before token `at`. `space` is the white space that stands before it already."""

    at: int
    space: str


def between_sentences(decode: Callable[[list[int]], str], ids: Sequence[int], wanted: int) -> Cut:
    """The place between two sentences nearest before ``wanted``, else after it, else between two words.

    A line break alone ends no sentence: books have one in every sentence.
    """
    if wanted <= 0:
        return Cut(0, "")
    places = (Place(decode, ids, at) for at in _around(len(ids), wanted))
    seen = []
    for place in places:
        if place.ends_sentence:
            return place.cut
        seen.append(place)
    return next((place.cut for place in seen if place.between_words), Cut(wanted, ""))


def _around(length: int, wanted: int) -> Iterator[int]:
    yield from range(wanted, max(wanted - _SEARCHED, 0), -1)
    yield from range(wanted + 1, min(wanted + _SEARCHED, length) + 1)


class Place:
    """The text around a place between two tokens."""

    def __init__(self, decode: Callable[[list[int]], str], ids: Sequence[int], at: int) -> None:
        before = list(ids[max(at - _SEEN_BEFORE, 0) : at])
        self._before = decode(before)
        # Together, since the first token of a text may lose its space.
        self._after = decode(before + list(ids[at : at + _SEEN_AFTER]))[len(self._before) :]
        self._at = at

    @property
    def between_words(self) -> bool:
        """Whether white space stands on either side."""
        return not self._after or self._after[0].isspace() or self._before[-1:].isspace()

    @property
    def ends_sentence(self) -> bool:
        """Whether a sentence or paragraph ends before it and another begins after it."""
        if _END_WITHOUT_SPACE.search(self._before) or _PARAGRAPH.search(self._before):
            return True
        if not self.between_words or not _END.search(self._before) or _ABBREVIATION.search(self._before):
            return False
        return not self._after.strip() or _NEW_SENTENCE.match(self._after) is not None

    @property
    def cut(self) -> Cut:
        """The place, and the space before it where there is none after it."""
        space = self._before[len(self._before.rstrip()) :]
        return Cut(self._at, space if self._after[:1].strip() else "")
