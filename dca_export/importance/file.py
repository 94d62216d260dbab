"""llama.cpp's imatrix file in its GGUF form: what flows into each matrix, summed over a text.

`general.type` is "imatrix"; `imatrix.datasets`, `imatrix.chunk_count` and `imatrix.chunk_size` say of what
text. For a tensor NAME, `NAME.in_sum2` (matrices, columns) f32 holds the sums of the squares of each column's
inputs, and `NAME.counts` (matrices, 1) f32 over how many; matrices are the experts stacked in it, or one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile, TensorInfo, is_gguf

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Sums:
    """One tensor's: `squares` (matrices, columns), `counts` (matrices)."""

    squares: np.ndarray
    counts: np.ndarray

    def weights(self, matrix: int) -> np.ndarray:
        """What a squared error in each column of a matrix counts: the mean square of its inputs, f32.

        An expert that no input came to weighs all its columns alike.
        """
        one = min(matrix, len(self.counts) - 1)
        if not self.counts[one] > 0:
            return np.ones(self.squares.shape[1], np.float32)
        mean = (self.squares[one] / self.counts[one]).astype(np.float32)
        return mean if mean.any() else np.ones_like(mean)


@dataclass(frozen=True)
class Importance:
    """Sums of a model's tensors by their names, and of what text."""

    sums: Mapping[str, Sums]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 0


def read_importance(path: Path) -> Importance:
    """An imatrix file of llama.cpp's or of `dca-export imatrix`. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an imatrix")
    if not is_gguf(path):
        raise InputError(
            f"{path}: not a GGUF file; an imatrix of the old form becomes one with "
            f"llama-imatrix --in-file {path.name} -o {path.stem}.gguf"
        )
    file = GgufFile(path)
    if file.get("general.type") != "imatrix":
        raise InputError(f"{path}: general.type is {file.get('general.type')!r}, expected imatrix")
    stored = {tensor.name: tensor for tensor in file.tensors}
    sums: dict[str, Sums] = {}
    for name, tensor in stored.items():
        if not name.endswith(_SUMS):
            continue
        base = name.removesuffix(_SUMS)
        if base + _COUNTS not in stored:
            raise InputError(f"{path}: tensor {base + _COUNTS} is missing beside {name}")
        squares, counts = _values(file, tensor), _values(file, stored[base + _COUNTS]).reshape(-1)
        squares = squares.reshape(-1, squares.shape[-1])
        if len(counts) not in (1, len(squares)):
            raise InputError(
                f"{path}: {base + _COUNTS} has {len(counts)} numbers for {len(squares)} matrices"
            )
        sums[base] = Sums(squares, np.resize(counts, len(squares)))
    if not sums:
        raise InputError(f"{path}: holds no {_SUMS} tensors, so it is not an imatrix")
    datasets = file.get("imatrix.datasets", [])
    return Importance(
        sums,
        tuple(str(name) for name in datasets) if isinstance(datasets, list) else (),
        _count(file, "imatrix.chunk_count"),
        _count(file, "imatrix.chunk_size"),
    )


def _count(file: GgufFile, key: str) -> int:
    value = file.get(key, 0)
    return value if isinstance(value, int) else 0


def _values(file: GgufFile, tensor: TensorInfo) -> np.ndarray:
    if tensor.type != gguf.GGMLQuantizationType.F32:
        raise InputError(f"{file.path}: tensor {tensor.name} is {tensor.type.name}, expected F32")
    values = np.fromfile(file.path, "<f4", tensor.n_values, offset=tensor.start).reshape(tensor.shape)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise InputError(f"{file.path}: tensor {tensor.name} holds a number that is not finite or below 0")
    return values


def write_importance(path: Path, importance: Importance) -> None:
    """Writes the file that llama-quantize and `dca-export --imatrix` read."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # an imatrix has no architecture
    writer.add_type("imatrix")
    writer.add_array(gguf.Keys.IMatrix.DATASETS, list(importance.datasets))
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, importance.chunks)
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, importance.chunk_size)
    for name, sums in sorted(importance.sums.items()):
        writer.add_tensor(name + _SUMS, np.ascontiguousarray(sums.squares, np.float32))
        writer.add_tensor(name + _COUNTS, np.ascontiguousarray(sums.counts.reshape(-1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
