"""Rendered chat templates: which spellings of control tokens in them are the template's own."""

import re
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_LONGEST = 10**4000  # of integers that Python writes; chat templates are given no longer ones


class Prompt(str):
    """A rendered chat template that knows which of its spellings of control tokens are only text.

    ``Tokenizer.encode`` makes control tokens of the others, the template's own. What is built from it by
    string operations is an ordinary string, which knows nothing of that.
    """

    plain: tuple[int, ...]  # where in it a control token's spelling begins that came with a message, in order

    def __new__(cls, text: str, plain: Iterable[int] = ()) -> "Prompt":
        prompt = super().__new__(cls, text)
        prompt.plain = tuple(sorted(plain))
        return prompt


class Marks:
    """Marks control tokens' spellings in what a template is given, and finds them again in what it renders.

    The mark is a number behind the spelling's first character: digits pass unchanged through whatever a
    template does to a text (trimming, upper case, JSON), and break the spelling.
    """

    def __init__(self, spellings: Iterable[str], values: Any) -> None:
        """``values``: all that the template is given, messages and other variables.

        Raises RecursionError: they are nested too deep.
        """
        texts = list(_texts(values))
        self._spelling = _longest_first(spellings)
        # Drawn, so that nobody can write texts that hold all the numbers that would be tried.
        self._mark = _drawn()
        while any(self._mark in text for text in texts):
            self._mark = _drawn()

    def mark(self, value: Any) -> Any:
        """``value`` with the spellings in its strings marked, in lists and mappings at any depth."""
        if isinstance(value, str):
            if self._spelling is None:
                return value
            return self._spelling.sub(lambda found: found[0][0] + self._mark + found[0][1:], value)
        if isinstance(value, Mapping):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mark(item) for item in value]
        return value

    def unmark(self, rendered: str) -> Prompt:
        """The rendered text as it would be without marks, knowing where they were."""
        parts = rendered.split(self._mark)
        plain, length = [], 0
        for part in parts[:-1]:
            length += len(part)
            plain.append(length - 1)
        return Prompt("".join(parts), plain)


def encode_marked(
    prompt: Prompt, spellings: Iterable[str], encode: Callable[[str, bool], list[int]]
) -> list[int]:
    """Token ids of a rendered template.

    The stretches between control tokens of the template's own that hold a spelling from a message are
    encoded as text; everything else as ever.

    encode: gives the ids of a text, of control tokens too if its second argument is true.
    """
    ids: list[int] = []
    ordinary = start = 0  # where the text not encoded yet begins, and the stretch within it
    pattern = _longest_first(spellings)
    found = () if pattern is None else pattern.finditer(prompt)
    own = [match.span() for match in found if not _inside(match, prompt.plain)]
    for end, following in [*own, (len(prompt), len(prompt))]:
        if bisect_left(prompt.plain, start) < bisect_left(prompt.plain, end):
            ids += encode(prompt[ordinary:start], True)
            ids += encode(prompt[start:end], False)
            ordinary = end
        start = following
    return ids + encode(prompt[ordinary:], True)


def _inside(found: re.Match[str], plain: Sequence[int]) -> bool:
    before = bisect_right(plain, found.start())
    return before > 0 and found.start() < plain[before - 1] + len(found[0])


def _drawn() -> str:
    return str(10**15 + secrets.randbelow(10**15))


def _longest_first(spellings: Iterable[str]) -> re.Pattern[str] | None:
    """Finds the spellings as the tokenizer does: the first, and of those that begin there the longest."""
    ordered = sorted(filter(None, spellings), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def _texts(value: Any) -> Iterable[str]:
    """The strings in a value, and how its numbers are written."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, float) or (isinstance(value, int) and abs(value) < _LONGEST):
        yield repr(value)
