"""A model that was quantised elsewhere is exported, verified and judged like any other."""

import json

import numpy as np
import pytest
import quantisers as q
from tiny_hf import write_safetensors, write_tiny_model

from dca_export.cli import export as command
from dca_export.export.plan import ExportOptions
from dca_export.export.verify import verify
from dca_export.export.write import export_model
from dca_export.gguf.file import GgufFile
from dca_runtime import blocks

WIDTH, FF = 64, 96
SHAPES = {
    "self_attn.q_proj": (64, WIDTH),
    "self_attn.k_proj": (32, WIDTH),
    "self_attn.v_proj": (32, WIDTH),
    "self_attn.o_proj": (WIDTH, 64),
    "mlp.gate_proj": (FF, WIDTH),
    "mlp.up_proj": (FF, WIDTH),
    "mlp.down_proj": (WIDTH, FF),
}
METHODS = {
    "gptq": (lambda r, c, s: q.gptq(r, c, seed=s), {"quant_method": "gptq", "bits": 4, "group_size": 32}),
    "awq": (lambda r, c, s: q.awq(r, c, seed=s), {"quant_method": "awq", "version": "gemm", "bits": 4}),
    "bnb8": (lambda r, c, s: q.bnb8(r, c, seed=s), {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "nf4": (lambda r, c, s: q.bnb4(r, c, nested=True, seed=s), {"quant_method": "bitsandbytes"}),
    "mlx": (lambda r, c, s: q.mlx(r, c, group=32, seed=s), {"bits": 4, "group_size": 32}),
    "ct": (lambda r, c, s: q.compressed(r, c, seed=s), {"quant_method": "compressed-tensors"}),
    "ct8": (lambda r, c, s: q.compressed_bytes(r, c, (r, 1), seed=s), {"quant_method": "compressed-tensors"}),
}


def write_quantised(directory, method: str, quantise=None) -> dict[str, np.ndarray]:
    """A tiny model whose layers are quantised; returns the f32 matrices of its modules."""
    tensors = write_tiny_model(directory)
    stored = {
        name: ("F32", values)
        for name, values in tensors.items()
        if not any(name.endswith(f"{module}.weight") for module in SHAPES)
    }
    found = {}
    for layer in range(2):
        for seed, (module, shape) in enumerate(SHAPES.items()):
            name = f"model.layers.{layer}.{module}"
            parts, found[name] = (quantise or METHODS[method][0])(*shape, seed + 10 * layer)
            stored |= {f"{name}.{part}": value for part, value in parts.items()}
    write_safetensors(directory / "model.safetensors", stored)
    config = json.loads((directory / "config.json").read_text())
    section = "quantization" if method == "mlx" else "quantization_config"
    (directory / "config.json").write_text(json.dumps(config | {section: METHODS[method][1]}))
    return found


def read_tensor(path, name: str) -> np.ndarray:
    file = GgufFile(path)
    (tensor,) = (each for each in file.tensors if each.name == name)
    data = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.start)
    return blocks.decode(tensor.type, data.reshape(tensor.shape[0], -1))


@pytest.mark.parametrize("method", METHODS)
def test_values_reach_the_file_and_verify_agrees(tmp_path, method):
    matrices = write_quantised(tmp_path / "model", method)
    output = tmp_path / "out.gguf"
    export_model(tmp_path / "model", output, ExportOptions("f32"))
    np.testing.assert_array_equal(
        read_tensor(output, "blk.1.ffn_down.weight"), matrices["model.layers.1.mlp.down_proj"]
    )
    report = verify(output, tmp_path / "model")
    assert report.problems == []


def test_what_is_for_activations_is_left_out_and_accounted_for(tmp_path):
    def quantise(rows, columns, seed):
        parts, values = q.compressed_bytes(rows, columns, (rows, 1), seed=seed)
        one = {
            "input_scale": ("F32", np.ones(1, np.float32)),
            "input_zero_point": ("I8", np.ones(1, np.int8)),
        }
        return parts | one, values

    write_quantised(tmp_path / "model", "ct8", quantise)
    export_model(tmp_path / "model", tmp_path / "out.gguf", ExportOptions("f32"))
    assert verify(tmp_path / "out.gguf", tmp_path / "model").problems == []


def test_verify_sees_one_wrong_value(tmp_path):
    write_quantised(tmp_path / "model", "awq")
    output = tmp_path / "out.gguf"
    export_model(tmp_path / "model", output, ExportOptions("f32"))
    (tensor,) = (each for each in GgufFile(output).tensors if each.name == "blk.1.ffn_down.weight")
    with open(output, "r+b") as file:
        file.seek(tensor.start + 400)
        file.write(np.float32(3).tobytes())
    (problem,) = verify(output, tmp_path / "model").problems
    assert "blk.1.ffn_down.weight" in problem


LOSSLESS = {
    "q4_0": [
        ("gptq", lambda r, c, s: q.gptq(r, c, symmetric=True, seed=s)),
        (
            "gptq",
            lambda r, c, s: (
                q.gptq(r, c, group=64, symmetric=True, seed=s)
                if c % 64 == 0
                else q.gptq(r, c, symmetric=True, seed=s)
            ),
        ),
        ("ct", lambda r, c, s: q.compressed(r, c, seed=s)),
    ],
    "q4_1": [
        ("mlx", lambda r, c, s: q.mlx(r, c, group=32, seed=s)),
        ("gptq", lambda r, c, s: q.gptq(r, c, symmetric=True, seed=s)),
    ],
}


@pytest.mark.parametrize(
    ("outtype", "case"), [(kind, i) for kind, cases in LOSSLESS.items() for i in range(len(cases))]
)
def test_four_bits_are_repacked_without_a_loss(tmp_path, outtype, case):
    method, quantise = LOSSLESS[outtype][case]
    matrices = write_quantised(tmp_path / "model", method, quantise)
    output = tmp_path / "out.gguf"
    exported = export_model(tmp_path / "model", output, ExportOptions(outtype))
    assert any("14 of 14 matrices of 4 bits are repacked" in note for note in exported.summary.scheme.notes)
    for name, module in {"ffn_up": "mlp.up_proj", "attn_v": "self_attn.v_proj"}.items():
        found = read_tensor(output, f"blk.0.{name}.weight")
        np.testing.assert_array_equal(found, matrices[f"model.layers.0.{module}"])
    rotated = read_tensor(output, "blk.0.attn_q.weight")
    wanted = (
        matrices["model.layers.0.self_attn.q_proj"].reshape(4, 2, 8, WIDTH).swapaxes(1, 2).reshape(64, WIDTH)
    )
    np.testing.assert_array_equal(rotated, wanted)
    assert verify(output, tmp_path / "model").problems == []


@pytest.mark.parametrize(
    "quantise",
    [
        lambda r, c, s: q.gptq(r, c, seed=s),  # zero points other than 8
        lambda r, c, s: q.gptq(r, c, symmetric=True, act_order=True, seed=s),  # groups that are no blocks
    ],
)
def test_what_would_lose_is_encoded_and_nothing_is_claimed(tmp_path, quantise):
    write_quantised(tmp_path / "model", "gptq", quantise)
    exported = export_model(tmp_path / "model", tmp_path / "out.gguf", ExportOptions("q4_0"))
    assert not any("repacked" in note for note in exported.summary.scheme.notes)
    assert verify(tmp_path / "out.gguf", tmp_path / "model").problems == []


def test_biases_of_zeros_that_a_quantiser_adds_are_left_out(tmp_path):
    write_quantised(tmp_path / "model", "gptq")
    from safetensors.numpy import load_file, save_file

    tensors = load_file(tmp_path / "model" / "model.safetensors")
    save_file(
        tensors | {"model.layers.0.mlp.experts.bias": np.zeros(WIDTH, np.float16)},
        tmp_path / "model" / "model.safetensors",
    )
    export_model(tmp_path / "model", tmp_path / "out.gguf", ExportOptions("f32"))
    note = "\n".join(verify(tmp_path / "out.gguf", tmp_path / "model").notes)
    assert "it is a bias of zeros" in note


@pytest.mark.parametrize("method", ["gptq", "nf4"])
def test_parity_with_the_original(tmp_path, method, capsys):
    pytest.importorskip("torch")
    from dca_export.cli import parity

    write_quantised(tmp_path / "model", method)
    assert command.main([str(tmp_path / "model"), str(tmp_path / "out.gguf"), "--outtype", "f32"]) == 0
    arguments = [str(tmp_path / "out.gguf"), "--reference", str(tmp_path / "model")]
    assert parity.main(arguments) == 0, capsys.readouterr().out
