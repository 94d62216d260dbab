"""Steps of many sequences together: what they append, score and choose, and how full their pool is."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dca_runtime import _ffi, attention, prefill, process
from dca_runtime._convert import LOGITS_LAST, c_path, fill_cache_options, scheme_of
from dca_runtime._ffi import ffi
from dca_runtime.engine import _feeds
from dca_runtime.engine._samplings import Samplings
from dca_runtime.engine.handle import EngineHandle
from dca_runtime.engine.sequence import TokenSequence
from dca_runtime.errors import DcaError, Status
from dca_runtime.options import EngineOptions, Scheme, TokenIds
from dca_runtime.sampling import Sampling


@dataclass(frozen=True)
class EngineInfo:
    """How full an engine is and what memory it holds. Sizes are in bytes."""

    tokens: int  # room of the pool, all sequences together
    tokens_used: int  # in whole pages; pages that sequences share count once
    page_tokens: int
    max_rows: int  # tokens of one step at most
    cache_bytes: int
    scratch_bytes: int
    scheme: Scheme | None  # in force: local_window 0 in the ablations; None: plain attention, or a border
    density: tuple[tuple[float, ...], ...] | None = None  # as in SessionInfo, over all sequences
    border: str | None = None  # as in SessionInfo
    tokens_leaving: int = 0  # of tokens_used: in pages that will be free once they have left for host memory


class Choice(NamedTuple):
    """A token chosen, and log-probabilities of the model's own distribution (natural logarithm)."""

    token: int
    logprob: float  # not a number where it was not asked for
    top: list[tuple[int, float]]  # the likeliest tokens with theirs, likeliest first


Item: TypeAlias = (
    tuple[TokenSequence, TokenIds, Sampling]
    | tuple[TokenSequence, TokenIds, Sampling, np.ndarray | None]
    | tuple[TokenSequence, TokenIds, Sampling, np.ndarray | None, int]
)


