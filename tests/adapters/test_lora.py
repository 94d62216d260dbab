"""Adapters merged at export: each matrix gets what the formula of LoRA says, and nothing else changes."""

import json

import numpy as np
import pytest
from adapters import factors, pair, write_gguf_lora, write_peft
from tiny_hf import write_tiny_model

from dca_export.adapters.changes import AdapterOption
from dca_export.cli import export as command
from dca_export.export.plan import ExportOptions, plan_export
from dca_export.export.verify import verify
from dca_export.export.write import export_model

Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # sums of a few products in f32, in one order or another


def weights(model, *adapters: AdapterOption) -> dict[str, np.ndarray]:
    """What the plan would write, as f32 by the names of the checkpoint (rows of q and k as there)."""
    plan = plan_export(model, ExportOptions("f32", adapters=tuple(adapters)))
    pieces = [piece for tensor in plan.tensors for piece in tensor.planned.pieces]
    return {p.tensor.name: p.tensor.read(p.start, p.stop).reshape(p.tensor.shape) for p in pieces}


def only(found: dict[str, np.ndarray], base: dict[str, np.ndarray], *names: str) -> None:
    """All tensors but those are the base's."""
    for name in base.keys() - set(names):
        np.testing.assert_array_equal(found[name], base[name])


def test_alpha_over_rank_times_b_times_a(tmp_path):
    base = write_tiny_model(tmp_path / "model")
    (a, b), (c, d) = factors(64, 64, 4), factors(96, 64, 4)
    adapter = write_peft(tmp_path / "lora", pair(Q, a, b) | pair(UP, c, d))
    found = weights(tmp_path / "model", AdapterOption(adapter))
    np.testing.assert_allclose(found[f"{Q}.weight"], base[f"{Q}.weight"] + 2 * (b @ a), **CLOSE)
    np.testing.assert_allclose(found[f"{UP}.weight"], base[f"{UP}.weight"] + 2 * (d @ c), **CLOSE)
    only(found, base, f"{Q}.weight", f"{UP}.weight")


def test_a_scale_and_several_adapters(tmp_path):
    base = write_tiny_model(tmp_path / "model")
    (a, b), (c, d) = factors(64, 64, 4), factors(64, 64, 2)
    first = write_peft(tmp_path / "one", pair(Q, a, b))
    second = write_peft(tmp_path / "two", pair(Q, c, d), r=2, lora_alpha=3)
    found = weights(tmp_path / "model", AdapterOption(first, 0.5), AdapterOption(second, -2.0))
    wanted = base[f"{Q}.weight"] + 0.5 * 2 * (b @ a) - 2 * 1.5 * (d @ c)
    np.testing.assert_allclose(found[f"{Q}.weight"], wanted, **CLOSE)


def test_rank_stabilised(tmp_path):
    base = write_tiny_model(tmp_path / "model")
    a, b = factors(64, 64, 4)
    adapter = write_peft(tmp_path / "lora", pair(Q, a, b), use_rslora=True)
    found = weights(tmp_path / "model", AdapterOption(adapter))
    np.testing.assert_allclose(found[f"{Q}.weight"], base[f"{Q}.weight"] + 8 / 2 * (b @ a), **CLOSE)


@pytest.mark.parametrize("key", ["q_proj", "layers.0.self_attn.q_proj", r".*\.0\..*q_proj"])
def test_patterns_of_ranks_and_alphas(tmp_path, key):
    base = write_tiny_model(tmp_path / "model")
    (a, b), (c, d) = factors(64, 64, 8), factors(96, 64, 4)
    adapter = write_peft(
        tmp_path / "lora", pair(Q, a, b) | pair(UP, c, d), rank_pattern={key: 8}, alpha_pattern={key: 4}
    )
    found = weights(tmp_path / "model", AdapterOption(adapter))
    np.testing.assert_allclose(found[f"{Q}.weight"], base[f"{Q}.weight"] + 0.5 * (b @ a), **CLOSE)
    np.testing.assert_allclose(found[f"{UP}.weight"], base[f"{UP}.weight"] + 2 * (d @ c), **CLOSE)


def embedding_pair(vocab: int, width: int, rank: int = 4):
    a, b = factors(width, vocab, rank)
    return {f"{EMBEDDING}.lora_embedding_A": a, f"{EMBEDDING}.lora_embedding_B": b}, 2 * (b @ a).T


def test_embeddings(tmp_path):
    base = write_tiny_model(tmp_path / "model")
    stored, change = embedding_pair(320, 64)
    found = weights(tmp_path / "model", AdapterOption(write_peft(tmp_path / "lora", stored)))
    np.testing.assert_allclose(found[f"{EMBEDDING}.weight"], base[f"{EMBEDDING}.weight"] + change, **CLOSE)
    only(found, base, f"{EMBEDDING}.weight")


