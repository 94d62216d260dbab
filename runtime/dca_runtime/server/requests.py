"""The life of one answer to a request, as the thread that steps the engine sees it."""

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dca_runtime.options import PAGE_TOKENS
from dca_runtime.sampling import Sampling
from dca_runtime.server.errors import ApiError
from dca_runtime.server.stepping.prefix_tree import Entry, page_keys

if TYPE_CHECKING:
    from dca_runtime.engine import Choice, TokenSequence
    from dca_runtime.server.incoming import Incoming


class Started(NamedTuple):
    """The prompt is being read."""

    cached_tokens: int  # of it that were in the pool or came from the store


class Loaded(NamedTuple):
    """So much of the prompt was in the pool or came from the store by now."""

    tokens: int
    seconds: float  # since loading began


class Read(NamedTuple):
    """So much of the prompt is read."""

    tokens: int
    seconds: float  # since its reading began


class Token(NamedTuple):
    """A generated token."""

    id: int
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()


class Finished(NamedTuple):
    """The answer is whole: "stop", or "length" where a limit cut it."""

    reason: str


class Failed(NamedTuple):
    """There will be no more of the answer."""

    error: ApiError


Event = Started | Loaded | Read | Token | Finished | Failed


class Constraint(Protocol):
    """What an answer must look like (structured.py)."""

    def mask(self) -> np.ndarray | None:
        """Which tokens may come next: bits, uint32 ((n_vocab + 31) // 32,). Raises ApiError."""
        ...

    def accept(self, token: int) -> bool:
        """Takes the token that came; True if the answer is whole. Raises ApiError."""
        ...


class Stage(enum.Enum):
    """Where a job stands."""

    WAITING = "waiting"  # holds no pages: new, or set aside
    WAKING = "waking"  # its prompt's pages come from host memory
    LOADING = "loading"  # its prompt's pages come from the store
    READING = "reading"  # its prompt is being read
    WRITING = "writing"  # one token a step
    OVER = "over"


_WRITING = Stage.WRITING  # looked for in every job at every step


@dataclass(eq=False)
class Job:
    """One answer to be written: a request with n = 3 is three of them."""

    prompt: list[int]
    max_tokens: int  # at least 1
    sampling: Sampling
    deliver: Callable[[Event], None]  # called on the event loop
    end_ids: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    top_logprobs: int | None = None  # None: no log-probabilities at all
    cache_prompt: bool = True
    progress: bool = False  # wants Loaded and Read events
    stored: int = 0  # tokens of the prompt that are in the store
    arrived: float = field(default_factory=time.monotonic)

    # Written by the event loop, read by the stepper at the start of each step.
    cancelled: bool = False
    paused: bool = False  # the client does not keep up

    # The stepper's own.
    stage: Stage = Stage.WAITING
    generated: list[int] = field(default_factory=list)
    sequence: "TokenSequence | None" = None
    entry: Entry | None = None
    incoming: "Incoming | None" = None  # while it is loading
    read: int = 0  # tokens in the sequence
    coming: int = 0  # tokens on their way into it from host memory
    asleep: int = 0  # tokens of the prompt that were in the pool or host memory when it was started
    started: float | None = None  # when it was first loaded for or got rows
    announced: bool = False  # Started was sent
    keys: list[bytes] = field(default_factory=list)  # of the full pages of prompt and answer

    def __post_init__(self) -> None:
        self.keys = page_keys(self.prompt)
        self.penalised = bool(self.sampling.presence_penalty or self.sampling.frequency_penalty)

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.generated)

    @property
    def left(self) -> int:
        """Tokens that are to be appended before the next one can be chosen."""
        return self.length - self.read

    @property
    def to_read(self) -> int:
        """Those of ``left`` that do not come from host memory or the store."""
        return self.length - max(self.read, self.asleep, self.stored)

    def next_ids(self, count: int) -> list[int]:
        """The ``count`` tokens to be appended next."""
        if self.stage is _WRITING:
            return self.generated[-1:]
        if self.read >= len(self.prompt):
            at = self.read - len(self.prompt)
            return self.generated[at : at + count]
        ids = self.prompt[self.read : self.read + count]
        return ids + self.generated[: count - len(ids)]

    def add(self, token: int) -> None:
        """Takes a generated token."""
        self.generated.append(token)
        if (len(self.prompt) + len(self.generated)) % PAGE_TOKENS == 0:
            ids = (self.prompt[-PAGE_TOKENS:] + self.generated)[-PAGE_TOKENS:]
            self.keys += page_keys(ids)

    def token(self, choice: "Choice") -> Token:
        """What is told of a choice that was made with log-probabilities, for this job or for others."""
        if self.top_logprobs is None:
            return Token(choice.token)
        return Token(choice.token, choice.logprob, choice.top)

    def choosing(self) -> tuple[Any, ...]:
        """How the next token is chosen, as the engine's items say it after the ids. Raises ApiError.

        Presence and frequency penalties look at the answer so far, as OpenAI defines them: the library counts
        within a window of the last tokens, so that is how long the window is.
        """
        mask = None if self.constraint is None else self.constraint.mask()
        if self.penalised:
            return self.sampling, mask, len(self.generated)
        return (self.sampling,) if mask is None else (self.sampling, mask)
