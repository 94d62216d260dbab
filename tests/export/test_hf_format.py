"""Hugging Face directories with a scheme: what changes, what stays, and what cannot be stated."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_hf import write_tiny_model

from dca_export.errors import InputError
from dca_export.export.hf_format import export_directory
from dca_export.export.scheme_choice import SchemeOptions
from dca_export.scheme import Scheme, SchemeError

QWEN = {"architectures": ["Qwen2ForCausalLM"]}


@pytest.fixture
def model(tmp_path):
    write_tiny_model(tmp_path / "m", **QWEN)
    return tmp_path / "m"


def config_of(directory) -> dict:
    return json.loads((directory / "config.json").read_text())


def test_only_the_config_changes(model, tmp_path):
    (model / "sub").mkdir()
    (model / "sub" / "template.jinja").write_text("{{ 1 }}")
    (model / ".hidden").write_text("")
    facts = export_directory(model, tmp_path / "out", SchemeOptions())
    names = {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()} - {".hidden"}
    made = tmp_path / "out"
    assert {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()} == names
    for name in names - {"config.json"}:
        assert (made / name).read_bytes() == (model / name).read_bytes()
    section = config_of(made).pop("dual_chunk_attention_config")
    assert section == {"chunk_size": 63, "local_size": 15}
    assert config_of(made) == config_of(model) | {"dual_chunk_attention_config": section}
    assert facts.choice.scheme == Scheme(48, 15, 64)


def test_weights_are_linked(model, tmp_path):
    export_directory(model, tmp_path / "out", SchemeOptions())
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).stat().st_ino == (model / weights).stat().st_ino
    assert (tmp_path / "out" / "config.json").stat().st_ino != (model / "config.json").stat().st_ino


def test_weights_are_copied_where_links_are_not_possible(model, tmp_path, monkeypatch):
    def no_link(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_link)
    export_directory(model, tmp_path / "out", SchemeOptions())
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (model / weights).read_bytes()
    assert (tmp_path / "out" / weights).stat().st_ino != (model / weights).stat().st_ino


def test_links_of_a_cache_are_followed(model, tmp_path):
    blob = tmp_path / "blob"
    (model / "model.safetensors").rename(blob)
    (model / "model.safetensors").symlink_to(blob)
    export_directory(model, tmp_path / "out", SchemeOptions())
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == blob.read_bytes()


def test_a_stated_scheme_and_what_stands_beside_it_stay(tmp_path):
    stated = {
        "chunk_size": 40,
        "local_size": 8,
        "original_max_position_embeddings": 32,
        "sparse_attention_enabled": True,
    }
    write_tiny_model(tmp_path / "m", **QWEN, dual_chunk_attention_config=stated)
    export_directory(tmp_path / "m", tmp_path / "out", SchemeOptions())
    assert config_of(tmp_path / "out")["dual_chunk_attention_config"] == stated


def test_no_dca_removes_it(tmp_path):
    write_tiny_model(tmp_path / "m", **QWEN, dual_chunk_attention_config={"chunk_size": 40, "local_size": 8})
    export_directory(tmp_path / "m", tmp_path / "out", SchemeOptions(dca=False))
    assert "dual_chunk_attention_config" not in config_of(tmp_path / "out")


def test_editing_the_output_leaves_the_source(model, tmp_path):
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    export_directory(model, tmp_path / "out", SchemeOptions())
    for path in (tmp_path / "out").iterdir():
        if path.suffix != ".safetensors":
            assert path.stat().st_nlink == 1
            path.write_text("edited")  # in place, as an editor does
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


@pytest.mark.parametrize("inside", ["out", "sub/out", "../link/out"])
def test_an_output_inside_the_source_is_refused(model, tmp_path, inside):
    (model / "sub").mkdir()
    (tmp_path / "link").symlink_to(model)
    with pytest.raises(InputError, match="lies in the model that is read"):
        export_directory(model, model / inside, SchemeOptions())
    assert not (model / inside).exists()


def test_a_config_of_half_characters_is_written(tmp_path):
    write_tiny_model(tmp_path / "m", **QWEN, note="\ud800")
    export_directory(tmp_path / "m", tmp_path / "out", SchemeOptions())
    assert config_of(tmp_path / "out")["note"] == "\ud800"


def test_what_cannot_be_stated_is_refused_with_the_nearest(model, tmp_path):
    asked = SchemeOptions(chunk_size=40, local_window=10, pretraining_length=64)
    message = "cannot state chunk_size 40, local_window 10, .* nearest is chunk_size 40, local_window 23, "
    with pytest.raises(InputError, match=message):
        export_directory(model, tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()
    nearest = SchemeOptions(chunk_size=40, local_window=23, pretraining_length=64)
    facts = export_directory(model, tmp_path / "out", nearest)
    assert facts.choice.scheme == Scheme(40, 23, 64)


def test_a_window_nobody_asked_for_gives_way(model, tmp_path):
    facts = export_directory(model, tmp_path / "out", SchemeOptions(chunk_size=32))
    assert facts.choice.scheme == Scheme(32, 31, 64)
    assert "with the window that config.json can state" in facts.choice.source


def test_a_class_that_sglang_does_not_serve_is_noted(tmp_path):
    write_tiny_model(tmp_path / "m")
    facts = export_directory(tmp_path / "m", tmp_path / "out", SchemeOptions())
    assert "not for LlamaForCausalLM" in facts.notes[0]


def test_a_directory_with_something_in_it_is_kept(model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(InputError, match="already exists; name a directory that is new or empty"):
        export_directory(model, tmp_path / "out", SchemeOptions())
    (tmp_path / "out" / "mine").unlink()
    export_directory(model, tmp_path / "out", SchemeOptions())
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_failure_leaves_nothing(model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        export_directory(model, tmp_path / "out", SchemeOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@given(st.integers(2, 10_000), st.data())
def test_stated_schemes_read_back(c, data):
    s = data.draw(st.integers(1, c - 1))
    scaled = data.draw(st.booleans())
    scheme = Scheme(s, c - 1 - s, c, 0.1 if scaled else 0.0, 77 if scaled else 0)
    assert Scheme.from_dual_chunk_config(scheme.to_dual_chunk_config()) == scheme


@given(st.integers(2, 10_000), st.data())
def test_the_nearest_can_be_stated_and_keeps_chunks_and_reach(c, data):
    s = data.draw(st.integers(1, c - 1))
    scheme = Scheme(s, data.draw(st.integers(0, c - s)), c)
    nearest = scheme.nearest_dual_chunk()
    assert (nearest.chunk_size, nearest.pretraining_length) == (s, c)
    nearest.to_dual_chunk_config()
    if nearest != scheme:
        with pytest.raises(SchemeError, match="dual_chunk_attention_config can only state"):
            scheme.to_dual_chunk_config()
