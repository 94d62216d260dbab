"""The CUDA attention kernels called from PyTorch: builds a small shared library and wraps its calls.

``AttentionLibrary.build()`` compiles ``native/cuda/attention`` with nvcc for the given targets (or takes a
library that was built before); ``Problem`` holds the tensors of some sequences over one cache in the layouts
of ``native/cuda/attention/attention.h``. Tests and benchmarks share it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[3]
ENDLESS = 1 << 31
PAGE_TOKENS = 128  # core/engine/page_pool.h
KERNELS = {"auto": 0, "simple": 1, "sm80": 2, "sm90": 3}
DTYPES = {"f16": 0, "bf16": 1}
CACHES = {"f16": 0, "bf16": 2, "q8": 3, "q4": 4}  # as dca_cache_type; the kernels take no f32
TORCH_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
MOST_GROUP_ROWS = 16  # kMostGroupRows
NOT_SUPPORTED = 801  # cudaErrorNotSupported


@dataclasses.dataclass(frozen=True)
class PositionScheme:
    """Dual Chunk Attention's integers (s, w, c), or a border that moves with the query; the default is plain
    causal attention."""

    chunk_size: int = ENDLESS
    local_window: int = 0
    pretraining_length: int = 0
    intra_only: bool = False
    logit_scale: float = 0.0
    logit_scale_length: int = 0
    border: int = (
        0  # core/positions/scheme.h: 1 STRING, 2 StreamingLLM, 3 LM-Infinite; chunks are endless then
    )
    window: int = 0
    beyond: int = 0

    def positions(self, context: int) -> int:
        """One more than the largest position that ``context`` tokens use."""
        return max(min(self.chunk_size, context), self.pretraining_length)


@dataclasses.dataclass(frozen=True)
class Shape:
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rotary_dim: int | None = None  # None: head_dim
    interleaved: bool = False
    theta: float = 10000.0

    @property
    def rotary(self) -> int:
        return self.head_dim if self.rotary_dim is None else self.rotary_dim


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a layer's attention has beside the plain one: a window (tokens), a cap on logits, sinks."""

    window: int = 0
    cap: float = 0.0
    sinks: bool = False

    @property
    def plain(self) -> bool:
        return self == Traits()


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("n_heads", "n_kv_heads", "head_dim", "rotary_dim", "rope_interleaved")
    ]
    _fields_ += [("scale", ctypes.c_float)]


