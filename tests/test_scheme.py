"""Scheme: the paper's worked examples, the rules of a valid scheme, and properties of the positions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dca_export.scheme import Scheme, SchemeError

FIG_2 = Scheme(chunk_size=6, local_window=4, pretraining_length=10)
FIG_8 = Scheme(chunk_size=4, local_window=3, pretraining_length=8)


@st.composite
def schemes(draw: st.DrawFn) -> Scheme:
    c = draw(st.integers(2, 40))
    s = draw(st.integers(1, c - 1))
    return Scheme(s, draw(st.integers(0, c - s)), c)


def distance(scheme: Scheme, i: int, j: int) -> int:
    """Eq. 8 for one pair, written out case by case."""
    s, w, c = scheme.chunk_size, scheme.local_window, scheme.pretraining_length
    r = i % s
    gap = i // s - j // s
    if gap == 0:
        query = r
    elif gap == 1 and r < w:
        query = s + r
    else:
        query = c - 1
    return query - j % s


def test_figure_2_positions():
    assert FIG_2.key_positions(12).tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    queries = FIG_2.query_positions(12)
    assert queries.intra.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert queries.successive.tolist()[:6] == [6, 7, 8, 9, 9, 9]
    assert set(queries.inter.tolist()) == {9}


def test_figure_2_first_row_of_the_second_chunk():
    assert FIG_2.relative_positions(12)[6, :7].tolist() == [6, 5, 4, 3, 2, 1, 0]


def test_figure_8_positions():
    queries = FIG_8.query_positions(12)
    assert queries.successive.tolist()[:8] == [4, 5, 6, 7, 4, 5, 6, 7]
    assert set(queries.inter.tolist()) == {7}
    assert FIG_8.relative_positions(12).max() == 7


@given(schemes(), st.integers(1, 90))
def test_matrix_is_equation_8(scheme, n):
    expected = [[distance(scheme, i, j) if j <= i else -1 for j in range(n)] for i in range(n)]
    assert scheme.relative_positions(n).tolist() == expected


@given(schemes(), st.integers(1, 90))
def test_no_distance_reaches_the_pretraining_length(scheme, n):
    matrix = scheme.relative_positions(n)
    assert matrix.max() <= scheme.pretraining_length - 1
    assert all(matrix[i, j] >= 0 for i in range(n) for j in range(i + 1))


@given(schemes())
def test_first_chunk_is_plain_attention(scheme):
    matrix = scheme.relative_positions(scheme.chunk_size)
    assert all(matrix[i, j] == i - j for i in range(len(matrix)) for j in range(i + 1))


@given(schemes(), st.integers(1, 90))
def test_distances_to_the_chunk_before_are_exact_inside_the_local_window(scheme, n):
    s = scheme.chunk_size
    matrix = scheme.relative_positions(n)
    for i in range(s, n):
        if i % s < scheme.local_window:
            start = i // s * s
            assert matrix[i, start - s : i + 1].tolist() == [i - j for j in range(start - s, i + 1)]


@given(schemes(), st.integers(1, 90))
def test_within_a_chunk_of_keys_nearer_keys_are_nearer(scheme, n):
    matrix = scheme.relative_positions(n)
    for i in range(n):
        for j in range(1, i + 1):
            if j % scheme.chunk_size:
                assert matrix[i, j] == matrix[i, j - 1] - 1


@given(schemes(), st.integers(1, 60), st.integers(0, 60))
def test_positions_do_not_depend_on_later_tokens(scheme, n, more):
    assert (scheme.relative_positions(n + more)[:n, :n] == scheme.relative_positions(n)).all()


@given(st.integers(2, 200_000))
def test_paper_preset_uses_the_whole_trained_length(length):
    scheme = Scheme.paper(length)
    assert scheme.pretraining_length == length
    assert scheme.chunk_size == length * 3 // 4
    assert scheme.chunk_size + scheme.local_window == length


def test_paper_preset_for_llama_2():
    assert Scheme.paper(4096) == Scheme(3072, 1024, 4096)


def test_chunkllama_preset_for_llama_2():
    """Its code for L = 4096: chunk_size 3072, local 512, chunk_len 2560, positions up to 3072."""
    scheme = Scheme.chunkllama(4096)
    assert scheme == Scheme(2560, 512, 3073)
    assert scheme.query_positions(8000).inter.max() == 3072


def test_qwen_config():
    scheme = Scheme.from_dual_chunk_config(
        {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}
    )
    assert scheme == Scheme(253952, 8192, 262145, 0.1, 262144)


def test_qwen_config_without_original_length_has_no_logit_scale():
    assert Scheme.from_dual_chunk_config({"chunk_size": 64, "local_size": 8}) == Scheme(56, 8, 65)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((8192, 0, 8192), "chunk_size is 8192, must be below pretraining_length 8192"),
        ((0, 0, 8), "chunk_size is 0"),
        ((4, 5, 8), "local_window is 5, must be at most pretraining_length - chunk_size = 4"),
        ((4, -1, 8), "local_window is -1"),
        ((4.0, 1, 8), "chunk_size is 4.0, must be an integer"),
        ((True, 1, 8), "chunk_size is True, must be an integer"),
        ((4, 1, 2**31), "pretraining_length is 2147483648"),
        ((4, 1, 8, float("nan"), 8), "logit_scale is nan"),
        ((4, 1, 8, -0.1, 8), "logit_scale is -0.1"),
        ((4, 1, 8, 0.1), "logit_scale_length is 0"),
    ],
)
def test_invalid_scheme_names_the_field(fields, message):
    with pytest.raises(SchemeError, match="^" + message.replace("+", r"\+")):
        Scheme(*fields)


@pytest.mark.parametrize("length", [-5, 0, 1, 2**40, 8.0, None])
@pytest.mark.parametrize("preset", [Scheme.paper, Scheme.chunkllama])
def test_preset_refuses_a_senseless_trained_length(preset, length):
    with pytest.raises(SchemeError, match="pretraining_length"):
        preset(length)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"local_size": 8}, "has no chunk_size"),
        ({"chunk_size": 64}, "has no local_size"),
        ({"chunk_size": "64", "local_size": 8}, "chunk_size is '64'"),
        ({"chunk_size": 8, "local_size": 8}, "local_size is 8, must be below chunk_size 8"),
        ({"chunk_size": 64, "local_size": 8, "original_max_position_embeddings": -3}, "is -3"),
    ],
)
def test_bad_qwen_config_names_the_key(config, message):
    with pytest.raises(SchemeError, match=message):
        Scheme.from_dual_chunk_config(config)
