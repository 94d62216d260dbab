"""FP8 checkpoints: the values their codes and scales stand for, against PyTorch's own FP8."""

import json

import numpy as np
import pytest
from tiny_hf import stored_as, tiny_config, write_safetensors

from dca_export.checkpoint.quantized.fp8 import E4M3, E5M2
from dca_export.checkpoint.quantized.table import dequantised
from dca_export.checkpoint.tensors import open_checkpoint
from dca_export.errors import InputError

CODES = np.random.default_rng(2).integers(0, 0x7F, (300, 200)).astype(np.uint8)


def opened(directory, tensors: dict, quantization: dict | None = None):
    (directory / "config.json").write_text(json.dumps(tiny_config(quantization_config=quantization)))
    write_safetensors(directory / "model.safetensors", tensors)
    return dequantised(open_checkpoint(directory))


def read(checkpoint, name: str = "w") -> np.ndarray:
    tensor = checkpoint.tensors[name]
    assert tensor.dtype == "F32"
    return tensor.read(0, tensor.rows)


def scale(shape, dtype: str = "F32"):
    values = np.random.default_rng(3).uniform(0.5, 2, shape).astype(np.float32)
    return (dtype, stored_as(values, dtype)), values


def test_codes_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    wanted = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(E4M3, wanted)


