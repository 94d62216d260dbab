"""What is compared: which attention and scheme, over how many tokens, fed how."""

from __future__ import annotations

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
from dca_export.scheme import Scheme

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

    @property
    def session_options(self) -> dict:
        """What makes a session of dca_runtime run this group."""
        prefill = {} if self.prefill == "dense" else {"prefill": self.prefill}
        if self.scheme is None:
            return {"attention": "plain"} | prefill
        if not self.override:
            return {"attention": "auto"} | prefill
        s = self.scheme
        lengths = (s.chunk_size, s.local_window, s.pretraining_length)
        scheme = (*lengths, s.logit_scale, s.logit_scale_length)
        return {"attention": "dca", "scheme": scheme} | prefill


def plan(length: int, scheme: Scheme | None, n_vocab: int, gpu: bool, flash: bool) -> list[Group]:
    """The groups for a file with this scheme (None: without one) and `length` tokens.

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
        length = min(length, EXACT_ON_GPU)
    if scheme is not None:
        exact = _group("DCA", length, scheme, n_vocab, budget, "exact")
        groups.append(exact)
        if exact.override and chunk_borders(length, scheme):  # before its first border it is plain attention
            feeds = {"whole prefill": whole(length, n_vocab)}
            groups.append(Group("DCA, the file's scheme", length, scheme, False, "exact", feeds))
    groups.append(_group("plain", length, None, n_vocab, budget, "exact"))
    return groups


def _group(
    title: str,
    length: int,
    scheme: Scheme | None,
    n_vocab: int,
    budget: int,
    precision: Literal["exact", "flash"],
) -> Group:
    used = None if scheme is None else scheme_for(length, scheme)
    feeds = {
        "whole prefill": whole(length, n_vocab),
        "uneven pieces": uneven(length),
        "token by token": single(length, chunk_borders(length, used), budget),
    }
    return Group(title, length, used, used != scheme, precision, feeds)
