"""Checkpoints that were quantised elsewhere: each matrix is what its format's formula gives, to the bit."""

import json

import numpy as np
import pytest
import quantisers as q
from tiny_hf import tiny_config, write_safetensors

from dca_export.checkpoint.quantized.table import dequantised
from dca_export.checkpoint.tensors import Checkpoint, open_checkpoint
from dca_export.errors import InputError

ROWS, COLUMNS = 96, 128
V2 = {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}


def opened(directory, stored: q.Stored, prefix: str = "m.", **config) -> Checkpoint:
    (directory / "config.json").write_text(json.dumps(tiny_config(**config)))
    write_safetensors(directory / "model.safetensors", {prefix + name: part for name, part in stored.items()})
    return dequantised(open_checkpoint(directory))


def check(checkpoint: Checkpoint, values: np.ndarray, name: str = "m.weight") -> None:
    (only,) = checkpoint.tensors
    tensor = checkpoint.tensors[name]
    assert (only, tensor.dtype, tensor.shape) == (name, "F32", values.shape)
    np.testing.assert_array_equal(tensor.read(0, tensor.rows), values)
    np.testing.assert_array_equal(tensor.read(3, 22), values[3:22])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq(tmp_path, bits, v2, act_order):
    stored, values = q.gptq(ROWS, COLUMNS, bits, v2=v2, act_order=act_order)
    check(opened(tmp_path, stored, quantization_config=V2 if v2 else {"quant_method": "gptq"}), values)


def test_gptq_without_an_order_of_columns_and_with_a_last_group_that_is_smaller(tmp_path):
    stored, values = q.gptq(ROWS, COLUMNS, group=48)
    del stored["g_idx"]
    check(opened(tmp_path, stored, quantization_config={"bits": 4, "group_size": 48}), values)


def test_gptq_of_one_group(tmp_path):
    stored, values = q.gptq(ROWS, COLUMNS, group=COLUMNS, symmetric=True)
    check(opened(tmp_path, stored, quantization_config={"bits": 4, "group_size": -1}), values)


def test_gptq_whose_settings_lie_in_a_file_beside(tmp_path):
    stored, values = q.gptq(ROWS, COLUMNS, v2=True)
    (tmp_path / "quantize_config.json").write_text(json.dumps(V2))
    check(opened(tmp_path, stored), values)


@pytest.mark.parametrize("group", [32, 64, 128])
def test_awq(tmp_path, group):
    stored, values = q.awq(ROWS, COLUMNS, group)
    check(opened(tmp_path, stored, quantization_config={"quant_method": "awq", "version": "gemm"}), values)


def test_bitsandbytes_8_bits(tmp_path):
    stored, values = q.bnb8(ROWS, COLUMNS)
    check(opened(tmp_path, stored), values)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("columns", [COLUMNS, 33])
def test_bitsandbytes_4_bits(tmp_path, kind, nested, columns):
    stored, values = q.bnb4(ROWS, columns, kind, nested)
    check(opened(tmp_path, stored), values)


def test_bitsandbytes_4_bits_kept_in_wider_numbers(tmp_path):
    stored, values = q.bnb4(ROWS, COLUMNS)
    stored["weight"] = ("BF16", stored["weight"][1].reshape(-1).view(np.uint16)[:, None])
    check(opened(tmp_path, stored), values)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_mlx(tmp_path, bits, group, dtype):
    stored, values = q.mlx(ROWS, COLUMNS, bits, group, dtype)
    check(opened(tmp_path, stored, quantization={"bits": bits, "group_size": group}), values)


def test_mlx_with_other_bits_for_a_module(tmp_path):
    stored, values = q.mlx(ROWS, COLUMNS, 6, 64)
    settings = {"bits": 4, "group_size": 64, "m": {"bits": 6, "group_size": 64}}
    check(opened(tmp_path, stored, quantization=settings), values)


def test_mlx_experts_come_apart(tmp_path):
    parts = [q.mlx(ROWS, COLUMNS, seed=expert) for expert in range(3)]
    stored = {
        name: (dtype, np.stack([p[0][name][1] for p in parts])) for name, (dtype, _) in parts[0][0].items()
    }
    prefix = "model.layers.0.block_sparse_moe.switch_mlp.gate_proj."
    checkpoint = opened(tmp_path, stored, prefix, quantization={"bits": 4, "group_size": 64})
    assert set(checkpoint.tensors) == {
        f"model.layers.0.block_sparse_moe.experts.{e}.w1.weight" for e in range(3)
    }
    for expert, (_, values) in enumerate(parts):
        tensor = checkpoint.tensors[f"model.layers.0.block_sparse_moe.experts.{expert}.w1.weight"]
        np.testing.assert_array_equal(tensor.read(2, 60), values[2:60])


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("group", [32, COLUMNS])
def test_compressed_tensors_packed(tmp_path, bits, zero_points, group):
    stored, values = q.compressed(ROWS, COLUMNS, bits, group, zero_points)
    check(opened(tmp_path, stored, quantization_config={"quant_method": "compressed-tensors"}), values)


