"""The CUDA attention kernels against float64, on random shapes, schemes, starts and lengths."""

import shutil

import pytest

torch = pytest.importorskip("torch")

from attention_check import (  # noqa: E402
    Case,
    cases_of_few_queries,
    cases_with_borders,
    cases_with_traits,
    check_decode,
    check_prefill,
    check_shared_decode,
    check_store,
    random_cases,
)
from attention_library import AttentionLibrary  # noqa: E402
from shared_build import built_once  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or shutil.which("nvcc") is None, reason="needs an NVIDIA GPU and nvcc"
    ),
]

CASES = [
    *random_cases(seed=3, count=40),
    *cases_with_traits(seed=4, count=40),
    *cases_with_borders(seed=6, count=40),
]


FEW_QUERIES = list(cases_of_few_queries(seed=8, count=16))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> AttentionLibrary:
    major, minor = torch.cuda.get_device_capability()
    target = "90a" if (major, minor) == (9, 0) else f"{major}{minor}"
    return built_once(
        tmp_path_factory,
        "cuda_attention",
        lambda directory: AttentionLibrary.build(directory, (target,)),
        lambda directory: AttentionLibrary(directory / AttentionLibrary.FILE),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.seed))
@pytest.mark.parametrize("kernel", ["simple", "sm80", "sm90"])
def test_prefill_matches_float64(library: AttentionLibrary, case: Case, kernel: str) -> None:
    if not check_prefill(library, case, (kernel,)):
        pytest.skip(f"{kernel} does not take this shape here")


@pytest.mark.parametrize("case", FEW_QUERIES, ids=lambda case: str(case.seed))
@pytest.mark.parametrize("kernel", ["auto", "sm90"])
def test_few_queries_after_many_keys_match_float64(
    library: AttentionLibrary, case: Case, kernel: str
) -> None:
    if not check_prefill(library, case, (kernel,)):
        pytest.skip(f"{kernel} does not take this shape here")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.seed))
def test_decode_matches_float64(library: AttentionLibrary, case: Case) -> None:
    check_decode(library, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.seed))
def test_decode_of_shared_pages_matches_float64(library: AttentionLibrary, case: Case) -> None:
    if check_shared_decode(library, case) is None:
        pytest.skip("no rows read pages together with this shape and scheme")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.seed))
def test_stored_cache_matches_float64(library: AttentionLibrary, case: Case) -> None:
    check_store(library, case)
