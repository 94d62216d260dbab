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
    assert section == {
        "chunk_size": 63,
        "local_size": 15,
        "exact_chunk_size": 48,
        "exact_local_window": 16,
        "exact_pretraining_length": 64,
    }
    assert config_of(made) == config_of(model) | {"dual_chunk_attention_config": section}
    assert facts.choice.scheme == Scheme(48, 16, 64)


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
    section = config_of(tmp_path / "out")["dual_chunk_attention_config"]
    assert section == stated | {
        "exact_chunk_size": 32,
        "exact_local_window": 8,
        "exact_pretraining_length": 41,
        "exact_logit_scale": 0.1,
        "exact_logit_scale_length": 32,
    }


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


def test_what_is_asked_for_is_stated_exactly_with_the_nearest_beside(model, tmp_path):
    asked = SchemeOptions(chunk_size=40, local_window=10, pretraining_length=64)
    facts = export_directory(model, tmp_path / "out", asked)
    assert config_of(tmp_path / "out")["dual_chunk_attention_config"] == {
        "chunk_size": 63,
        "local_size": 23,
        "exact_chunk_size": 40,
        "exact_local_window": 10,
        "exact_pretraining_length": 64,
    }
    assert "read chunk_size and local_size alone run local_window 23" in facts.notes[-1]


def test_no_note_where_both_say_the_same(model, tmp_path):
    asked = SchemeOptions(chunk_size=40, local_window=23, pretraining_length=64)
    assert export_directory(model, tmp_path / "out", asked).notes == []


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"])
def test_every_architecture_gets_the_same(tmp_path, architecture):
    write_tiny_model(tmp_path / "m", architectures=[architecture])
    export_directory(tmp_path / "m", tmp_path / "out", SchemeOptions())
    section = config_of(tmp_path / "out")["dual_chunk_attention_config"]
    assert Scheme.from_dual_chunk_config(section) == Scheme(48, 16, 64)


def test_an_exported_directory_exports_again_to_the_same(model, tmp_path):
    export_directory(model, tmp_path / "one", SchemeOptions(chunk_size=40, local_window=10))
    export_directory(tmp_path / "one", tmp_path / "two", SchemeOptions())
    assert config_of(tmp_path / "two") == config_of(tmp_path / "one")


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


@st.composite
def any_scheme(draw: st.DrawFn) -> Scheme:
    c = draw(st.integers(2, 10_000))
    s = draw(st.integers(1, c - 1))
    scale = draw(st.sampled_from([0.0, 0.1, 0.25]))
    return Scheme(s, draw(st.integers(0, c - s)), c, scale, 77 if scale else 0)


@given(any_scheme())
def test_any_scheme_reads_back(scheme):
    assert Scheme.from_dual_chunk_config(json.loads(json.dumps(scheme.as_dual_chunk_config()))) == scheme


@given(any_scheme())
def test_the_numbers_beside_it_keep_chunks_and_reach(scheme):
    section = scheme.as_dual_chunk_config()
    found = Scheme.from_dual_chunk_config(
        {key: value for key, value in section.items() if not key.startswith("exact_")}
    )
    assert (found.chunk_size, found.pretraining_length) == (scheme.chunk_size, scheme.pretraining_length)
    assert found == scheme.nearest_dual_chunk()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_size": 62}, r"chunk_size is 62, but the keys exact_\* give 63; change both"),
        ({"exact_chunk_size": 47}, r"local_size is 15, but the keys exact_\* give 16"),
        ({"exact_chunk_size": "48"}, "chunk_size is '48', must be an integer"),
        ({"exact_chunk_size": 64}, "chunk_size is 64, must be below"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(SchemeError, match=message):
        Scheme.from_dual_chunk_config(Scheme(48, 16, 64).as_dual_chunk_config() | change)


def test_an_exact_scheme_is_whole_or_absent():
    section = Scheme(48, 16, 64).as_dual_chunk_config()
    del section["exact_pretraining_length"]
    with pytest.raises(SchemeError, match="has no exact_pretraining_length"):
        Scheme.from_dual_chunk_config(section)