def test_compressed_tensors_with_reordered_columns(tmp_path):
    stored, values = q.compressed(ROWS, COLUMNS, act_order=True, zero_points=True)
    check(opened(tmp_path, stored), values)


@pytest.mark.parametrize("shape", [(1,), (ROWS, 1)])
@pytest.mark.parametrize("zero_points", [False, True])
def test_compressed_tensors_a_byte_each(tmp_path, shape, zero_points):
    stored, values = q.compressed_bytes(ROWS, COLUMNS, shape, zero_points)
    check(opened(tmp_path, stored), values)


def test_mxfp4(tmp_path):
    stored, values = q.mxfp4(ROWS, COLUMNS)
    check(opened(tmp_path, stored), values)


def test_pytorch_files_are_read_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    stored, values = q.gptq(ROWS, COLUMNS, act_order=True)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    state = {f"m.{name}": torch.from_numpy(part) for name, (_, part) in stored.items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    check(dequantised(open_checkpoint(tmp_path)), values)


def test_the_user_is_told_what_the_source_was(tmp_path):
    stored, _ = q.awq(ROWS, COLUMNS)
    (note,) = opened(tmp_path, stored, quantization_config={"quant_method": "awq"}).notes
    assert note.startswith("1 matrix is quantised by AWQ")


def without(stored: q.Stored, name: str) -> q.Stored:
    return {key: part for key, part in stored.items() if key != name}


def changed(stored: q.Stored, name: str, change) -> q.Stored:
    dtype, part = stored[name]
    return stored | {name: (dtype, change(part))}


GPTQ, AWQ, MLX = q.gptq(ROWS, COLUMNS)[0], q.awq(ROWS, COLUMNS)[0], q.mlx(ROWS, COLUMNS)[0]
BNB4, PACKED = q.bnb4(ROWS, COLUMNS, nested=True)[0], q.compressed(ROWS, COLUMNS, zero_points=True)[0]
WRONG = {
    "GPTQ without zeros": (without(GPTQ, "qzeros"), {}, "needs m.qzeros, which is missing"),
    "GPTQ for one engine": (
        GPTQ,
        {"quantization_config": {"checkpoint_format": "marlin"}},
        "must be gptq or",
    ),
    "GPTQ of fewer zeros": (changed(GPTQ, "qzeros", lambda a: a[:-1].copy()), {}, "m.qzeros has shape"),
    "GPTQ of another order": (
        changed(GPTQ, "g_idx", lambda a: a + 1),
        {},
        "m.g_idx must hold the group, 0 to 3",
    ),
    "GPTQ of five bits": (changed(GPTQ, "g_idx", lambda a: a[:100].copy()), {}, "m.qweight has shape"),
    "scales not finite": (
        changed(GPTQ, "scales", lambda a: a * np.inf),
        {},
        "m.scales holds a scale that is not",
    ),
    "AWQ for vectors": (
        AWQ,
        {"quantization_config": {"version": "gemv"}},
        'version is "gemv", must be "gemm"',
    ),
    "AWQ of fewer zeros": (changed(AWQ, "qzeros", lambda a: a[:1].copy()), {}, "m.qzeros is I32 of shape"),
    "4 bits cut short": (
        changed(BNB4, "weight", lambda a: a[:-1].copy()),
        {},
        "m.weight has 6143 bytes, expected",
    ),
    "4 bits of fewer scales": (
        changed(BNB4, "weight.absmax", lambda a: a[:-1].copy()),
        {},
        "expected 192, one a",
    ),
    "4 bits of no state": (
        changed(BNB4, "weight.quant_state.bitsandbytes__nf4", lambda a: a[:-3].copy()),
        {},
        "is not the JSON object",
    ),
    "MLX of other bits": (MLX, {"quantization": {"bits": 3, "group_size": 64}}, "no 3 bits a number"),
    "MLX without biases": (without(MLX, "biases"), {}, "needs m.biases, which is missing"),
    "packed without a shape": (without(PACKED, "weight_shape"), {}, "needs m.weight_shape"),
    "packed of another shape": (changed(PACKED, "weight_shape", lambda a: a * 2), {}, "weight_shape says"),
    "packed of fewer scales": (
        changed(PACKED, "weight_scale", lambda a: a[:-1].copy()),
        {},
        "expected one scale",
    ),
}


@pytest.mark.parametrize("damage", WRONG)
def test_parts_that_do_not_fit_are_one_line(tmp_path, damage):
    stored, config, message = WRONG[damage]
    with pytest.raises(InputError, match=message) as error:
        checkpoint = opened(tmp_path, stored, **config)
        checkpoint.tensors["m.weight"].read(0, 4)
    assert "\n" not in str(error.value)
