"""Generation: evaluates a prompt, then picks, decodes and evaluates one token after another.

Where tokens are guessed ahead (speculation.py) a step evaluates a token and the guesses after it, and as many
tokens are picked as guesses are right, and one more. Between pieces the session holds no guess.
"""

import operator
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dca_runtime.errors import DcaError, Status
from dca_runtime.generation.speculation import Guesses, Speculator, speculates
from dca_runtime.options import TokenIds
from dca_runtime.sampling import Sampler, Sampling, TokenLogprob, token_logprob
from dca_runtime.session import Session
from dca_runtime.text.stop import StopTexts
from dca_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from dca_runtime.prompt_store import Prompts

Processor = Callable[[list[int], np.ndarray], np.ndarray | None]
"""Called with (all ids so far, logits float32 (n_vocab,)) before each choice; changes the logits in place or
returns others. -inf forbids a token."""


class Generation(Iterator[str]):
    """Pieces of generated text, each evaluated when it is asked for.

    Ends at an end-of-text or end-of-turn token, at a stop text, after ``max_tokens``, or when it is
    cancelled; ``finish_reason`` tells which. Raises DcaError (Status.CONTEXT) when the session has no room
    for the next token, unless ``max_tokens`` left the end to the context.

    A session that was made for it alone is freed with the last reference to it, or by ``close``. A context
    manager. One thread at a time may iterate; ``cancel`` is for any.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        prompt: TokenIds,
        max_tokens: int | None,
        sampling: Sampling,
        *,
        stop: str | Sequence[str] = (),
        skip_special: bool = True,
        processors: Sequence[Processor] = (),
        logprobs: int | None = None,
        speculate: str = "auto",
        own_session: bool = False,
        prompts: "Prompts | None" = None,
        on_read: Callable[[int], None] = lambda length: None,
    ) -> None:
        """``prompt`` is appended to what the session holds already, when the first piece is asked for.

        max_tokens: tokens to generate at most; None or -1: until the context is full.
        stop: texts that end the generation, not given themselves; what may be the beginning of one is held
            back until it is certain.
        skip_special: leave control tokens out of the text (``ids`` has them all the same).
        processors: see Processor; called in order.
        logprobs: keep the log-probability of each generated token and of that many of the likeliest in
            ``logprobs``; those of the model itself, before processors, penalties and temperature.
        speculate: "auto" and "lookup": guess tokens ahead where the text repeats itself; the text is the same
            on the CPU, and on a card up to the rounding of steps of several rows, but every time the same.
            "off": one token a step.
        own_session: ``close`` frees the session too.
        prompts: a store that the prompt is read through and the text kept in; of the session's setup. What
            was read of the prompt when an exception came stays in the session, and the next piece goes on.
        on_read: called with the tokens in the session while a prompt is read through a store.

        Raises DcaError: an argument is out of its range.
        """
        self.session = session
        self.ids: list[int] = []  # generated so far, with the end token if there was one
        self.text = ""  # given so far
        self.finish_reason: str | None = None  # "stop", "length" or "cancelled"; None: not at its end
        self.ended = False  # the model ended its text itself
        self.stop_text: str | None = None  # the stop text that ended it
        self.logprobs: list[TokenLogprob] = []  # one for each of ``ids``, if asked for
        self.prompt = prompt  # what is appended to the session
        self.prompt_tokens = len(prompt)
        self.stored_tokens = 0  # of the prompt that came from ``prompts``
        self.prompt_seconds = 0.0
        self.decode_seconds = 0.0  # evaluating generated tokens
        self.decoded_tokens = 0  # generated tokens that were evaluated; the last one is not
        self._tokenizer = tokenizer
        self._max_tokens = token_limit(max_tokens)
        self._sampler = Sampler(sampling)
        self._processors = tuple(processors)
        self._top = None if logprobs is None else _count(logprobs, "logprobs")
        self._stream = tokenizer.stream(after=prompt, skip_special=skip_special)
        self._stops = StopTexts(stop)
        self._cancel = threading.Event()
        self._context = session.info.context
        self._history: list[int] | None = None  # all ids, the session's first; None: nothing evaluated yet
        self._next: TokenIds = prompt  # to be evaluated next
        # After these, then after each guess: the tokens chosen, or the logits to choose them from.
        self._rows: list[int] | list[np.ndarray] = []
        self._guesses: list[int] = []  # one for each row but the last
        self._sees_logits = bool(self._processors) or self._top is not None
        self._speculator = Speculator(session.device, session.beyond) if speculates(speculate) else None
        self._own_session = own_session
        self._prompts = prompts
        self._on_read = on_read
        self._whole: list[int] = []  # what the session held and the prompt, once it is being read

    def __next__(self) -> str:
        # No generator function, whose frame would refer to this object: an abandoned generation is to go,
        # and its session with it, at once and not when Python collects cycles.
        while self.finish_reason is None:
            piece = self._step()
            if piece:
                self.text += piece
                return piece
        if self._prompts is not None:
            self._prompts.save(self.session)
        raise StopIteration

    @property
    def guesses(self) -> Guesses | None:
        """What guessing ahead did; None where nothing is guessed."""
        return None if self._speculator is None else self._speculator.counts

    def cancel(self) -> None:
        """Ends it, from any thread, also in the middle of an evaluation, which is undone."""
        self._cancel.set()

    def close(self) -> None:
        """Ends it here; frees its session if that was made for it."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
        if self._own_session:
            self.session.close()

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _step(self) -> str:
        """Generates a token, and more where guesses are right, or finds the end; the text certain by then."""
        if self._cancel.is_set():
            return self._finish("cancelled")
        if self._max_tokens is not None and len(self.ids) >= self._max_tokens:
            return self._finish("length")
        try:
            if not self._rows:
                with self.session.cancelled_by(self._cancel):
                    self._evaluate()
        except DcaError as error:
            if error.status == Status.CANCELLED and self._cancel.is_set():
                return self._finish("cancelled")
            if error.status == Status.CONTEXT and self.ids:
                if self._max_tokens is None:
                    return self._finish("length")
                raise self._full() from error
            raise
        guessed = len(self._guesses)
        text, right, checked = "", 0, 0
        try:
            while self._rows and self.finish_reason is None:
                id_ = self._choose(self._rows[0])
                follows = bool(self._guesses) and self._guesses[0] == id_
                checked += bool(self._guesses)
                self._rows, self._guesses = (self._rows[1:], self._guesses[1:]) if follows else ([], [])
                text += self._push(id_)
                right += follows and self.finish_reason is None
        finally:
            # The last token chosen is never evaluated, unless choosing the next one failed.
            self._forget_guesses(guessed, right, checked)
        return text

    def _push(self, id_: int) -> str:
        """The text that is certain by one more token; finds the end."""
        if id_ in self._tokenizer.end_ids:
            self.ended = True
            return self._finish("stop")
        piece = self._stops.push(self._stream.push(id_))
        if self._stops.found is not None:
            self.stop_text = self._stops.found
            self.finish_reason = "stop"
        return piece

    def _forget_guesses(self, guessed: int, right: int, checked: int) -> None:
        """Leaves only the first ``right`` of the ``guessed`` tokens in the session."""
        self._rows, self._guesses = self._rows[:1] if self.finish_reason is None else [], []
        if guessed > right:
            self.session.truncate(self.session.length - (guessed - right))
        self.decoded_tokens += right
        if self._speculator is not None and guessed:
            self._speculator.saw(right, checked)

    def _evaluate(self) -> None:
        start = time.perf_counter()
        if self._history is None:
            self._whole = self._whole or [*self.session.ids.tolist(), *map(int, self._next)]
            start = time.perf_counter()
            if self._prompts is not None:
                self._load_and_read(self._prompts)
            self._rows = [self.session.eval(self._next)]
            self.prompt_seconds = time.perf_counter() - start
            self._history = self._whole
            self._sampler.see(self._history)
            if self._speculator is not None:
                self._speculator.see(self._history)
            return
        guesses = self._guess()
        self._rows = self._evaluated([*self._next, *guesses])
        self._guesses = guesses
        seconds = time.perf_counter() - start
        self.decode_seconds += seconds
        self.decoded_tokens += 1
        if self._speculator is not None:
            self._speculator.took(seconds)

    def _evaluated(self, ids: TokenIds) -> list[int] | list[np.ndarray]:
        """What follows each of ``ids``; logits only where Python looks at them."""
        if not self._sees_logits:
            return self.session.sample(ids, self._sampler.sampling, every=True)
        return list(self.session.eval(ids, all_logits=True))

    def _guess(self) -> list[int]:
        """Tokens that may follow the next one; as many as there is room for and tokens are wanted of."""
        if self._speculator is None or not self._speculator.may_guess():
            return []
        room = self._context - self.session.length - 1
        wanted = room if self._max_tokens is None else self._max_tokens - len(self.ids) - 1
        return self._speculator.guess(min(room, wanted))

    def _load_and_read(self, prompts: "Prompts") -> None:
        from dca_runtime.prompt_store.reading import read_prompt

        self.stored_tokens += read_prompt(self.session, prompts, self._whole, self._on_read)
        self._next = self._whole[self.session.length :]

    def _choose(self, row: int | np.ndarray) -> int:
        assert self._history is not None
        id_ = row if isinstance(row, int) else self._picked(row)
        self._history.append(id_)
        if self._speculator is not None:
            self._speculator.see([id_])
        self.ids.append(id_)
        self._next = [id_]
        return id_

    def _picked(self, logits: np.ndarray) -> int:
        assert self._history is not None
        processed = logits
        for process in self._processors:
            if processed is logits:
                processed = logits.copy()
            returned = process(self._history.copy(), processed)
            processed = processed if returned is None else _checked(returned, logits)
        id_ = self._sampler.pick(processed)
        if self._top is not None:
            self.logprobs.append(token_logprob(logits, id_, self._top))
        return id_

    def _finish(self, reason: str) -> str:
        rest = self._stops.push(self._stream.flush())
        if self._stops.found is not None:
            self.stop_text = self._stops.found
        self.finish_reason = reason if self._stops.found is None else "stop"
        return rest + self._stops.flush()

    def _full(self) -> DcaError:
        return DcaError(
            f"the context of {self.session.info.context} tokens is full after {len(self.ids)} "
            "generated tokens; give the session a larger context",
            Status.CONTEXT,
        )


def token_limit(max_tokens: int | None) -> int | None:
    """``max_tokens`` with None for "until the context is full"; DcaError if it is no such number."""
    if max_tokens is None or max_tokens == -1:
        return None
    return _count(max_tokens, "max_tokens", " (None or -1: until the context is full)")


def _count(value: int, what: str, more: str = "") -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise DcaError(f"{what} must be an integer of at least 0{more}, got {value!r}")
    return number


def _checked(returned: np.ndarray, logits: np.ndarray) -> np.ndarray:
    array = np.asarray(returned)
    if array.shape != logits.shape or not np.issubdtype(array.dtype, np.floating):
        raise DcaError(
            f"a processor must return floating-point logits of shape {logits.shape} or None, "
            f"got {array.dtype} {array.shape}"
        )
    return array
