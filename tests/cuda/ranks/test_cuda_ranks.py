"""A model shared by ranks answers as on one card: two ranks on card 0, and two cards where there are two."""

import os
import subprocess
import sys

import numpy as np
import pytest
from comparison import BF16_KL, F16_KL, all_logits, mean_kl, tokens

from dca_runtime import DcaError, Model, Sampling
from dca_runtime.errors import Status

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

Q8_CACHE_KL = 1e-3
SCHEME = (48, 16, 64)

MODELS = {
    "f16": {},
    "bf16": {"types": (("", "BF16"),)},
    "biases": {"architecture": "qwen2", "bias": True, "tied": True},
    "norms of heads": {"architecture": "qwen3", "head_norm": True},
    "quantised": {"types": (("", "Q4_0"), ("attn_v", "Q8_0"))},
    "quantised in large blocks": {"types": (("", "Q4_K"), ("ffn_down", "Q6_K")), "heads": 8, "kv_heads": 2},
    "uneven": {"heads": 9, "kv_heads": 3},
    "one key head": {"heads": 8, "kv_heads": 1},
    "head 128": {"heads": 8, "kv_heads": 2, "head_dim": 128},
    "mixture": {"experts": 8, "ff": 128, "ff_shared": 64, "shared_gate": True, "architecture": "qwen2moe"},
    "mixture, quantised": {"experts": 4, "ff": 128, "types": (("", "Q5_1"),)},
    "mixture, experts shared out": {"experts": 8, "experts_used": 4, "ff": 128, "ff_shared": 64},
    "mixture of blocks that cannot be cut": {
        "experts": 6,
        "experts_used": 4,
        "ff": 256,
        "types": (("", "Q4_K"), ("attn", "Q8_0")),
    },
}


DEVICES = {
    "two cards": "cuda:0,1",
    "unequal cards": "cuda:0=1,1=3",
    "layers of two": "cuda:0,1/layers",
    "layers of one": "cuda:0/2/layers",
    "one card twice": "cuda:0/2",
    "one card unequally": "cuda:0/2=1,3",
}
# In a process of its own (test_kernels_that_wait_for_each_other_on_one_card).
ON_ONE_CARD = "DCA_TEST_RANKS_ON_ONE_CARD"
if ON_ONE_CARD in os.environ:
    DEVICES = {"one card twice": "cuda:0/2"}


@pytest.fixture(scope="module", params=DEVICES.values(), ids=DEVICES.keys())
def device(request, tiny_gguf):
    try:
        with Model(tiny_gguf(dtype="f16"), device=request.param):
            return request.param
    except DcaError as error:
        if error.status != Status.DEVICE:
            raise
        pytest.skip(f"needs two cards: {error}")


@pytest.mark.alone
@pytest.mark.skipif(ON_ONE_CARD in os.environ, reason="runs the others")
def test_kernels_that_wait_for_each_other_on_one_card():
    """What two cards run, on one. There, a kernel that is loaded only when it is first launched, or launched
    behind another stream's, would wait for one that waits for it. So CUDA is told beforehand to do neither;
    cuBLASLt loads its own late all the same, so the ranks are alike and load the same ones at once. Beside
    other processes a card runs each of them for a while only, and every sum waits for all of these: it is
    alone."""
    told = {"CUDA_MODULE_LOADING": "EAGER", "CUDA_DEVICE_MAX_CONNECTIONS": "32"}
    told |= {"DCA_CARDS_SUM": "kernels", ON_ONE_CARD: "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", "-p", "no:cacheprovider", __file__],
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("kind", MODELS)
def test_prefill_and_decoding(variant_gguf, device, kind):
    path = variant_gguf(scheme=SCHEME, **MODELS[kind])
    ids = tokens(path, 150)
    expected = all_logits(path, "cpu", ids, cache_type="f32")
    limit = BF16_KL if kind == "bf16" else F16_KL
    assert mean_kl(expected, all_logits(path, device, ids)) < limit
    assert mean_kl(expected, all_logits(path, device, ids, pieces=(1,))) < limit


