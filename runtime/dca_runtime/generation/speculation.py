"""Guessing ahead: what a text quotes from itself is guessed, and the guesses are checked in one step.

A step of a token and k guesses at the next ones reads the weights once, and gives the logits after each. The
choice from the first logits is what an ordinary step would choose; if it is the first guess, the next logits
are those of the next ordinary step, and so on. So the text is the one that ordinary steps give: with greedy
choice, and with sampling too, where a guess x is kept with the probability p(x) that sampling gives it, and
otherwise a token of the others comes instead, each with its share of their probability.
"""

import array
from dataclasses import dataclass

import numpy as np

from dca_runtime.errors import DcaError
from dca_runtime.options import SPECULATIONS

SHORTEST_MATCH = 2  # tokens: one alone occurs before almost always, and says little about the next
LONGEST_MATCH = 32  # tokens: beyond it a longer match says nothing more
_FEW = 8  # places that are looked at one by one; more of them are sifted together
# A step of this many guesses and the token before them: up to eight rows the CPU gives each row the bits of a
# step of its own (native/cpu/panel_shape.h), and weights are read once for all of them.
MOST_GUESSES = 7


def speculates(speculate: str) -> bool:
    """Whether to guess ahead, for one of SPECULATIONS. DcaError for another."""
    if speculate not in SPECULATIONS:
        names = ", ".join(SPECULATIONS)
        raise DcaError(f"speculate must be one of {names}, got {speculate!r}")
    return speculate != "off"


def beyond_one_row(
    device: str, n_layers: int, weight_bytes: int, n_params: int
) -> tuple[float, float] | None:
    """What a step of several rows takes beyond one of a single row, in such steps: at all, and a guess.

    None: as ``Pace`` expects on the device. ``weight_bytes`` and ``n_params``: what a token reads. On a card
    several rows of 16-bit weights take some 60 us more a layer, however small the matrices are (cuBLASLt
    multiplies them), where a single row takes 20 and the weights' way from memory. An H100: 0.7 and 2.5 ms
    in SmolLM2-135M; 1.2 to 1.3 times in Llama 3 8B's shape.
    """
    if device.startswith("cpu") or weight_bytes < 1.9 * n_params:
        return None
    return 60e-6 * n_layers / (weight_bytes / 2.5e12 + 20e-6 * n_layers), 0.0


class Lookup:
    """Finds where the end of a text occurred before, and what came after it there."""

    def __init__(self) -> None:
        self._tokens = array.array("i")
        self._ends: dict[
            tuple[int, int], array.array[int]
        ] = {}  # a pair of tokens -> where its second one is
        # How many of the last pairs had occurred before, in a row: a match has one token more at most.
        self.known = 0

    def see(self, ids: list[int]) -> None:
        """Appends tokens to the text."""
        tokens = self._tokens
        for id_ in ids:
            tokens.append(id_)
            if len(tokens) >= SHORTEST_MATCH:
                pair = (tokens[-2], id_)
                ends = self._ends.get(pair)
                self.known += 1
                if ends is None:
                    ends = self._ends[pair] = array.array("i")
                    self.known = 0
                ends.append(len(tokens) - 1)

    def match(self) -> tuple[int, int]:
        """(length, place): the longest end of the text that occurred before, the last time where it did.

        ``place`` is the index of what came after it. Length 0: none of at least SHORTEST_MATCH tokens did. Of
        one longer than LONGEST_MATCH only so much is looked at.
        """
        tokens = self._tokens
        if len(tokens) <= SHORTEST_MATCH:
            return 0, 0
        ends = self._ends[tokens[-2], tokens[-1]][:-1]
        least = SHORTEST_MATCH  # what all of them match in
        if len(ends) > _FEW:
            least, ends = self._sifted(ends)
        longest, place = 0, 0
        for end in reversed(ends):
            length = least
            while length < LONGEST_MATCH and length <= end and tokens[end - length] == tokens[-1 - length]:
                length += 1
            if length > longest:
                longest, place = length, end + 1
        return longest, place

    def _sifted(self, ends: "array.array[int]") -> tuple[int, "array.array[int]"]:
        """(least, a few of ``ends``): all match in ``least`` tokens, and the longest match is among them."""
        text, places = np.frombuffer(self._tokens, np.int32), np.frombuffer(ends, np.int32)
        least = SHORTEST_MATCH
        while least < LONGEST_MATCH and len(places) > _FEW:
            longer = places[places >= least]
            longer = longer[text[longer - least] == text[-1 - least]]
            if not len(longer):
                break
            places, least = longer, least + 1
        return least, array.array("i", places[-_FEW:].tolist())

    def guesses(self, place: int, count: int) -> list[int]:
        """``count`` tokens from ``place`` on. What reaches the end of the text goes on with itself."""
        found: list[int] = []
        for index in range(place, place + count):
            after = index - len(self._tokens)
            found.append(self._tokens[index] if after < 0 else found[after])
        return found


