"""Block formats against the gguf package: decoding to the bit, encoding by bytes or by its error."""

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from dca_runtime import DcaError
from dca_runtime.blocks import block_format, decode, encode

T = GGMLQuantizationType
FORMULA_TYPES = [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.MXFP4]
SEARCH_TYPES = [T.IQ4_NL, T.IQ4_XS, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K]
ALL_TYPES = [T.F32, *FORMULA_TYPES, *SEARCH_TYPES]
READ_TYPES = [T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S]

# Root mean square error over root mean square of what llama.cpp's quantisers (October 2026, no importance
# matrix) leave on normal values and on Student's t with 4 degrees of freedom, 2**20 values each.
LLAMA_CPP_ERROR = {
    T.IQ4_NL: (0.0786, 0.0944),
    T.Q2_K: (0.2958, 0.3431),
    T.Q3_K: (0.1505, 0.1832),
    T.Q4_K: (0.0712, 0.0866),
    T.Q5_K: (0.0360, 0.0438),
    T.Q6_K: (0.0177, 0.0229),
}


def relative_error(values: np.ndarray, decoded: np.ndarray) -> float:
    difference = values.astype(np.float64) - decoded
    return float(np.sqrt(np.square(difference).sum() / np.square(values.astype(np.float64)).sum()))


@st.composite
def matrices(draw, rows: int = 3, columns: int = 256, grid: bool = True) -> np.ndarray:
    """Rows of weights with magnitudes between 1e-4 and 1e4, with outliers or zeros, or (grid) few values."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = random.standard_normal((rows, columns))
    if draw(st.booleans()):
        values = np.where(random.random(values.shape) < 0.02, 30 * values, values).clip(-6, 6)
    if draw(st.booleans()):
        values *= random.random(values.shape) < 0.3
    if draw(st.booleans()):
        values = np.abs(values)
    if grid and draw(st.booleans()):
        values = np.round(values)
    return (values * 10 ** random.uniform(-4, 4, (rows, 1))).astype(np.float32)


@pytest.mark.parametrize("type_", [*ALL_TYPES, *READ_TYPES])
def test_facts_are_those_of_gguf(type_):
    found = block_format(type_)
    assert (found.name, (found.block_size, found.block_bytes)) == (type_.name, GGML_QUANT_SIZES[type_])
    assert found.can_encode == (type_ not in READ_TYPES)


@pytest.mark.parametrize("type_", [*ALL_TYPES, *READ_TYPES])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_decoding_any_bytes_agrees_to_the_bit(type_, seed):
    blocks = np.random.default_rng(seed).integers(0, 256, (7, 3 * GGML_QUANT_SIZES[type_][1]), np.uint8)
    with np.errstate(all="ignore"):  # random scales are sometimes infinite or NaN
        expected = gguf.quants.dequantize(blocks, type_)
    got = decode(type_, blocks, threads=2)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


@pytest.mark.parametrize("type_", FORMULA_TYPES)
@settings(max_examples=50, deadline=None)
@given(values=matrices())
def test_formula_formats_encode_to_the_bytes_of_gguf(type_, values):
    values += 0.0  # of 0 and -0 the smallest is a matter of taste
    expected = gguf.quants.quantize(values, type_).view(np.uint8)
    assert np.array_equal(encode(type_, values), expected)


def test_f32_is_copied():
    values = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    assert np.array_equal(encode(T.F32, values), values.view(np.uint8))


@pytest.mark.parametrize("type_", SEARCH_TYPES)
@settings(max_examples=50, deadline=None)
@given(values=matrices(grid=False))
def test_searched_formats_beat_equal_steps_between_the_extremes(type_, values):
    levels = {T.IQ4_NL: 11, T.IQ4_XS: 10, T.Q2_K: 4, T.Q3_K: 7, T.Q4_K: 16, T.Q5_K: 32, T.Q6_K: 63}[type_]
    block_size = 32 if type_ == T.IQ4_NL else 256
    blocks = values.reshape(-1, block_size).astype(np.float64)
    low = np.minimum(blocks.min(axis=1, keepdims=True), 0)
    high = np.maximum(blocks.max(axis=1, keepdims=True), 0)
    if type_ in (T.IQ4_NL, T.IQ4_XS, T.Q3_K, T.Q6_K):  # without a minimum
        high = np.maximum(high, -low)
        low = -high
    step = np.maximum((high - low) / (levels - 1), 1e-30)
    plain = low + np.round((blocks - low) / step) * step
    plain = plain.reshape(values.shape)
    decoded = gguf.quants.dequantize(encode(type_, values), type_)
    # Scales are halves: off by 2**-11 of themselves, or by 2**-25 times the largest integers beside them.
    halves = 2**-10 * np.linalg.norm(values, axis=1) + 2**-25 * 128 * 32 * np.sqrt(values.shape[1])
    limit = 1.05 * np.linalg.norm(values - plain, axis=1) + halves
    assert np.all(np.linalg.norm(values - decoded, axis=1) <= limit)


@pytest.mark.parametrize("type_", LLAMA_CPP_ERROR)
def test_searched_formats_are_no_worse_than_llama_cpp(type_):
    random = np.random.default_rng(0)
    normal = 0.02 * random.standard_normal((64, 4096))
    heavy_tailed = 0.01 * random.standard_t(4, (64, 4096))
    for values, limit in zip((normal, heavy_tailed), LLAMA_CPP_ERROR[type_], strict=True):
        values = values.astype(np.float32)
        assert relative_error(values, decode(type_, encode(type_, values))) <= limit


@pytest.mark.parametrize("type_", ALL_TYPES)
def test_zeros_stay_zeros(type_):
    zeros = np.zeros((2, 512), np.float32)
    assert not np.any(decode(type_, encode(type_, zeros)))


@pytest.mark.parametrize("type_", ALL_TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_row_and_column(type_, bad):
    values = np.ones((5, 256), np.float32)
    values[3, 200] = bad
    with pytest.raises(DcaError, match=rf"{type_.name}: row 3, column 200 is {bad}, must be finite"):
        encode(type_, values)


def test_values_beyond_the_format_are_refused():
    with pytest.raises(DcaError, match="row 0, column 1 is 70000, must be finite and at most 65504"):
        encode(T.F16, np.array([[1.0, 7e4]], np.float32))


def test_unknown_formats_are_refused():
    with pytest.raises(DcaError, match="ggml_type 9 "):
        block_format(9)
