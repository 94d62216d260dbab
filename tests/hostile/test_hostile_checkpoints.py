"""A model directory damaged anywhere is exported, or refused in one line with no file left; within limits."""

import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
from hostile.damage import SETTINGS, as_json, damaged_bytes, damaged_json
from hostile.limited import limited
from hypothesis import given
from hypothesis import strategies as st
from tiny_hf import tiny_config, tiny_tensors, write_tiny_model

from dca_export.cli.export import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hostile") / "model"
    write_tiny_model(directory)
    return directory


def exported_or_refused(model: Path, name: str, data: bytes, *options: str) -> None:
    """Exports the model with another file ``name``."""
    folder = model.parent / "work"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder / "model")
    (folder / "model" / name).write_bytes(data)
    if name.endswith(".bin"):
        (folder / "model" / "model.safetensors").unlink()
    output = folder / "out" / "model.gguf"
    output.parent.mkdir()
    ended = limited(lambda: main([str(folder / "model"), str(output), *options]))
    assert ended.code in (0, 2), (ended, data[:2000])
    left = [path.name for path in output.parent.iterdir()]
    if ended.code == 2:
        assert len(ended.errors.splitlines()) == 1 and "Traceback" not in ended.errors, ended
        assert left == []
    else:
        assert left == ["model.gguf"]


def test_config_json(model):
    @SETTINGS
    @given(damaged_json(tiny_config(rope_scaling={"type": "linear", "factor": 2.0}, eos_token_id=[1, 2])))
    def check(config):
        exported_or_refused(model, "config.json", as_json(config))

    check()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizer_files(model, name):
    @SETTINGS
    @given(damaged_json(json.loads((model / name).read_text())))
    def check(value):
        exported_or_refused(model, name, as_json(value))

    check()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_json_files_as_bytes(model, name):
    @SETTINGS
    @given(damaged_bytes((model / name).read_bytes()))
    def check(data):
        exported_or_refused(model, name, data)

    check()


def test_headers_of_safetensors(model):
    data = (model / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]

    @SETTINGS
    @given(damaged_json(header), st.sampled_from([0, 0, 0, -1, 1, 2**40]))
    def check(header, off):
        encoded = as_json(header)
        size = struct.pack("<Q", max(len(encoded) + off, 0))
        exported_or_refused(model, "model.safetensors", size + encoded + tensors)

    check()


def test_safetensors_as_bytes(model):
    data = (model / "model.safetensors").read_bytes()

    @SETTINGS
    @given(damaged_bytes(data[:4000]))
    def check(start):
        exported_or_refused(model, "model.safetensors", start + data[4000:])

    check()


def test_pickles(model):
    torch = pytest.importorskip("torch")
    path = model.parent / "whole.bin"
    torch.save({name: torch.from_numpy(value) for name, value in tiny_tensors(tiny_config()).items()}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in parts if name.endswith("data.pkl"))

    @SETTINGS
    @given(damaged_bytes(parts[pickled]))
    def check(data):
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, data if name == pickled else part)
        exported_or_refused(model, "pytorch_model.bin", path.read_bytes())

    check()


class Calls:
    """A pickle that calls what it likes."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(model, zipped):
    pytest.importorskip("torch")
    touched = model.parent / "touched"
    data = pickle.dumps({"model.embed_tokens.weight": Calls(touched)})
    if zipped:
        path = model.parent / "calls.bin"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", b"3\n")
        data = path.read_bytes()
    exported_or_refused(model, "pytorch_model.bin", data)
    assert not touched.exists()
