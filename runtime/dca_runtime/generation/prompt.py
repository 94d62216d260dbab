"""Rendered chat templates: which spellings of control tokens in them are the template's own."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class Prompt(str):
    """A rendered chat template that knows which of its spellings of control tokens are only text.

    ``Tokenizer.encode`` makes control tokens of the others, the template's own. What is built from it by
    string operations is an ordinary string, which knows nothing of that.
    """

    plain: tuple[int, ...]  # where in it a control token's spelling begins that came with a message

    def __new__(cls, text: str, plain: Iterable[int] = ()) -> "Prompt":
        prompt = super().__new__(cls, text)
        prompt.plain = tuple(plain)
        return prompt


class Marks:
    """Marks control tokens' spellings in what a template is given, and finds them again in what it renders.

    The mark is a number behind the spelling's first character: digits pass unchanged through whatever a
    template does to a text (trimming, upper case, JSON), and break the spelling.
    """

    def __init__(self, spellings: Iterable[str], values: Any) -> None:
        """``values``: all that is to be marked, messages and other variables of the template."""
        texts = list(_strings(values))
        self._spelling = _longest_first(spellings)
        number = 10**15
        while any(str(number) in text for text in texts):
            number += 1
        self._mark = str(number)

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
    own = [match.span() for match in found if not _inside(match, prompt)]
    for end, following in [*own, (len(prompt), len(prompt))]:
        if any(start <= place < end for place in prompt.plain):
            ids += encode(prompt[ordinary:start], True)
            ids += encode(prompt[start:end], False)
            ordinary = end
        start = following
    return ids + encode(prompt[ordinary:], True)


def _inside(found: re.Match[str], prompt: Prompt) -> bool:
    return any(place <= found.start() < place + len(found[0]) for place in prompt.plain)


def _longest_first(spellings: Iterable[str]) -> re.Pattern[str] | None:
    """Finds the spellings as the tokenizer does: the first, and of those that begin there the longest."""
    ordered = sorted(filter(None, spellings), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
