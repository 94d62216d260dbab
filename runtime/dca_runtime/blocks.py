"""Quantised block formats: float32 rows to ggml blocks and back, done by libdca."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dca_runtime import _ffi
from dca_runtime._ffi import ffi
from dca_runtime.errors import DcaError


@dataclass(frozen=True)
class BlockFormat:
    """How one ggml type stores its values."""

    name: str  # "Q8_0"
    block_size: int  # values in a block
    block_bytes: int
    can_encode: bool  # otherwise it can only be decoded


def block_format(type_number: int) -> BlockFormat:
    """The format of a ggml_type number as GGUF stores it. Raises DcaError for one it does not know."""
    found = ffi.new("dca_block_format *")
    _ffi.check(_ffi.lib().dca_block_format_get(_ffi.integer(type_number, 0, "ggml type"), found))
    return BlockFormat(_ffi.text(found.name), found.block_size, found.block_bytes, bool(found.can_encode))


def encode(
    type_number: int, values: np.ndarray, threads: int = 0, weights: np.ndarray | None = None
) -> np.ndarray:
    """Encodes f32 ``values`` (rows, columns) as uint8 (rows, row_bytes).

    ``columns`` must be a multiple of the block size. ``threads`` 0 uses every core. ``weights`` (columns):
    what a squared error in each column counts. Raises DcaError, also for a value that is not finite.
    """
    values = np.ascontiguousarray(values, np.float32)
    rows, columns = _matrix_shape(values, "values to encode")
    layout = block_format(type_number)
    _require_whole_blocks(columns, layout.block_size, "columns", layout)
    blocks = np.empty((rows, columns // layout.block_size * layout.block_bytes), np.uint8)
    if values.size:
        weighting: tuple[Any, ...] = ()
        call = _ffi.lib().dca_encode
        if weights is not None:
            if weights.shape != (columns,):
                raise DcaError(f"weights must be one a column ({columns}), got shape {weights.shape}")
            counted = np.ascontiguousarray(weights, np.float32)
            weighting, call = (ffi.from_buffer("float[]", counted),), _ffi.lib().dca_encode_weighted
        status = call(
            type_number,
            ffi.from_buffer("float[]", values),
            values.size,
            columns,
            *weighting,
            _ffi.integer(threads, 0, "threads", most=2**31 - 1),
            ffi.from_buffer("uint8_t[]", blocks, require_writable=True),
            blocks.nbytes,
        )
        _ffi.check(status)
    return blocks


def decode(type_number: int, blocks: np.ndarray, threads: int = 0) -> np.ndarray:
    """Decodes uint8 ``blocks`` (rows, row_bytes) to f32 (rows, columns). Raises DcaError."""
    if blocks.dtype != np.uint8:
        raise DcaError(f"blocks to decode must be uint8, got {blocks.dtype}")
    blocks = np.ascontiguousarray(blocks)
    rows, row_bytes = _matrix_shape(blocks, "blocks to decode")
    layout = block_format(type_number)
    _require_whole_blocks(row_bytes, layout.block_bytes, "row bytes", layout)
    values = np.empty((rows, row_bytes // layout.block_bytes * layout.block_size), np.float32)
    if values.size:
        status = _ffi.lib().dca_decode(
            type_number,
            ffi.from_buffer("uint8_t[]", blocks),
            blocks.nbytes,
            values.size,
            _ffi.integer(threads, 0, "threads", most=2**31 - 1),
            ffi.from_buffer("float[]", values, require_writable=True),
        )
        _ffi.check(status)
    return values


def _matrix_shape(array: np.ndarray, what: str) -> tuple[int, int]:
    if array.ndim != 2:
        raise DcaError(f"{what} must have two dimensions (rows, columns), got shape {array.shape}")
    return array.shape


def _require_whole_blocks(length: int, block: int, what: str, layout: BlockFormat) -> None:
    if length % block:
        raise DcaError(f"{layout.name}: {what} must be a multiple of {block}, got {length}")
