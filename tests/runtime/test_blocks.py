"""Block formats through the C API, against the gguf package's own codecs."""

import gguf
import numpy as np
import pytest

import dca_runtime as dca

Type = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32)


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1])
def test_format_is_that_of_gguf(kind):
    layout = dca.block_format(kind)
    assert (layout.name, layout.block_size, layout.block_bytes) == (kind.name, *gguf.GGML_QUANT_SIZES[kind])
    assert layout.can_encode


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1])
def test_decode_is_that_of_gguf(values, kind):
    blocks = gguf.quants.quantize(values, kind).view(np.uint8).reshape(len(values), -1)
    np.testing.assert_allclose(
        dca.decode(kind, blocks), gguf.quants.dequantize(blocks, kind).reshape(values.shape), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "error"),
    [(Type.F32, 0.0), (Type.F16, 2e-3), (Type.BF16, 2e-2), (Type.Q8_0, 2e-2), (Type.Q4_0, 0.4)],
)
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_encode_keeps_values_to_the_formats_precision(values, kind, error, threads):
    blocks = dca.encode(kind, values, threads=threads)
    size, count = gguf.GGML_QUANT_SIZES[kind]
    assert blocks.dtype == np.uint8 and blocks.shape == (6, 256 // size * count)
    np.testing.assert_allclose(dca.decode(kind, blocks, threads=threads), values, atol=error)


def test_no_rows_is_no_error():
    assert dca.encode(Type.Q8_0, np.zeros((0, 64), np.float32)).shape == (0, 68)
    assert dca.decode(Type.Q8_0, np.zeros((0, 68), np.uint8)).shape == (0, 64)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: dca.block_format(9999), "9999"),
        (lambda: dca.encode(Type.Q8_0, np.zeros((1, 33), np.float32)), "multiple of 32"),
        (lambda: dca.decode(Type.Q8_0, np.zeros((1, 33), np.uint8)), "multiple of 34"),
        (lambda: dca.encode(Type.Q8_0, np.zeros(32, np.float32)), "two dimensions"),
        (lambda: dca.decode(Type.Q8_0, np.zeros(34, np.uint8)), "two dimensions"),
        (lambda: dca.decode(Type.Q8_0, np.zeros((1, 34), np.float32)), "uint8"),
        (lambda: dca.encode(Type.Q8_0, np.full((1, 32), np.nan, np.float32)), "finite"),
    ],
)
def test_wrong_arguments_are_named(call, says):
    with pytest.raises(dca.DcaError, match=says):
        call()