class _Scheme(ctypes.Structure):
    _fields_ = [
        ("chunk_size", ctypes.c_uint32),
        ("local_window", ctypes.c_uint32),
        ("pretraining_length", ctypes.c_uint32),
        ("logit_scale", ctypes.c_float),
        ("logit_scale_length", ctypes.c_uint32),
        ("intra_only", ctypes.c_bool),
        ("border", ctypes.c_uint32),
        ("window", ctypes.c_uint32),
        ("beyond", ctypes.c_uint32),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")]
    _fields_ += [("pages", ctypes.c_uint32), ("type", ctypes.c_int32)]
    _fields_ += [(name, ctypes.c_void_p) for name in ("fine_slots", "fine_keys", "fine_values")]
    _fields_ += [("fine_stride", ctypes.c_size_t), ("key_centres", ctypes.c_void_p)]
    _fields_ += [("centre_stride", ctypes.c_size_t)]


class _Rotary(ctypes.Structure):
    _fields_ = [("cos_sin", ctypes.c_void_p), ("n_positions", ctypes.c_uint32)]


class _Traits(ctypes.Structure):
    _fields_ = [("window", ctypes.c_uint32), ("cap", ctypes.c_float), ("sinks", ctypes.c_void_p)]


_COMMON = [("shape", _Shape), ("scheme", _Scheme), ("cache", _Cache), ("rotary", _Rotary)]


class Lists(ctypes.Structure):
    """PageLists, the last three LineBits; all zero: none."""

    _fields_ = [("blocks", ctypes.c_void_p), ("pages", ctypes.c_void_p)]
    _fields_ += [("n_blocks", ctypes.c_uint32), ("most_pages", ctypes.c_uint32)]
    _fields_ += [("columns", ctypes.c_void_p), ("diagonals", ctypes.c_void_p), ("words", ctypes.c_uint32)]


WHOLE = (0, 2**31 // PAGE_TOKENS, 0, 1)  # a KeyPiece: all pages, the only one


class _Prefill(ctypes.Structure):
    _fields_ = [
        *_COMMON,
        ("page_table", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("traits", _Traits),
        ("start", ctypes.c_uint32),
        ("n_queries", ctypes.c_uint32),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("kernel", ctypes.c_int32),
        ("lists", Lists),
        ("fresh_page", ctypes.c_uint32),
        ("n_behind", ctypes.c_uint32),
        ("piece", ctypes.c_uint32 * 4),
    ]


class _Decode(ctypes.Structure):
    _fields_ = [
        *_COMMON,
        ("q", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("traits", _Traits),
        ("n_rows", ctypes.c_uint32),
        ("rows", ctypes.c_void_p),
        ("page_tables", ctypes.c_void_p),
        ("groups", ctypes.c_void_p),
        ("n_groups", ctypes.c_uint32),
        ("workspace", ctypes.c_void_p),
        ("workspace_rows", ctypes.c_uint32),
        ("after_store", ctypes.c_bool),
    ]


class _Store(ctypes.Structure):
    _fields_ = [
        *_COMMON,
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("k_stride", ctypes.c_int64),
        ("v_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("n_rows", ctypes.c_uint32),
        ("indices", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
    ]


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
        traits: Traits = Traits(),
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


class AttentionLibrary:
    """The kernels as a loaded shared library."""

    FILE = "libcuda_attention.so"

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        self._library.dca_struct_bytes.restype = ctypes.c_size_t
        self._library.dca_prefill_workspace_bytes.restype = ctypes.c_size_t
        self._library.dca_prefill_pieces_bytes.restype = ctypes.c_size_t
        self._library.dca_prefill_pieces_bytes.argtypes = [
            *(ctypes.c_void_p,) * 2,
            *(ctypes.c_uint32,) * 2,
            ctypes.c_size_t,
        ]
        self._library.dca_decode_workspace_bytes.restype = ctypes.c_size_t
        for which, declared in enumerate((_Prefill, _Decode, _Store)):
            expected = self._library.dca_struct_bytes(which)
            if ctypes.sizeof(declared) != expected:
                raise RuntimeError(
                    f"{path}: {declared.__name__} has {expected} bytes, here {ctypes.sizeof(declared)}: stale"
                )

    @classmethod
    def build(
        cls, directory: Path, targets: tuple[str, ...] = ("90a",), nvcc: str = "nvcc", jobs: int = 8
    ) -> AttentionLibrary:
        """Compiles the CUDA attention into ``directory``; raises CalledProcessError if nvcc fails."""
        directory.mkdir(parents=True, exist_ok=True)
        cuda = ROOT / "native/cuda"
        sources = [
            *sorted((cuda / "attention").rglob("*.cu")),
            *sorted((cuda / "sparse").rglob("*.cu")),
            cuda / "device/allow_shared.cpp",
            cuda / "device/card.cu",
            cuda / "device/tensor_map.cpp",
            Path(__file__).with_name("attention_exports.cpp"),
        ]
        flags = [nvcc, "-std=c++20", "-O3", "-Xcompiler", "-fPIC"]
        flags += [f"-I{ROOT / 'native'}", f"-I{ROOT / 'native/include'}"]
        flags += [f"-gencode=arch=compute_{t},code=sm_{t}" for t in targets]
        flags += ["-DDCA_CUDA_SM90A"] if "90a" in targets else []
        objects = [directory / f"{source.name}.o" for source in sources]
        with ThreadPoolExecutor(jobs) as pool:
            commands = [[*flags, "-c", str(s), "-o", str(o)] for s, o in zip(sources, objects, strict=True)]
            for done in pool.map(lambda command: subprocess.run(command, check=True), commands):
                done.check_returncode()
        path = directory / cls.FILE
        subprocess.run([*flags, "-shared", *map(str, objects), "-o", str(path)], check=True)
        return cls(path)

    def call(self, name: str, args: ctypes.Structure) -> bool:
        """Launches on PyTorch's current stream; False if the kernel does not take these arguments."""
        status = getattr(self._library, name)(
            ctypes.byref(args), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        )
        if status not in (0, NOT_SUPPORTED):
            raise RuntimeError(f"{name}: CUDA error {status}")
        return status == 0

    def prefill_workspace_bytes(self, shape: _Shape, context: int, kv_heads: int) -> int:
        return self._library.dca_prefill_workspace_bytes(ctypes.byref(shape), context, kv_heads)

    def decode_group_rows(self, shape: _Shape, cache: str) -> int:
        return self._library.dca_decode_group_rows(ctypes.byref(shape), CACHES[cache])

    def decode_workspace_bytes(self, shape: _Shape, rows: int) -> int:
        return self._library.dca_decode_workspace_bytes(ctypes.byref(shape), rows)
