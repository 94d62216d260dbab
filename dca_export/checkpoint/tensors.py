"""A Hugging Face model directory as a source of tensors: named, typed, shaped, read a few rows at a time."""

from __future__ import annotations

import json
import math
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from dca_export.checkpoint.names import plain_names
from dca_export.checkpoint.weight_files import ADAPTER, WeightFiles, adapter_error, find_weights
from dca_export.config import Config
from dca_export.errors import InputError, MissingPackage
from dca_export.small_files import check_regular

# What the numbers of a tensor are stored in. BF16 and FP8 have no NumPy type; their bits are read instead.
STORAGE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}
# Integers are no weights; quantisers pack weights into them (checkpoint.quantized).
INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U32": "<u4", "U16": "<u2", "U8": "u1"}

GRID_COLUMNS = 32  # of a row, that share a scale in FourBits


# Under which trainers put the tensors beside their own state in a PyTorch file.
_STATES = ("state_dict", "model_state_dict", "module", "model")


_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class RowReader(Protocol):
    """Reads rows [start, stop) of one tensor, seen as a matrix, as they are stored."""

    def __call__(self, start: int, stop: int) -> np.ndarray: ...


class GridReader(Protocol):
    """Reads of rows [start, stop) the scale and the value of number 0 for every 32 columns, both f32 (rows,
    columns / 32); None if 32 columns do not share them."""

    def __call__(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray] | None: ...


@dataclass(frozen=True)
class FourBits:
    """A matrix as it was quantised: value = scale × code + value of code 0, codes of at most 4 bits."""

    codes: RowReader  # uint8 (rows, columns)
    grid: GridReader


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of a checkpoint. `read(start, stop)` gives rows as `STORAGE[dtype]`, (stop - start, columns).

    The matrix a tensor is seen as has its last dimension as columns and all others, flattened, as rows; one
    dimension makes one row. Of one that is not stored but computed: `parts`, the stored tensors it comes
    from; `four_bits`, as what integers those hold it, where they do; `origin`, the type that it had before an
    adapter was merged.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    read: RowReader
    parts: tuple[str, ...] = ()
    four_bits: FourBits | None = None
    origin: str = ""

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    def error(self, message: str) -> InputError:
        return InputError(f"{self.file}: tensor {self.name} {message}")


