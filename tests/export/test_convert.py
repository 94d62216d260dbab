"""Conversion: the bytes of every type, however the rows are cut, against gguf's own encoders."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from tiny_hf import stored_as

from dca_export.checkpoint.tensors import STORAGE, SourceTensor
from dca_export.errors import InputError
from dca_export.export import convert
from dca_export.model.layout import Piece, PlannedTensor

T = GGMLQuantizationType


def planned(values: np.ndarray, dtype: str = "F32", head_dim: int = 0, pieces: int = 1) -> PlannedTensor:
    matrix = stored_as(values, dtype).reshape(-1, values.shape[-1])
    source = SourceTensor("t", dtype, values.shape, Path("m.safetensors"), lambda a, b: matrix[a:b])
    cuts = np.linspace(0, len(matrix), pieces + 1).astype(int)
    parts = tuple(Piece(source, int(a), int(b)) for a, b in zip(cuts[:-1], cuts[1:], strict=True))
    return PlannedTensor("t.weight", values.shape, parts, head_dim)


def encoded(tensor: PlannedTensor, kind: T) -> bytes:
    return b"".join(chunk.tobytes() for chunk in convert.encoded_chunks(tensor, kind))


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((24, 64)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_same_type_keeps_every_bit(values, dtype):
    assert encoded(planned(values, dtype), T[dtype]) == stored_as(values, dtype).tobytes()


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("kind", [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1])
def test_bytes_are_those_of_ggufs_encoders(values, dtype, kind):
    stored = stored_as(values, dtype)
    exact = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored
    wanted = gguf.quants.quantize(exact.astype(np.float32), kind)
    assert encoded(planned(values, dtype), kind) == np.asarray(wanted).tobytes()


@pytest.mark.parametrize("kind", [T.F16, T.Q8_0, T.F32])
@pytest.mark.parametrize("head_dim", [0, 8])
def test_small_chunks_and_pieces_change_nothing(values, kind, head_dim, monkeypatch):
    whole = encoded(planned(values, "F16", head_dim), kind)
    monkeypatch.setattr(convert, "CHUNK_VALUES", 5 * 64)
    assert encoded(planned(values, "F16", head_dim, pieces=3), kind) == whole


def test_chunks_are_small(values, monkeypatch):
    monkeypatch.setattr(convert, "CHUNK_VALUES", 5 * 64)
    chunks = list(convert.encoded_chunks(planned(values, "F32"), T.F16))
    assert len(chunks) == 5
    assert max(chunk.shape[0] for chunk in chunks) == 5


@pytest.mark.parametrize("kind", [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q6_K])
def test_stated_size_is_the_size_written(kind):
    tensor = planned(np.ones((3, 5, 256), np.float32))
    assert len(encoded(tensor, kind)) == convert.tensor_bytes(tensor.shape, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(70000.0, T.F16), (np.inf, T.F16), (np.nan, T.Q8_0), (np.inf, T.Q4_0), (np.nan, T.BF16)],
)
def test_a_value_the_type_cannot_hold_is_refused(values, value, kind):
    values[3, 4] = value
    with pytest.raises(InputError, match="^m.safetensors: tensor t .*column 4 is") as caught:
        encoded(planned(values), kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["I64", "F8_E8M0", "U8", "torch.complex64"])
def test_unknown_storage_is_refused(dtype):
    tensor = SourceTensor("t", dtype, (4, 4), Path("m.safetensors"), lambda a, b: np.zeros((4, 4)))
    with pytest.raises(
        InputError, match=f"tensor t is stored as {dtype}; supported are {', '.join(STORAGE)}"
    ):
        convert.check_readable(tensor)
