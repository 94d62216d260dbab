"""Checkpoints: what is read is what was stored, and directories that contradict themselves are refused."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tiny_hf import stored_as, tiny_config, tiny_tensors, write_safetensors, write_tiny_model

from dca_export.checkpoint.tensors import open_checkpoint, read_safetensors, read_torch_file
from dca_export.errors import InputError


def stored_tiny(dtype: str = "F32") -> dict:
    return {name: (dtype, stored_as(v, dtype)) for name, v in tiny_tensors(tiny_config()).items()}


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_reads_rows_as_stored(tmp_path, dtype):
    tensors = write_tiny_model(tmp_path, dtype)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, values in tensors.items():
        tensor = checkpoint.tensors[name]
        assert (tensor.dtype, tensor.shape) == (dtype, values.shape)
        expected = stored_as(values, dtype).reshape(tensor.rows, tensor.columns)
        np.testing.assert_array_equal(tensor.read(0, tensor.rows), expected)


def test_reads_a_part_of_the_rows(tmp_path):
    tensors = write_tiny_model(tmp_path)
    tensor = open_checkpoint(tmp_path).tensors["lm_head.weight"]
    np.testing.assert_array_equal(tensor.read(7, 19), tensors["lm_head.weight"][7:19])


def test_a_vector_is_one_row_and_experts_are_rows(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_safetensors(tmp_path / "x.safetensors", {"v": ("F32", values[0, 0]), "e": ("F32", values)})
    tensors = read_safetensors(tmp_path / "x.safetensors")
    assert (tensors["v"].rows, tensors["v"].columns) == (1, 4)
    assert (tensors["e"].rows, tensors["e"].columns) == (6, 4)
    np.testing.assert_array_equal(tensors["e"].read(2, 4), values.reshape(6, 4)[2:4])


def test_shards(tmp_path):
    tensors = write_tiny_model(tmp_path, shards=3)
    checkpoint = open_checkpoint(tmp_path)
    assert len({tensor.file for tensor in checkpoint.tensors.values()}) == 3
    for name, values in tensors.items():
        read = checkpoint.tensors[name].read(0, checkpoint.tensors[name].rows)
        np.testing.assert_array_equal(read.reshape(values.shape), values)


def test_pytorch_file(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = write_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {name: torch.from_numpy(values).bfloat16() for name, values in tensors.items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    for name, tensor in open_checkpoint(tmp_path).tensors.items():
        assert tensor.dtype == "BF16"
        expected = stored_as(tensors[name], "BF16").reshape(tensor.rows, tensor.columns)
        np.testing.assert_array_equal(tensor.read(0, tensor.rows), expected)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", "model_state_dict"])
def test_pytorch_file_of_a_trainer(tmp_path, wrapper):
    torch = pytest.importorskip("torch")
    tensors = write_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path).tensors.keys() == tensors.keys()


def test_pytorch_file_cannot_run_code(tmp_path):
    torch = pytest.importorskip("torch")
    write_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"a": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be read as PyTorch weights"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_pytorch_file_that_is_none(tmp_path, content):
    pytest.importorskip("torch")
    write_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match="pytorch_model.bin: cannot be read"):
        open_checkpoint(tmp_path)


def refused(directory, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(directory)
    assert "\n" not in str(caught.value)


def test_no_directory(tmp_path):
    refused(tmp_path / "absent", "no such directory")


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(Path("acme/Rocket-7B"), "if that is a name on the Hub: hf:acme/Rocket-7B")


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"")
    refused(tmp_path / "m.gguf", "is no directory")


def test_no_config(tmp_path):
    refused(tmp_path, "config.json: no such file")


def test_no_weights(tmp_path):
    write_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, "no weights")


def test_missing_shard(tmp_path):
    write_tiny_model(tmp_path, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, "model-00002-of-00002.safetensors: this shard, named in .*, is missing")


def test_promised_tensor_missing(tmp_path):
    write_tiny_model(tmp_path, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model.norm.weight", "model.norm.gone"))
    refused(tmp_path, "tensor model.norm.gone, which .* promises, is missing")


def test_tensor_in_two_shards(tmp_path):
    write_tiny_model(tmp_path, shards=2)
    first = tmp_path / "model-00001-of-00002.safetensors"
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(first.read_bytes())
    refused(tmp_path, "is also in model-00001-of-00002.safetensors")


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", 7, "a.bin"])
def test_index_cannot_lead_elsewhere(tmp_path, shard):
    write_tiny_model(tmp_path, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    refused(tmp_path, "expected a .safetensors file name")


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": 3}])
def test_index_without_a_map(tmp_path, content):
    write_tiny_model(tmp_path, shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    refused(tmp_path, "weight_map is missing or empty")


def header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        struct.pack("<Q", 2**60) + b"{}",
        header(b"{"),
        header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 7),
        header(b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', b"\0" * 8),
        header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', b"\0" * 12),
        header(b'{"a":{"dtype":"XX","shape":[8],"data_offsets":[0,8]}}', b"\0" * 8),
        header(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
            b"\0" * 16,
        ),
    ],
)
def test_malformed_safetensors(tmp_path, content):
    write_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path, "model.safetensors: not a valid safetensors file")


def test_truncated_while_it_is_read(tmp_path):
    write_tiny_model(tmp_path)
    tensor = open_checkpoint(tmp_path).tensors["lm_head.weight"]
    path = tmp_path / "model.safetensors"
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 4)
    with pytest.raises(InputError, match="became shorter"):
        tensor.read(0, tensor.rows)


def test_a_view_of_pytorch_with_the_sign_turned_is_read_as_what_it_shows(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch._neg_view(torch.tensor([[1.0, -2.0]]))}, tmp_path / "pytorch_model.bin")
    assert read_torch_file(tmp_path / "pytorch_model.bin")["w"].read(0, 1).tolist() == [[-1.0, 2.0]]


def test_a_nested_tensor_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    torch.save({"w": nested}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin: tensor w is a nested tensor"):
        read_torch_file(tmp_path / "pytorch_model.bin")
