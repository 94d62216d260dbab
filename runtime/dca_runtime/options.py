"""What a session can be asked for: the choices by name, and the types that say it.

The lists of choices that commands and experiments offer come from here. Loads neither NumPy nor the
library, so that a command's --help costs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

if TYPE_CHECKING:
    import numpy as np

TokenIds: TypeAlias = Union[Sequence[int], "np.ndarray"]

Progress: TypeAlias = Callable[[int, int], Any]
"""Called with (done, total) now and then during a long call; to cancel the call, raise."""

# Names, and the numbers that dca.h gives them.
ATTENTIONS = {"auto": 0, "plain": 1, "dca": 2, "intra": 3, "intra+inter": 4}  # dca_attention
# The attentions whose border moves with the query, in dca.h's order, and their numbers (attention.py).
BORDERS = {
    "string": ("BORDER", "LOCAL"),
    "streaming": ("SINKS", "WINDOW"),
    "lm-infinite": ("SINKS", "WINDOW"),
}
CACHE_TYPES = {"f16": 0, "f32": 1, "bf16": 2, "q8": 3, "q4": 4}  # dca_cache_type
PREFILLS = {"dense": 0, "sparse": 1, "stated": 2}  # dca_prefill
ROPES = {"linear": 1, "ntk": 2, "yarn": 3, "dynamic": 4}  # dca_rope

SPECULATIONS = ("auto", "off", "lookup")  # whether tokens are guessed ahead (speculation.py)

DEFAULT_CONTEXT = 4096  # tokens
DEFAULT_ALPHA = 0.03  # of sparse prefill; docs/sparse.md has what it costs and gains
PAGE_TOKENS = 128  # a cache is made of pages of so many tokens (dca.h)


class Scheme(NamedTuple):
    """The integers of Dual Chunk Attention, and the optional logit scale (0: off)."""

    chunk_size: int
    local_window: int
    pretraining_length: int
    logit_scale: float = 0.0
    logit_scale_length: int = 0


@dataclass(frozen=True)
class SessionOptions:
    """What ``Model.session`` takes, and says of each."""

    context: int
    attention: str
    scheme: Sequence[float] | None
    cache_type: str
    prefill_block: int
    progress: Progress | None
    rope: str | None
    prefill: str = "dense"
    record_selection: bool = False


@dataclass(frozen=True)
class EngineOptions:
    """What ``Model.engine`` takes, and says of each."""

    tokens: int
    attention: str
    scheme: Sequence[float] | None
    cache_type: str
    progress: Progress | None
    rope: str | None
    max_rows: int
    prefill: str = "dense"