@pytest.mark.parametrize("trained_tied", [False, True])
def test_an_embedding_that_is_the_output_too(tmp_path, trained_tied):
    base = write_tiny_model(tmp_path / "model", tie_word_embeddings=True)
    stored, change = embedding_pair(320, 64)
    adapter = write_peft(tmp_path / "lora", stored, ensure_weight_tying=trained_tied)
    found = weights(tmp_path / "model", AdapterOption(adapter))
    np.testing.assert_allclose(found[f"{EMBEDDING}.weight"], base[f"{EMBEDDING}.weight"] + change, **CLOSE)
    if trained_tied:
        assert f"{HEAD}.weight" not in found
    else:
        np.testing.assert_array_equal(found[f"{HEAD}.weight"], base[f"{EMBEDDING}.weight"])


@pytest.mark.parametrize("name", ["lm_head.weight", "lm_head.modules_to_save.weight"])
def test_modules_saved_whole_take_the_place_of_the_models(tmp_path, name):
    base = write_tiny_model(tmp_path / "model")
    new = np.ones((320, 64), np.float32)
    adapter = write_peft(tmp_path / "lora", {name: new}, modules_to_save=["lm_head"])
    found = weights(tmp_path / "model", AdapterOption(adapter))
    np.testing.assert_array_equal(found["lm_head.weight"], new)
    only(found, base, "lm_head.weight")


def test_a_bias_of_lora_where_the_model_has_none(tmp_path):
    write_tiny_model(tmp_path / "model")
    a, b = factors(64, 64, 4)
    bias = np.arange(64, dtype=np.float32)
    adapter = write_peft(tmp_path / "lora", pair(Q, a, b) | {f"{Q}.lora_B.bias": bias}, lora_bias=True)
    found = weights(tmp_path / "model", AdapterOption(adapter))
    np.testing.assert_array_equal(found[f"{Q}.bias"], 2 * bias)


def test_the_type_stays_the_models_own(tmp_path):
    write_tiny_model(tmp_path / "model", "BF16")
    modules = {f"model.layers.{i}.mlp.{m}_proj": factors(96, 64, 4) for i in (0, 1) for m in ("up", "gate")}
    stored = {name: part for module, ab in modules.items() for name, part in pair(module, *ab).items()}
    options = ExportOptions(adapters=(AdapterOption(write_peft(tmp_path / "lora", stored)),))
    assert plan_export(tmp_path / "model", options).recipe.name == "bf16"


def test_verify_knows_the_adapters(tmp_path):
    write_tiny_model(tmp_path / "model")
    adapters = (AdapterOption(write_peft(tmp_path / "lora", pair(Q, *factors(64, 64, 4)))),)
    export_model(tmp_path / "model", tmp_path / "out.gguf", ExportOptions("f16", adapters=adapters))
    assert verify(tmp_path / "out.gguf", tmp_path / "model", adapters=adapters).problems == []
    (problem,) = verify(tmp_path / "out.gguf", tmp_path / "model").problems
    assert "blk.0.attn_q.weight" in problem


