"""Which tensor gets which type; the expected types are what llama-quantize gave for the same models."""

from dataclasses import replace

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from dca_export.export.recipes import FALLBACKS, RECIPES, Model, TypeChoice, tensor_type
from dca_export.model.rules import Dimensions

T = GGMLQuantizationType
LLAMA_7B = Dimensions(layers=32, vocab=32000, width=4096, heads=32, kv_heads=32, head_dim=128, ff=11008)
GROUPED = Dimensions(layers=32, vocab=32000, width=4096, heads=32, kv_heads=8, head_dim=128, ff=14336)
LLAMA_70B = Dimensions(layers=80, vocab=32000, width=8192, heads=64, kv_heads=8, head_dim=128, ff=28672)
MIXTRAL = Dimensions(
    layers=32, vocab=32000, width=4096, heads=32, kv_heads=8, head_dim=128, ff=14336, experts=8
)


def chosen(outtype: str, name: str, dimensions: Dimensions = LLAMA_7B, columns: int = 4096, **options):
    shape = options.pop("shape", (4096, columns))
    model = Model(options.get("architecture", "llama"), dimensions, options.get("tied", False))
    return tensor_type(RECIPES[outtype], model, name, shape, options.get("keep_f32", False))


@pytest.mark.parametrize("outtype", sorted(RECIPES))
def test_norms_vectors_and_routers_stay_f32(outtype):
    assert chosen(outtype, "blk.0.attn_norm.weight", shape=(4096,)).type == T.F32
    assert chosen(outtype, "blk.0.attn_q.bias", shape=(4096,)).type == T.F32
    assert chosen(outtype, "blk.0.attn_q_norm.weight", shape=(1, 128)).type == T.F32
    assert chosen(outtype, "blk.0.ffn_gate_inp.weight", keep_f32=True).type == T.F32


@pytest.mark.parametrize(
    ("outtype", "matrix", "output"),
    [
        ("f32", T.F32, T.F32),
        ("f16", T.F16, T.F16),
        ("bf16", T.BF16, T.BF16),
        ("q8_0", T.Q8_0, T.Q8_0),
        ("q4_0", T.Q4_0, T.Q6_K),
        ("q4_1", T.Q4_1, T.Q6_K),
        ("q5_0", T.Q5_0, T.Q6_K),
        ("q5_1", T.Q5_1, T.Q6_K),
        ("q2_k", T.Q2_K, T.Q6_K),
        ("q3_k_m", T.Q3_K, T.Q6_K),
        ("q4_k_m", T.Q4_K, T.Q6_K),
        ("q5_k_m", T.Q5_K, T.Q6_K),
        ("q6_k", T.Q6_K, T.Q6_K),
        ("iq4_nl", T.IQ4_NL, T.Q6_K),
        ("iq4_xs", T.IQ4_XS, T.Q6_K),
    ],
)
def test_matrices_and_the_output(outtype, matrix, output):
    assert chosen(outtype, "blk.9.ffn_up.weight").type == matrix
    assert chosen(outtype, "token_embd.weight").type == matrix
    assert chosen(outtype, "output.weight").type == output
    assert chosen(outtype, "token_embd.weight", tied=True).type == output


def layers_with(
    outtype: str, role: str, kind: T, dimensions: Dimensions = LLAMA_7B, architecture: str = "llama"
) -> list[int]:
    types = [
        chosen(outtype, f"blk.{layer}.{role}.weight", dimensions, architecture=architecture).type
        for layer in range(dimensions.layers)
    ]
    return [layer for layer, found in enumerate(types) if found == kind]


MORE_BITS_OF_32 = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


@pytest.mark.parametrize("outtype", ["q4_k_m", "q5_k_m"])
@pytest.mark.parametrize("role", ["attn_v", "ffn_down", "ffn_down_exps", "attn_qkv"])
def test_medium_mixes_give_half_the_layers_more_bits(outtype, role):
    assert layers_with(outtype, role, T.Q6_K) == MORE_BITS_OF_32


def test_first_layers():
    assert layers_with("q3_k_m", "attn_v", T.Q5_K) == [0, 1]
    assert layers_with("q3_k_m", "ffn_down", T.Q5_K) == [0, 1]
    assert layers_with("q4_k_s", "attn_v", T.Q5_K) == [0, 1, 2, 3]
    assert layers_with("q4_k_s", "ffn_down", T.Q5_K) == [0, 1, 2, 3]
    assert layers_with("iq4_nl", "ffn_down", T.Q5_K) == [0, 1, 2, 3]


