"""Sparse prefill's kernels called from PyTorch, beside attention_library.py: means and lists of pages."""

from __future__ import annotations

import ctypes
import dataclasses

import torch
from attention_arguments import DTYPES, PAGE_TOKENS, Lists, _Cache, _Rotary, _Scheme, _Shape
from attention_problem import Problem

QUARTER = 32  # queries that choose together
SIDES = 2  # means of a page


class _Means(ctypes.Structure):
    _fields_ = [
        ("shape", _Shape),
        ("scheme", _Scheme),
        ("cache", _Cache),
        ("pages", ctypes.c_void_p),
        ("n_pages", ctypes.c_uint32),
        ("means", ctypes.c_void_p),
    ]


class _Select(ctypes.Structure):
    _fields_ = [
        ("shape", _Shape),
        ("scheme", _Scheme),
        ("rotary", _Rotary),
        ("page_table", ctypes.c_void_p),
        ("means", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("start", ctypes.c_uint32),
        ("n_queries", ctypes.c_uint32),
        ("alpha", ctypes.c_float),
        ("forced_share", ctypes.c_float),
        ("blocks", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("unread", ctypes.c_void_p),
    ]


@dataclasses.dataclass(frozen=True)
class ListedBlock:
    """Queries first … first + rows − 1 of one head, and what they read: (page, range, quarters) in order."""

    head: int
    first: int
    rows: int
    chunk: int
    pages: list[tuple[int, int, int]]


class Selection:
    """The choice of pages by a sequence's queries start … start + n_queries − 1 of a problem."""

    def __init__(self, problem: Problem, start: int, n_queries: int, sequence: int = 0):
        self.problem, self.start, self.n_queries, self.sequence = problem, start, n_queries, sequence
        self._native = problem.library._library
        self._native.dca_select_workspace_bytes.restype = ctypes.c_size_t
        for which, declared in ((3, _Means), (4, _Select)):
            if ctypes.sizeof(declared) != self._native.dca_struct_bytes(which):
                raise RuntimeError(f"{declared.__name__} is stale")
        shape, context = problem.shape, start + n_queries
        self.table = problem.page_tables[problem.first_pages[sequence] :]
        # NaN where no mean was made.
        self.means = torch.full(
            (problem.pages, shape.n_kv_heads, SIDES, shape.head_dim),
            torch.nan,
            device="cuda",
            dtype=torch.float16,
        )
        self.n_blocks = self._native.dca_select_blocks(start, n_queries, problem.scheme.chunk_size)
        self.most_pages = self._native.dca_select_most_pages(context)
        lists = (shape.n_heads, self.n_blocks)
        self.blocks = torch.full((*lists, 4), -1, device="cuda", dtype=torch.int32)
        self.pages = torch.full((*lists, self.most_pages), -1, device="cuda", dtype=torch.int32)
        scheme = problem._common()[1]
        size = self._native.dca_select_workspace_bytes(ctypes.byref(scheme), context)
        self.workspace = torch.full((size,), 255, device="cuda", dtype=torch.uint8)
        self.unread = torch.zeros(shape.n_heads, device="cuda", dtype=torch.int64)

    def make_means(self) -> None:
        """The means of all full pages before the last query."""
        n_pages = (self.start + self.n_queries) // PAGE_TOKENS
        indices = torch.arange(n_pages, device="cuda", dtype=torch.int32)
        self.filled = torch.stack((indices, self.table[:n_pages]), dim=1).contiguous()
        args = _Means(*self.problem._common()[:3], self.filled.data_ptr(), n_pages, self.means.data_ptr())
        self.problem.library.call("dca_mean_keys", args)

    def select(self, alpha: float, forced_share: float = -1.0) -> bool:
        """The lists; False if the kernel does not take this shape."""
        problem = self.problem
        shape, scheme, _, rotary = problem._common()
        q = problem.q[self.sequence][self.start : self.start + self.n_queries]
        args = _Select(
            shape,
            scheme,
            rotary,
            self.table.data_ptr(),
            self.means.data_ptr(),
            q.data_ptr(),
            q.stride(0),
            DTYPES[problem.dtype],
            self.start,
            self.n_queries,
            alpha,
            forced_share,
            self.blocks.data_ptr(),
            self.pages.data_ptr(),
            self.workspace.data_ptr(),
            self.unread.data_ptr(),
        )
        return problem.library.call("dca_select_pages", args)

    @property
    def lists(self) -> Lists:
        """As PrefillArgs takes them."""
        return Lists(self.blocks.data_ptr(), self.pages.data_ptr(), self.n_blocks, self.most_pages)

    def attend(self, out: torch.Tensor, kernel: str = "auto") -> bool:
        """Attention to the listed pages into ``out``."""
        return self.problem.prefill(self.start, self.n_queries, out, kernel, self.sequence, self.lists)

    def listed(self) -> list[ListedBlock]:
        """The lists, read."""
        blocks, pages = self.blocks.cpu().tolist(), self.pages.cpu().tolist()
        return [
            ListedBlock(
                head,
                *described[:3],
                [(entry >> 6, entry >> 4 & 3, entry & 15) for entry in entries[: described[3]]],
            )
            for head in range(self.problem.shape.n_heads)
            for described, entries in zip(blocks[head], pages[head], strict=True)
        ]

    def read_pairs(self) -> float:
        """The share of pairs of a query and a key before it that is read, over all heads."""
        s = self.problem.scheme
        seen = sum(
            i + 1 - (i // s.chunk_size * s.chunk_size if s.intra_only else 0)
            for i in range(self.start, self.start + self.n_queries)
        )
        return 1 - float(self.unread.double().mean()) / seen