def test_a_prompt_whose_sums_are_cut_into_pieces(variant_gguf, device):
    path = variant_gguf(scheme=SCHEME)
    ids = tokens(path, 3000)
    expected = all_logits(path, "cuda:0", ids)
    assert mean_kl(expected, all_logits(path, device, ids)) < F16_KL
    pieces = (1100, 1, 1, 1, 128, 129, 700, 2)
    assert mean_kl(expected, all_logits(path, device, ids, pieces)) < F16_KL


@pytest.mark.parametrize("cache_type", ["bf16", "q8"])
def test_cache_types(variant_gguf, device, cache_type):
    path = variant_gguf(scheme=SCHEME)
    ids = tokens(path, 150)
    expected = all_logits(path, "cpu", ids, cache_type="f32")
    limit = BF16_KL if cache_type == "bf16" else Q8_CACHE_KL
    assert mean_kl(expected, all_logits(path, device, ids, pieces=(60, 1), cache_type=cache_type)) < limit


def cost_of_q4(path, ids, pieces, rows=slice(None)) -> float:
    """The divergence that codes of four bits cost on one card: a bound for that between one card and several.

    Sums in another order move a number by a few roundings of 11 bits, 2^-9 of it at most; it is at most 8
    steps of its codes from their middle, so by 1/64 of a step, and as many codes flip, by a step. That is
    1/64 of a step squared in the mean, against 1/12 that coding itself costs: a fifth. Divergence goes with
    squared errors; the rest is room for a position's luck.
    """
    f16, q4 = (all_logits(path, "cuda:0", ids, pieces, cache_type=kind) for kind in ("f16", "q4"))
    return mean_kl(f16[rows], q4[rows])


def test_a_q4_cache_is_as_on_one_card(variant_gguf, device):
    path = variant_gguf(scheme=SCHEME)
    ids = tokens(path, 300)
    expected = all_logits(path, "cuda:0", ids, pieces=(250, 1), cache_type="q4")
    found = all_logits(path, device, ids, pieces=(250, 1), cache_type="q4")
    assert mean_kl(expected, found) < cost_of_q4(path, ids, (250, 1))


@pytest.mark.parametrize("cache_type", ["f16", "q4"])
def test_a_sequence_that_slept_goes_on_as_one_that_did_not(variant_gguf, device, cache_type):
    path = variant_gguf()
    ids, others = tokens(path, 330).tolist(), tokens(path, 600, seed=1).tolist()
    with Model(path, device=device) as model:
        options = {"tokens": 1024, "cache_type": cache_type, "scheme": SCHEME}
        with model.engine(**options) as engine, engine.sequence() as awake:
            engine.eval([(awake, ids[:300])])
            expected = engine.eval([(awake, ids[300:])])[0]
        with model.engine(**options) as engine:
            sequence, other = engine.sequence(), engine.sequence()
            engine.eval([(sequence, ids[:300])])
            sequence.sleep()
            engine.eval([(other, others)])  # writes to the pages that it left
            np.testing.assert_array_equal(engine.eval([(sequence, ids[300:])])[0], expected)


@pytest.mark.parametrize("kind", ["f16", "quantised", "mixture", "mixture, experts shared out"])
@pytest.mark.parametrize("count", [1, 2, 5, 33, 128])
def test_engines_of_many_sequences(variant_gguf, device, kind, count):
    path = variant_gguf(**MODELS[kind])
    held = [np.random.default_rng(n).integers(0, 515, 1 + 3 * n % 50).tolist() for n in range(count)]
    found = {}
    for where in ("cuda:0", device):
        with Model(path, device=where) as model, model.engine(tokens=128 * 128, scheme=SCHEME) as engine:
            sequences = [engine.sequence() for _ in held]
            rows = engine.eval(list(zip(sequences, held, strict=True)))
            for step in range(4):
                new = [(7 * step + 11 * n) % 515 for n in range(count)]
                rows += engine.eval([(each, [id_]) for each, id_ in zip(sequences, new, strict=True)])
            found[where] = np.stack(rows)
    assert mean_kl(found["cuda:0"], found[device]) < F16_KL


def test_scores(variant_gguf, device):
    path = variant_gguf(scheme=SCHEME)
    ids = tokens(path, 150)
    with Model(path) as cpu, Model(path, device=device) as cards:
        np.testing.assert_allclose(cards.score(ids), cpu.score(ids, cache_type="f32"), atol=0.05)


