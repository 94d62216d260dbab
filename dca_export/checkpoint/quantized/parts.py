"""The tensors that together hold one quantised matrix: found, checked and read as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dca_export.checkpoint.tensors import Checkpoint, FourBits, RowReader, SourceTensor, values
from dca_export.config import Config, read_json_object
from dca_export.small_files import is_there

FLOATS = ("F32", "F16", "BF16")
# Where quantisers leave their settings: a section of config.json, or a file beside it.
_SECTIONS = ("quantization_config", "compression_config", "quantization")
_FILES = ("quantize_config.json", "quant_config.json")


@dataclass
class Parts:
    """The tensors of one module, by what follows its name; `used` collects the names of those taken."""

    tensors: Mapping[str, SourceTensor]
    module: str  # with its last dot
    used: list[str] = field(default_factory=list)

    def get(self, name: str, dtypes: Iterable[str] = (), *shapes: tuple[int, ...]) -> SourceTensor | None:
        """A part that may be absent, of one of `dtypes` and `shapes` if any are given. Raises InputError."""
        tensor = self.tensors.get(self.module + name)
        if tensor is None:
            return None
        if (dtypes and tensor.dtype not in dtypes) or (shapes and tensor.shape not in shapes):
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise tensor.error(
                f"is {tensor.dtype} of shape {list(tensor.shape)}, expected {' or '.join(dtypes)}"
                + (f" of shape {wanted}" if wanted else "")
            )
        self.used.append(tensor.name)
        return tensor

    def __call__(self, name: str, dtypes: Iterable[str] = (), *shapes: tuple[int, ...]) -> SourceTensor:
        """A part that must be there."""
        tensor = self.get(name, dtypes, *shapes)
        if tensor is None:
            beside = [*self.used, *(each for each in self.tensors if each.startswith(self.module))]
            raise self.tensors[beside[0]].error(f"needs {self.module}{name}, which is missing")
        return tensor

    def weight(
        self,
        shape: tuple[int, ...],
        read: RowReader,
        four_bits: FourBits | None = None,
        name: str = "weight",
    ) -> SourceTensor:
        """The f32 matrix that the parts used so far make."""
        file = self.tensors[self.used[0]].file
        return SourceTensor(self.module + name, "F32", shape, file, read, tuple(self.used), four_bits)


def settings(checkpoint: Checkpoint) -> Config:
    """What the quantiser says of its method, in config.json or a file beside it; empty if it says nothing."""
    for key in _SECTIONS:
        if (section := checkpoint.config.section(key)) is not None:
            return section
    for name in _FILES:
        if is_there(path := checkpoint.directory / name):
            return Config(read_json_object(path), str(path))
    return Config({}, f"{checkpoint.config.where}: quantization_config")


def floats(tensor: SourceTensor) -> np.ndarray:
    """All scales of a tensor as f32, in its shape. Raises InputError for one that is not finite."""
    found = values(tensor, 0, tensor.rows).reshape(tensor.shape)
    if not np.isfinite(found).all():
        raise tensor.error("holds a scale that is not finite")
    return found


def integers(tensor: SourceTensor) -> np.ndarray:
    """All numbers of a tensor of integers, in its shape."""
    return tensor.read(0, tensor.rows).reshape(tensor.shape)


class Last:
    """Keeps what was loaded last, for matrices that are stored the other way round: their rows are read a
    few at a time, and each few need the whole."""

    def __init__(self) -> None:
        self._kept: tuple[SourceTensor, np.ndarray] | None = None

    def integers(self, tensor: SourceTensor) -> np.ndarray:
        """As the function of this name, from memory if `tensor` was the last one."""
        kept = self._kept
        if kept is None or kept[0] is not tensor:
            self._kept = kept = (tensor, integers(tensor))
        return kept[1]


last = Last()


def column_groups(index: SourceTensor, columns: int, groups: int) -> np.ndarray:
    """The group of each column, as a quantiser that reordered columns states it. Raises InputError."""
    found = integers(index).reshape(-1).astype(np.int64)
    if found.size != columns or found.min(initial=0) < 0 or found.max(initial=0) >= groups:
        raise index.error(f"must hold the group, 0 to {groups - 1}, of each of {columns} columns")
    return found


def equal_groups(columns: int, size: int) -> np.ndarray:
    """The group of each column where `size` neighbours share one; the last may be smaller."""
    return np.arange(columns) // size


def whole_blocks(group_of: np.ndarray, block: int) -> np.ndarray | None:
    """The group of each `block` columns; None if some of them are of several groups."""
    if group_of.size % block:
        return None
    blocks = group_of.reshape(-1, block)
    return blocks[:, 0] if (blocks == blocks[:, :1]).all() else None