@dataclass
class _Share:
    """How often guesses were right, of late: an average that begins as ``expected`` and forgets."""

    expected: float
    right: float = 0.0
    tried: float = 0.0

    WEIGHT = 3.0  # of what was expected, in guesses

    def value(self) -> float:
        return (self.expected * self.WEIGHT + self.right) / (self.WEIGHT + self.tried)

    def saw(self, right: bool) -> None:
        self.forget(0.97)
        self.right += right
        self.tried += 1.0

    def forget(self, keep: float) -> None:
        self.right *= keep
        self.tried *= keep


# From so many matching tokens on (the last: and more), guesses are expected to be right that often.
_EXPECTED = ((SHORTEST_MATCH, 0.2), (3, 0.4), (4, 0.55), (6, 0.7), (9, 0.85))
# Which of them it is, by the matching tokens.
_SHARE_OF = [max(sum(n >= least for least, _ in _EXPECTED) - 1, 0) for n in range(_EXPECTED[-1][0] + 1)]


class Pace:
    """How many tokens to guess: as many as promise the most tokens a second.

    It learns from what guesses were right, by how much of the text before them had occurred before, and from
    the time that steps of several rows take. On a card steps of several rows round otherwise than steps of
    one, which may turn a near tie; so that the same call gives the same text every time, the clock has no say
    there unless those steps take much longer than they should.

    What guessing costs is kept within bounds whatever the text: an account in steps of a single row is paid
    for guesses and gains what was right; where it has too little, nothing is guessed until it has saved up.
    """

    # What a step of several rows takes beyond one of a single row, in such steps: at all, and for each guess.
    # On an H100 steps of 2 ... 8 rows take 1.6 to 2.1 times one's time in four bits, 1.2 to 1.3 times in 16.
    _BEYOND = {"cpu": (0.0, 0.15), "card": (0.65, 0.05)}
    _WEIGHT = 1 / 8  # of a step's time in the averages
    _FORGET = 0.995  # a step: what was bad is tried again some hundred steps later
    _MUCH = 1.5  # times as long as they should
    # The account: as far as steps of several rows take what they are expected to, wrong guesses cost a text
    # of n steps the time of capital + income n steps at most, and once that of a step of guesses, where so
    # long a match precedes them that the text is taken to be quoting. A short answer has few steps to spread
    # a loss over: what it may lose to guesses that short matches suggest, it must have saved before. A card's
    # steps of several rows may take half as long again as expected before the clock has a say, so there it
    # saves less.
    _CAPITAL_INCOME = {"cpu": (0.15, 0.02), "card": (0.0, 0.015)}
    _QUOTING = 16  # tokens
    _MOST_SAVED = 4.0

    def __init__(self, device: str = "cpu") -> None:
        """device: as ModelInfo has it."""
        self._shares = [_Share(expected) for _, expected in _EXPECTED]
        self._single: float | None = None  # seconds of a step without guesses
        kind = "cpu" if device.startswith("cpu") else "card"
        self._fixed, self._each = self._BEYOND[kind]
        self._trusted = 0.0 if kind == "cpu" else self._MUCH  # up to this scale the clock has no say
        self._scale = 1.0  # of both, as steps have shown
        self._saved, self._income = self._CAPITAL_INCOME[kind]

    def expect(self, fixed: float, each: float) -> None:
        """What steps of several rows take beyond one of a single row, in such steps: at all, and a guess."""
        self._fixed, self._each = fixed, each

    def poor(self, known: int) -> bool:
        """Whether nothing can be guessed after at most ``known`` + 1 tokens that occurred before."""
        return self._saved < self._cost(1) and known + 1 < self._QUOTING

    def guesses(self, matched: int, most: int) -> int:
        """How many tokens to guess after ``matched`` tokens that occurred before; at most ``most``."""
        best, best_rate = 0, 1.0
        tokens = reached = 1.0  # expected of the step; the chance that all guesses so far are right
        shares = [share.value() for share in self._shares]
        allowed = self._saved + (self._cost(MOST_GUESSES) if matched >= self._QUOTING else 0.0)
        for count in range(1, most + 1):
            cost = self._cost(count)
            if cost > allowed:
                break
            reached *= shares[self._index(matched + count - 1)]
            tokens += reached
            rate = tokens / (1.0 + cost)
            if rate > best_rate:
                best, best_rate = count, rate
        if best == 0:
            self._share(matched).forget(self._FORGET)
        return best

    def saw(self, matched: int, guessed: int, right: int) -> None:
        """Of ``guessed`` tokens after ``matched`` ones the first ``right`` were; the next, if any, not."""
        self._saved = min(self._saved + right, self._MOST_SAVED)
        for index in range(min(right + 1, guessed)):
            self._share(matched + index).saw(index < right)

    def took(self, guessed: int, seconds: float) -> None:
        """A step with so many guesses took that long."""
        self._saved = min(self._saved + self._income, self._MOST_SAVED)
        if guessed == 0:
            self._single = self._average(self._single, seconds)
            return
        self._saved -= self._cost(guessed)
        if self._single is not None:
            beyond = min(max(seconds / self._single - 1.0, 0.02 * guessed), guessed)
            self._scale = self._average(self._scale, beyond / self._beyond(guessed))

    def _cost(self, guessed: int) -> float:
        """Of a step with so many guesses, beyond a step without, in such steps."""
        return (self._scale if self._scale > self._trusted else 1.0) * self._beyond(guessed)

    def _beyond(self, guessed: int) -> float:
        return self._fixed + self._each * guessed

    def _average(self, before: float | None, value: float) -> float:
        if before is None:
            return value
        return before + self._WEIGHT * (min(value, 4.0 * before) - before)  # a hiccup counts little

    def _share(self, matched: int) -> _Share:
        return self._shares[self._index(matched)]

    def _index(self, matched: int) -> int:
        return _SHARE_OF[min(matched, len(_SHARE_OF) - 1)]


