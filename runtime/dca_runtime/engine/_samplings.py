"""How tokens are chosen, in C: what comes again, in a step or the next, is converted once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dca_runtime import _ffi
from dca_runtime._ffi import ffi
from dca_runtime.errors import DcaError
from dca_runtime.sampling import Sampling, drawn_seed, sampling_struct


class Samplings:
    """Those of one engine's items (``Engine.sample``): the last step's are kept, for the next one."""

    def __init__(self, n_vocab: int) -> None:
        self._n_vocab = n_vocab
        self._known: dict[tuple[int, int | None, bool], tuple[Sampling, dict, Any]] = {}

    def of(self, items: Sequence[Any], tops: Sequence[int | None]) -> list[tuple[Any, Any, Any]]:
        """(dca_sampling *, what it points to, where the likeliest tokens will be) for every item.

        tops: how many of those are wanted of each; None: not even the chosen token's log-probability.
        """
        converted = []
        before, self._known = self._known, {}  # what this step does not use again is over, or seldom
        filled = set()  # those that are one item's in this step: its window, its place for the likeliest
        for item, top in zip(items, tops, strict=True):
            sampling, own_window = item[2], len(item) > 4
            masked = len(item) > 3 and item[3] is not None
            key = id(sampling), top, own_window
            taken = key in filled
            known = None if masked or taken else before.get(key)
            if known is None or known[1] != sampling.logit_bias:
                # Holds the object, so that its id stays its own, and the biases: their owner may change them.
                known = sampling, dict(sampling.logit_bias), self._one(item, top)
            drawn = sampling.seed is None and sampling.temperature > 0  # a seed for each item
            if not (drawn or masked or taken):
                self._known[key] = before[key] = known
            if own_window:
                window = _ffi.integer(item[4], 0, "how many tokens count as recent", most=2**63)
                known[2][0].penalty_window = min(window, 2**32 - 1)
            if own_window or top is not None:
                filled.add(key)
            converted.append(known[2])
        return converted

    def _one(self, item: Any, top: int | None) -> tuple[Any, Any, Any]:
        native, biases = sampling_struct(item[2], drawn_seed(item[2]), self._n_vocab)
        mask = item[3] if len(item) > 3 else None
        if mask is not None:
            words = (self._n_vocab + 31) // 32
            wanted = f"a mask must have {words} words of 32 bits"
            try:
                mask = np.ascontiguousarray(mask, np.uint32)
            except (TypeError, ValueError, OverflowError) as error:
                raise DcaError(f"{wanted}: {error}") from None
            if mask.shape != (words,):
                raise DcaError(f"{wanted}, got shape {mask.shape}")
            native.allowed = ffi.from_buffer("uint32_t[]", mask)
        likeliest = ffi.new("dca_token_value[]", min(top or 0, self._n_vocab))
        native.logprob = top is not None
        native.top_logprobs = len(likeliest)
        native.top = likeliest if len(likeliest) else ffi.NULL
        return native, (biases, mask), likeliest
