"""Which scheme an export gets from flags, from what the model states, and from the trained length."""

import pytest

from dca_export.config import Config
from dca_export.errors import InputError
from dca_export.export.scheme_choice import SchemeChoice, SchemeOptions, choose_scheme, stated_by_config
from dca_export.model.rope import TrainedLength
from dca_export.scheme import Scheme

TRAINED = TrainedLength(4096, "max_position_embeddings")
QWEN = SchemeChoice(Scheme(253952, 8192, 262145, 0.1, 262144), "dual_chunk_attention_config")


def chosen(stated: SchemeChoice | None = None, **options) -> Scheme | None:
    return choose_scheme(SchemeOptions(**options), TRAINED, stated).scheme


def test_the_papers_default():
    assert chosen() == Scheme(3072, 1024, 4096)


def test_plain_attention():
    assert chosen(dca=False) is None
    assert chosen(QWEN, dca=False) is None


def test_what_the_model_states():
    assert chosen(QWEN) == QWEN.scheme


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pretraining_length": 16384}, Scheme(12288, 4096, 16384)),
        ({"chunk_size": 2048}, Scheme(2048, 2048, 4096)),
        ({"local_window": 512}, Scheme(3072, 512, 4096)),
        ({"local_window": 0}, Scheme(3072, 0, 4096)),
        ({"chunk_size": 1536, "local_window": 512, "pretraining_length": 2048}, Scheme(1536, 512, 2048)),
    ],
)
def test_options_override_and_the_rest_follows(options, expected):
    assert chosen(**options) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"local_window": 4096}, Scheme(253952, 4096, 262145, 0.1, 262144)),
        ({"chunk_size": 200000}, Scheme(200000, 62145, 262145, 0.1, 262144)),
        ({"pretraining_length": 131072}, Scheme(98304, 32768, 131072, 0.1, 262144)),
    ],
)
def test_options_override_what_the_model_states(options, expected):
    assert chosen(QWEN, **options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 4096}, "chunk_size is 4096, must be below pretraining_length 4096"),
        ({"chunk_size": 9000}, "chunk_size is 9000"),
        ({"local_window": 2000}, "local_window is 2000, must be at most"),
        ({"pretraining_length": 1}, "pretraining_length is 1"),
    ],
)
def test_an_invalid_wish_names_the_field(options, message):
    with pytest.raises(InputError, match=f"the scheme asked for is not valid: {message}"):
        chosen(**options)


def test_the_source_is_told():
    assert choose_scheme(SchemeOptions(), TRAINED, None).source == "the paper's default"
    assert choose_scheme(SchemeOptions(chunk_size=99), TRAINED, None).source == "as asked for"
    assert choose_scheme(SchemeOptions(), TRAINED, QWEN).source == "dual_chunk_attention_config"


def stated(section) -> tuple[SchemeChoice | None, list[str]]:
    return stated_by_config(Config({"dual_chunk_attention_config": section}, "config.json"))


def test_config_without_a_scheme():
    assert stated(None) == (None, [])


def test_config_of_qwen():
    choice, notes = stated(
        {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}
    )
    assert choice == QWEN
    assert notes == []


def test_sparse_settings_that_mean_nothing_here_are_noted():
    known = {"sparse_attention_enabled": True, "sparse_attention_threshold": 9, "sparse_attention_last_q": 9}
    _, notes = stated({"chunk_size": 64, "local_size": 8, "sparse_attention_kernel": "x"} | known)
    assert notes == ["dual_chunk_attention_config: sparse_attention_kernel not used"]


@pytest.mark.parametrize("section", [{"chunk_size": 64}, {"chunk_size": 8, "local_size": 9}, 3])
def test_malformed_config(section):
    with pytest.raises(InputError, match="^config.json: dual_chunk_attention_config"):
        stated(section)
