"""Where a scheme comes from, and what is refused."""

import pytest

from dca_vllm.scheme import Scheme, SchemeError, find_scheme

QWEN_1M = {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}


def test_no_section_and_nothing_asked_for_is_no_scheme():
    assert find_scheme(None, None) is None


def test_qwens_arithmetic():
    assert find_scheme(QWEN_1M, None) == Scheme(253952, 8192, 262145, 0.1, 262144)


def test_exact_integers_win_over_the_arithmetic_beside_them():
    section = {
        "chunk_size": 255,
        "local_size": 63,
        "exact_chunk_size": 192,
        "exact_local_window": 64,
        "exact_pretraining_length": 256,
    }
    assert find_scheme(section, None) == Scheme(192, 64, 256)
    with pytest.raises(SchemeError, match=r"local_size is 62, but the keys exact_\* give 63"):
        find_scheme(section | {"local_size": 62}, None)


def test_what_dca_export_writes_is_what_is_read():
    exported = pytest.importorskip("dca_export.scheme", exc_type=ImportError)
    for numbers in ((192, 64, 256), (40, 10, 64), (40, 10, 64, 0.25, 77), (40, 23, 64, 0.1, 60)):
        section = exported.Scheme(*numbers).as_dual_chunk_config()
        assert find_scheme(section, None) == Scheme(*numbers)


def test_what_is_asked_for_wins_and_follows_the_papers_rule():
    assert find_scheme(QWEN_1M, {"pretraining_length": 8192}) == Scheme(6144, 2048, 8192)
    asked = {"pretraining_length": 256, "chunk_size": 100, "local_window": 30}
    assert find_scheme(None, asked) == Scheme(100, 30, 256)
    assert find_scheme(None, {"pretraining_length": 256, "chunk_size": 100}) == Scheme(100, 156, 256)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "--additional-config: dca: has no pretraining_length"),
        (3, "--additional-config: dca: is 3, must be an object"),
        ({"pretraining_length": 1}, "pretraining_length is 1, must be an integer from 2"),
        ({"pretraining_length": 64, "window": 3}, "'window' is not one of chunk_size, local_window"),
        ({"pretraining_length": 64, "chunk_size": 64}, "chunk_size is 64, must be below"),
        ({"pretraining_length": 64, "chunk_size": 40, "local_window": 25}, "local_window is 25, must be at"),
        ({"pretraining_length": 64, "chunk_size": 40.0}, "chunk_size is 40.0, must be an integer"),
        ({"pretraining_length": 64, "logit_scale": 0.1}, "logit_scale_length is 0, must be"),
        ({"pretraining_length": 64, "logit_scale": float("nan")}, "logit_scale is nan, must be a finite"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(asked, message):
    with pytest.raises(SchemeError, match=message):
        find_scheme(None, asked)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"chunk_size": 8}, "config.json: dual_chunk_attention_config: has no local_size"),
        ({"chunk_size": 8, "local_size": 8}, "local_size is 8, must be below chunk_size 8"),
        ({"exact_chunk_size": 8, "exact_local_window": 1}, "has no exact_pretraining_length"),
        ([], "must be an object"),
    ],
)
def test_what_config_json_gets_wrong_is_named_with_its_place(section, message):
    with pytest.raises(SchemeError, match=message):
        find_scheme(section, None)
