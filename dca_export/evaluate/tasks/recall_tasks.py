"""Harder retrieval than one passkey: texts after the kinds of RULER (Hsieh et al., 2024, arXiv 2404.06654).

Several keys of which one is asked for, a value among as many as fit, a chain of assignments, words counted.
The generator is our own; its texts are not RULER's, and neither are the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_ADJECTIVES = (
    "amber ancient bitter bold brave brief broad calm clean clever cold crisp curious daring deep distant "
    "dry eager early faint fair fast fierce firm fresh gentle glad grand happy hollow humble icy keen "
    "kind late lively lonely loud lucky mellow mild narrow neat noble odd pale plain proud quick quiet "
    "rapid rare rough round sharp silent simple smooth soft steady stern"
).split()
_COLOURS = (
    "azure black blue brown coral crimson gold green grey indigo ivory olive pink purple red white".split()
)
_NOUNS = (
    "anchor apple arrow badge barrel basket beacon bell bench bottle bridge bucket button cabin candle "
    "carpet castle chapel chimney clock cloud comet copper curtain desert dragon engine falcon feather "
    "fiddle forest garden glacier hammer harbor helmet island jacket kettle ladder lantern lemon marble "
    "market meadow mirror needle orchard paddle pebble pillow planet ribbon river saddle shadow spider "
    "statue temple tunnel valley violin"
).split()

HIDDEN_KEYS = 4
HOPS = 4  # of a chain, after the first assignment
COMMON_WORDS = 5
_MOST_OF_OTHERS = 3  # times that a word occurs which is none of the common ones
_LEAST_OF_COMMON = 6


class Made(NamedTuple):
    """A text of some size with its question."""

    task: str
    """what the text begins with: says what to look for"""
    body: str
    question: str
    """ends where the answer begins"""
    answers: tuple[str, ...]


class Task(NamedTuple):
    """`make(random, units)`: a text that grows with `units`."""

    make: Callable[[np.random.Generator, int], Made]
    answer_tokens: int


def _names(random: np.random.Generator, count: int) -> list[str]:
    """Different names, "quiet-red-lantern"."""
    sizes = len(_ADJECTIVES), len(_COLOURS), len(_NOUNS)
    numbers = random.choice(int(np.prod(sizes)), count, replace=False)
    parts = zip(*np.unravel_index(numbers, sizes), strict=True)
    return [f"{_ADJECTIVES[a]}-{_COLOURS[c]}-{_NOUNS[n]}" for a, c, n in parts]


def _numbers(random: np.random.Generator, count: int) -> list[str]:
    return [str(number) for number in 10_000 + random.choice(90_000, count, replace=False)]


def _hidden(random: np.random.Generator, units: int, sentences: list[str]) -> str:
    """`units` fillers with the sentences among them, in their order."""
    places = np.sort(random.integers(0, units + 1, len(sentences)))
    parts = [FILLER] * units
    for place, sentence in zip(places[::-1], sentences[::-1], strict=True):
        parts.insert(int(place), sentence)
    return " ".join(parts)


def _keys(random: np.random.Generator, units: int) -> Made:
    names, numbers = _names(random, HIDDEN_KEYS), _numbers(random, HIDDEN_KEYS)
    asked = int(random.integers(HIDDEN_KEYS))
    sentences = [f"The code of {name} is {number}." for name, number in zip(names, numbers, strict=True)]
    return Made(
        "Some codes are hidden in the following text. Remember them.",
        _hidden(random, units, sentences),
        f"What is the code of {names[asked]}? The code of {names[asked]} is",
        (numbers[asked],),
    )


def _value(random: np.random.Generator, units: int) -> Made:
    depth = random.random()
    names, numbers = _names(random, units), _numbers(random, units)
    asked = int(depth * units)
    lines = [f"The code of {name} is {number}." for name, number in zip(names, numbers, strict=True)]
    return Made(
        "The following lines are a list of codes. Remember them.",
        "\n".join(lines),
        f"What is the code of {names[asked]}? The code of {names[asked]} is",
        (numbers[asked],),
    )


def _chain(random: np.random.Generator, units: int) -> Made:
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    count = HOPS + 1
    codes = random.choice(26**3, 2 * count, replace=False)
    names = ["".join(letters[[code // 676, code // 26 % 26, code % 26]]) for code in codes]
    numbers = _numbers(random, 2)
    chains = []
    for own, number in zip((names[:count], names[count:]), numbers, strict=True):
        first = [f"VAR {own[0]} = {number}."]
        chains.append(
            first + [f"VAR {name} = VAR {before}." for before, name in zip(own, own[1:], strict=False)]
        )
    order = random.permutation([0] * count + [1] * count)
    taken = [iter(chain) for chain in chains]
    return Made(
        "Variables are assigned in the following text. Keep track of their values.",
        _hidden(random, units, [next(taken[which]) for which in order]),
        f"Which variables have the value {numbers[0]}, directly or through others? They are VAR",
        tuple(names[:count]),
    )


def _count(random: np.random.Generator, units: int) -> Made:
    words = list(random.permutation(_NOUNS + _ADJECTIVES))
    common, others = words[:COMMON_WORDS], words[COMMON_WORDS:]
    # What others there are occur up to three times; more of them are told apart by a number.
    different = -(-units // _MOST_OF_OTHERS)
    spelled = [
        others[i % len(others)] + (str(i // len(others)) if i >= len(others) else "")
        for i in range(different)
    ]
    listed = (spelled * _MOST_OF_OTHERS)[:units] + common * max(_LEAST_OF_COMMON, units // 25)
    listed = [str(word) for word in random.permutation(listed)]
    numbered = " ".join(f"{place + 1}. {word}" for place, word in enumerate(listed))
    return Made(
        f"In the following numbered list of words, {COMMON_WORDS} words occur far more often than all "
        "others. Remember them.",
        numbered,
        f"Which {COMMON_WORDS} words occur most often in the list? They are:",
        tuple(common),
    )


TASKS = {
    "keys": Task(_keys, 10),
    "value": Task(_value, 10),
    "chain": Task(_chain, 40),
    "count": Task(_count, 40),
}
