"""Sparse prefill's kernels against float64: what is chosen, and the attention to what was chosen."""

import shutil

import pytest

torch = pytest.importorskip("torch")

from attention_check import Case  # noqa: E402
from attention_library import AttentionLibrary  # noqa: E402
from sparse_check import check_everything_kept, check_sparse, sparse_cases  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or shutil.which("nvcc") is None, reason="needs an NVIDIA GPU and nvcc"
    ),
]

CASES = list(sparse_cases(seed=5, count=30))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.seed))
@pytest.mark.parametrize("alpha", [0.1, 0.7])
def test_choice_and_attention_match_float64(library: AttentionLibrary, case: Case, alpha: float) -> None:
    assert set(check_sparse(library, case, alpha)) & {"sm80", "sm90"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.seed))
@pytest.mark.parametrize("kernel", ["sm80", "sm90"])
def test_keeping_everything_is_dense_to_the_bit(library: AttentionLibrary, case: Case, kernel: str) -> None:
    if not check_everything_kept(library, case, kernel):
        pytest.skip(f"{kernel} does not take this shape here")
