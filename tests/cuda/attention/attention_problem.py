"""Some sequences over one cache on the GPU, in the layouts of ``native/cuda/attention/attention.h``."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import struct
from typing import TYPE_CHECKING

import torch
from attention_arguments import (
    CACHES,
    DTYPES,
    ENDLESS,
    KERNELS,
    MOST_GROUP_ROWS,
    NO_TRAITS,
    PAGE_TOKENS,
    TORCH_DTYPES,
    WHOLE,
    Lists,
    PositionScheme,
    Shape,
    Traits,
    _Cache,
    _Decode,
    _Prefill,
    _Rotary,
    _Scheme,
    _Shape,
    _Store,
    _Traits,
)

if TYPE_CHECKING:
    from attention_library import AttentionLibrary


@dataclasses.dataclass(frozen=True)
class DecodeRows:
    """Queries of a decode step on the GPU, and what DecodeRow and DecodeGroup say of them."""

    q: torch.Tensor  # (n_rows, n_heads, head_dim)
    rows: torch.Tensor  # int32 (n_rows, 4): length, first page, tokens that its group reads, first fresh page
    groups: torch.Tensor | None = (
        None  # int32 (n_rows // 2, 10), unused ones zero: DecodeGroup; None: no groups
    )


def hadamard(size: int) -> torch.Tensor:
    """(size, size) float64: matrices as large as the largest power of two in a head's size, side by side."""
    block = torch.ones(1, 1, dtype=torch.float64)
    while size % (2 * len(block)) == 0:
        block = torch.cat((torch.cat((block, block), 1), torch.cat((block, -block), 1))) / math.sqrt(2)
    return torch.block_diag(*[block] * (size // len(block)))


def halves(codes: torch.Tensor) -> torch.Tensor:
    """Bytes (..., n) as their low and then their high codes, (..., 2 n)."""
    high = torch.floor(codes / 16)
    return torch.cat((codes - 16 * high, high), dim=-1)


class Problem:
    """Random queries, keys and values of some sequences on the GPU, with the cache stored by our own kernel.

    ``q[n]`` is (lengths[n], n_heads, head_dim), ``k[n]`` and ``v[n]`` (lengths[n], n_kv_heads, head_dim),
    un-rotated; the cache holds all keys and values in pages in random order, ``spare_pages`` more than it
    needs. What holds no token is poison. ``dequantized_kv_heads`` is how many key heads of a q8 cache prefill
    of the longest sequence has room to dequantize at a time. Every other
    page of a q4 cache has a slot of fine codes. All sequences begin with the same pages,
    ``shared_pages`` of them, which they must be longer than. Raises RuntimeError if a CUDA call fails.
    """

    def __init__(
        self,
        library: AttentionLibrary,
        shape: Shape,
        scheme: PositionScheme,
        lengths: int | tuple[int, ...],
        dtype: str = "bf16",
        cache: str = "bf16",
        spare_pages: int = 2,
        seed: int = 0,
        dequantized_kv_heads: int = 0,
        decode_rows: int = 1,
        shared_pages: int = 0,
        traits: Traits = NO_TRAITS,
    ):
        self.library, self.shape, self.scheme = library, shape, scheme
        self.dtype, self.cache_dtype, self.traits = dtype, cache, traits
        self.lengths = (lengths,) if isinstance(lengths, int) else lengths
        generator = torch.Generator("cuda").manual_seed(seed)

        def random(heads: int) -> list[torch.Tensor]:
            size = (sum(self.lengths), heads, shape.head_dim)
            rows = torch.randn(size, device="cuda", generator=generator, dtype=TORCH_DTYPES[dtype])
            return list(rows.split(self.lengths))

        self.sinks = 2 * torch.randn(shape.n_heads, device="cuda", generator=generator)
        self.q, self.k, self.v = random(shape.n_heads), random(shape.n_kv_heads), random(shape.n_kv_heads)
        for k, v in zip(self.k[1:], self.v[1:], strict=True):
            k[: shared_pages * PAGE_TOKENS] = self.k[0][: shared_pages * PAGE_TOKENS]
            v[: shared_pages * PAGE_TOKENS] = self.v[0][: shared_pages * PAGE_TOKENS]
        counts = [-(-length // PAGE_TOKENS) for length in self.lengths]
        self.pages = sum(counts) + spare_pages
        order = torch.randperm(self.pages, device="cuda", generator=generator, dtype=torch.int32)
        self.page_tables = order[: sum(counts)].contiguous()
        self.first_pages = [sum(counts[:n]) for n in range(len(counts))]
        for first in self.first_pages:
            self.page_tables[first : first + shared_pages] = self.page_tables[:shared_pages].clone()
        rows = (self.pages, shape.n_kv_heads, PAGE_TOKENS)
        self.key_scales: torch.Tensor | None = None
        self.value_scales: torch.Tensor | None = None
        self.fine_slots = torch.arange(self.pages, device="cuda", dtype=torch.int32) // 2
        self.fine_slots[1::2] = -1
        half = shape.head_dim // 2
        # (slots, keys and values, ...), codes that add nothing
        self.fine = torch.full(
            (self.pages // 2 + 1, 2, *rows[1:], half if cache == "q4" else 0),
            0x88,
            device="cuda",
            dtype=torch.uint8,
        )
        # As of settled pages, whatever keys are.
        self.centres = torch.randn(
            (self.pages, shape.n_kv_heads, shape.head_dim), device="cuda", generator=generator
        ).half()
        if cache == "q4":
            self.keys = torch.full((*rows, half), 77, device="cuda", dtype=torch.uint8)
            self.key_scales = torch.full((*rows, 2, 2), math.nan, device="cuda", dtype=torch.float16)
            self.value_scales = self.key_scales.clone()
        elif cache == "q8":
            self.keys = torch.full((*rows, shape.head_dim), 77, device="cuda", dtype=torch.uint8)
            self.key_scales = torch.full(rows, math.nan, device="cuda", dtype=torch.float16)
            self.value_scales = self.key_scales.clone()
        else:
            self.keys = torch.full(
                (*rows, shape.head_dim), math.nan, device="cuda", dtype=TORCH_DTYPES[cache]
            )
        self.values = self.keys.clone()
        longest = max(self.lengths)
        positions = torch.arange(scheme.positions(longest), device="cuda", dtype=torch.float64)
        angles = positions[:, None] * self.frequencies()
        self.cos_sin = torch.stack((angles.cos(), angles.sin()), dim=-1).float().contiguous()
        self.workspace_rows = decode_rows
        self.decode_workspace = torch.zeros(
            library.decode_workspace_bytes(self._shape(), decode_rows), device="cuda", dtype=torch.uint8
        )
        # NaN in every place, as memory that was used before may have.
        self.prefill_workspace = torch.full(
            (library.prefill_workspace_bytes(self._shape(), longest, dequantized_kv_heads),),
            255,
            device="cuda",
            dtype=torch.uint8,
        )
        self.store()

    def frequencies(self) -> torch.Tensor:
        """(rotary_dim / 2,) float64: RoPE's angle per position."""
        rotary = self.shape.rotary
        exponents = torch.arange(0, rotary, 2, device="cuda", dtype=torch.float64) / max(rotary, 1)
        return self.shape.theta**-exponents

    def places(self, sequence: int) -> torch.Tensor:
        """int32 (lengths[sequence],): where each token of the sequence is, page * PAGE_TOKENS + offset."""
        i = torch.arange(self.lengths[sequence], device="cuda", dtype=torch.int32)
        table = self.page_tables[self.first_pages[sequence] :]
        return table[(i // PAGE_TOKENS).long()] * PAGE_TOKENS + i % PAGE_TOKENS

    def store(self) -> None:
        """Writes all k and v into the cache in one call, in random order and with one row of padding."""
        sequences = range(len(self.lengths))
        indices = [torch.arange(self.lengths[n], device="cuda", dtype=torch.int32) for n in sequences]
        nowhere = torch.full((1,), -1, device="cuda", dtype=torch.int32)
        order = torch.randperm(sum(self.lengths) + 1, device="cuda")
        all_indices = torch.cat([*indices, nowhere.clone().zero_()])[order]
        all_places = torch.cat([*map(self.places, sequences), nowhere])[order]
        k, v = (
            torch.cat([*rows, torch.full_like(rows[0][:1], math.nan)])[order] for rows in (self.k, self.v)
        )
        args = _Store(
            *self._common(),
            k.data_ptr(),
            v.data_ptr(),
            k.stride(0),
            v.stride(0),
            DTYPES[self.dtype],
            len(order),
            all_indices.data_ptr(),
            all_places.data_ptr(),
        )
        self.library.call("dca_store_keys_values", args)

    def prefill(
        self,
        start: int,
        n_queries: int,
        out: torch.Tensor,
        kernel: str = "auto",
        sequence: int = 0,
        lists: Lists | None = None,
    ) -> bool:
        """Attention of a sequence's queries from ``start`` on into ``out``, to the pages of ``lists`` if
        given (sparse_library.py); False if the kernel does not take this."""
        q = self.q[sequence][start : start + n_queries]
        args = _Prefill(
            *self._common(),
            self.page_tables[self.first_pages[sequence] :].data_ptr(),
            q.data_ptr(),
            out.data_ptr(),
            q.stride(0),
            out.stride(0),
            DTYPES[self.dtype],
            self._traits(),
            start,
            n_queries,
            self.prefill_workspace.data_ptr(),
            self.prefill_workspace.numel(),
            KERNELS[kernel],
            lists or Lists(),
            self.fresh_page(start),
            0,
            (ctypes.c_uint32 * 4)(*WHOLE),
        )
        return self.library.call("dca_attention_prefill", args)

    def prefill_in_pieces(self, start: int, n_queries: int, pages: int, out: torch.Tensor) -> bool:
        """The same by the Hopper kernel with work space for ``pages`` dequantized pages of a key head; False
        if it does not take this."""
        whole, (shape, scheme, *_) = self.prefill_workspace, self._common()
        page_bytes = 2 * 2 * PAGE_TOKENS * self.shape.head_dim
        size = self.library._library.dca_prefill_pieces_bytes(
            ctypes.byref(shape), ctypes.byref(scheme), start + n_queries, n_queries, pages * page_bytes
        )
        if size == 0:
            return False
        self.prefill_workspace = torch.full((size,), 255, device="cuda", dtype=torch.uint8)
        try:
            return self.prefill(start, n_queries, out, "sm90")
        finally:
            self.prefill_workspace = whole

    def decode_rows(
        self, tokens: list[tuple[int, int] | None], groups: list[tuple[int, list[int]]] | None = None
    ) -> DecodeRows:
        """The queries of (sequence, index) each, that token being its sequence's newest; None is a row of
        padding. Each of ``groups`` is how many tokens are read together, and by which rows."""
        padding = torch.full_like(self.q[0][0], math.nan)
        rows = [
            (0, 0, 0, 0) if at is None else (at[1] + 1, self.first_pages[at[0]], 0, self.fresh_page(at[1]))
            for at in tokens
        ]
        q = [padding if at is None else self.q[at[0]][at[1]] for at in tokens]
        described = None
        if groups is not None:
            packed = b""
            for shared, members in groups:
                head = (len(members), shared)
                packed += struct.pack(
                    f"<II{MOST_GROUP_ROWS}H", *head, *members, *[0] * (MOST_GROUP_ROWS - len(members))
                )
                for row in members:
                    rows[row] = (*rows[row][:2], shared, rows[row][3])
            packed += bytes(40 * (len(tokens) // 2) - len(packed))
            described = torch.frombuffer(bytearray(packed), dtype=torch.int32).view(-1, 10).cuda()
        return DecodeRows(torch.stack(q), torch.tensor(rows, device="cuda", dtype=torch.int32), described)

    def decode(self, rows: DecodeRows, out: torch.Tensor) -> None:
        """Attention of the rows into ``out`` (n_rows, n_heads, head_dim)."""
        args = _Decode(
            *self._common(),
            rows.q.data_ptr(),
            out.data_ptr(),
            rows.q.stride(0),
            out.stride(0),
            DTYPES[self.dtype],
            self._traits(),
            len(rows.q),
            rows.rows.data_ptr(),
            self.page_tables.data_ptr(),
            None if rows.groups is None else rows.groups.data_ptr(),
            0 if rows.groups is None else len(rows.groups),
            self.decode_workspace.data_ptr(),
            self.workspace_rows,
        )
        self.library.call("dca_attention_decode", args)

    def gathered(self, paged: torch.Tensor, sequence: int) -> torch.Tensor:
        """A sequence's rows of ``keys``, ``values`` or their scales: (n_kv_heads, lengths[sequence], ...)."""
        places = self.places(sequence).long()
        return paged.transpose(0, 1).flatten(1, 2)[:, places]

    @staticmethod
    def fresh_page(start: int) -> int:
        """The first page that a step from ``start`` on writes to."""
        return start // PAGE_TOKENS

    def cache_as_float64(self, sequence: int, fresh_page: int = ENDLESS) -> tuple[torch.Tensor, torch.Tensor]:
        """A sequence's keys and values as the cache holds them, (n_kv_heads, lengths[sequence], head_dim).

        Turned back where it holds codes. Fine codes of a q4 cache count from ``fresh_page`` on.
        """
        keys, values = (self.gathered(t, sequence).double() for t in (self.keys, self.values))
        if self.key_scales is None or self.value_scales is None:
            return keys, values
        key_scales, value_scales = (
            self.gathered(t, sequence).double() for t in (self.key_scales, self.value_scales)
        )
        if self.cache_dtype == "q8":
            keys = (keys - 128) * key_scales[..., None]
            values = (values - 128) * value_scales[..., None]
        else:
            fine = self.fine_as_float64(sequence, fresh_page)
            keys, values = (
                (halves(codes) + sixteenths / 16) * scales[..., 0].repeat_interleave(codes.shape[-1], -1)
                + scales[..., 1].repeat_interleave(codes.shape[-1], -1)
                for codes, sixteenths, scales in (
                    (keys, fine[0], key_scales),
                    (values, fine[1], value_scales),
                )
            )
            keys += self.gathered(self.centres[:, :, None].expand(-1, -1, PAGE_TOKENS, -1), sequence).double()
        turn = hadamard(self.shape.head_dim).to(keys)
        return keys @ turn, values @ turn

    def fine_as_float64(self, sequence: int, fresh_page: int) -> torch.Tensor:
        """(2, n_kv_heads, lengths[sequence], head_dim): what fine codes add, in sixteenths of a step."""
        i = torch.arange(self.lengths[sequence], device="cuda")
        table = self.page_tables[self.first_pages[sequence] :]
        slots = self.fine_slots[table[i // PAGE_TOKENS].long()].long()
        codes = self.fine[slots.clamp(min=0), :, :, i % PAGE_TOKENS]  # (length, 2, n_kv_heads, head_dim / 2)
        read = (slots >= 0) & (i // PAGE_TOKENS >= fresh_page)
        return torch.where(read[:, None, None, None], halves(codes.double()) - 8, 0.0).permute(1, 2, 0, 3)

    def free_slots_touched(self) -> int:
        """How many slots of the cache that hold no token are no longer poison."""
        free = torch.ones(self.pages * PAGE_TOKENS, device="cuda", dtype=torch.bool)
        for sequence in range(len(self.lengths)):
            free[self.places(sequence).long()] = False
        touched = torch.zeros_like(free)
        for data, scales in ((self.keys, self.key_scales), (self.values, self.value_scales)):
            rows = data.transpose(1, 2).flatten(0, 1).flatten(1)
            if scales is None:
                touched |= ~rows.isnan().all(dim=1)
            else:
                touched |= (rows != 77).any(dim=1)
                touched |= ~scales.transpose(1, 2).flatten(0, 1).flatten(1).isnan().all(dim=1)
        return int((touched & free).sum())

    def most_group_rows(self) -> int:
        """How many rows may read their shared pages together; less than 2: none for this shape."""
        return min(MOST_GROUP_ROWS, self.library.decode_group_rows(self._shape(), self.cache_dtype))

    def _traits(self) -> _Traits:
        t = self.traits
        return _Traits(t.window, t.cap, self.sinks.data_ptr() if t.sinks else None)

    def _shape(self) -> _Shape:
        s = self.shape
        return _Shape(
            s.n_heads, s.n_kv_heads, s.head_dim, s.rotary, int(s.interleaved), 1 / math.sqrt(s.head_dim)
        )

    def _common(self) -> tuple[_Shape, _Scheme, _Cache, _Rotary]:
        s = self.scheme
        scales = [0 if t is None else t.data_ptr() for t in (self.key_scales, self.value_scales)]
        fine = self.fine[0]
        return (
            self._shape(),
            _Scheme(
                s.chunk_size,
                s.local_window,
                s.pretraining_length,
                s.logit_scale,
                s.logit_scale_length,
                s.intra_only,
                s.border,
                s.window,
                s.beyond,
            ),
            _Cache(
                self.keys.data_ptr(),
                self.values.data_ptr(),
                *scales,
                self.pages,
                CACHES[self.cache_dtype],
                self.fine_slots.data_ptr(),
                self.fine.data_ptr(),
                self.fine.data_ptr() + fine[0].numel(),
                fine.numel(),
                self.centres.data_ptr(),
                self.centres[0].numel(),
            ),
            _Rotary(self.cos_sin.data_ptr(), self.cos_sin.shape[0]),
        )