@dataclass
class Guesses:
    """What guessing ahead did for a text."""

    steps: int = 0  # that checked guesses
    guessed: int = 0
    right: int = 0


class Speculator:
    """Guesses at the tokens that come next in a text, and learns how many are worth it."""

    def __init__(self, device: str = "cpu", beyond: tuple[float, float] | None = None) -> None:
        """device: that evaluates the steps, as ModelInfo has it; beyond: as ``beyond_one_row`` gives it."""
        self.counts = Guesses()
        self._lookup = Lookup()
        self._pace = Pace(device)
        if beyond is not None:
            self._pace.expect(*beyond)
        self._matched = 0  # of the last guesses
        self._guessed = 0

    def see(self, ids: list[int]) -> None:
        """Appends tokens to the text."""
        self._lookup.see(ids)

    def may_guess(self) -> bool:
        """Whether ``guess`` may find any: a first look, which a step of a fast card has time for."""
        self._guessed = 0
        known = self._lookup.known
        return known > 0 and not self._pace.poor(known)

    def guess(self, most: int) -> list[int]:
        """At most ``most`` tokens that may come next, often none."""
        self._matched, place = self._lookup.match()
        most = min(most, MOST_GUESSES)
        self._guessed = self._pace.guesses(self._matched, most) if self._matched and most > 0 else 0
        return self._lookup.guesses(place, self._guessed)

    def took(self, seconds: float) -> None:
        """The step that checks the last guesses took that long."""
        self._pace.took(self._guessed, seconds)

    def saw(self, right: int, checked: int) -> None:
        """Of the last guesses ``checked`` were compared with what was chosen; the first ``right`` were it."""
        if self._guessed:
            self.counts.steps += 1
            self.counts.guessed += self._guessed
            self.counts.right += right
            self._pace.saw(self._matched, checked, right)
