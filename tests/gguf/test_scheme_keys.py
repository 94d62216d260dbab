"""The keys of a scheme: names and types, and reading them back."""

import pytest
from gguf import GGUFValueType
from hypothesis import given
from hypothesis import strategies as st

from dca_export.errors import InputError
from dca_export.gguf.scheme_keys import (
    border_entries,
    read_border,
    read_scheme,
    scheme_entries,
    scheme_keys,
)
from dca_export.scheme import Scheme, StringBorder

U32 = GGUFValueType.UINT32


@st.composite
def schemes(draw: st.DrawFn) -> Scheme:
    c = draw(st.integers(2, 2**31 - 1))
    s = draw(st.integers(1, c - 1))
    w = draw(st.integers(0, c - s))
    if draw(st.booleans()):
        return Scheme(s, w, c, draw(st.floats(0.0625, 10, width=32)), draw(st.integers(1, 2**31 - 1)))
    return Scheme(s, w, c)


def as_metadata(scheme: Scheme | None) -> dict:
    values = {key: value for key, (_, value) in scheme_entries("qwen2", scheme).items()}
    return {"general.architecture": "qwen2"} | values


def test_names_and_types():
    assert scheme_entries("llama", Scheme(3072, 1024, 4096)) == {
        "llama.attention.dca.chunk_size": (U32, 3072),
        "llama.attention.dca.local_window": (U32, 1024),
        "llama.attention.dca.pretraining_length": (U32, 4096),
    }


def test_logit_scale_is_stated_only_where_there_is_one():
    entries = scheme_entries("qwen2", Scheme(56, 8, 65, 0.1, 64))
    assert entries["qwen2.attention.dca.logit_scale"] == (GGUFValueType.FLOAT32, 0.1)
    assert entries["qwen2.attention.dca.logit_scale_length"] == (U32, 64)
    of_string = border_entries("qwen2", StringBorder(40, 8))
    assert set(entries) | set(of_string) == set(scheme_keys("qwen2"))


def test_plain_attention_has_no_keys():
    assert scheme_entries("llama", None) == {}


@given(schemes())
def test_reads_back(scheme):
    assert read_scheme(as_metadata(scheme), "f.gguf") == scheme


def test_no_keys_read_as_plain_attention():
    assert read_scheme(as_metadata(None), "f.gguf") is None


@pytest.mark.parametrize("field", ["local_window", "pretraining_length"])
def test_a_missing_key_is_named(field):
    metadata = as_metadata(Scheme(48, 16, 64))
    del metadata[f"qwen2.attention.dca.{field}"]
    with pytest.raises(InputError, match=f"^f.gguf: qwen2.attention.dca.{field} is missing"):
        read_scheme(metadata, "f.gguf")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("chunk_size", 9000, "chunk_size is 9000, must be below pretraining_length 64"),
        ("chunk_size", "48", "chunk_size is '48', must be an integer"),
        ("local_window", 17, "local_window is 17, must be at most"),
        ("pretraining_length", 2**32 - 1, "pretraining_length is 4294967295"),
    ],
)
def test_a_contradiction_names_file_and_key(field, value, message):
    metadata = as_metadata(Scheme(48, 16, 64)) | {f"qwen2.attention.dca.{field}": value}
    with pytest.raises(InputError, match=f"^f.gguf: qwen2.attention.dca.{message}"):
        read_scheme(metadata, "f.gguf")


@given(st.integers(1, 2**30), st.data())
def test_strings_border_reads_back(border, data):
    stated = StringBorder(border, data.draw(st.integers(0, border)))
    entries = border_entries("llama", stated)
    assert all(kind == U32 for kind, _ in entries.values())
    metadata = {"general.architecture": "llama"} | {key: value for key, (_, value) in entries.items()}
    assert read_border(metadata, "f.gguf") == stated
    assert read_scheme(metadata, "f.gguf") is None


def test_no_border_reads_as_none():
    assert read_border(as_metadata(Scheme(48, 16, 64)), "f.gguf") is None
    assert border_entries("llama", None) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"border": 40}, "f.gguf: llama.attention.string.local_window is missing"),
        ({"border": 0, "local_window": 0}, "f.gguf: llama.attention.string.border is 0"),
        ({"border": 40, "local_window": 41}, "local_window is 41, must be an integer from 0 to 40"),
        ({"border": 2**30 + 1, "local_window": 4}, "llama.attention.string.border is 1073741825"),
        ({"border": "40", "local_window": 4}, "llama.attention.string.border is '40'"),
    ],
)
def test_an_impossible_border_is_named(values, message):
    metadata = {f"llama.attention.string.{name}": value for name, value in values.items()}
    with pytest.raises(InputError, match=message):
        read_border({"general.architecture": "llama"} | metadata, "f.gguf")


def test_a_file_states_one_of_both():
    both = scheme_entries("llama", Scheme(48, 16, 64)) | border_entries("llama", StringBorder(40, 8))
    metadata = {"general.architecture": "llama"} | {key: value for key, (_, value) in both.items()}
    with pytest.raises(InputError, match="states both"):
        read_border(metadata, "f.gguf")
