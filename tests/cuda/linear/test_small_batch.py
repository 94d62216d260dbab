"""The CUDA products of few rows against float64, every format; a row's result whatever stands beside it.

python -m pytest tests/cuda/linear/test_small_batch.py
"""

from __future__ import annotations

import shutil

import pytest

torch = pytest.importorskip("torch")

from shared_build import built_once  # noqa: E402
from small_batch_library import FORMATS, TORCH_DTYPES, SmallBatchLibrary, Weights  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or shutil.which("nvcc") is None, reason="needs an NVIDIA GPU and nvcc"
    ),
]

MOST_ROWS = 128
# Llama 3 8B's: output, key, the halves of the feed-forward network, the vocabulary; then odd ones.
SHAPES = [(4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336), (128256, 4096)]
ODD_SHAPES = [(1, 32), (7, 96), (255, 160), (257, 2080), (300, 4128), (33 * 256, 32), (1000, 992)]
PRODUCTS = [
    (format, dtype)
    for format in FORMATS
    for dtype in TORCH_DTYPES
    if FORMATS[format].low_bits < 16 or format.lower() == dtype
]
# The reference rounds weights as the kernels do. What is left is f32 sums in the tensor cores, which cut off
# what does not fit in 24 bits: 2^-23 of a partial sum, about 1 / sqrt(cols) of the sum of magnitudes,
# for cols / 16 additions.
SUMMING = 2.0**-18
# Half a unit in the last place.
ROUNDOFF = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SmallBatchLibrary:
    return built_once(
        tmp_path_factory,
        "cuda_small_batch",
        SmallBatchLibrary.build_for_this_card,
        lambda directory: SmallBatchLibrary(directory / SmallBatchLibrary.FILE),
    )


@pytest.fixture(scope="module")
def workspace(library: SmallBatchLibrary) -> torch.Tensor:
    return library.workspace(MOST_ROWS)


def activations(rows: int, cols: int, dtype: str, seed: int = 1) -> torch.Tensor:
    """(rows, cols) within a larger allocation of NaN, which would show in the results if it was read."""
    generator = torch.Generator("cuda").manual_seed(seed)
    x = torch.full(((rows + 64) * cols,), torch.nan, device="cuda", dtype=TORCH_DTYPES[dtype])
    x = x[: rows * cols].view(rows, cols)
    return x.copy_(torch.randn(rows, cols, device="cuda", generator=generator))


def assert_close(
    weights: Weights, x: torch.Tensor, y: torch.Tensor, dtype: str, before: torch.Tensor | float = 0.0
) -> None:
    """``y`` is x wᵀ plus ``before`` (both of y's shape)."""
    for first, w in weights.pieces(dtype):
        here = slice(first, first + len(w))
        added = before[:, here].double() if isinstance(before, torch.Tensor) else before
        expected = x.double() @ w.T + added
        room = SUMMING * (x.double().abs() @ w.abs().T) + (ROUNDOFF[y.dtype] + 2.0**-23) * expected.abs()
        error = (y[:, here].double() - expected).abs()
        worst = (error / room.clamp(min=1e-30)).max().item()
        assert worst <= 1.0, f"rows from {first}: {worst:.3g} times the tolerance"


