"""Families that transformers has no class for, or whose checkpoints store their weights in another way."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_hf import tiny_tokenizer, write_tokenizer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from families_of_others import OTHERS  # noqa: E402
from hf_families import make, set_biases, tokens  # noqa: E402

import dca_runtime  # noqa: E402
from dca_export.errors import InputError  # noqa: E402
from dca_export.export.plan import ExportOptions  # noqa: E402
from dca_export.export.scheme_choice import SchemeOptions  # noqa: E402
from dca_export.export.verify import verify  # noqa: E402
from dca_export.export.write import export_model  # noqa: E402
from dca_export.gguf.file import GgufFile  # noqa: E402
from dca_export.reference.load import load_reference  # noqa: E402

PLAIN = SchemeOptions(dca=False)
IDS = tokens(40)


def save(model, directory, **config):
    """The model's directory with other values in config.json; returns its tensors."""
    model.save_pretrained(directory)
    write_tokenizer(directory, tiny_tokenizer())
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return load_file(directory / "model.safetensors")


def logits_of(path) -> np.ndarray:
    # Repacked products round activations to 16 bits, which is not what is asked here.
    with dca_runtime.Model(path, device="cpu", context=64, repack=False) as model:
        return model.session(cache_type="f32").eval(IDS[0].tolist(), all_logits=True)


@pytest.mark.parametrize("name", OTHERS)
def test_classes_that_transformers_lacks(name, tmp_path):
    model = make(OTHERS[name].family, torch.float32, **OTHERS[name].changes)
    save(model, tmp_path / "m")
    OTHERS[name].rewrite(tmp_path / "m")
    export_model(tmp_path / "m", tmp_path / "out.gguf", ExportOptions("f32", PLAIN))
    assert verify(tmp_path / "out.gguf", tmp_path / "m").problems == []
    wanted = model(IDS).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "out.gguf"), wanted, atol=2e-3)
    reference = load_reference(tmp_path / "out.gguf")(IDS).logits[0].numpy()
    np.testing.assert_allclose(reference, wanted, atol=2e-3)


def mxfp4(random, experts: int, rows: int, columns: int):
    """Blocks and scales as OpenAI stores them, and the matrices they stand for."""
    codes = random.integers(0, 16, (experts, rows, columns // 32, 32), np.uint8)
    scales = random.integers(122, 126, (experts, rows, columns // 32), np.uint8)
    levels = np.float32([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    values = levels[codes] * np.float32(2.0) ** (scales[..., None].astype(np.float32) - 127)
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales, values.reshape(experts, rows, columns)


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory):
    """A directory with MXFP4 experts, and the model with the numbers they stand for."""
    directory = tmp_path_factory.mktemp("gpt-oss") / "m"
    model = make("gpt_oss", torch.float32, intermediate_size=64)
    set_biases(model)
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())  # what auto keeps without a loss
    random = np.random.default_rng(0)
    stored = {}
    for layer in range(4):
        experts = model.model.layers[layer].mlp.experts
        for name, rows in (("gate_up_proj", 128), ("down_proj", 64)):
            blocks, scales, values = mxfp4(random, 4, rows, 64)
            prefix = f"model.layers.{layer}.mlp.experts.{name}"
            stored |= {f"{prefix}_blocks": blocks, f"{prefix}_scales": scales}
            getattr(experts, name).copy_(torch.from_numpy(values.swapaxes(1, 2).copy()))
    tensors = save(model, directory, quantization_config={"quant_method": "mxfp4"})
    kept = {name: each for name, each in tensors.items() if not name.endswith(("gate_up_proj", "down_proj"))}
    save_file(kept | stored, directory / "model.safetensors")
    return model, directory


@pytest.mark.parametrize("outtype", ["f32", "auto"])
def test_mxfp4_experts_are_the_numbers_they_stand_for(gpt_oss, outtype, tmp_path):
    model, directory = gpt_oss
    export_model(directory, tmp_path / "out.gguf", ExportOptions(outtype, PLAIN))
    wanted = model(IDS).logits[0].numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "out.gguf"), wanted, atol=2e-3)


def test_mxfp4_experts_stay_mxfp4_without_a_loss(gpt_oss, tmp_path):
    _, directory = gpt_oss
    export_model(directory, tmp_path / "out.gguf", ExportOptions("auto", PLAIN))
    types = {tensor.name: tensor.type.name for tensor in GgufFile(tmp_path / "out.gguf").tensors}
    assert {
        types[f"blk.{layer}.ffn_{name}_exps.weight"] for layer in range(4) for name in ("gate", "down")
    } == {"MXFP4"}
    report = verify(tmp_path / "out.gguf", directory)
    assert report.problems == []
    experts = load_reference(tmp_path / "out.gguf").model.layers[1].mlp.experts
    wanted = gpt_oss[0].model.layers[1].mlp.experts
    assert torch.equal(experts.gate_up_proj, wanted.gate_up_proj)
    assert torch.equal(experts.down_proj, wanted.down_proj)


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 3}, "no_rope_layer_interval is 3"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1, 1]}, "no_rope_layers is .*every 4th layer"),
        ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit is 5"),
        ("gemma2", {"hidden_activation": "relu"}, 'hidden_activation is "relu"'),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types is .*must list 4 times"),
        (
            "mistral",
            {"rope_parameters": {"rope_theta": 1e4, "llama_4_scaling_beta": 0.1}},
            "llama_4_scaling_beta",
        ),
    ],
)
def test_what_a_family_is_not_run_with_is_refused(family, config, message, tmp_path):
    save(make(family, torch.float32), tmp_path / "m", **config)
    with pytest.raises(InputError, match=message):
        export_model(tmp_path / "m", tmp_path / "out.gguf", ExportOptions("f32", PLAIN))
