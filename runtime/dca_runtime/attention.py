"""What ``attention`` can say: a name, or one with the numbers of a border that moves with the query."""

from dataclasses import dataclass
from typing import Any

from dca_runtime.errors import DcaError
from dca_runtime.options import ATTENTIONS, BORDERS

_MOST = 2**30  # tokens, as in the library
_NUMBERS = {name: number for number, name in enumerate(BORDERS, 1 + max(ATTENTIONS.values()))}


@dataclass(frozen=True)
class Attention:
    """Which keys a query sees, and at which distances.

    window: of BORDERS, tokens: keys at smaller distances keep them; 0: the file's. beyond: what ``string``
    puts distances of ``window`` at; of the others how many of the first tokens are seen there.
    """

    kind: str  # of ATTENTIONS or BORDERS
    window: int = 0
    beyond: int = 0

    @property
    def name(self) -> str:
        """As ``parse`` reads it."""
        if self.window == 0:
            return self.kind
        first, second = (self.window, self.beyond) if self.kind == "string" else (self.beyond, self.window)
        return f"{self.kind}:{first}/{second}"

    def distances(self, tokens: int) -> int:
        """One more than the largest distance in a text of that many tokens; of BORDERS only."""
        if self.kind == "string":
            return max(min(tokens, self.window), tokens - self.window + self.beyond)
        return min(tokens, self.window + (self.beyond if self.kind == "streaming" else 1))


def parse(text: str) -> Attention:
    """Reads "dca", "string:BORDER/LOCAL", "streaming:SINKS/WINDOW"; "string" alone is the file's.

    Raises DcaError.
    """
    if text in ATTENTIONS or text == "string":
        return Attention(text)
    kind, _, rest = text.partition(":")
    numbers = rest.split("/")
    # No longer number is in the range, and Python reads none of thousands of digits.
    whole = all(part.isdecimal() and len(part) <= 20 for part in numbers)
    if kind not in BORDERS or len(numbers) != 2 or not whole:
        forms = [f"{name}:{'/'.join(words)}" for name, words in BORDERS.items()]
        raise DcaError(f"attention must be one of {', '.join([*ATTENTIONS, *forms])} (tokens), got {text!r}")
    first, second = map(int, numbers)
    window, beyond = (first, second) if kind == "string" else (second, first)
    if not 1 <= window <= _MOST:
        name = BORDERS[kind][kind != "string"]
        raise DcaError(f"attention is {text!r}: {name} is {window}, must be 1 to {_MOST}")
    most = window if kind == "string" else _MOST
    if beyond > most:
        name = BORDERS[kind][kind == "string"]
        raise DcaError(f"attention is {text!r}: {name} is {beyond}, must be at most {most}")
    return Attention(kind, window, beyond)


def fill(native: Any, attention: Attention) -> None:
    """Sets the fields of ``dca_session_options`` or ``dca_engine_options`` that say it."""
    native.attention = (ATTENTIONS | _NUMBERS)[attention.kind]
    native.border.window, native.border.beyond = attention.window, attention.beyond


def in_force(native: Any) -> str | None:
    """The name of the border that an info struct states; None: none."""
    kind = {number: name for name, number in _NUMBERS.items()}.get(native.attention)
    return None if kind is None else Attention(kind, native.border.window, native.border.beyond).name
