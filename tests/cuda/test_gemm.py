"""Products through cuBLASLt against float64, with its first algorithm and with the one that is measured."""

from __future__ import annotations

import shutil

import pytest

torch = pytest.importorskip("torch")

from gemm_library import GemmLibrary, header_directory  # noqa: E402
from shared_build import built_once  # noqa: E402
from small_batch_library import TORCH_DTYPES  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or shutil.which("nvcc") is None or header_directory() is None,
        reason="needs an NVIDIA GPU, nvcc and cublasLt.h",
    ),
]

ROUNDOFF = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-9}  # of the result
SUMMING = 2.0**-18  # of the sum of magnitudes, as in test_small_batch.py


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> GemmLibrary:
    return built_once(
        tmp_path_factory,
        "cuda_gemm",
        GemmLibrary.build,
        lambda directory: GemmLibrary(directory / GemmLibrary.FILE),
    )


@pytest.mark.parametrize("often", [False, True], ids=["first", "measured"])
@pytest.mark.parametrize("n", [2, 4, 16, 128])
@pytest.mark.parametrize("shape", [(1024, 4096), (4096, 14336), (520, 64)])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("output", ["16 bits", "16 bits and bias", "added to f32"])
def test_product_matches_float64(
    library: GemmLibrary, often: bool, n: int, shape: tuple[int, int], dtype: str, output: str
) -> None:
    """Twice: measuring comes before the first product, and adds nothing to a sum of its own.

    cuBLASLt's first choice may add up parts of a sum in 16 bits, what is measured may not.
    """
    torch.manual_seed(n)
    rows, cols = shape
    kind = TORCH_DTYPES[dtype]
    w = (0.03 * torch.randn(rows, cols, device="cuda")).to(kind)
    x = torch.randn(n, cols, device="cuda").to(kind)
    add = output == "added to f32"
    bias = torch.randn(rows, device="cuda").to(kind) if output == "16 bits and bias" else None
    wide = torch.randn(n, rows + 16, device="cuda").to(torch.float32 if add else kind)
    product = x.double() @ w.double().T
    magnitude = x.double().abs() @ w.double().abs().T
    for _ in range(2):
        before = wide.clone()
        library.multiply(w, x, wide[:, :rows], often, add, bias)
        expected = product + (before[:, :rows].double() if add else 0.0 if bias is None else bias.double())
        room = SUMMING * magnitude + (ROUNDOFF[wide.dtype] + 2.0**-23) * expected.abs()
        if (
            bias is not None
        ):  # products are rounded, more than once where a matrix is cut, before the bias is added
            room += ROUNDOFF[wide.dtype] * (2 * product.abs() + bias.double().abs())
        if not often:
            room += 4 * ROUNDOFF[wide.dtype] * product.square().mean().sqrt()
        worst = ((wide[:, :rows].double() - expected).abs() / room).max().item()
        assert worst <= 1.0, f"{worst:.3g} times the tolerance"
        assert torch.equal(wide[:, rows:], before[:, rows:])