def test_block_scales(tmp_path):
    stored, scales = scale((3, 2))
    tensors = {"w": ("F8_E4M3", CODES), "w_scale_inv": stored}
    checkpoint = opened(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    each = np.repeat(np.repeat(scales, 128, axis=0), 128, axis=1)[:300, :200]
    np.testing.assert_array_equal(read(checkpoint), E4M3[CODES] * each)
    np.testing.assert_array_equal(checkpoint.tensors["w"].read(120, 140), read(checkpoint)[120:140])
    assert set(checkpoint.tensors) == {"w"}


@pytest.mark.parametrize("shape", [(), (1,), (300,), (300, 1)])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_one_scale_or_one_a_row(tmp_path, shape, dtype):
    stored, scales = scale(shape, dtype)
    checkpoint = opened(tmp_path, {"w": ("F8_E4M3", CODES), "w_scale": stored}, {"quant_method": "fp8"})
    if dtype == "BF16":
        scales = (stored_as(scales, "BF16").astype(np.uint32) << 16).view(np.float32)
    wanted = E4M3[CODES] * (scales.reshape(-1, 1) if scales.size > 1 else scales)
    np.testing.assert_array_equal(read(checkpoint), wanted)


def test_without_scales(tmp_path):
    checkpoint = opened(tmp_path, {"w": ("F8_E4M3", CODES), "n": ("F32", np.ones(3, np.float32))})
    np.testing.assert_array_equal(read(checkpoint), E4M3[CODES])


def test_scales_of_activations_are_left_out(tmp_path):
    one = ("F32", np.ones(1, np.float32))
    checkpoint = opened(tmp_path, {"a.weight": ("F8_E4M3", CODES), "a.input_scale": one})
    assert set(checkpoint.tensors) == {"a.weight"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_scale_that_is_not_finite(tmp_path, bad):
    stored = ("F32", np.full((1,), bad, np.float32))
    with pytest.raises(InputError, match="tensor w_scale holds a scale that is not finite"):
        opened(tmp_path, {"w": ("F8_E4M3", CODES), "w_scale": stored}, {"quant_method": "fp8"})


def test_a_scale_of_the_wrong_shape(tmp_path):
    stored, _ = scale((3, 3))
    with pytest.raises(InputError, match=r"w_scale_inv is F32 of shape \[3, 3\], expected .* \[3, 2\]"):
        opened(tmp_path, {"w": ("F8_E4M3", CODES), "w_scale_inv": stored}, {"quant_method": "fp8"})


@pytest.mark.parametrize("method", ["fp8", "modelopt", "compressed-tensors", "fbgemm_fp8", None])
def test_what_the_method_is_called_does_not_matter(tmp_path, method):
    stored, scales = scale((300, 1))
    tensors = {"w": ("F8_E4M3", CODES), "w_scale": stored}
    checkpoint = opened(tmp_path, tensors, {"quant_method": method, "config_groups": [1]})
    np.testing.assert_array_equal(read(checkpoint), E4M3[CODES] * scales)
    assert checkpoint.notes == ()


def test_a_quantisation_without_quantised_tensors_is_noted(tmp_path):
    checkpoint = opened(
        tmp_path, {"w": ("F32", np.ones((2, 2), np.float32))}, {"quant_method": "bitsandbytes"}
    )
    (note,) = checkpoint.notes
    assert "states a quantisation (bitsandbytes), but no tensor is quantised" in note
    assert checkpoint.tensors["w"].dtype == "F32"


def test_codes_of_e5m2_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    wanted = torch.arange(256, dtype=torch.uint8).view(torch.float8_e5m2).float().numpy()
    np.testing.assert_array_equal(E5M2, wanted)


def test_e5m2_weights(tmp_path):
    stored, scales = scale((1,))
    checkpoint = opened(tmp_path, {"w": ("F8_E5M2", CODES % 0x7C), "w_scale_inv": stored})
    np.testing.assert_array_equal(read(checkpoint), E5M2[CODES % 0x7C] * scales)


def test_blocks_that_compressed_tensors_states(tmp_path):
    stored, scales = scale((5, 2))
    groups = {"group_0": {"weights": {"strategy": "block", "block_structure": [64, 100]}}}
    quantisation = {"quant_method": "compressed-tensors", "config_groups": groups}
    checkpoint = opened(tmp_path, {"w": ("F8_E4M3", CODES), "w_scale": stored}, quantisation)
    each = np.repeat(np.repeat(scales, 64, axis=0), 100, axis=1)[:300]
    np.testing.assert_array_equal(read(checkpoint), E4M3[CODES] * each)


def test_groups_along_a_row(tmp_path):
    stored, scales = scale((300, 4))
    checkpoint = opened(tmp_path, {"w": ("F8_E4M3", CODES), "w_scale": stored})
    np.testing.assert_array_equal(read(checkpoint), E4M3[CODES] * np.repeat(scales, 50, axis=1))


@pytest.mark.parametrize(
    ("shape", "repeats"),
    [((3, 2, 2), (1, 50, 100)), ((3,), (1, 1, 1)), ((3, 100, 1), (1, 1, 1)), ((3, 1, 1), (1, 1, 1))],
)
def test_stacked_experts(tmp_path, shape, repeats):
    stored, scales = scale(shape)
    codes = CODES.reshape(3, 100, 200)
    quantisation = {"quant_method": "fp8", "weight_block_size": [50, 100]}
    checkpoint = opened(tmp_path, {"w": ("F8_E4M3", codes), "w_scale_inv": stored}, quantisation)
    each = scales.reshape(shape + (1,) * (3 - len(shape)))
    for axis, count in enumerate(repeats):
        each = np.repeat(each, count, axis)
    np.testing.assert_array_equal(read(checkpoint).reshape(codes.shape), E4M3[codes] * each)


@pytest.mark.parametrize(
    "name", ["input_scale", "activation_scale", "k_scale", "input_scale_ub", "output_scale"]
)
def test_no_scale_of_activations_is_left(tmp_path, name):
    one = ("F32", np.ones((), np.float32))
    checkpoint = opened(tmp_path, {"a.weight": ("F8_E4M3", CODES), f"a.{name}": one})
    assert set(checkpoint.tensors) == {"a.weight"}


INTEGERS = ("I32", np.zeros((8, 16), np.int32))
BYTES = ("U8", np.zeros((8, 16), np.uint8))
ONES = ("F16", np.ones((1, 16), np.float16))
PACKED = {
    "a packing akin to GPTQ": {"a.qweight": INTEGERS, "a.scales": ("F16", np.ones((1, 40), np.float16))},
    "4-bit packing": {"a.weight": BYTES, "a.weight_scale": ONES},
    "MXFP4": {"a.down_proj_blocks": BYTES, "a.down_proj_scales": BYTES},
    "HQQ": {"a.W_q": BYTES},
}


@pytest.mark.parametrize("method", PACKED)
@pytest.mark.parametrize("stated", [None, {"quant_method": "fp8"}])
def test_packed_weights_are_named(tmp_path, method, stated):
    with pytest.raises(InputError, match=f"tensor a.* is quantised by {method}.*use the unquantised model"):
        opened(tmp_path, PACKED[method], stated)


@pytest.mark.parametrize(
    "block", [[128], [0, 128], "128", [0.5, 128], [1e300, 128], [10**400, 128], [2**40, 1]]
)
def test_a_senseless_block_size(tmp_path, block):
    with pytest.raises(InputError, match="weight_block_size"):
        quantization = {"quant_method": "fp8", "weight_block_size": block}
        opened(tmp_path, {"w": ("F8_E4M3", CODES)}, quantization)


def test_two_scales_of_one_matrix_are_refused(tmp_path):
    (one, _), (other, _) = scale((300, 1)), scale((1,))
    with pytest.raises(InputError, match=r"w_scale and w_scale_inv are both scales of w, expected one"):
        opened(tmp_path, {"w": ("F8_E4M3", CODES), "w_scale_inv": one, "w_scale": other})
