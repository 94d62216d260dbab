"""Mixtures of experts on the CUDA backend, against the CPU backend."""

import numpy as np
import pytest
from comparison import BF16_KL, F16_KL, all_logits, check, mean_kl, tokens

from dca_runtime import Model

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

QUANTISED = (
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
)
EXPERTS = {"experts": 8, "experts_used": 2, "ff": 256, "scheme": (48, 16, 64)}
SHARED = {"architecture": "qwen2moe", "bias": True, "ff_shared": 512}


def matrices(dtype: str) -> tuple[tuple[str, str], ...]:
    """All matrices in this type but the embedding, whose rounding on the card could change who is chosen."""
    return (("", dtype), ("token_embd", "F16"))


@pytest.mark.parametrize("dtype", ["F32", "F16", *QUANTISED])
def test_formats(variant_gguf, dtype):
    check(variant_gguf(types=matrices(dtype), **EXPERTS), F16_KL)


def test_bf16(variant_gguf):
    check(variant_gguf(types=(("", "BF16"),), **EXPERTS), BF16_KL, cache_type="bf16")


def test_a_router_in_16_bits(variant_gguf):
    check(variant_gguf(types=(("", "F16"), ("ffn_gate_inp", "F16")), **EXPERTS), F16_KL)


def test_mixed_types_are_not_merged(variant_gguf):
    types = (*matrices("Q4_K"), ("ffn_up", "Q5_0"), ("ffn_down", "Q6_K"))
    check(variant_gguf(types=types, shared_gate=True, **SHARED, **EXPERTS), F16_KL)


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("dtype", ["F16", "Q4_0"])
def test_a_shared_expert(variant_gguf, gate, dtype):
    check(variant_gguf(types=matrices(dtype), shared_gate=gate, **SHARED, **EXPERTS), F16_KL)


def test_many_small_experts_with_head_norms(variant_gguf):
    sizes = {"experts": 128, "experts_used": 8, "ff": 64, "scheme": (48, 16, 64)}
    path = variant_gguf(architecture="qwen3moe", head_norm=True, **sizes)
    check(path, F16_KL)
    check(path, F16_KL, count=5)  # most experts have no token


@pytest.mark.parametrize("weights", [(True, 1.0), (False, 1.0), (True, 2.5), (False, 2.5)])
def test_weights_of_experts(variant_gguf, weights):
    check(variant_gguf(expert_weights=weights, **EXPERTS), F16_KL)


@pytest.mark.parametrize("experts", [1, 3, 8, 20])
def test_all_experts_used(variant_gguf, experts):
    # Nothing is chosen, so the router may depend on everything.
    sizes = EXPERTS | {"experts": experts, "experts_used": experts}
    check(variant_gguf(router="dense", **sizes), F16_KL)


def test_equal_logits_go_to_the_first_experts(variant_gguf):
    check(variant_gguf(router="zero", **EXPERTS), F16_KL)  # and the others have no token


@pytest.mark.parametrize("pieces", [(47, 1, 1, 3), (2,), (49,), (1, 90)])
def test_feeding_in_pieces(variant_gguf, pieces):
    path = variant_gguf(types=matrices("Q4_0"), shared_gate=True, **SHARED, **EXPERTS)
    ids = tokens(path, 150)
    expected = all_logits(path, "cpu", ids, cache_type="f32")
    assert mean_kl(expected, all_logits(path, "cuda", ids, pieces)) < F16_KL


@pytest.mark.parametrize("block", [1, 5, 48, 64])
def test_blocks(variant_gguf, block):
    path = variant_gguf(**EXPERTS)
    ids = tokens(path, 150)
    expected = all_logits(path, "cpu", ids, cache_type="f32")
    assert mean_kl(expected, all_logits(path, "cuda", ids, prefill_block=block)) < F16_KL


def test_long_blocks(variant_gguf):
    # Every expert has hundreds of tokens, and together they fill the work space several times.
    path = variant_gguf(experts=16, experts_used=6, ff=128, layers=1, scheme=(768, 256, 1024))
    ids = tokens(path, 2000)
    expected = all_logits(path, "cpu", ids, cache_type="f32")
    assert mean_kl(expected, all_logits(path, "cuda", ids)) < F16_KL


def test_last_logits_and_scores(variant_gguf):
    path = variant_gguf(types=matrices("Q8_0"), shared_gate=True, **SHARED, **EXPERTS)
    ids = tokens(path, 120)
    expected = all_logits(path, "cpu", ids, cache_type="f32")
    with Model(path) as cpu, Model(path, device="cuda") as cuda:
        with cuda.session(context=len(ids)) as session:
            assert mean_kl(expected[99], session.eval(ids[:100])) < F16_KL
            for index in range(100, 110):
                assert mean_kl(expected[index], session.eval(ids[index : index + 1])) < F16_KL
        scores = cpu.score(ids, cache_type="f32")
        for block in (0, 1, 40):
            np.testing.assert_allclose(cuda.score(ids, prefill_block=block), scores, atol=0.05)


def test_results_do_not_vary(variant_gguf):
    path = variant_gguf(types=matrices("Q4_K"), **EXPERTS)
    ids = tokens(path, 150)
    for pieces in (None, (1,)):
        first = all_logits(path, "cuda", ids, pieces)
        np.testing.assert_array_equal(first, all_logits(path, "cuda", ids, pieces))