@pytest.mark.parametrize(("format", "dtype"), PRODUCTS)
@pytest.mark.parametrize("shape", [*SHAPES, *ODD_SHAPES], ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_product_matches_float64(
    library: SmallBatchLibrary, workspace: torch.Tensor, format: str, dtype: str, shape: tuple[int, int]
) -> None:
    weights = Weights(format, *shape)
    for rows in (1, 2, 13, 16, 17, 32, 50, 64, 65, 128) if shape[0] <= 14336 else (2, 17, 128):
        assert library.takes(weights, rows)
        x = activations(rows, shape[1], dtype)
        y = torch.full((rows, shape[0]), torch.nan, device="cuda")
        workspace.fill_(torch.nan)
        library.multiply(weights, x, y, workspace)
        assert_close(weights, x, y, dtype)


@pytest.mark.parametrize("format", ["BF16", "Q4M", "Q6", "Q8"])
@pytest.mark.parametrize("rows", range(1, MOST_ROWS + 1))
def test_every_number_of_rows(
    library: SmallBatchLibrary, workspace: torch.Tensor, format: str, rows: int
) -> None:
    weights = Weights(format, 1056, 1184)
    x = activations(rows, 1184, "bf16")
    y = torch.full((rows, 1056), torch.nan, device="cuda")
    library.multiply(weights, x, y, workspace)
    assert_close(weights, x, y, "bf16")


@pytest.mark.parametrize(("format", "dtype"), PRODUCTS)
def test_row_has_the_same_bits_alone_and_among_others(
    library: SmallBatchLibrary, workspace: torch.Tensor, format: str, dtype: str
) -> None:
    weights = Weights(format, 1280, 4096)
    x = activations(MOST_ROWS, 4096, dtype)
    alone = torch.full((MOST_ROWS, 1280), torch.nan, device="cuda")
    for row in range(MOST_ROWS):
        library.multiply(weights, x[row : row + 1], alone[row : row + 1], workspace)
    for rows in (2, 16, 20, 33, 64, 100, 128):
        y = torch.full((rows, 1280), torch.nan, device="cuda")
        library.multiply(weights, x[:rows], y, workspace)
        assert torch.equal(y, alone[:rows])


@pytest.mark.parametrize("format", ["F16", "Q4", "Q5M"])
@pytest.mark.parametrize("y_dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(300, 512), (14336, 4096)], ids=["small", "large"])
@pytest.mark.parametrize("add", [False, True], ids=["set", "add"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
def test_output_with_stride_sum_and_bias(
    library: SmallBatchLibrary,
    workspace: torch.Tensor,
    format: str,
    y_dtype: torch.dtype,
    shape: tuple[int, int],
    add: bool,
    with_bias: bool,
) -> None:
    weights = Weights(format, *shape)
    x = activations(37, shape[1], "f16")
    wide = torch.randn(37, shape[0] + 24, device="cuda").to(y_dtype)
    before = wide.clone()
    bias = torch.randn(shape[0], device="cuda").to(y_dtype) if with_bias else None
    y = wide[:, 8 : 8 + shape[0]]
    library.multiply(weights, x, y, workspace, add, bias)
    start = before[:, 8 : 8 + shape[0]].double() if add else torch.zeros_like(y, dtype=torch.float64)
    assert_close(weights, x, y, "f16", start if bias is None else start + bias.double())
    assert torch.equal(wide[:, :8], before[:, :8])
    assert torch.equal(wide[:, 8 + shape[0] :], before[:, 8 + shape[0] :])


@pytest.mark.parametrize(
    ("format", "dtype"), [("F16", "f16"), ("BF16", "bf16"), ("Q4", "f16"), ("Q5M", "f16"), ("Q6", "bf16")]
)
@pytest.mark.parametrize(
    "shape", [(28672, 4096), (512, 2304), (768, 14336)], ids=lambda shape: f"{shape[0]}x{shape[1]}"
)
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
def test_gates_are_multiplied_on_hopper(
    library: SmallBatchLibrary,
    workspace: torch.Tensor,
    format: str,
    dtype: str,
    shape: tuple[int, int],
    with_bias: bool,
) -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a Hopper GPU")
    weights = Weights(format, *shape)
    w, half = torch.cat([piece for _, piece in weights.pieces(dtype)]).double(), shape[0] // 2
    bias = torch.randn(shape[0], device="cuda").to(TORCH_DTYPES[dtype]) if with_bias else None
    for rows in (2, 16, 17, 50):
        x = activations(rows, shape[1], dtype)
        y = torch.full((rows, half), torch.nan, device="cuda", dtype=x.dtype)
        library.multiply(weights, x, y, workspace, bias=bias, gated="silu")
        product = x.double() @ w.T + (0 if bias is None else bias.double())
        room = SUMMING * (x.double().abs() @ w.abs().T) + 2.0**-23 * product.abs()
        gate, up = product.split(half, dim=1)
        acted = torch.nn.functional.silu(gate)
        # The slope of silu is 1.1 at most; its exponential is right to about 2^-21.
        room = 1.1 * room[:, :half] * up.abs() + room[:, half:] * acted.abs()
        room += (ROUNDOFF[y.dtype] + 2.0**-20) * (acted * up).abs() + 1e-7
        assert ((y.double() - acted * up).abs() <= room).all()


def test_takes_neither_many_rows_nor_broken_blocks(library: SmallBatchLibrary) -> None:
    assert not library.takes(Weights("Q4", 64, 64), MOST_ROWS + 1)
    assert not library.takes(Weights("Q4", 64, 64), 0)
    assert not library.takes(Weights("F16", 64, 36), 4)
