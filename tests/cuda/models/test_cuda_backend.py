"""The CUDA backend against the CPU backend, whose kernels and weight layouts it shares no code with."""

import threading

import numpy as np
import pytest
from comparison import BF16_KL, F16_KL, all_logits, check, mean_kl, tokens
from variants import GRIDS

from dca_runtime import DcaError, Model
from dca_runtime.errors import Status

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

Q8_CACHE_KL = 1e-3  # as comparison.py's limits

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
MIXED = (("", "Q4_K"), ("attn_v", "Q6_K"), ("ffn_down", "Q6_K"), ("ffn_up", "Q5_0"), ("output.", "Q8_0"))
SCHEME = (48, 16, 64)


@pytest.mark.parametrize("dtype", ["F32", "F16", *QUANTISED, *GRIDS])
def test_formats(variant_gguf, dtype):
    check(variant_gguf(types=(("", dtype),), scheme=SCHEME), F16_KL)


def test_bf16(variant_gguf):
    check(variant_gguf(types=(("", "BF16"),), scheme=SCHEME), BF16_KL, cache_type="bf16")


def test_mixed_types_are_not_merged(variant_gguf):
    check(variant_gguf(types=MIXED, scheme=SCHEME, bias=True), F16_KL)


@pytest.mark.parametrize("head_dim", [16, 48, 64, 80, 96, 128, 256])
def test_head_sizes(variant_gguf, head_dim):
    check(variant_gguf(head_dim=head_dim, heads=4, kv_heads=1, scheme=SCHEME), F16_KL)


@pytest.mark.parametrize("group", [1, 3, 8, 16])
def test_query_heads_of_a_key_head(variant_gguf, group):
    check(variant_gguf(heads=2 * group, kv_heads=2, head_dim=32, scheme=SCHEME), F16_KL)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_biases_head_norms_and_halves(variant_gguf, architecture):
    qwen3 = architecture == "qwen3"
    check(
        variant_gguf(architecture=architecture, bias=not qwen3, head_norm=qwen3, tied=True, scheme=SCHEME),
        F16_KL,
    )


@pytest.mark.parametrize("attention", ["plain", "dca", "intra", "intra+inter"])
def test_attentions(variant_gguf, attention):
    check(variant_gguf(), F16_KL, attention=attention, scheme=SCHEME)


@pytest.mark.parametrize("scheme", [(7, 3, 13), (64, 0, 65), (100, 28, 128), (40, 24, 64, 0.3, 50)])
def test_schemes(variant_gguf, scheme):
    check(variant_gguf(), F16_KL, scheme=scheme)


def test_q8_cache(variant_gguf):
    check(variant_gguf(), Q8_CACHE_KL, cache_type="q8", scheme=SCHEME)


@pytest.mark.parametrize("cache_type", ["f16", "q8"])
@pytest.mark.parametrize("step", [1, 60])
def test_going_on_from_a_copied_prefix(variant_gguf, cache_type, step):
    path = variant_gguf(kv_heads=2, heads=4)
    ids = tokens(path, 150)
    chunk = SCHEME[0]

    def rest(session) -> np.ndarray:
        parts = [session.eval(ids[i : i + step], all_logits=True) for i in range(chunk, len(ids), step)]
        return np.concatenate(parts)

    with Model(path, device="cuda") as model:
        options = {"cache_type": cache_type, "scheme": SCHEME}
        plain = model.session(context=200, attention="plain", **options)  # another capacity, other strides
        fresh, copied = (model.session(context=150, attention="dca", **options) for _ in range(2))
        plain.append(ids)
        copied.append(ids[::-1])
        copied.copy_prefix(plain, chunk)
        plain.truncate(0)
        plain.append(ids[::-1])  # the copy does not depend on what it was made from
        fresh.append(ids)
        fresh.truncate(chunk)
        assert mean_kl(rest(fresh), rest(copied)) < 1e-6


@pytest.mark.parametrize("pieces", [(47, 1, 1, 3), (2,), (49,), (1, 90)])
def test_feeding_in_pieces(variant_gguf, pieces):
    path = variant_gguf(types=(("", "Q4_0"),), scheme=SCHEME)
    ids = tokens(path, 150)
    expected = all_logits(path, "cpu", ids, cache_type="f32")
    assert mean_kl(expected, all_logits(path, "cuda", ids, pieces)) < F16_KL