def test_tokens_are_chosen_from_all_of_the_vocabulary(variant_gguf, device):
    path = variant_gguf(scheme=SCHEME)
    with Model(path, device=device) as model, model.engine(tokens=16384) as engine:
        sequences = [engine.sequence() for _ in range(40)]
        prompts = [np.random.default_rng(n).integers(0, 515, 9).tolist() for n in range(40)]
        copies = [engine.sequence() for _ in prompts]
        likeliest = [int(np.argmax(row)) for row in engine.eval(list(zip(copies, prompts, strict=True)))]
        feeds = [(each, ids, Sampling(temperature=0)) for each, ids in zip(sequences, prompts, strict=True)]
        assert engine.sample(feeds) == likeliest
        assert min(likeliest) < 256 <= max(likeliest)  # of either rank's part


@pytest.mark.parametrize(("cache_type", "limit"), [("f16", 1e-3), ("q8", Q8_CACHE_KL), ("q4", None)])
def test_saved_sequences_do_not_depend_on_the_number_of_ranks(
    variant_gguf, device, tmp_path, cache_type, limit
):
    path = variant_gguf(scheme=SCHEME)
    ids = tokens(path, 200).tolist()
    limit = limit or cost_of_q4(path, np.array([*ids, 5], np.int32), (200, 1), slice(-1, None))
    for saved, loaded in ((device, "cuda:0"), ("cuda:0", device)):
        with Model(path, device=saved) as model, model.session(context=300, cache_type=cache_type) as session:
            session.append(ids)
            session.save(tmp_path / "kept")
            expected = session.eval([5])
        with (
            Model(path, device=loaded) as model,
            model.session(context=300, cache_type=cache_type) as session,
        ):
            session.load(tmp_path / "kept")
            assert mean_kl(expected, session.eval([5])) < limit


def test_sparse_prefill_chooses_what_one_card_does(variant_gguf, device):
    path = variant_gguf(heads=8, kv_heads=4, layers=3, scheme=(300, 100, 512))
    ids = tokens(path, 2000)
    logits, densities, first_layers = [], [], []
    for where in ("cuda:0", device):
        with (
            Model(path, device=where) as model,
            model.session(context=2000, prefill="sparse:0.9:512", record_selection=True) as session,
        ):
            session.append(ids[:1500])
            logits.append(session.eval(ids[1500:])[None])
            densities.append(np.array(session.info.density[:2]))  # of the last layer nothing was asked
            chosen = session.selection()
        assert {each.layer for each in chosen} == {0, 1} and {each.head for each in chosen} == set(range(8))
        first_layers.append({e.head: {} for e in chosen if e.layer == 0})
        for each in chosen:
            if each.layer == 0:
                first_layers[-1][each.head][each.start] = set(each.pages)
    expected, found = first_layers
    pages = differing = 0
    for head, blocks in expected.items():
        assert found[head].keys() == blocks.keys()
        pages += sum(len(block) for block in blocks.values())
        differing += sum(len(block ^ found[head][start]) for start, block in blocks.items())
    assert differing <= 0.01 * pages
    assert np.abs(densities[0] - densities[1]).max() < 0.02
    assert densities[1].min() < 1
    assert mean_kl(*logits) < 20 * F16_KL


def test_a_second_engine_and_memory_that_comes_back(variant_gguf, device):
    path = variant_gguf(scheme=SCHEME)
    ids = tokens(path, 60)
    with Model(path, device=device) as model:
        for _ in range(10):
            with model.session(context=2_000_000) as session, model.session(context=100) as other:
                assert mean_kl(session.eval(ids, all_logits=True), other.eval(ids, all_logits=True)) < 1e-6


def test_cards_that_are_not_there_are_named(variant_gguf):
    with pytest.raises(DcaError, match="cuda:99") as refused:
        Model(variant_gguf(), device="cuda:0,99")
    assert refused.value.status == Status.DEVICE


def test_too_large_a_pool_is_refused_and_the_model_goes_on(variant_gguf, device):
    with Model(variant_gguf(), device=device) as model:
        with pytest.raises(DcaError, match=r"room for \d+ tokens") as refused:
            model.session(context=1 << 30, scheme=SCHEME)
        assert refused.value.status == Status.MEMORY
        assert model.session(context=16).eval([1, 2, 3]).shape == (515,)
