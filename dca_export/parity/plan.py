"""What is compared: which attention and scheme, over how many tokens, fed how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dca_export.errors import InputError
from dca_export.parity.feeding import (
    Piece,
    chunk_borders,
    scheme_for,
    single,
    uneven,
    whole,
)
from dca_export.reference import borders
from dca_export.reference.borders import Border, String
from dca_export.scheme import Scheme
from dca_runtime.options import BORDERS, ROPES

SHORTEST = 18  # tokens: four chunk borders with a chunk of four

# Tokens decoded one at a time in a part, on a CPU and on a GPU.
DECODED_CPU, DECODED_GPU = 256, 1 << 20
# Tokens over which a GPU is held against the exact reference; the flash reference takes the whole length.
EXACT_ON_GPU = 1024


@dataclass(frozen=True)
class Group:
    """Parts that share one pass of the reference."""

    title: str
    length: int
    """tokens"""
    scheme: Scheme | None
    """None: plain attention"""
    override: bool
    """whether the session is told the scheme; otherwise it takes the file's"""
    precision: Literal["exact", "flash"]
    """the reference's: eager in float32, or flash attention in 16 bits"""
    feeds: dict[str, list[Piece]]
    """name of a part → how its tokens are fed"""
    prefill: str = "dense"
    """as Model.session takes it"""
    border: Border | None = None
    """in place of a scheme"""
    rope: str | None = None
    """in place of the model's scaling, as Model.session takes it"""

    @property
    def session_options(self) -> dict:
        """What makes a session of dca_runtime run this group."""
        more = {} if self.prefill == "dense" else {"prefill": self.prefill}
        if self.rope is not None:
            more["rope"] = self.rope
        if self.border is not None:
            return {"attention": borders.name(self.border) if self.override else "auto"} | more
        if self.scheme is None:
            return {"attention": "plain"} | more
        if not self.override:
            return {"attention": "auto"} | more
        s = self.scheme
        lengths = (s.chunk_size, s.local_window, s.pretraining_length)
        scheme = (*lengths, s.logit_scale, s.logit_scale_length)
        return {"attention": "dca", "scheme": scheme} | more


def plan(
    length: int,
    scheme: Scheme | None,
    n_vocab: int,
    gpu: bool,
    flash: bool,
    string: String | None = None,
) -> list[Group]:
    """The groups for a file with this scheme or STRING's border (None: without one) and `length` tokens.

    `gpu`: the runtime is on a GPU. `flash`: the reference is too, and takes the whole length in 16 bits;
    the exact comparisons then cover a prefix. Raises InputError if the length is too short.
    """
    if length < SHORTEST:
        raise InputError(f"--length is {length}, must be at least {SHORTEST} to cross chunk borders")
    budget = DECODED_GPU if gpu else DECODED_CPU
    groups = []
    if flash:
        groups.append(
            _group(
                "DCA, flash reference" if scheme else "plain, flash reference",
                length,
                scheme,
                n_vocab,
                budget,
                "flash",
            )
        )
        if string is not None:
            groups.append(_string(length, string, n_vocab, budget, "flash"))
        length = min(length, EXACT_ON_GPU)
    if scheme is not None:
        exact = _group("DCA", length, scheme, n_vocab, budget, "exact")
        groups.append(exact)
        if exact.override and chunk_borders(length, scheme):  # before its first border it is plain attention
            feeds = {"whole prefill": whole(length, n_vocab)}
            groups.append(Group("DCA, the file's scheme", length, scheme, False, "exact", feeds))
    if string is not None:
        groups.append(_string(length, string, n_vocab, budget, "exact"))
        if groups[-1].override and length > string.border:  # before its border it is plain attention
            feeds = {"whole prefill": whole(length, n_vocab)}
            title = f"{borders.name(string)}, the file's border"
            groups.append(Group(title, length, None, False, "exact", feeds, border=string))
    groups.append(_group("plain", length, None, n_vocab, budget, "exact"))
    return groups


def plan_methods(
    length: int, methods: Sequence[str], scheme: Scheme | None, n_vocab: int, gpu: bool
) -> list[Group]:
    """Groups for methods that are named: "plain", "dca" (the file's scheme) or a rule of borders.py that the
    runtime has, with "@KIND:F" behind it for a RoPE scaling. Raises InputError."""
    budget = DECODED_GPU if gpu else DECODED_CPU
    groups = []
    for text in methods:
        named, at, rope = text.partition("@")
        if at and not _is_rope(rope):
            raise InputError(f"--attention {text!r}: expected KIND:F of {', '.join(ROPES)} after the @")
        border = None
        if named not in ("plain", "dca"):
            if named.partition(":")[0] not in BORDERS:
                known = ", ".join(("plain", "dca", *BORDERS))
                raise InputError(f"--attention {text!r}: the runtime has {known}")
            try:
                border = borders.named(named)
            except ValueError as error:
                raise InputError(f"--attention {text!r}: {error}") from None
            if length <= border.window:
                raise InputError(f"--attention {text!r}: --length is {length}, must be above {border.window}")
        if named == "dca" and scheme is None:
            raise InputError(f"--attention {text!r}: the file has no scheme")
        used = scheme_for(length, scheme) if named == "dca" and scheme is not None else None
        cuts = [border.window] if border is not None else chunk_borders(length, used)
        feeds = _feeds(length, n_vocab, cuts, budget)
        groups.append(Group(text, length, used, True, "exact", feeds, border=border, rope=rope or None))
    return groups


def _is_rope(text: str) -> bool:
    kind, _, factor = text.partition(":")
    try:
        return kind in ROPES and 1 <= float(factor) < float("inf")
    except ValueError:
        return False


def _string(
    length: int, string: String, n_vocab: int, budget: int, precision: Literal["exact", "flash"]
) -> Group:
    """STRING's border, or one so much nearer that two thirds of the queries see keys beyond it."""
    border = min(string.border, max(1, length // 3))
    used = String(border, min(border, string.local * border // string.border))
    feeds = _feeds(length, n_vocab, [border], budget)
    title = borders.name(used) + (", flash reference" if precision == "flash" else "")
    return Group(title, length, None, used != string, precision, feeds, border=used)


def _group(
    title: str,
    length: int,
    scheme: Scheme | None,
    n_vocab: int,
    budget: int,
    precision: Literal["exact", "flash"],
) -> Group:
    used = None if scheme is None else scheme_for(length, scheme)
    feeds = _feeds(length, n_vocab, chunk_borders(length, used), budget)
    return Group(title, length, used, used != scheme, precision, feeds)


def _feeds(length: int, n_vocab: int, cuts: list[int], budget: int) -> dict[str, list[Piece]]:
    """Every way of feeding; single tokens around `cuts` where not all are."""
    return {
        "whole prefill": whole(length, n_vocab),
        "uneven pieces": uneven(length),
        "token by token": single(length, cuts, budget),
    }
