"""Whole exports of checkpoints: files that gguf's reader and the runtime accept."""

import json

import gguf
import numpy as np
import pytest
from tiny_hf import stored_as, tiny_config, write_safetensors, write_tiny_model
from written import read

import dca_runtime
from dca_export.export.plan import ExportOptions
from dca_export.export.recipes import RECIPES
from dca_export.export.scheme_choice import SchemeOptions
from dca_export.export.write import export_model
from dca_export.scheme import Scheme


def test_keys_and_tensors(tmp_path):
    tensors = write_tiny_model(tmp_path / "Tiny-Model")
    exported = export_model(tmp_path / "Tiny-Model", tmp_path / "out.gguf", ExportOptions("f32"))
    keys, written = read(tmp_path / "out.gguf")
    assert exported.files == [tmp_path / "out.gguf"]
    assert keys["general.architecture"] == "llama"
    assert keys["general.type"] == "model"
    assert keys["general.name"] == "Tiny Model"
    assert keys["general.file_type"] == 0
    assert keys["general.quantization_version"] == 2
    assert keys["llama.context_length"] == 64
    assert keys["llama.rope.freq_base"] == 10000.0
    assert keys["llama.attention.dca.chunk_size"] == 48
    assert keys["llama.attention.dca.local_window"] == 16
    assert keys["llama.attention.dca.pretraining_length"] == 64
    assert len(written) == 21
    np.testing.assert_array_equal(written["token_embd.weight"], tensors["model.embed_tokens.weight"])
    down = tensors["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(written["blk.1.ffn_down.weight"], down)


@pytest.mark.parametrize("outtype", sorted(RECIPES))
def test_every_outtype_is_what_it_says_and_runs(tmp_path, outtype):
    write_tiny_model(tmp_path / "m", "BF16", hidden_size=256, intermediate_size=512, head_dim=64)
    export_model(tmp_path / "m", tmp_path / "out.gguf", ExportOptions(outtype))
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    types = {t.name: t.tensor_type for t in reader.tensors}
    assert types["blk.0.attn_q.weight"] == (RECIPES[outtype].experts or RECIPES[outtype].matrix)
    assert types["output.weight"] == RECIPES[outtype].output
    assert types["output_norm.weight"] == gguf.GGMLQuantizationType.F32
    assert reader.get_field("general.file_type").contents() == RECIPES[outtype].file_type
    with dca_runtime.Model(tmp_path / "out.gguf", device="cpu", context=128) as model:
        logits = model.session().eval(list(range(100)))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(("dtype", "kept"), [("BF16", "BF16"), ("F16", "F16"), ("F32", "F16")])
def test_auto_keeps_the_16_bit_type(tmp_path, dtype, kept):
    tensors = write_tiny_model(tmp_path / "m", dtype)
    export_model(tmp_path / "m", tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    head = next(t for t in reader.tensors if t.name == "output.weight")
    assert head.tensor_type.name == kept
    assert head.data.tobytes() == stored_as(tensors["lm_head.weight"], kept).tobytes()


def test_shards_make_the_same_file(tmp_path):
    for name, shards in (("one", 1), ("four", 4)):
        write_tiny_model(tmp_path / name / "m", shards=shards)
        export_model(tmp_path / name / "m", tmp_path / f"{name}.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "four.gguf").read_bytes()


def test_tied_embeddings(tmp_path):
    write_tiny_model(tmp_path / "m", tie_word_embeddings=True)
    exported = export_model(tmp_path / "m", tmp_path / "out.gguf")
    _, tensors = read(tmp_path / "out.gguf")
    assert "output.weight" not in tensors
    assert exported.summary.parameters == sum(v.size for v in tensors.values())


def test_llama_3_scaling_becomes_a_tensor(tmp_path):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    write_tiny_model(tmp_path / "m", rope_scaling=scaling | {"original_max_position_embeddings": 32})
    exported = export_model(tmp_path / "m", tmp_path / "out.gguf")
    _, tensors = read(tmp_path / "out.gguf")
    assert tensors["rope_freqs.weight"].shape == (8,)
    assert tensors["rope_freqs.weight"].max() == 8.0
    assert exported.summary.parameters == sum(v.size for v in tensors.values()) - 8


def test_flags_and_no_dca(tmp_path):
    write_tiny_model(tmp_path / "m")
    asked = SchemeOptions(pretraining_length=32, chunk_size=20, local_window=5)
    export_model(tmp_path / "m", tmp_path / "a.gguf", ExportOptions(scheme=asked))
    export_model(tmp_path / "m", tmp_path / "b.gguf", ExportOptions(scheme=SchemeOptions(dca=False)))
    keys, _ = read(tmp_path / "a.gguf")
    found = [keys[f"llama.attention.dca.{n}"] for n in ("chunk_size", "local_window", "pretraining_length")]
    assert found == [20, 5, 32]
    assert not [key for key in read(tmp_path / "b.gguf")[0] if "dca" in key]


def test_scheme_from_config(tmp_path):
    config = {"chunk_size": 32, "local_size": 8, "original_max_position_embeddings": 48}
    write_tiny_model(tmp_path / "m", dual_chunk_attention_config=config)
    exported = export_model(tmp_path / "m", tmp_path / "out.gguf")
    keys, _ = read(tmp_path / "out.gguf")
    assert exported.summary.scheme.choice.scheme == Scheme(24, 8, 33, 0.1, 48)
    assert keys["llama.attention.dca.logit_scale"] == pytest.approx(0.1)
    assert keys["llama.attention.dca.logit_scale_length"] == 48
    assert keys["llama.context_length"] == 48  # what plain attention was trained for, not what DCA reaches


def test_a_scheme_in_a_second_config_is_noted(tmp_path):
    write_tiny_model(tmp_path / "m")
    section = {"dual_chunk_attention_config": {"chunk_size": 32, "local_size": 8}}
    (tmp_path / "m" / "config_1m.json").write_text(json.dumps(tiny_config(**section)))
    notes = export_model(tmp_path / "m", tmp_path / "out.gguf").summary.scheme.notes
    assert notes == ["config_1m.json states a scheme; put it in the place of config.json to use that one"]


def test_sliding_window_is_noted(tmp_path):
    write_tiny_model(
        tmp_path / "m", sliding_window=32, architectures=["MistralForCausalLM"], model_type="mistral"
    )
    summary = export_model(tmp_path / "m", tmp_path / "out.gguf").summary
    assert summary.scheme.trained.tokens == 32
    assert "sliding_window 32 is not used" in summary.scheme.notes[0]


def test_generation_defaults_and_model_card(tmp_path):
    write_tiny_model(tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text(
        json.dumps({"temperature": 0.7, "top_k": 20, "top_p": "high", "min_p": None})
    )
    (tmp_path / "m" / "README.md").write_text("---\nlicense: mit\nlanguage:\n- en\n---\n# Tiny\n")
    export_model(tmp_path / "m", tmp_path / "out.gguf")
    keys, _ = read(tmp_path / "out.gguf")
    assert keys["general.sampling.temp"] == pytest.approx(0.7)
    assert keys["general.sampling.top_k"] == 20
    assert "general.sampling.top_p" not in keys
    assert keys["general.license"] == "mit"


@pytest.mark.parametrize("card", ["---\n{ broken: [\n---\n", "---\n- a list\n---\n", "\x00"])
def test_a_broken_model_card_is_passed_over(tmp_path, card):
    write_tiny_model(tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text(card)
    export_model(tmp_path / "m", tmp_path / "out.gguf")
    assert read(tmp_path / "out.gguf")[0]["general.name"]


def test_progress_ends_at_the_size(tmp_path):
    write_tiny_model(tmp_path / "m")
    seen: list[tuple[int, int]] = []
    exported = export_model(tmp_path / "m", tmp_path / "out.gguf", progress=lambda *s: seen.append(s))
    assert seen[-1] == (exported.summary.bytes,) * 2
    assert seen == sorted(seen)


def test_split(tmp_path):
    write_tiny_model(tmp_path / "m")
    exported = export_model(tmp_path / "m", tmp_path / "out.gguf", ExportOptions("f32", split_bytes=100_000))
    names = [path.name for path in exported.files]
    assert names == [f"out-{n:05d}-of-00005.gguf" for n in (1, 2, 3, 4, 5)]
    whole = export_model(tmp_path / "m", tmp_path / "whole.gguf", ExportOptions("f32"))
    merged = export_model(exported.files[0], tmp_path / "merged.gguf")
    assert merged.summary.parameters == whole.summary.parameters
    keys, tensors = read(tmp_path / "merged.gguf")
    wanted_keys, wanted = read(tmp_path / "whole.gguf")
    assert keys == wanted_keys
    assert {name: v.tobytes() for name, v in tensors.items()} == {n: v.tobytes() for n, v in wanted.items()}
    for path in exported.files:
        size = sum(t.n_bytes for t in gguf.GGUFReader(path).tensors)
        assert size <= 100_000


def test_real_model(tmp_path, smollm2_gguf):
    exported = export_model(smollm2_gguf, tmp_path / "out.gguf")
    assert exported.summary.scheme.choice.scheme == Scheme(6144, 2048, 8192)
    with dca_runtime.Model(tmp_path / "out.gguf", device="cpu", context=256) as model:
        assert tuple(model.scheme)[:3] == (6144, 2048, 8192)
        text = "".join(model.generate("The capital of France is", max_tokens=3, temperature=0.0))
    assert "Paris" in text


def test_a_directory_that_runs_agrees_with_its_weights(tmp_path):
    """The logits of the exported file against a forward pass written here from the definition."""
    tensors = write_tiny_model(tmp_path / "m")
    export_model(tmp_path / "m", tmp_path / "out.gguf", ExportOptions("f32"))
    ids = np.random.default_rng(5).integers(0, 320, 200)
    with dca_runtime.Model(tmp_path / "out.gguf", device="cpu", context=256) as model:
        logits = model.session(cache_type="f32").eval(ids.tolist(), all_logits=True)
    wanted = forward(tensors, tiny_config(), ids, Scheme(48, 16, 64))
    np.testing.assert_allclose(logits, wanted, atol=2e-4)


def forward(tensors: dict, config: dict, ids: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Llama in float64 with rotations in Hugging Face's layout; distances from the scheme's matrix."""
    heads, kv_heads, d = 4, 2, 16
    n = len(ids)
    weights = {name: v.astype(np.float64) for name, v in tensors.items()}
    distance = scheme.relative_positions(n)
    inverse = config["rope_theta"] ** (-np.arange(0, d, 2) / d)
    cos, sin = np.cos(distance[..., None] * inverse), np.sin(distance[..., None] * inverse)

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weights[name]

    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = norm(x, p + "input_layernorm.weight")
        q = (h @ weights[p + "self_attn.q_proj.weight"].T).reshape(n, heads, d)
        k = (h @ weights[p + "self_attn.k_proj.weight"].T).reshape(n, kv_heads, d)
        v = (h @ weights[p + "self_attn.v_proj.weight"].T).reshape(n, kv_heads, d)
        out = np.zeros((n, heads, d))
        for head in range(heads):
            qa, qb = q[:, head, : d // 2], q[:, head, d // 2 :]
            ka, kb = k[:, head // 2, : d // 2], k[:, head // 2, d // 2 :]
            # Rotating q by the distance relative to k: the real part of q · conj(k) · e^(i distance · freq).
            real = np.einsum("id,jd->ijd", qa, ka) + np.einsum("id,jd->ijd", qb, kb)
            imaginary = np.einsum("id,jd->ijd", qb, ka) - np.einsum("id,jd->ijd", qa, kb)
            scores = (real * cos - imaginary * sin).sum(-1) / np.sqrt(d)
            scores[distance < 0] = -np.inf
            share = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = share / share.sum(-1, keepdims=True) @ v[:, head // 2]
        x = x + out.reshape(n, -1) @ weights[p + "self_attn.o_proj.weight"].T
        h = norm(x, p + "post_attention_layernorm.weight")
        gate = h @ weights[p + "mlp.gate_proj.weight"].T
        up = h @ weights[p + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[p + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ weights["lm_head.weight"].T


def test_export_needs_no_tokenizer_json_if_there_is_a_model(tmp_path):
    from sentencepiece_bytes import BPE, piece

    write_tiny_model(tmp_path / "m", vocab_size=3)
    (tmp_path / "m" / "tokenizer.json").unlink()
    pieces = piece(b"<unk>", 0.0, 2) + piece(b"<s>", 0.0, 3) + piece(b"a", -1.0)
    (tmp_path / "m" / "tokenizer.model").write_bytes(pieces + BPE)
    export_model(tmp_path / "m", tmp_path / "out.gguf")
    assert read(tmp_path / "out.gguf")[0]["tokenizer.ggml.tokens"] == ["<unk>", "<s>", "a"]


def test_auto_takes_the_type_that_holds_most_values(tmp_path):
    tensors = write_tiny_model(tmp_path / "m")
    dtypes = {name: "F32" if "embed" in name else "BF16" for name in tensors}
    stored = {name: (dtypes[name], stored_as(values, dtypes[name])) for name, values in tensors.items()}
    write_safetensors(tmp_path / "m" / "model.safetensors", stored)
    assert export_model(tmp_path / "m", tmp_path / "out.gguf").summary.types["BF16"] == 16


def test_two_matrices_of_a_model_that_says_tied(tmp_path):
    tensors = write_tiny_model(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(tiny_config(tie_word_embeddings=True)))
    exported = export_model(tmp_path / "m", tmp_path / "out.gguf", ExportOptions("f32"))
    _, written = read(tmp_path / "out.gguf")
    np.testing.assert_array_equal(written["output.weight"], tensors["lm_head.weight"])
    assert any("both are exported" in note for note in exported.summary.scheme.notes)


HASH = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"models--acme--Rocket-7B/snapshots/{HASH}", "Rocket 7B"),
        (f"models--Rocket-7B/snapshots/{HASH}", "Rocket 7B"),
        (f"Rocket-7B/{HASH}", "Rocket 7B"),
        ("Rocket-7B", "Rocket 7B"),
    ],
)
def test_the_hash_of_a_cache_is_no_name(tmp_path, path, name):
    write_tiny_model(tmp_path / path)
    export_model(tmp_path / path, tmp_path / "out.gguf")
    keys, _ = read(tmp_path / "out.gguf")
    assert keys["general.name"] == name
    assert not [key for key, value in keys.items() if key.startswith("general.") and HASH in str(value)]


def test_model_cards_and_defaults_of_other_types_are_passed_over(tmp_path):
    write_tiny_model(tmp_path / "m")
    defaults = {"top_k": 2**40, "temperature": 1e39, "top_p": 0.9, "min_p": 10**400}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(defaults))
    card = {"license": 5, "license_name": ["x"], "language": [1, "en"], "tags": {"a": 1}, "model_name": [3]}
    (tmp_path / "m" / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    export_model(tmp_path / "m", tmp_path / "out.gguf")
    keys, _ = read(tmp_path / "out.gguf")
    assert [key for key in keys if key.startswith("general.sampling")] == ["general.sampling.top_p"]
    assert keys["general.languages"] == ["en"]
    assert "general.license" not in keys