@pytest.mark.parametrize("block", [1, 5, 48, 64])
def test_blocks(variant_gguf, block):
    path = variant_gguf(scheme=SCHEME)
    ids = tokens(path, 150)
    expected = all_logits(path, "cpu", ids, cache_type="f32")
    assert mean_kl(expected, all_logits(path, "cuda", ids, prefill_block=block)) < F16_KL


def test_last_logits_and_truncation(variant_gguf):
    path = variant_gguf(types=(("", "Q8_0"),), scheme=SCHEME)
    ids = tokens(path, 120)
    expected = all_logits(path, "cpu", ids, cache_type="f32")
    with Model(path, device="cuda") as model, model.session(context=len(ids)) as session:
        assert mean_kl(expected[99], session.eval(ids[:100])) < F16_KL
        for index in range(100, 110):
            assert mean_kl(expected[index], session.eval(ids[index : index + 1])) < F16_KL
        session.truncate(60)
        assert session.length == 60
        session.append(ids[60:61])
        assert mean_kl(expected[79], session.eval(ids[61:80])) < F16_KL
        assert mean_kl(expected[80], session.eval(ids[80:81])) < F16_KL


@pytest.mark.parametrize("dtype", ["F16", "Q4_0"])
def test_scores(variant_gguf, dtype):
    path = variant_gguf(types=(("", dtype),), scheme=SCHEME)
    ids = tokens(path, 150)
    with Model(path) as cpu, Model(path, device="cuda") as cuda:
        expected = cpu.score(ids, cache_type="f32")
        for block in (0, 1, 40):
            np.testing.assert_allclose(cuda.score(ids, prefill_block=block), expected, atol=0.05)


def test_sessions_and_threads_do_not_disturb_each_other(variant_gguf):
    path = variant_gguf(types=(("", "Q4_0"),), scheme=SCHEME)
    with Model(path, device="cuda") as model:
        sequences = [tokens(path, 80, seed) for seed in range(3)]
        alone = [model.session(context=80).eval(ids, all_logits=True) for ids in sequences]
        together = [np.empty_like(logits) for logits in alone]

        def run(which: int) -> None:
            session = model.session(context=80)
            for index in range(80):
                together[which][index] = session.eval(sequences[which][index : index + 1])

        threads = [threading.Thread(target=run, args=(which,)) for which in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for expected, found in zip(alone, together, strict=True):
            assert mean_kl(expected, found) < F16_KL


def test_a_cache_too_large_is_refused_with_what_would_fit(variant_gguf):
    with Model(variant_gguf(), device="cuda") as model:
        with pytest.raises(DcaError, match=r"room for \d+ tokens, or \d+ with cache_type q8") as refused:
            model.session(context=1 << 30, scheme=SCHEME)
        assert refused.value.status == Status.MEMORY
        assert model.session(context=16).eval([1, 2, 3]).shape == (515,)


def test_memory_is_returned(variant_gguf):
    with Model(variant_gguf(), device="cuda") as model:
        for _ in range(20):  # 20 × 10 GB do not fit into any card together
            with model.session(context=10_000_000, scheme=SCHEME) as session:
                session.append([1])


def test_f32_cache_is_refused(variant_gguf):
    with (
        Model(variant_gguf(), device="cuda") as model,
        pytest.raises(DcaError, match="f16, bf16, q8 or q4") as refused,
    ):
        model.session(cache_type="f32")
    assert refused.value.status == Status.UNSUPPORTED


def test_a_card_that_is_not_there(variant_gguf):
    with pytest.raises(DcaError, match="cuda:99") as refused:
        Model(variant_gguf(), device="cuda:99")
    assert refused.value.status == Status.DEVICE


def test_loading_reports_progress_and_can_be_cancelled(variant_gguf):
    seen = []
    with Model(variant_gguf(), device="cuda", progress=lambda done, total: seen.append((done, total))):
        assert seen[-1][0] == seen[-1][1] > 0
    with pytest.raises(KeyboardInterrupt):
        Model(variant_gguf(), device="cuda", progress=_interrupt)


def _interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt


def test_auto_takes_the_card(variant_gguf, gpu):
    with Model(variant_gguf(), device="auto") as model:
        assert model.info.device == gpu
