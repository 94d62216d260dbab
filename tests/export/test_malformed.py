"""Malformed inputs: each ends with exit code 2 and one line, leaves no file, and a good output survives."""

import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoint_damage import (
    INDEX,
    SHARD,
    Damage,
    Payload,
    add,
    config,
    cut,
    directory_called,
    drop,
    file,
    fp8,
    header,
    json_file,
    many_bits,
    nan_weight,
    pytorch,
    pytorch_saved,
    second_shard_again,
    sharded,
    weights,
)
from tiny_hf import write_tiny_model

from dca_export.cli.export import main

DCA = "dual_chunk_attention_config"
SAFETENSORS = "not a valid safetensors file"
CASES: dict[str, tuple[Damage, str]] = {
    # config.json
    "no config": (file("config.json", None), "config.json: no such file"),
    "config is no JSON": (file("config.json", b"{"), "config.json: not valid JSON"),
    "config is binary": (file("config.json", b"\xff\xfe\0"), "config.json: not valid JSON"),
    "config is a list": (file("config.json", b"[]"), "config.json: expected a JSON object, found list"),
    "config nests deeply": (file("config.json", b"[" * 100_000), "config.json: not valid JSON"),
    "no architectures": (config(architectures=...), "architectures is missing"),
    "architectures is a string": (config(architectures="LlamaForCausalLM"), "architectures is missing"),
    "unknown architecture": (
        config(architectures=["BloomForCausalLM"]),
        "architecture BloomForCausalLM is not supported; supported are ",
    ),
    "no heads stated": (config(num_attention_heads=...), "num_attention_heads is missing"),
    "zero heads": (config(num_attention_heads=0), "num_attention_heads is 0, must be an integer from 1"),
    "zero key heads": (config(num_key_value_heads=0), "num_key_value_heads is 0, must be an integer from 1"),
    "odd key heads": (config(num_key_value_heads=3), "num_key_value_heads is 3, must divide"),
    "negative layers": (config(num_hidden_layers=-2), "num_hidden_layers is -2, must be"),
    "endless layers": (config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000, must be at most"),
    "layers as text": (config(num_hidden_layers="2"), 'num_hidden_layers is "2", must be an integer'),
    "odd head size": (config(head_dim=15), "head_dim is 15, must be even"),
    "wrong shape": (config(intermediate_size=97), "has shape [96, 64], config.json implies [97, 64]"),
    "vocabulary too large": (config(vocab_size=321), "has shape [320, 64], config.json implies [321, 64]"),
    "forged sizes": (config(head_dim=2**31 - 2, vocab_size=2**31 - 1), "has shape"),
    "more layers than tensors": (config(num_hidden_layers=3), "which config.json implies, is missing"),
    "fewer layers than tensors": (config(num_hidden_layers=1), "has no place in LlamaForCausalLM"),
    "other activation": (config(hidden_act="gelu"), 'hidden_act is "gelu"'),
    "tied by a word": (config(tie_word_embeddings="yes"), "tie_word_embeddings is"),
    "no epsilon": (config(rms_norm_eps=...), "rms_norm_eps is missing"),
    "epsilon of 400 digits": (config(rms_norm_eps=10**400), "rms_norm_eps is 1000"),
    "epsilon beyond f32": (
        config(rms_norm_eps=1e39),
        "rms_norm_eps is 1e+39, must be finite and above 0 as a",
    ),
    "epsilon that f32 makes 0": (
        config(rms_norm_eps=1e-46),
        "rms_norm_eps is 1e-46, must be finite and above",
    ),
    "epsilon infinite": (config(rms_norm_eps=float("inf")), "rms_norm_eps is Infinity, must be finite"),
    "epsilon half a character": (
        config(rms_norm_eps="\ud800"),
        'rms_norm_eps is "\\ud800", must be a number',
    ),
    "base beyond f32 when stretched": (
        config(
            rope_theta=3e38,
            rope_scaling={"type": "dynamic", "factor": 3e38},
            max_position_embeddings=2,
            dual_chunk_attention_config={"chunk_size": 32, "local_size": 8},
        ),
        "config.json: llama.rope.freq_base cannot be",
    ),
    "infinite layers": (config(num_hidden_layers=float("inf")), "num_hidden_layers is Infinity, must be"),
    "partial rotary of 308 digits": (config(partial_rotary_factor=1e308), "partial_rotary_factor is 1e+308"),
    "factors beyond f32": (
        config(rope_scaling={"type": "longrope", "short_factor": [10**400], "long_factor": [1.0]}),
        "long_factor is",
    ),
    "llama3 of no frequency": (
        config(rope_scaling={"type": "llama3", "factor": 3e38, "low_freq_factor": 1e-45}),
        "factor",
    ),
    "longrope of one token": (
        config(
            rope_scaling={"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 8},
            original_max_position_embeddings=1,
        ),
        "original_max_position_embeddings is 1, must be at least 2",
    ),
    "no context": (config(max_position_embeddings=...), "max_position_embeddings is missing"),
    "window of one and a half": (config(sliding_window=1.5), "sliding_window is 1.5, must be an integer"),
    "RoPE as text": (config(rope_scaling="linear"), 'rope_scaling is "linear", must be an object'),
    "RoPE as a list": (config(rope_scaling=[2.0]), "rope_scaling is [2.0], must be an object"),
    "RoPE of no kind": (config(rope_scaling={"type": "spiral"}), 'type is "spiral", must be one of'),
    "RoPE kind as a number": (config(rope_scaling={"type": 3}), "type is 3, must be a string"),
    "RoPE factor missing": (config(rope_scaling={"type": "linear"}), "factor is missing"),
    "RoPE factor NaN": (
        config(rope_scaling={"type": "linear", "factor": float("nan")}),
        "factor is NaN, must be finite and above 0",
    ),
    "RoPE base zero": (config(rope_theta=0), "rope_theta is 0, must be finite and above 0"),
    "longrope too short": (
        config(rope_scaling={"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
        "long_factor is [1.0], must hold 8 numbers",
    ),
    "scheme as a list": (config(**{DCA: [1]}), f"{DCA} is [1], must be an object"),
    "scheme without window": (config(**{DCA: {"chunk_size": 32}}), "local_size"),
    "scheme with a long window": (config(**{DCA: {"chunk_size": 32, "local_size": 40}}), DCA),
    "quantised by GPTQ": (
        add("model.layers.0.mlp.up_proj.qweight", "I32", np.zeros((8, 96), np.int32)),
        "tensor model.layers.0.mlp.up_proj.qweight needs model.layers.0.mlp.up_proj.scales, which is missing",
    ),
    "blocks without end": (
        config(quantization_config={"quant_method": "fp8", "weight_block_size": [1e300, 128]}),
        "weight_block_size",
    ),
    "quantisation as text": (config(quantization_config="int8"), "quantization_config is"),
    "fp8 scale NaN": (fp8([[1, 1], [1, float("nan")]]), "weight_scale_inv"),
    "fp8 scales too few": (fp8([[1, 1]]), "weight_scale_inv"),
    # weights
    "no weights": (file("model.safetensors", None), "no weights"),
    "weights are a directory": (directory_called("model.safetensors"), "model.safetensors: is a directory"),
    "empty weights": (file("model.safetensors", b""), SAFETENSORS),
    "header truncated": (cut(500), SAFETENSORS),
    "data truncated": (cut(90_000), SAFETENSORS),
    "header is no JSON": (file("model.safetensors", struct.pack("<Q", 2) + b"{{"), SAFETENSORS),
    "header of petabytes": (file("model.safetensors", struct.pack("<Q", 2**50) + b"{}"), SAFETENSORS),
    "offset past the end": (header(norm={"data_offsets": [10**9, 10**9 + 256]}), SAFETENSORS),
    "offsets overlap": (header(norm={"data_offsets": [0, 256]}), SAFETENSORS),
    "offset negative": (header(norm={"data_offsets": [-256, 0]}), SAFETENSORS),
    "size is not shape's": (header(norm={"shape": [65]}), SAFETENSORS),
    "unknown type": (header(norm={"dtype": "Q4"}), SAFETENSORS),
    "integers": (weights(many_bits), "tensor model.norm.weight is stored as I64; supported are"),
    "tensor missing": (drop("model.norm.weight"), "tensor model.norm.weight, which config.json implies"),
    "tensor of no place": (
        add("model.layers.0.self_attn.wonder", "F32", np.zeros(3, np.float32)),
        "tensor model.layers.0.self_attn.wonder has no place in",
    ),
    "weight NaN": (weights(nan_weight), "tensor lm_head.weight cannot encode as Q8_0"),
    "shard missing": (sharded(file(SHARD, None)), f"{SHARD}: this shard, named in {INDEX}, is missing"),
    "shard truncated": (sharded(file(SHARD, b"\x10\0\0\0\0\0\0\0{")), f"{SHARD}: {SAFETENSORS}"),
    "tensor twice": (sharded(second_shard_again), "is also in model-00001-of-00002.safetensors"),
    "index is no JSON": (sharded(file(INDEX, b"shards")), f"{INDEX}: not valid JSON"),
    "index is a list": (sharded(file(INDEX, b"[]")), f"{INDEX}: expected a JSON object"),
    "index without map": (sharded(file(INDEX, b"{}")), "weight_map is missing or empty"),
    "index leads out": (
        sharded(json_file(INDEX, weight_map={"a": "../m/model.safetensors"})),
        "weight_map sends a to '../m/model.safetensors', expected a .safetensors file name",
    ),
    "index names a root": (sharded(json_file(INDEX, weight_map={"a": "/etc/passwd"})), "weight_map sends a"),
    "index with a number": (sharded(json_file(INDEX, weight_map={"a": 7})), "weight_map sends a to 7"),
    "bin with a payload": (pytorch(pickle.dumps(Payload())), "pytorch_model.bin: cannot be read as PyTorch"),
    "bin of nonsense": (pytorch(b"nonsense"), "pytorch_model.bin: cannot be read as PyTorch weights"),
    "bin by number": (pytorch_saved(lambda torch: {0: torch.zeros(2)}), "expected a dictionary from names"),
    "bin sparse": (
        pytorch_saved(lambda torch: {"model.norm.weight": torch.zeros(64).to_sparse()}),
        "tensor model.norm.weight is a sparse_coo tensor",
    ),
    "bin without numbers": (
        pytorch_saved(lambda torch: {"model.norm.weight": torch.zeros(64, device="meta")}),
        "tensor model.norm.weight is a meta tensor",
    ),
    "bin empty": (pytorch(b""), "pytorch_model.bin: cannot be read as PyTorch weights"),
    # tokenizer
    "no tokenizer": (
        file("tokenizer.json", None),
        "no tokenizer (tokenizer.json or tokenizer.model, or vocab.json",
    ),
    "tokenizer is no JSON": (file("tokenizer.json", b"{"), "tokenizer.json: not a valid tokenizer"),
    "tokenizer is binary": (file("tokenizer.json", b"\xff\0"), "tokenizer.json: not valid UTF-8"),
    "tokenizer of words": (
        json_file("tokenizer.json", model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
        "the model is WordLevel, only BPE and Unigram are supported",
    ),
    "tokenizer config is a list": (file("tokenizer_config.json", b"[]"), "tokenizer_config.json: expected"),
    "tokenizer config cut": (file("tokenizer_config.json", b'{"bos'), "tokenizer_config.json: not valid"),
    "tokenizer of pieces": (
        file("tokenizer.json", b'{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", "0"]]}}'),
        "the score of token 'a' is no number",
    ),
    "added tokens as a list": (
        json_file("tokenizer_config.json", added_tokens_decoder=[1]),
        "added_tokens_decoder must be an object",
    ),
    "added token without an id": (
        json_file("tokenizer_config.json", added_tokens_decoder={"x": {"content": "a"}}),
        "token id 'x' must be an integer",
    ),
    "added token without text": (
        json_file("tokenizer_config.json", added_tokens_decoder={"3": {}}),
        "added_tokens_decoder: 3 has no content",
    ),
    "chat template a number": (
        json_file("tokenizer_config.json", chat_template=[3]),
        "chat_template must be",
    ),
    "chat template binary": (
        file("chat_template.jinja", b"\xff\xfe"),
        "chat_template.jinja: not valid UTF-8",
    ),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path, monkeypatch) -> tuple[Path, str]:
    """The damaged model and what its error says; the working directory is empty."""
    damage, message = CASES[request.param]
    if "bin" in request.param:
        pytest.importorskip("torch")
    write_tiny_model(tmp_path / "m")
    damage(tmp_path / "m")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    return tmp_path / "m", message


def refused(capsys, *arguments: object) -> str:
    """The one line on stderr of a command that fails with exit code 2."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err


def test_one_line_and_no_file(case, capsys):
    model, message = case
    assert message in refused(capsys, model, "out.gguf", "--outtype", "q8_0")
    assert list(Path.cwd().iterdir()) == []


def test_a_good_output_survives(case, capsys):
    model, _ = case
    Path("out.gguf").write_text("the good one")
    refused(capsys, model, "out.gguf", "--outtype", "q8_0", "--force")
    assert [path.name for path in Path.cwd().iterdir()] == ["out.gguf"]
    assert Path("out.gguf").read_text() == "the good one"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_output_that_is_the_input_is_refused(tmp_path, capsys, name):
    write_tiny_model(tmp_path / "m")
    before = (tmp_path / "m" / name).read_bytes()
    message = refused(capsys, tmp_path / "m", tmp_path / "m" / name, "--force")
    assert f"{name}: is part of the model that is read" in message
    assert (tmp_path / "m" / name).read_bytes() == before


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("absent/out.gguf", "absent: no such directory to write out.gguf in"),
        ("file/out.gguf", "file: no such directory to write out.gguf in"),
        (".", "is not a regular file"),
        ("/proc/out.gguf", "/proc"),
        ("x" * 300 + ".gguf", "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written(tmp_path, capsys, monkeypatch, output, message):
    write_tiny_model(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(capsys, "m", output)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk(tmp_path, capsys, monkeypatch):
    write_tiny_model(tmp_path / "m")
    full = SimpleNamespace(total=10**9, free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    assert "needs 0.07 GB, its file system has 0.00 GB free" in refused(
        capsys, tmp_path / "m", tmp_path / "out.gguf"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
