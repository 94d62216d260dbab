"""Tensors of a GGUF file as sources of values, so that they can be written in other types."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from dca_export.checkpoint.tensors import SourceTensor
from dca_export.errors import InputError
from dca_export.export.recipes import Model
from dca_export.gguf.file import GgufFile, TensorInfo
from dca_export.model.architectures import ARCHITECTURES
from dca_export.model.layout import Piece, PlannedTensor
from dca_export.model.rules import Dimensions
from dca_runtime import blocks

T = GGMLQuantizationType

_LAYER = re.compile(r"^blk\.\d+\.")
_LEAST_BITS = 8  # of types that may be quantised again without being asked for


@dataclass(frozen=True)
class _Decoded:
    """Rows of a GGUF tensor as f32."""

    file: GgufFile
    info: TensorInfo

    def __call__(self, start: int, stop: int) -> np.ndarray:
        rows = self.info.n_values // self.info.shape[-1]
        row_bytes = self.info.nbytes // rows
        at, nbytes = self.info.start + start * row_bytes, (stop - start) * row_bytes
        data = np.fromfile(self.file.path, np.uint8, nbytes, offset=at)
        if data.size != nbytes:
            raise InputError(f"{self.file.path}: became shorter while it was read")
        return blocks.decode(self.info.type, data.reshape(stop - start, row_bytes))


def planned_of(file: GgufFile, info: TensorInfo) -> PlannedTensor:
    """The tensor as what is to be written; its source is F32."""
    source = SourceTensor(info.name, "F32", info.shape, file.path, _Decoded(file, info))
    return PlannedTensor(info.name, info.shape, (Piece(source, 0, source.rows),), 0, keeps_f32(file, info))


def keeps_f32(file: GgufFile, info: TensorInfo) -> bool:
    """Whether a matrix stays out of quantisation, as it does in an export (routers of experts)."""
    target = _LAYER.sub("blk.{layer}.", info.name)
    return any(
        rule.f32
        for architecture in ARCHITECTURES
        if architecture.name == file.architecture
        for rule in architecture.tensors
        if rule.target == target
    )


def check_requantisable(file: GgufFile, info: TensorInfo, wanted: GGMLQuantizationType) -> None:
    """Raises InputError for a tensor that lost too much already to be quantised once more."""
    values, nbytes = GGML_QUANT_SIZES[info.type]
    if nbytes * 8 < _LEAST_BITS * values:
        raise InputError(
            f"{file.path}: tensor {info.name} is {info.type.name}, below {_LEAST_BITS} bits; as "
            f"{wanted.name} it would lose twice: take the original model, or say --requantize"
        )


def model_of(file: GgufFile, names: set[str]) -> Model:
    """What the choice of types depends on, from a file's metadata."""
    name = file.architecture

    def size(key: str, default: int = 0) -> int:
        value = file.get(f"{name}.{key}", default)
        value = max(value, default=0) if isinstance(value, list) else value  # one a layer
        return value if isinstance(value, int) else default

    heads = size("attention.head_count", 1)
    dimensions = Dimensions(
        layers=size("block_count"),
        vocab=size("vocab_size"),
        width=size("embedding_length"),
        heads=heads,
        kv_heads=size("attention.head_count_kv", heads),
        head_dim=size("attention.key_length"),
        ff=size("feed_forward_length"),
        experts=size("expert_count"),
    )
    return Model(name, dimensions, "output.weight" not in names)
