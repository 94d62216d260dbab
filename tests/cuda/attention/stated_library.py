"""The choice by stated budgets called from PyTorch, beside attention_library.py: lines and lists."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from attention_arguments import DTYPES, Lists, _Cache, _Scheme, _Shape
from attention_problem import Problem

MARGIN = 128  # kLineMargin: bits before key or distance 0

Budget = tuple[int, int]  # columns, diagonals


class _Rotation(ctypes.Structure):
    _fields_ = [
        ("radians", ctypes.c_void_p),
        ("magnitude", ctypes.c_double),
        ("last_position", ctypes.c_uint32),
    ]


class _Lines(ctypes.Structure):
    _fields_ = [
        ("shape", _Shape),
        ("scheme", _Scheme),
        ("cache", _Cache),
        ("page_table", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("start", ctypes.c_uint32),
        ("n_queries", ctypes.c_uint32),
        ("fresh_page", ctypes.c_uint32),
        ("rotation", _Rotation),
        ("last_queries", ctypes.c_uint32),
        ("budgets", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("diagonals", ctypes.c_void_p),
        ("words", ctypes.c_uint32),
        ("blocks", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("unread", ctypes.c_void_p),
    ]


class Lines:
    """The choice by the last queries of a unit: start … start + n_queries − 1 of a problem's first sequence.

    ``heads`` is how many of them there is work space for at a time; what they do not write is poison.
    """

    def __init__(
        self,
        problem: Problem,
        start: int,
        n_queries: int,
        last_queries: int,
        budgets: Sequence[Budget],
        heads: int,
    ):
        self.problem, self.start, self.n_queries, self.last_queries = problem, start, n_queries, last_queries
        self._native = native = problem.library._library
        native.dca_line_workspace_bytes.restype = ctypes.c_size_t
        if ctypes.sizeof(_Lines) != native.dca_struct_bytes(5):
            raise RuntimeError("LineArgs is stale")
        shape, context = problem.shape, start + n_queries
        self.words = native.dca_line_words(context) + 3  # as of a longer pool

        def poison(*size: int) -> torch.Tensor:
            return torch.full(size, -1, device="cuda", dtype=torch.int32)

        self.columns, self.diagonals = (poison(shape.n_heads, self.words) for _ in range(2))
        self.n_blocks = native.dca_select_blocks(start, n_queries, problem.scheme.chunk_size)
        self.most_pages = native.dca_select_most_pages(context)
        self.blocks = poison(shape.n_heads, self.n_blocks, 4)
        self.pages = poison(shape.n_heads, self.n_blocks, self.most_pages)
        size = native.dca_line_workspace_bytes(ctypes.byref(problem._shape()), context, last_queries, heads)
        self.workspace = torch.full((size,), 255, device="cuda", dtype=torch.uint8)
        self.unread = torch.zeros(shape.n_heads, device="cuda", dtype=torch.int64)
        self.budgets = torch.tensor(budgets, device="cuda", dtype=torch.int32)
        self.radians = problem.frequencies().float()

    def choose(self) -> bool:
        """False if the kernels do not take this shape."""
        problem = self.problem
        shape, scheme, cache, _ = problem._common()
        q = problem.q[0][self.start : self.start + self.n_queries]
        args = _Lines(
            shape,
            scheme,
            cache,
            problem.page_tables.data_ptr(),
            q.data_ptr(),
            q.stride(0),
            DTYPES[problem.dtype],
            self.start,
            self.n_queries,
            problem.fresh_page(self.start),
            _Rotation(self.radians.data_ptr(), 1.0, max(problem.scheme.pretraining_length, 1) - 1),
            self.last_queries,
            self.budgets.data_ptr(),
            self.columns.data_ptr(),
            self.diagonals.data_ptr(),
            self.words,
            self.blocks.data_ptr(),
            self.pages.data_ptr(),
            self.workspace.data_ptr(),
            self.workspace.numel(),
            self.unread.data_ptr(),
        )
        return problem.library.call("dca_choose_lines", args)

    def attend(self, out: torch.Tensor, kernel: str = "auto") -> bool:
        """Attention to what was chosen into ``out``; False if the kernel does not take this."""
        lists = Lists(
            self.blocks.data_ptr(),
            self.pages.data_ptr(),
            self.n_blocks,
            self.most_pages,
            self.columns.data_ptr(),
            self.diagonals.data_ptr(),
            self.words,
        )
        return self.problem.prefill(self.start, self.n_queries, out, kernel, lists=lists)

    def chosen(self, of: torch.Tensor, head: int) -> list[int]:
        """A head's keys (``columns``) or distances (``diagonals``), ascending."""
        bits = np.unpackbits(of[head].cpu().numpy().view(np.uint8), bitorder="little")
        used = MARGIN + self.start + self.n_queries
        assert not bits[:MARGIN].any() and not bits[used : 32 * (self.words - 3)].any()
        return np.flatnonzero(bits[MARGIN:used]).tolist()