class Engine(EngineHandle):
    """Steps many sequences at once over one pool of pages. Made by ``Model.engine``.

    One thread at a time may use it and its sequences. A context manager; ``close`` frees all of it.
    """

    def __init__(
        self, native_model: Any, n_vocab: int, options: EngineOptions, heads: tuple[int, int]
    ) -> None:
        """``native_model`` is an open ``dca_model *``, whose vocabulary has ``n_vocab`` tokens;
        ``heads``: its layers and the query heads of each."""
        self.prefill = prefill.parse(options.prefill).name
        self._heads = heads
        self.attention = attention.parse(options.attention).name
        self.cache_type = options.cache_type
        self._callback = _ffi.Callback(options.progress)
        native_options = _ffi.options("dca_engine_options")
        native_options.tokens = _ffi.integer(options.tokens, 1, "tokens")
        native_options.max_rows = _ffi.integer(options.max_rows, 0, "max_rows")
        fill_cache_options(native_options, options, self._callback)
        native = ffi.new("dca_engine **")
        _ffi.check(_ffi.lib().dca_engine_create(native_model, native_options, native))
        super().__init__(native[0], native_model, n_vocab)
        self._samplings = Samplings(n_vocab)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sequence(self) -> TokenSequence:
        """A new, empty sequence."""
        with self._exclusive():
            native = ffi.new("dca_sequence **")
            _ffi.check(_ffi.lib().dca_sequence_create(self._native, native))
            return TokenSequence(self, native[0])

    def load(self, path: str | os.PathLike[str]) -> TokenSequence:
        """A new sequence with what ``TokenSequence.save`` wrote, by this or another program.

        Raises DcaError: the file was written under another model, scheme, RoPE or cache type or on another
        kind of device, the pool has no room, or a byte of the file is damaged.
        """
        with self._exclusive():
            native = ffi.new("dca_sequence **")
            _ffi.check(_ffi.lib().dca_sequence_load(self._native, c_path(path), native))
            return TokenSequence(self, native[0])

    def eval(self, items: Sequence[tuple[TokenSequence, TokenIds]], logits: bool = True) -> list[np.ndarray]:
        """Appends tokens to sequences; float32 logits (n_vocab,) after the last of each, in order.

        Prefill of several tokens and single tokens mix: what fits in a step runs together. logits=False
        fills caches only and gives []. Raises DcaError: a sequence occurs twice, an id is out of range, the
        pool has no room. Every sequence is then as before, as when Ctrl-C or ``progress`` cancels.
        """
        out = [np.empty(self.n_vocab, np.float32) for _ in items] if logits else []
        with self._exclusive():
            feeds, _kept = self._feeds(items)
            for feed, row in zip(feeds, out, strict=False):
                feed.which = LOGITS_LAST
                feed.out = ffi.from_buffer("float[]", row, require_writable=True)
                feed.capacity = row.size
            self._call(_ffi.lib().dca_engine_eval, feeds)
        return out

    def score(self, items: Sequence[tuple[TokenSequence, TokenIds]]) -> list[np.ndarray]:
        """Appends tokens; for each sequence float32 (len(ids) - 1,): -log p(ids[i+1] | all up to ids[i])."""
        with self._exclusive():
            feeds, _kept = self._feeds(items)
            out = [np.empty(max(feed.n - 1, 0), np.float32) for feed in feeds]
            for feed, nll in zip(feeds, out, strict=True):
                feed.out = ffi.from_buffer("float[]", nll, require_writable=True)
                feed.capacity = nll.size
            self._call(_ffi.lib().dca_engine_score, feeds)
        return out

    def sample(self, items: Sequence[Item]) -> list[int]:
        """Appends tokens, then chooses the token that follows each: its id, not yet appended.

        An item is (sequence, ids, Sampling) or (sequence, ids, Sampling, mask), mask a uint32 array of
        (n_vocab + 31) // 32 words whose bit t % 32 of word t // 32 allows token t, or None; a fifth part is
        how many tokens count as recent, in place of the sampling's repeat_window. A choice depends on the
        logits, the sampling with its seed and the token's index, never on who else is in the batch. Raises
        DcaError as ``eval`` does, and where no token may be chosen.
        """
        with self._exclusive():
            choices, _ = self._chosen(items, [None] * len(items))
            return _feeds.chosen(choices)

    def choose(self, items: Sequence[Item], top_logprobs: int | Sequence[int | None] = 0) -> list[Choice]:
        """As ``sample``, with log-probabilities: the chosen token's and the ``top_logprobs`` largest.

        top_logprobs: how many for all items, or for each; None there: not even the chosen token's, which is
            then not a number, and the step costs no more than ``sample``.
        """
        if isinstance(top_logprobs, Sequence):
            if len(top_logprobs) != len(items):
                raise DcaError(
                    f"top_logprobs must be one for each of {len(items)} items, got {len(top_logprobs)}"
                )
            wanted = [None if top is None else _top(top) for top in top_logprobs]
        else:
            wanted = [_top(top_logprobs)] * len(items)
        with self._exclusive():
            choices, samplings = self._chosen(items, wanted)
            return [
                Choice(choice.token, math.nan, [])
                if top is None
                else Choice(choice.token, choice.logprob, [(one.token, one.value) for one in likeliest])
                for choice, (_, _, likeliest), top in zip(choices, samplings, wanted, strict=True)
            ]

    def add_slots(self, count: int) -> int:
        """Makes room for ``count`` more pages in host memory (``TokenSequence.park_pages``).

        Gives how many slots there are then. They are numbered from 0 on and freed with the engine. Any thread
        may call this while the engine is used; closing it waits. Raises DcaError (status MEMORY), and makes
        none.
        """
        self._home.check()
        slots = ffi.new("uint32_t *")
        with process.calling(), self._beside:
            if not self._open:
                raise DcaError("the engine is closed")
            _ffi.check(_ffi.lib().dca_engine_add_slots(self._native, _ffi.integer(count, 0, "count"), slots))
        return slots[0]

    @property
    def info(self) -> EngineInfo:
        """How full the engine is and what memory it holds."""
        with self._exclusive():
            info = self._native_info()
            density = None
            if self.prefill != "dense":
                density = prefill.density(_ffi.lib().dca_engine_density, self._native, self._heads)
            fields: dict[str, Any] = {"scheme": scheme_of(info.scheme), "density": density}
            fields["border"] = attention.in_force(info)
            for name in EngineInfo.__dataclass_fields__:
                if name not in fields:
                    fields[name] = getattr(info, name)
            return EngineInfo(**fields)

    @property
    def room(self) -> tuple[int, int]:
        """Pages that are free, and pages that will be once they have left for host memory."""
        with self._exclusive():
            info = self._native_info()
            used, leaving = info.tokens_used // info.page_tokens, info.tokens_leaving // info.page_tokens
            return -(-info.tokens // info.page_tokens) - used, leaving

    def _native_info(self) -> Any:
        info = ffi.new("dca_engine_info *")
        info.size = ffi.sizeof("dca_engine_info")
        _ffi.check(_ffi.lib().dca_engine_get_info(self._native, info))
        return info

    def _chosen(
        self, items: Sequence[Item], tops: Sequence[int | None]
    ) -> tuple[Any, list[tuple[Any, Any, Any]]]:
        """(dca_choice[], the samplings as they were asked for); tops: as ``choose`` takes them, for each."""
        feeds, _kept = self._feeds(items)
        samplings = self._samplings.of(items, tops)
        choices = ffi.new("dca_choice[]", len(items))
        pointers = ffi.new("dca_sampling *[]", [native for native, *_ in samplings])
        self._call(_ffi.lib().dca_engine_sample, feeds, pointers, choices)
        for index, token in enumerate(_feeds.chosen(choices)):
            if token < 0:
                raise DcaError(
                    f"item {index}: no token may be chosen: the mask allows none, or no logit is a number"
                )
        return choices, samplings

    def _feeds(self, items: Sequence[Any]) -> tuple[Any, list[Any]]:
        """(dca_feed[] that ask for no logits, what they point to)."""
        sequences = [item[0] for item in items]
        if any(sequence.engine is not self for sequence in sequences):
            raise DcaError("the sequence belongs to another engine")
        addresses = [sequence._address for sequence in sequences]
        if not all(addresses):
            raise DcaError("the sequence is closed")
        return _feeds.feeds(addresses, [item[1] for item in items], self.n_vocab)

    def _call(self, call: Any, feeds: Any, *more: Any) -> None:
        # One call of the library a step: each lets go of Python's lock, which others then keep for a while.
        if more:
            status = call(self._native, feeds, more[0], len(feeds), more[1])
        else:
            status = call(self._native, feeds, len(feeds))
        try:
            self._callback.reraise()
        except BaseException:
            # The exception may come too late to cancel; the caller still sees nothing appended.
            if status == Status.OK:
                lib = _ffi.lib()
                for feed in feeds:
                    length = lib.dca_sequence_length(feed.sequence) - feed.n
                    _ffi.check(lib.dca_sequence_truncate(feed.sequence, length))
            raise
        _ffi.check(status)


def _top(count: int) -> int:
    return _ffi.integer(count, 0, "top_logprobs", most=1024)