def to_pairs(rows: np.ndarray, head_dim: int = 16) -> np.ndarray:
    """Rows of the halves of each head, in llama.cpp's order."""
    return rows.reshape(-1, 2, head_dim // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def test_an_adapter_of_llama_cpp(tmp_path):
    base = write_tiny_model(tmp_path / "model")
    (a, b), (c, d), (e, f) = factors(64, 64, 4), factors(96, 64, 4), factors(64, 320, 4)
    adapter = write_gguf_lora(
        tmp_path / "lora.gguf",
        {
            "blk.0.attn_q.weight.lora_a": a,
            "blk.0.attn_q.weight.lora_b": to_pairs(b),
            "blk.1.ffn_up.weight.lora_a": c.astype(np.float16),
            "blk.1.ffn_up.weight.lora_b": d.astype(np.float16),
            "token_embd.weight.lora_a": np.ascontiguousarray(e.T),
            "token_embd.weight.lora_b": f,
        },
    )
    found = weights(tmp_path / "model", AdapterOption(adapter, 0.5))
    c, d = (each.astype(np.float16).astype(np.float32) for each in (c, d))
    np.testing.assert_allclose(found[f"{Q}.weight"], base[f"{Q}.weight"] + b @ a, **CLOSE)
    np.testing.assert_allclose(found[f"{UP}.weight"], base[f"{UP}.weight"] + d @ c, **CLOSE)
    np.testing.assert_allclose(found[f"{EMBEDDING}.weight"], base[f"{EMBEDDING}.weight"] + (f @ e).T, **CLOSE)


def test_a_scale_on_the_command_line(tmp_path, capsys):
    write_tiny_model(tmp_path / "model")
    adapter = write_peft(tmp_path / "a=1", pair(Q, *factors(64, 64, 4)))
    output = str(tmp_path / "out.gguf")
    assert (
        command.main([str(tmp_path / "model"), output, "--lora", f"{adapter}=0.25", "--lora", str(adapter)])
        == 0
    )
    shown = capsys.readouterr().out
    assert "adapter a=1: 1 tensor changed, at scale 0.25" in shown and "at scale 1" in shown


A, B = factors(64, 64, 4)
REFUSED = {
    "DoRA": (pair(Q, A, B), {"use_dora": True}, "that is DoRA"),
    "DoRA by its tensors": (
        pair(Q, A, B) | {f"{Q}.lora_magnitude_vector": np.ones(64, np.float32)},
        {},
        "is DoRA's, which cannot be merged",
    ),
    "another kind": (pair(Q, A, B), {"peft_type": "LOHA"}, 'peft_type is "LOHA", must be LORA'),
    "another shape": (pair(Q, *factors(64, 32, 4)), {}, r"makes a change of \[64, 32\].*trained on org/base"),
    "another model": (pair(Q.replace(".0.", ".7."), A, B), {}, "layers.7.*which the model has not"),
    "no B": ({f"{Q}.lora_A.weight": A}, {}, "has no lora_B"),
    "ranks that differ": (pair(Q, A, B[:, :3].copy()), {}, "their ranks differ"),
    "a rank not stated": (pair(Q, A, B), {"r": 5}, "the rank of .*q_proj is 5, its matrices have 4"),
    "a resized vocabulary": (
        {"lm_head.weight": np.ones((321, 64), np.float32)},
        {},
        r"has shape \[321, 64\]",
    ),
    "nothing": ({}, {}, "holds no tensors"),
    "single parameters": (pair(Q, A, B), {"target_parameters": ["mlp.experts"]}, "LoRA of single parameters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_merged_is_one_line(tmp_path, capsys, case):
    tensors, config, message = REFUSED[case]
    write_tiny_model(tmp_path / "model")
    adapter = write_peft(tmp_path / "lora", tensors, **config)
    output = tmp_path / "out.gguf"
    assert command.main([str(tmp_path / "model"), str(output), "--lora", str(adapter)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not output.exists()
    import re

    assert re.search(message, error), error


GGUF_REFUSED = {
    "another architecture": (dict(architecture="qwen2"), "is an adapter of qwen2, the model is llama"),
    "activated": (dict(adapter__alora__invocation_tokens=[1, 2]), "activated LoRA"),
}


@pytest.mark.parametrize("case", GGUF_REFUSED)
def test_adapters_of_llama_cpp_that_do_not_fit(tmp_path, capsys, case):
    changes, message = GGUF_REFUSED[case]
    write_tiny_model(tmp_path / "model")
    tensors = {"blk.0.attn_q.weight.lora_a": A, "blk.0.attn_q.weight.lora_b": B}
    adapter = write_gguf_lora(tmp_path / "lora.gguf", tensors, **changes)
    assert command.main([str(tmp_path / "model"), str(tmp_path / "out.gguf"), "--lora", str(adapter)]) == 2
    assert message in capsys.readouterr().err


def test_an_adapter_that_is_not_there(tmp_path, capsys):
    write_tiny_model(tmp_path / "model")
    assert command.main([str(tmp_path / "model"), str(tmp_path / "o.gguf"), "--lora", "nowhere"]) == 2
    assert "nowhere: no such adapter" in capsys.readouterr().err


def test_a_quantised_model_takes_an_adapter(tmp_path):
    import quantisers
    from tiny_hf import stored_as, tiny_config, tiny_tensors, write_safetensors, write_tokenizer

    model = tmp_path / "model"
    model.mkdir()
    stored = {name: ("F32", stored_as(v, "F32")) for name, v in tiny_tensors(tiny_config()).items()}
    del stored[f"{Q}.weight"]
    parts, values = quantisers.bnb4(64, 64)
    write_safetensors(
        model / "model.safetensors", stored | {f"{Q}.{name}": part for name, part in parts.items()}
    )
    (model / "config.json").write_text(json.dumps(tiny_config()))
    write_tokenizer(model)
    found = weights(model, AdapterOption(write_peft(tmp_path / "lora", pair(Q, A, B))))
    np.testing.assert_allclose(found[f"{Q}.weight"], values + 2 * (B @ A), **CLOSE)