def test_wide_groups_of_query_heads():
    assert layers_with("q2_k", "attn_v", T.Q3_K, LLAMA_7B) == list(range(32))
    assert layers_with("q2_k", "attn_v", T.Q4_K, GROUPED) == list(range(32))
    assert layers_with("iq4_nl", "attn_v", T.Q5_K, GROUPED) == list(range(32))


def test_v_of_a_70b_model():
    assert layers_with("q3_k_s", "attn_v", T.Q5_K, LLAMA_70B) == list(range(80))
    assert layers_with("q3_k_s", "attn_k", T.Q3_K, LLAMA_70B) == list(range(80))


@pytest.mark.parametrize(
    ("architecture", "kv_heads", "kind"),
    [
        ("llama", 8, T.Q5_K),
        ("llama", 64, T.Q3_K),  # Llama 1 65B
        ("qwen2", 8, T.Q5_K),
        ("qwen2", 64, T.Q5_K),  # Qwen1.5-72B
        ("qwen3", 8, T.Q3_K),  # no such model is known to llama.cpp
    ],
)
def test_which_models_of_80_layers_count_as_70b(architecture, kv_heads, kind):
    dimensions = replace(LLAMA_70B, kv_heads=kv_heads)
    assert chosen("q3_k_s", "blk.9.attn_v.weight", dimensions, architecture=architecture).type == kind


def test_mixtures_of_eight():
    for outtype in ("q4_0", "q3_k_l", "q4_k_m", "q6_k"):
        assert chosen(outtype, "blk.9.attn_v.weight", MIXTRAL).type == T.Q8_0
        assert chosen(outtype, "blk.9.attn_k.weight", MIXTRAL).type == T.Q8_0
    assert chosen("q4_k_m", "blk.9.attn_output.weight", MIXTRAL).type == T.Q5_K
    assert chosen("q3_k_l", "blk.9.attn_output.weight", MIXTRAL).type == T.Q3_K
    assert chosen("f16", "blk.9.attn_v.weight", MIXTRAL).type == T.F16


@pytest.mark.parametrize(
    ("outtype", "columns", "expected"),
    [
        ("q4_k_m", 576, TypeChoice(T.Q5_0, T.Q4_K)),
        ("q5_k_s", 576, TypeChoice(T.Q5_1, T.Q5_K)),
        ("q6_k", 576, TypeChoice(T.Q8_0, T.Q6_K)),
        ("q3_k_s", 576, TypeChoice(T.Q4_0, T.Q3_K)),
        ("q2_k", 576, TypeChoice(T.Q4_0, T.Q2_K)),
        ("q4_k_m", 100, TypeChoice(T.F16, T.Q4_K)),
        ("q8_0", 100, TypeChoice(T.F16, T.Q8_0)),
        ("iq4_nl", 100, TypeChoice(T.F16, T.IQ4_NL)),
        ("iq4_xs", 576, TypeChoice(T.IQ4_NL, T.IQ4_XS)),
        ("mxfp4", 100, TypeChoice(T.F16, T.MXFP4)),
        ("f16", 1, TypeChoice(T.F16)),
    ],
)
def test_rows_that_no_block_divides(outtype, columns, expected):
    assert chosen(outtype, "blk.9.attn_q.weight", columns=columns) == expected


def test_mxfp4_is_for_experts_and_in_dense_models_for_layers():
    assert chosen("mxfp4", "blk.9.ffn_up_exps.weight", MIXTRAL).type == T.MXFP4
    assert chosen("mxfp4", "blk.9.attn_q.weight", MIXTRAL).type == T.Q8_0
    assert chosen("mxfp4", "blk.9.attn_q.weight").type == T.MXFP4
    assert chosen("mxfp4", "token_embd.weight").type == T.Q8_0


def test_every_fallback_ends():
    for kind in {recipe.matrix for recipe in RECIPES.values()} | {r.output for r in RECIPES.values()}:
        while GGML_QUANT_SIZES[kind][0] > 1:
            kind = FALLBACKS[kind]
        assert kind in (T.F32, T.F16, T.BF16)
