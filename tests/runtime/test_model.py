"""Loading a model, what it says about itself, and importing the package."""

import os
import subprocess
import sys

import gguf
import pytest

import dca_runtime as dca


def test_info_is_what_the_file_says(tiny_gguf):
    path = tiny_gguf(layers=3, heads=6, kv_heads=2, dtype="f16", scheme=(12, 4, 16), context_length=16)
    with dca.Model(path) as model:
        info = model.info
    assert (info.architecture, info.n_vocab, info.n_layers, info.n_embd) == ("llama", 320, 3, 64)
    assert (info.n_heads, info.n_kv_heads, info.head_dim, info.n_ff, info.n_experts) == (6, 2, 16, 96, 0)
    assert info.context_length == 16
    tensors = gguf.GGUFReader(path).tensors
    assert info.n_params == sum(int(tensor.n_elements) for tensor in tensors)
    assert info.weight_bytes == sum(int(tensor.n_bytes) for tensor in tensors)
    assert info.device.startswith("cpu")


@pytest.mark.parametrize("scheme", [None, (12, 4, 16)])
def test_scheme_is_the_files(tiny_gguf, scheme):
    with dca.Model(tiny_gguf(scheme=scheme)) as model:
        assert model.scheme == scheme


def test_logit_scale_is_part_of_the_scheme(tiny_gguf):
    with dca.Model(tiny_gguf(scheme=(12, 4, 16, 0.5, 32))) as model:
        assert model.scheme == tuple(model.info.scheme) == (12, 4, 16, 0.5, 32)


@pytest.mark.parametrize("scheme", [(12, 4, 16), (12, 4, 16, 0.5, 32)])
def test_a_session_takes_the_models_scheme(tiny_gguf, scheme):
    with dca.Model(tiny_gguf(scheme=scheme)) as model, dca.Model(tiny_gguf()) as bare:
        assert bare.session(scheme=model.scheme).info.scheme == model.info.scheme


def test_context_of_the_model_is_the_sessions_default(tiny_gguf):
    with dca.Model(tiny_gguf(), context=77) as model:
        assert model.session().info.context == 77
        assert model.session(context=5).info.context == 5


# Metadata


def test_metadata_is_what_gguf_reads(smollm2_gguf):
    wanted = {
        name: field.contents()
        for name, field in gguf.GGUFReader(smollm2_gguf).fields.items()
        if not name.startswith("GGUF.")
    }
    with dca.Model(smollm2_gguf) as model:
        assert dict(model.metadata) == wanted
        assert list(model.metadata) == list(wanted)


def test_metadata_of_every_type(tmp_path, tiny_gguf):
    values = {
        "test.u8": (200, gguf.GGUFValueType.UINT8),
        "test.i8": (-100, gguf.GGUFValueType.INT8),
        "test.u16": (60000, gguf.GGUFValueType.UINT16),
        "test.i16": (-30000, gguf.GGUFValueType.INT16),
        "test.u32": (2**32 - 1, gguf.GGUFValueType.UINT32),
        "test.i32": (-(2**31), gguf.GGUFValueType.INT32),
        "test.f32": (0.5, gguf.GGUFValueType.FLOAT32),
        "test.bool": (True, gguf.GGUFValueType.BOOL),
        "test.string": ("Zoë\n", gguf.GGUFValueType.STRING),
        "test.empty": ("", gguf.GGUFValueType.STRING),
        "test.u64": (2**64 - 1, gguf.GGUFValueType.UINT64),
        "test.i64": (-(2**63), gguf.GGUFValueType.INT64),
        "test.f64": (1e300, gguf.GGUFValueType.FLOAT64),
        "test.strings": (["a", "", "Ω"], gguf.GGUFValueType.ARRAY),
        "test.bools": ([True, False], gguf.GGUFValueType.ARRAY),
        "test.floats": ([0.25, -2.0], gguf.GGUFValueType.ARRAY),
    }
    path = tmp_path / "values.gguf"
    _copy_with(tiny_gguf(), path, values)
    with dca.Model(path) as model:
        got = {key: model.metadata[key] for key in values}
        assert got == {key: value for key, (value, _) in values.items()}
        assert type(got["test.bool"]) is bool and type(got["test.u64"]) is int
        assert "test.none" not in model.metadata and model.metadata.get("test.none", 3) == 3


def _copy_with(source, path, values) -> None:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0])
    for name, (value, kind) in values.items():
        writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Files that cannot be loaded


def test_missing_file(tmp_path):
    with pytest.raises(dca.DcaError, match="missing.gguf") as caught:
        dca.Model(tmp_path / "missing.gguf")
    assert caught.value.status == dca.Status.IO


@pytest.mark.parametrize("keep", [0, 3, 20, 400, -1])
def test_truncated_file(tmp_path, tiny_gguf, keep):
    whole = tiny_gguf().read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: keep if keep >= 0 else len(whole) + keep])
    with pytest.raises(dca.DcaError, match="cut.gguf") as caught:
        dca.Model(path)
    assert caught.value.status == dca.Status.FORMAT
    assert "\n" not in str(caught.value)


def test_wrong_scheme_is_named(tiny_gguf):
    with pytest.raises(dca.DcaError, match="llama.attention.dca.chunk_size"):
        dca.Model(tiny_gguf(scheme=(16, 4, 16)))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_wrong_device(tiny_gguf, device):
    with pytest.raises(dca.DcaError):
        dca.Model(tiny_gguf(), device=device)


@pytest.mark.parametrize("threads", [-1, 2**31, 1.5])
def test_wrong_threads(tiny_gguf, threads):
    with pytest.raises(dca.DcaError, match="threads"):
        dca.Model(tiny_gguf(), threads=threads)


def test_nul_in_a_path():
    with pytest.raises(dca.DcaError, match="NUL"):
        dca.Model("a\0b")


# The package


def python(program: str, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )


def test_import_is_light():
    heavy = "numpy cffi tokenizers jinja2 rich torch"
    program = f"import sys, dca_runtime; print([m for m in {heavy.split()} if m in sys.modules])"
    assert python(program).stdout.strip() == "[]"


def test_everything_named_is_there():
    for name in dca.__all__:
        assert getattr(dca, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        getattr(dca, "no_such")  # noqa: B009 - as a statement it would look useless


def test_the_variable_names_the_library():
    program = "import dca_runtime as d\ntry: d.library_version()\nexcept d.DcaError as e: print(e)"
    assert "/nowhere/libdca.so" in python(program, DCA_LIBRARY="/nowhere/libdca.so").stdout


def test_library_version_is_three_numbers():
    assert [part.isdigit() for part in dca.library_version().split(".")] == [True] * 3
