"""What ``prefill`` can say, and what sparse prefill reports."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dca_runtime import _ffi
from dca_runtime._ffi import ffi
from dca_runtime.errors import DcaError
from dca_runtime.options import DEFAULT_ALPHA, PREFILLS

_RANGES = ("intra", "successive", "inter")  # by their numbers in dca_session_selection
_EXPECTED = (
    "dense, sparse, sparse:ALPHA, sparse:ALPHA:FROM (0 <= ALPHA <= 1, FROM in tokens), as in sparse:0.1, or "
    "stated"
)


@dataclass(frozen=True)
class Prefill:
    """How the tokens of a prompt attend."""

    kind: str  # of PREFILLS
    alpha: float = 0.0
    start: int | None = None  # tokens at indices below attend densely; None: the library's choice

    @property
    def name(self) -> str:
        """As ``parse`` reads it."""
        if self.kind != "sparse":
            return self.kind
        return f"{self.kind}:{self.alpha:g}" + ("" if self.start is None else f":{self.start}")


def parse(text: str) -> Prefill:
    """Reads "dense", "sparse", "sparse:ALPHA", "sparse:ALPHA:FROM" or "stated". Raises DcaError."""
    kind, *numbers = text.split(":")
    if kind not in PREFILLS or len(numbers) > 2 or (numbers and kind != "sparse"):
        raise DcaError(f"prefill must be {_EXPECTED}, got {text!r}")
    if kind != "sparse":
        return Prefill(kind)
    try:
        alpha = float(numbers[0]) if numbers else DEFAULT_ALPHA
        start = int(numbers[1]) if len(numbers) > 1 else None
    except ValueError:
        alpha, start = -1.0, None
    if not 0 <= alpha <= 1 or not (start is None or 0 <= start < 2**32):
        raise DcaError(f"prefill must be {_EXPECTED}, got {text!r}")
    return Prefill(kind, alpha, start)


def fill(native: Any, text: str) -> None:
    """Sets the fields of ``dca_session_options`` or ``dca_engine_options`` that say how to prefill."""
    prefill = parse(text)
    native.prefill = PREFILLS[prefill.kind]
    native.alpha = prefill.alpha
    if prefill.start is not None:
        native.sparse_from = prefill.start


@dataclass(frozen=True)
class Selection:
    """The pages that queries ``start`` … ``stop`` − 1 of a head read, of those they see."""

    layer: int
    head: int  # of the queries
    start: int
    stop: int
    pages: tuple[tuple[int, str], ...]  # page (of 128 keys) and its range: "intra", "successive", "inter"


@dataclass(frozen=True)
class LineSelection:
    """What queries ``start`` … ``stop`` − 1 of a head read by a stated budget: keys, and distances."""

    layer: int
    head: int  # of the queries
    start: int
    stop: int
    columns: tuple[int, ...]
    diagonals: tuple[int, ...]


def density(call: Any, native: Any, shape: tuple[int, int]) -> tuple[tuple[float, ...], ...]:
    """What ``call`` (dca_session_density or dca_engine_density) reports, by layer and head."""
    layers, heads = shape
    out = ffi.new("float[]", layers * heads)
    _ffi.check(call(native, out, layers * heads))
    return tuple(tuple(out[layer * heads : (layer + 1) * heads]) for layer in range(layers))


def selections(native: Any) -> list[Selection]:
    """What a native session with sparse prefill has recorded, by layer, head and query."""
    return [
        Selection(layer, head, start, stop, tuple((word // 4, _RANGES[word % 4]) for word in chosen))
        for layer, head, start, stop, chosen in _recorded(native)
    ]


def line_selections(native: Any) -> list[LineSelection]:
    """The same where budgets are stated."""
    return [
        LineSelection(
            layer,
            head,
            start,
            stop,
            tuple(word // 2 for word in chosen if word % 2 == 0),
            tuple(word // 2 for word in chosen if word % 2 == 1),
        )
        for layer, head, start, stop, chosen in _recorded(native)
    ]


def _recorded(native: Any) -> Iterator[tuple[int, int, int, int, list[int]]]:
    """Layer, head, first query, one past the last, and the words that say what was chosen."""
    words, n = ffi.new("uint32_t **"), ffi.new("size_t *")
    _ffi.check(_ffi.lib().dca_session_selection(native, words, n))
    all_words = list(words[0][0 : n[0]])
    at = 0
    while at < len(all_words):
        layer, head, start, stop, count = all_words[at : at + 5]
        at += 5
        yield layer, head, start, stop, all_words[at : at + count]
        at += count
