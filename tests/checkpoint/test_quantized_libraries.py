"""What quantisers' own libraries make of a matrix, where they are installed, and what is read of it here.

Equal to the bit in f32; where a library computes in 16 bits, its values are ours rounded once to them.
"""

import numpy as np
import pytest
from test_quantized import opened

torch = pytest.importorskip("torch")

WEIGHT = np.random.default_rng(5).standard_normal((96, 256)).astype(np.float32)
KINDS = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
KINDS |= {torch.int32: "I32", torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3"}


def stored(tensors: dict) -> dict:
    bits = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8}
    found = {}
    for name, tensor in tensors.items():
        viewed = tensor.detach().contiguous().view(bits.get(tensor.dtype, tensor.dtype)).numpy()
        found[name] = (KINDS[tensor.dtype], viewed)
    return found


def read(checkpoint) -> np.ndarray:
    tensor = checkpoint.tensors["m.weight"]
    return tensor.read(0, tensor.rows)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitsandbytes_4_bits(tmp_path, kind, nested, dtype):
    functional = pytest.importorskip("bitsandbytes").functional
    weight = torch.from_numpy(WEIGHT).to(dtype)
    codes, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=nested)
    parts = {f"weight.{name}": value for name, value in state.as_dict(packed=True).items()} | {
        "weight": codes
    }
    found = torch.from_numpy(read(opened(tmp_path, stored(parts))))
    wanted = functional.dequantize_4bit(codes, state)
    assert torch.equal(found.to(dtype), wanted)


def test_bitsandbytes_8_bits(tmp_path):
    functional = pytest.importorskip("bitsandbytes").functional
    codes, largest, _ = functional.int8_vectorwise_quant(torch.from_numpy(WEIGHT))
    found = read(opened(tmp_path, stored({"weight": codes, "SCB": largest})))
    np.testing.assert_array_equal(found, functional.int8_vectorwise_dequant(codes, largest).numpy())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_mlx(tmp_path, bits, group, dtype):
    mx = pytest.importorskip("mlx.core")
    kind = getattr(torch, dtype)
    parts = mx.quantize(mx.array(WEIGHT).astype(getattr(mx, dtype)), group_size=group, bits=bits)
    wanted = np.array(mx.dequantize(*parts, group_size=group, bits=bits).astype(mx.float32))
    words, scales, biases = (
        np.array(part.astype(mx.float32)) if i else np.array(part) for i, part in enumerate(parts)
    )
    tensors = stored({"scales": torch.tensor(scales).to(kind), "biases": torch.tensor(biases).to(kind)})
    settings = {"bits": bits, "group_size": group}
    found = read(opened(tmp_path, {"weight": ("U32", words)} | tensors, quantization=settings))
    # MLX rounds the product and the sum to its own type, or neither of them before the last.
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}[dtype]
    largest = np.abs(scales).max() * 2**bits + np.abs(biases).max()
    assert np.abs(found - wanted).max() <= 2 * unit * largest


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_mlx_floats(tmp_path, mode):
    mx = pytest.importorskip("mlx.core")
    words, scales = mx.quantize(mx.array(WEIGHT), mode=mode)
    wanted = np.array(mx.dequantize(words, scales, mode=mode).astype(mx.float32))
    tensors = {"weight": ("U32", np.array(words)), "scales": ("U8", np.array(scales))}
    found = torch.from_numpy(read(opened(tmp_path, tensors, quantization={"mode": mode, "group_size": 32})))
    np.testing.assert_array_equal(found.bfloat16().float().numpy(), wanted)


COMPRESSED = {
    "int4 in groups": {"num_bits": 4, "strategy": "group", "group_size": 32},
    "int4 with zero points": {"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": False},
    "int8 by rows": {"num_bits": 8, "strategy": "channel"},
    "int3 by rows": {"num_bits": 3, "strategy": "channel", "symmetric": False},
}


def compressed(name: str, dtype, compressor: str, **weights):
    """(stored tensors, the library's values) of WEIGHT, quantised by plain scales of the right shape."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    arguments = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    width = {"group": 256 // (arguments.group_size or 1), "channel": 1, "tensor": 1}[str(arguments.strategy)]
    rows = 1 if arguments.strategy == "tensor" else 96
    highest = 448.0 if arguments.type == "float" else 2.0 ** (arguments.num_bits - 1)
    scales = torch.full((rows, width), 3.0 / highest) * torch.linspace(0.7, 1.3, rows * width).reshape(
        rows, width
    )
    state = {"weight": torch.from_numpy(WEIGHT).to(dtype), "weight_scale": scales.to(dtype)}
    if not arguments.symmetric:
        state["weight_zero_point"] = (
            torch.arange(rows * width).reshape(rows, width).remainder(3).to(torch.int8)
        )
    library = BaseCompressor.get_value_from_registry(compressor)
    kept = library.compress(state, scheme)
    return stored(kept), library.decompress(kept, scheme)["weight"]


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("compressor", ["pack-quantized", "naive-quantized", "int-quantized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compressed_tensors(tmp_path, name, compressor, dtype):
    if compressor == "pack-quantized" or COMPRESSED[name]["num_bits"] == 8:
        parts, wanted = compressed(name, dtype, compressor, **COMPRESSED[name])
    else:
        parts, wanted = compressed(name, dtype, compressor, **COMPRESSED[name] | {"num_bits": 8})
    found = torch.from_numpy(read(opened(tmp_path, parts)))
    assert torch.equal(found.to(dtype), wanted.to(dtype))


@pytest.mark.parametrize("strategy", ["tensor", "channel"])
@pytest.mark.parametrize("compressor", ["float-quantized", "naive-quantized"])
def test_compressed_tensors_in_8_bit_floats(tmp_path, strategy, compressor):
    parts, wanted = compressed("", torch.float32, compressor, num_bits=8, type="float", strategy=strategy)
    found = torch.from_numpy(read(opened(tmp_path, parts)))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", ["nvfp4-pack-quantized", "mxfp4-pack-quantized"])
def test_compressed_tensors_in_4_bit_floats(tmp_path, kind):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    nv = kind.startswith("nv")
    size = 16 if nv else 32
    strategy = "tensor_group" if nv else "group"
    arguments = QuantizationArgs(num_bits=4, type="float", strategy=strategy, group_size=size)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    random = np.random.default_rng(1)
    codes = torch.from_numpy(random.integers(0, 256, (96, 128)).astype(np.uint8))
    scales = torch.from_numpy(random.integers(100, 120, (96, 256 // size)).astype(np.uint8))
    parts = {"weight_packed": codes, "weight_scale": scales.view(torch.float8_e4m3fn) if nv else scales}
    if nv:
        parts["weight_global_scale"] = torch.tensor([1234.5])
    wanted = BaseCompressor.get_value_from_registry(kind).decompress(dict(parts), scheme)["weight"]
    found = torch.from_numpy(read(opened(tmp_path, stored(parts))))
    assert torch.equal(found.to(wanted.dtype), wanted)
