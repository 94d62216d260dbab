"""A session: the KV cache of one sequence, and the calls that extend it."""

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dca_runtime import _ffi, _pages, attention, prefill, process
from dca_runtime._convert import (
    LOGITS_ALL,
    LOGITS_LAST,
    LOGITS_NONE,
    c_path,
    fill_cache_options,
    scheme_of,
    token_array,
)
from dca_runtime._ffi import ffi
from dca_runtime.errors import DcaError, Status
from dca_runtime.options import Scheme, SessionOptions, TokenIds
from dca_runtime.sampling import Sampling, drawn_seed, sampling_struct


@dataclass(frozen=True)
class SessionInfo:
    """How full a session is and what it holds. Lengths count tokens; sizes are in bytes."""

    length: int
    context: int
    cache_bytes: int
    scratch_bytes: int
    scheme: Scheme | None  # in force: local_window 0 in the ablations; None: plain attention, or a border
    density: tuple[tuple[float, ...], ...] | None = None
    """of sparse prefill, by layer and query head: the share of the pairs of a query and a key that was
    computed, over all tokens not evaluated alone; NaN where there were none. None: prefill is dense"""
    border: str | None = None
    """in force, as ``Model.session`` takes it ("string:680/128"); None: attention has none that moves"""


class Session:
    """One sequence in a model. Made by ``Model.session``; works on after the last reference to the model.

    One thread at a time may use it. A context manager; ``close`` frees the cache.
    """

    def __init__(
        self, native_model: Any, n_vocab: int, device: str, options: SessionOptions, heads: tuple[int, int]
    ) -> None:
        """``native_model`` is an open ``dca_model *`` on ``device`` that knows ``n_vocab`` tokens; ``heads``:
        its layers and the query heads of each."""
        self.n_vocab = n_vocab
        self.device = device  # as ModelInfo.device
        self.prefill = prefill.parse(options.prefill).name
        self._heads = heads
        self.beyond: tuple[float, float] | None = None  # speculation.beyond_one_row of the model
        self.attention = attention.parse(options.attention).name
        self.cache_type = options.cache_type
        self.rope = options.rope
        self._callback = _ffi.Callback(options.progress)
        self._busy = threading.Lock()
        self._converted: tuple[Sampling, dict[int, float], Any] | None = None  # the last one, its biases
        self._home = process.Home()
        lib = _ffi.lib()
        native = ffi.new("dca_session **")
        _ffi.check(lib.dca_session_create(native_model, _native_options(options, self._callback), native))
        self._native = native[0]
        # The finalizer holds the native model, so that it goes after the session in any order of collection.
        self._free = weakref.finalize(self, _free, lib, native[0], native_model, self._home)

    def close(self) -> None:
        """Frees the session. Does nothing the second time, nor in a forked child."""
        if self._home.left():
            return
        with self._exclusive(may_be_closed=True):
            self._free()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def eval(self, ids: TokenIds, all_logits: bool = False) -> np.ndarray:
        """Appends tokens; float32 logits (n_vocab,) after the last, or (len(ids), n_vocab) after each.

        Call again to continue. Raises DcaError: an id is out of range, or the tokens do not fit in the
        context; the session is then as long as before, as it is when Ctrl-C or ``progress`` cancels.
        """
        tokens = token_array(ids, self.n_vocab)
        logits = np.empty((len(tokens), self.n_vocab) if all_logits else self.n_vocab, np.float32)
        which = LOGITS_ALL if all_logits else LOGITS_LAST
        self._append(_ffi.lib().dca_session_eval, tokens, which, *_floats(logits))
        return logits

    def append(self, ids: TokenIds) -> None:
        """Appends tokens without computing logits: fills the cache only."""
        self._append(_ffi.lib().dca_session_eval, token_array(ids, self.n_vocab), LOGITS_NONE, ffi.NULL, 0)

    def score(self, ids: TokenIds) -> np.ndarray:
        """Appends tokens; float32 (len(ids) - 1,): -log p(ids[i+1] | everything up to ids[i]).

        Natural logarithm. Never holds more than a block's logits.
        """
        tokens = token_array(ids, self.n_vocab)
        nll = np.empty(max(len(tokens) - 1, 0), np.float32)
        self._append(_ffi.lib().dca_session_score, tokens, *_floats(nll))
        return nll

    def sample(self, ids: TokenIds, sampling: Sampling, every: bool = False) -> list[int]:
        """Appends tokens, then chooses the token that follows the last, or with ``every`` each of them.

        The choices are those of a Sampler that has seen the session's tokens and ``ids``, made where the
        logits are. A sampling without a seed has one drawn for the call. Raises DcaError as ``eval`` does,
        and where no token may be chosen; the session is then as long as before.
        """
        tokens = token_array(ids, self.n_vocab)
        drawn = sampling.seed is None and sampling.temperature > 0
        known = self._converted
        # The owner of the biases may have changed them.
        if drawn or known is None or known[0] is not sampling or known[1] != sampling.logit_bias:
            struct = sampling_struct(sampling, drawn_seed(sampling), self.n_vocab)
            self._converted = known = sampling, dict(sampling.logit_bias), struct
        native, _kept = known[2]
        choices = ffi.new("dca_choice[]", len(tokens) if every else 1)
        which = LOGITS_ALL if every else LOGITS_LAST
        self._append(_ffi.lib().dca_session_sample, tokens, which, native, choices)
        chosen = [choice.token for choice in choices]
        if min(chosen) < 0:
            self.truncate(self.length - len(tokens))
            raise DcaError(
                "no token may be chosen: all are forbidden, or the model gave logits that are not numbers",
                Status.INTERNAL,
            )
        return chosen

    def collect_squares(self) -> None:
        """Counts what flows into every matrix from here on; ``squares`` gives the sums. Costs a little time.

        Raises DcaError where the device does not count it: only the CPU does.
        """
        with self._exclusive():
            _ffi.check(_ffi.lib().dca_session_collect_squares(self._native))

    def squares(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By tensor, since ``collect_squares``: sums of the squares of its inputs, and over how many.

        float64 (matrices, columns) and (matrices,); matrices are the experts stacked in a tensor, or one. Of
        experts no input came to, zeros.
        """
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

        @ffi.callback("dca_squares_visitor")
        def visit(native: Any, user: Any) -> None:
            name = bytes(ffi.buffer(native.tensor, native.tensor_bytes)).decode("utf-8", "replace")
            sums = np.frombuffer(ffi.buffer(native.sums, native.columns * 8), np.float64).copy()
            if name not in found:
                found[name] = (np.zeros((native.matrices, native.columns)), np.zeros(native.matrices))
            found[name][0][native.matrix], found[name][1][native.matrix] = sums, native.rows

        with self._exclusive():
            _ffi.check(_ffi.lib().dca_session_each_squares(self._native, visit, ffi.NULL))
        return found

    def truncate(self, length: int) -> None:
        """Forgets every token from index ``length`` on; what comes before stays valid."""
        with self._exclusive():
            tokens = _ffi.integer(length, 0, "length")
            if tokens > self._read_info().length:
                raise DcaError(
                    f"cannot truncate to {length} tokens: the session has {self._read_info().length}"
                )
            _ffi.check(_ffi.lib().dca_session_truncate(self._native, tokens))

    def exact_prefix(self, other: "Session") -> int:
        """How many tokens from the start of a sequence both sessions give the very same keys and values.

        The smaller chunk size where only the attention differs: inside the first chunk every attention is
        the ordinary one. 2**31 where nothing differs; 0 where the model, cache type or RoPE does.
        """
        if other is self:
            return 2**31
        with self._exclusive(), other._exclusive():
            length = ffi.new("uint32_t *")
            _ffi.check(_ffi.lib().dca_session_exact_prefix(self._native, other._native, length))
            return length[0]

    def copy_prefix(self, other: "Session", length: int) -> None:
        """Makes the first ``length`` tokens of ``other`` all that this session holds; evaluates nothing.

        Raises DcaError, and leaves the session as it is: ``length`` is above ``exact_prefix``, the tokens
        in ``other`` or the context here; or ``other`` is this session.
        """
        if other is self:
            raise DcaError("a session cannot copy from itself")
        with self._exclusive(), other._exclusive():
            tokens = _ffi.integer(length, 0, "length")
            _ffi.check(_ffi.lib().dca_session_copy_prefix(self._native, other._native, tokens))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what the session holds to ``path``, whole or not at all; see ``load``. Raises DcaError."""
        with self._exclusive():
            _ffi.check(_ffi.lib().dca_session_save(self._native, c_path(path)))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replaces what the session holds with what ``save`` wrote.

        Raises DcaError: the file was written under another model, scheme, RoPE or cache type or on another
        kind of device, it does not fit in the context, or a byte of it is damaged. The session is empty then.
        """
        with self._exclusive():
            _ffi.check(_ffi.lib().dca_session_load(self._native, c_path(path)))

    @property
    def setup(self) -> _pages.Setup:
        """What its keys and values depend on beside the tokens."""
        with self._exclusive():
            return _pages.setup(_ffi.lib().dca_session_setup, self._native)

    def read_pages(self, first: int, count: int, out: Any) -> None:
        """As ``TokenSequence.read_pages``."""
        with self._exclusive():
            _pages.read(_ffi.lib().dca_session_read_pages, self._native, first, count, out)

    def append_pages(self, ids: TokenIds, pages: Any) -> None:
        """As ``TokenSequence.append_pages``."""
        with self._exclusive():
            tokens = token_array(ids, self.n_vocab)
            _pages.append(_ffi.lib().dca_session_append_pages, self._native, tokens, pages)

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        with self._exclusive():
            return self._read_info().length

    @property
    def ids(self) -> np.ndarray:
        """The tokens in the cache, int32 (length,)."""
        with self._exclusive():
            length = self._read_info().length
            if length == 0:
                return np.empty(0, np.int32)
            tokens = _ffi.lib().dca_session_tokens(self._native)
            return np.frombuffer(ffi.buffer(tokens, 4 * length), np.int32).copy()

    @contextlib.contextmanager
    def cancelled_by(self, event: threading.Event) -> Iterator[None]:
        """Long calls in the block end once ``event`` is set, by any thread: DcaError(Status.CANCELLED)."""
        before, self._callback.cancel = self._callback.cancel, event
        try:
            yield
        finally:
            self._callback.cancel = before

    @property
    def info(self) -> SessionInfo:
        """How full the session is and what memory it holds."""
        with self._exclusive():
            info = self._read_info()
            density = None
            if self.prefill != "dense":
                density = prefill.density(_ffi.lib().dca_session_density, self._native, self._heads)
            return SessionInfo(
                info.length,
                info.context,
                info.cache_bytes,
                info.scratch_bytes,
                scheme_of(info.scheme),
                density,
                attention.in_force(info),
            )

    def selection(self) -> list[prefill.Selection]:
        """What sparse prefill has chosen so far, if the session was made with ``record_selection``."""
        with self._exclusive():
            return prefill.selections(self._native)

    def line_selection(self) -> list[prefill.LineSelection]:
        """The same with ``prefill="stated"``: columns and diagonals."""
        with self._exclusive():
            return prefill.line_selections(self._native)

    @contextlib.contextmanager
    def _exclusive(self, may_be_closed: bool = False) -> Iterator[None]:
        """Refuses a second user: another thread, or the progress callback of a call that still runs."""
        self._home.check()
        with process.calling():
            if not self._busy.acquire(blocking=False):
                raise DcaError("the session is busy: a call on it has not returned yet")
            try:
                if not (self._free.alive or may_be_closed):
                    raise DcaError("the session is closed")
                yield
            finally:
                self._busy.release()

    def _append(self, call: Any, tokens: np.ndarray, *arguments: Any) -> None:
        """``call(session, tokens, how many, *arguments)``."""
        with self._exclusive():
            length = self._read_info().length
            status = call(self._native, ffi.from_buffer("int32_t[]", tokens), len(tokens), *arguments)
            try:
                self._callback.reraise()
            except BaseException:
                # The exception may come too late to cancel; the caller still sees nothing appended.
                _ffi.check(_ffi.lib().dca_session_truncate(self._native, length))
                raise
            _ffi.check(status)

    def _read_info(self) -> Any:
        info = ffi.new("dca_session_info *")
        info.size = ffi.sizeof("dca_session_info")
        _ffi.check(_ffi.lib().dca_session_get_info(self._native, info))
        return info


def _floats(out: np.ndarray) -> tuple[Any, int]:
    """A float array as C takes it, and its size."""
    return ffi.from_buffer("float[]", out, require_writable=True), out.size


def _native_options(options: SessionOptions, callback: _ffi.Callback) -> Any:
    native = _ffi.options("dca_session_options")
    native.context = _ffi.integer(options.context, 1, "context")
    native.prefill_block = _ffi.integer(options.prefill_block, 0, "prefill_block")
    native.record_selection = bool(options.record_selection)
    fill_cache_options(native, options, callback)
    return native


def _free(lib: Any, native: Any, native_model: Any, home: process.Home) -> None:
    if process.may_free(home):
        lib.dca_session_free(native)
