"""The CUDA attention kernels against float64, on random shapes, schemes, starts and lengths."""

import shutil

import pytest

torch = pytest.importorskip("torch")

from attention_arguments import PositionScheme, Shape  # noqa: E402
from attention_check import (  # noqa: E402
    Case,
    cases_in_pieces,
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
IN_PIECES = list(cases_in_pieces(seed=9, count=20))


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


@pytest.mark.parametrize("case, pages", IN_PIECES, ids=lambda value: str(getattr(value, "seed", value)))
def test_keys_that_are_dequantized_in_pieces_match_float64(
    library: AttentionLibrary, case: Case, pages: int
) -> None:
    if not check_prefill(library, case, ("pieces",), pages):
        pytest.skip("the Hopper kernel alone takes pieces")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.seed))
def test_decode_matches_float64(library: AttentionLibrary, case: Case) -> None:
    check_decode(library, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.seed))
def test_decode_of_shared_pages_matches_float64(library: AttentionLibrary, case: Case) -> None:
    if check_shared_decode(library, case) is None:
        pytest.skip("no rows read pages together with this shape and scheme")


PLAIN, CHUNKS = PositionScheme(), PositionScheme(3000, 1000, 4000)
LONG = [
    # Pairs of row and key head that fill the card, fewer, more; rows that are much longer than the others.
    Case(Shape(32, 8, 128), PLAIN, 0, 17000, (16500,) * 7, "f16", "f16", 31),
    Case(Shape(32, 8, 128), CHUNKS, 0, 17000, (16500,) * 7, "bf16", "bf16", 32),
    Case(Shape(4, 2, 64), CHUNKS, 0, 20000, (9000, 300), "f16", "f16", 33),
    Case(Shape(8, 8, 64), PLAIN, 0, 20000, (150, 200) * 16, "f16", "q8", 34),
    # Few rows, whose last tile of keys is full, has one key, ends with its page.
    Case(Shape(32, 8, 128), PLAIN, 0, 130, (1, 63, 64, 65, 127, 128), "f16", "f16", 35),
    Case(
        Shape(14, 2, 80), PositionScheme(96, 32, 128), 0, 400, (1, 63, 64, 65, 191, 256), "bf16", "bf16", 36
    ),
]


@pytest.mark.parametrize("case", LONG, ids=lambda case: str(case.seed))
def test_decode_of_long_rows_matches_float64(library: AttentionLibrary, case: Case) -> None:
    check_decode(library, case)


SHARING = [
    # Groups whose splits are more than a card has multiprocessors, their tiles more than a ring has stages.
    Case(Shape(32, 8, 128), PLAIN, 0, 1, (), "f16", "f16", 41),
    Case(Shape(32, 8, 128), CHUNKS, 0, 1, (), "bf16", "bf16", 42),
    Case(Shape(8, 8, 64), CHUNKS, 0, 1, (), "f16", "f16", 43),
    Case(Shape(14, 2, 80), CHUNKS, 0, 1, (), "f16", "f16", 44),
    Case(Shape(8, 1, 96), PLAIN, 0, 1, (), "bf16", "bf16", 45),
    Case(Shape(16, 4, 256), CHUNKS, 0, 1, (), "f16", "f16", 46),
    Case(Shape(32, 8, 128), CHUNKS, 0, 1, (), "f16", "q8", 47),
]


@pytest.mark.parametrize("case", SHARING, ids=lambda case: str(case.seed))
@pytest.mark.parametrize("rows", [5, 40])
def test_decode_of_many_shared_pages_matches_float64(
    library: AttentionLibrary, case: Case, rows: int
) -> None:
    assert check_shared_decode(library, case, pages=(130,), rows=(rows,)) is not None


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.seed))
def test_stored_cache_matches_float64(library: AttentionLibrary, case: Case) -> None:
    check_store(library, case)