def values(tensor: SourceTensor, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a tensor of floats (not of 8 bits), as f32 (rows, columns)."""
    stored = tensor.read(start, stop)
    if tensor.dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Checkpoint:
    """Configuration and tensors of a model directory; nothing of the tensors is in memory yet.

    `notes` tell the user what was passed over or renamed.
    """

    directory: Path
    config: Config
    tensors: Mapping[str, SourceTensor]
    notes: tuple[str, ...] = ()


def open_checkpoint(directory: Path) -> Checkpoint:
    """Finds config.json and the weights in `directory` and checks that they belong together.

    Weights: safetensors if there are any, otherwise PyTorch's .bin (needs torch; loaded weights-only). Their
    names are made transformers' own (checkpoint.names). Raises InputError.
    """
    if not directory.is_dir():
        raise _no_directory(directory)
    if error := adapter_error(directory):
        raise error
    config = Config.read(directory / "config.json")
    found = find_weights(directory)
    stored = _read_files(found)
    names, notes = plain_names(stored, str(directory))
    tensors = {plain: replace(stored[name], name=plain) for name, plain in names.items()}
    if (directory / ADAPTER).is_file():
        notes.append(f"{ADAPTER} states an adapter beside the weights: it is not applied")
    return Checkpoint(directory, config, tensors, (*found.notes, *notes))


def _no_directory(path: Path) -> InputError:
    if path.exists():
        return InputError(f"{path}: is no directory; expected a Hugging Face model's, or a .gguf file")
    message = f"{path}: no such directory; expected a Hugging Face model or a .gguf file"
    if _HUB_NAME.fullmatch(str(path)):
        message += f" (if that is a name on the Hub: hf:{path})"
    return InputError(message)


def _read_files(found: WeightFiles) -> dict[str, SourceTensor]:
    tensors: dict[str, SourceTensor] = {}
    for file in found.files:
        read = read_torch_file if file.suffix == ".bin" else read_safetensors
        for name, tensor in read(file).items():
            if name in tensors:
                raise tensor.error(f"is also in {tensors[name].file.name}; remove one of the two files")
            tensors[name] = tensor
    for name, shard in found.promised.items():
        if name not in tensors or tensors[name].file.name != shard:
            assert found.index is not None
            file, index = found.index.with_name(shard), found.index.name
            raise InputError(f"{file}: tensor {name}, which {index} promises, is missing")
    return tensors


def read_safetensors(file: Path) -> dict[str, SourceTensor]:
    """The tensors of one safetensors file, by name.

    The safetensors library checks the whole header (sizes, bounds, overlaps); what is read afterwards is
    only where each tensor begins, so that its rows can be read without mapping or loading the file.
    """
    check_regular(file)
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:  # its OSError names no file
        raise InputError(f"{file}: not a valid safetensors file ({error})") from None
    with open(file, "rb") as opened:
        (header_bytes,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(header_bytes))
    header.pop("__metadata__", None)
    tensors = {}
    for name, info in header.items():
        begin = 8 + header_bytes + info["data_offsets"][0]
        shape, dtype = tuple(info["shape"]), info["dtype"]
        tensors[name] = SourceTensor(name, dtype, shape, file, _FileRows(file, begin, dtype, shape))
    return tensors


@dataclass(frozen=True)
class _FileRows:
    """Rows of a tensor that lies in one piece in a file."""

    file: Path
    begin: int  # byte
    dtype: str
    shape: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> np.ndarray:
        storage = np.dtype((STORAGE | INTEGERS)[self.dtype])
        columns = self.shape[-1] if self.shape else 1
        count = (stop - start) * columns
        at = self.begin + start * columns * storage.itemsize
        values = np.fromfile(self.file, storage, count, offset=at)
        if values.size != count:
            raise InputError(f"{self.file}: became shorter while it was read")
        return values.reshape(stop - start, columns)


def read_torch_file(file: Path) -> dict[str, SourceTensor]:
    """The tensors of one file that torch.save wrote, by name. Nothing but tensors is unpickled."""
    check_regular(file)
    try:
        import torch
    except ImportError:
        raise MissingPackage(f"{file}: reading .bin files needs PyTorch", "reference") from None
    try:
        # Only the zip form that torch has written since 1.6 can be mapped.
        mapped = zipfile.is_zipfile(file)
        with warnings.catch_warnings(action="ignore"):  # what is wrong with the file becomes the error
            state = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # torch promises no particular type for a file it cannot or must not read
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"{file}: cannot be read as PyTorch weights ({reason})") from None
    for wrapper in _STATES:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise InputError(
            f"{file}: expected a dictionary from names to tensors, as torch.save(state_dict) makes"
        )
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    names |= {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}
    names |= {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"}
    names |= {torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8"}
    tensors = {}
    for name, tensor in state.items():
        dtype = names.get(tensor.dtype, str(tensor.dtype))
        shape = () if tensor.is_nested else tuple(tensor.shape)  # a nested one has none
        tensors[name] = SourceTensor(name, dtype, shape, file, _TorchRows(tensor))
        kinds = {"meta": tensor.is_meta, "nested": tensor.is_nested, "quantised": tensor.is_quantized}
        kinds[str(tensor.layout).removeprefix("torch.")] = tensor.layout != torch.strided
        if any(kinds.values()):
            kind = next(kind for kind, found in kinds.items() if found)
            raise tensors[name].error(f"is a {kind} tensor, expected one that holds all its numbers")
    return tensors


@dataclass(frozen=True)
class _TorchRows:
    """Rows of a tensor that PyTorch has mapped."""

    tensor: Any

    def __call__(self, start: int, stop: int) -> np.ndarray:
        import torch

        matrix = self.tensor.reshape(-1, self.tensor.shape[-1] if self.tensor.dim() else 1)[start:stop]
        bits = {torch.bfloat16: torch.uint16}
        bits |= dict.fromkeys((torch.float8_e4m3fn, torch.float8_e5m2), torch.uint8)
        matrix = matrix.resolve_conj().resolve_neg().contiguous()  # marks of views, which are no bits
        return matrix.view(bits.get(matrix.dtype, matrix.dtype)).numpy()
