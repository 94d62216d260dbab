"""A model shared by several ranks answers as alone. They are on the CPU here; cards share it the same way."""

import numpy as np
import pytest

from dca_runtime import DcaError, Model, Sampling, Status

CLOSE = 2e-3  # as test_engine.py: sums run in another order, logits are of order 1
SCHEME = (40, 24, 64)

MODELS = {
    "llama": {},
    "qwen2, biases, tied": {"architecture": "qwen2", "bias": True, "tied": True},
    "qwen3, norms of heads": {"architecture": "qwen3", "head_norm": True},
    "quantised": {"types": (("", "Q4_0"), ("attn_v", "Q8_0")), "heads": 6, "kv_heads": 3},
    "quantised in large blocks": {
        "types": (("", "Q4_K"), ("ffn_down", "Q6_K")),
        "heads": 8,
        "kv_heads": 2,
        "ff": 768,
    },
    "one key head": {"heads": 6, "kv_heads": 1},
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


def ids_of(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 515, count).tolist()


def logits_of(path, device: str, ids: list[int], cache_type: str = "f32", step: int | None = None, **options):
    with (
        Model(path, device=device, **options) as model,
        model.session(context=len(ids), cache_type=cache_type, scheme=SCHEME) as session,
    ):
        step = step or len(ids)
        return np.concatenate(
            [session.eval(ids[i : i + step], all_logits=True) for i in range(0, len(ids), step)]
        )


@pytest.mark.parametrize("device", ["cpu/2", "cpu/3", "cpu/2=3,1", "cpu/2/layers"])
@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_one_rank(variant_gguf, kind, device):
    if kind == "quantised in large blocks" and device == "cpu/3":
        pytest.skip("two key heads of four times 64 columns make two parts of whole blocks")
    path, ids = variant_gguf(**MODELS[kind]), ids_of(0, 150)
    expected = logits_of(path, "cpu", ids)
    assert np.abs(logits_of(path, device, ids) - expected).max() < CLOSE
    assert np.abs(logits_of(path, device, ids[:20], step=1) - expected[:20]).max() < CLOSE


def test_weights_that_stay_in_the_file_are_shared_too(variant_gguf):
    path, ids = variant_gguf(types=(("", "Q4_0"),)), ids_of(0, 60)
    expected = logits_of(path, "cpu", ids)
    assert np.abs(logits_of(path, "cpu/2", ids, repack=False) - expected).max() < CLOSE


# A rounded cache rounds what differs by 1e-6 to neighbours now and then.
ROUNDED = {"f16": 3e-2, "q8": 3e-2, "q4": 0.3}


@pytest.mark.parametrize("device", ["cpu/2", "cpu/2/layers"])
@pytest.mark.parametrize("cache_type", ROUNDED)
def test_rounded_caches(variant_gguf, cache_type, device):
    path, ids = variant_gguf(), ids_of(1, 150)
    expected = logits_of(path, "cpu", ids, cache_type)
    assert np.abs(logits_of(path, device, ids, cache_type) - expected).max() < ROUNDED[cache_type]


def test_likelihoods_are_put_together_from_parts_of_the_vocabulary(variant_gguf):
    path, ids = variant_gguf(), ids_of(2, 150)
    with Model(path) as one:
        expected = one.score(ids, cache_type="f32")
    for device in ("cpu/3", "cpu/2/layers"):
        with Model(path, device=device) as several:
            np.testing.assert_allclose(several.score(ids, cache_type="f32"), expected, atol=CLOSE)


@pytest.mark.parametrize("shared", ["cpu/2", "cpu/2/layers"])
def test_an_engine_of_many_sequences(variant_gguf, shared):
    path = variant_gguf()
    prompts = [ids_of(n, n) for n in (1, 2, 33, 128, 129, 300)]
    found = {}
    for device in ("cpu", shared):
        with (
            Model(path, device=device) as model,
            model.engine(tokens=4096, cache_type="f32", scheme=SCHEME) as engine,
        ):
            sequences = [engine.sequence() for _ in prompts]
            together = engine.eval(list(zip(sequences, prompts, strict=True)))
            fork = sequences[-1].fork()
            sequences[3].truncate(60)
            more = engine.eval([(sequences[3], [7]), (fork, [9, 11]), (sequences[0], [13])])
            found[device] = np.stack([*together, *more])
    assert np.abs(found[shared] - found["cpu"]).max() < CLOSE


@pytest.mark.parametrize("shared", ["cpu/2", "cpu/2/layers"])
@pytest.mark.parametrize("wanted", [Sampling(temperature=0), Sampling(temperature=1.3, top_k=40, seed=5)])
def test_the_same_tokens_are_chosen(variant_gguf, wanted, shared):
    path = variant_gguf()
    chosen = {}
    for device in ("cpu", shared):
        with (
            Model(path, device=device) as model,
            model.engine(tokens=1024, cache_type="f32", scheme=SCHEME) as engine,
        ):
            sequences = [engine.sequence() for _ in range(3)]
            ids = engine.sample([(each, ids_of(n, 9), wanted) for n, each in enumerate(sequences)])
            rounds = [ids]
            for _ in range(10):
                ids = engine.sample([(each, [id_], wanted) for each, id_ in zip(sequences, ids, strict=True)])
                rounds.append(ids)
            chosen[device] = rounds
    assert chosen[shared] == chosen["cpu"]


@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ("cpu", "cpu/2"),
        ("cpu/2", "cpu"),
        ("cpu/2=3,1", "cpu/2"),
        ("cpu/3", "cpu/2/layers"),
        ("cpu/2/layers", "cpu/2"),
    ],
)
def test_saved_sequences_do_not_depend_on_how_many_ranks_there_are(
    variant_gguf, tmp_path, saved, loaded, cache_type
):
    path, ids = variant_gguf(heads=6, kv_heads=3), ids_of(3, 200)
    options = {"context": 300, "cache_type": cache_type, "scheme": SCHEME}
    with Model(path, device=saved) as model, model.session(**options) as session:
        session.append(ids)
        session.save(tmp_path / "kept")
        expected = session.eval([5])
    with Model(path, device=loaded) as model, model.session(**options) as session:
        session.load(tmp_path / "kept")
        assert session.length == len(ids)
        assert np.abs(session.eval([5]) - expected).max() < ROUNDED[cache_type]


def test_key_heads_that_ranks_have_in_common_are_saved_once(variant_gguf, tmp_path):
    path, ids = variant_gguf(heads=6, kv_heads=1), ids_of(4, 130)
    files = {}
    for device in ("cpu", "cpu/3"):
        with Model(path, device=device) as model, model.session(context=200, cache_type="f32") as session:
            session.append(ids)
            session.save(tmp_path / "kept")
            files[device] = (tmp_path / "kept").stat().st_size
    assert files["cpu/3"] == files["cpu"]


def test_the_description_names_the_ranks(tiny_gguf):
    with Model(tiny_gguf(), device="cpu/2", threads=2) as model:
        assert model.info.device.startswith("cpu/2 (")
        assert "1 thread)" in model.info.device
        assert model.info.n_vocab == 320 and model.info.n_heads == 4


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:0,0", "names card 0 twice"),
        ("cuda:0,1,0", "names card 0 twice"),
        ("cuda:0,", "must be cpu, cuda, cuda:N or auto, or several cards: cuda:0,1"),
        ("cuda:,1", "must be cpu"),
        ("cuda:0,x", "must be cpu"),
        ("cuda:0,1/2", "must be cpu"),
        ("cpu/0", "which is 0 ranks, must be 1 to 16"),
        ("cpu/17", "must be 1 to 16"),
        ("cpu/x", "must be cpu"),
        ("cuda:0/layers", "one device has all layers; name several"),
        ("cuda:0=0,1=1", "a card's share must be a number above 0"),
        ("cpu/2=1,x", "a card's share must be a number above 0"),
        ("cpu/2=1", "has 1 shares for 2 ranks; give each rank one: cpu/2=3,1"),
        ("cuda:0/2=1,2,3", "has 3 shares for 2 ranks"),
    ],
)
def test_devices_that_are_none(tiny_gguf, device, message):
    with pytest.raises(DcaError, match=message) as refused:
        Model(tiny_gguf(), device=device)
    assert refused.value.status == Status.ARGUMENT
    assert "\n" not in str(refused.value)


def test_more_ranks_than_a_model_has_heads_for(variant_gguf):
    with pytest.raises(DcaError, match="query heads of a key head .* cannot be shared by") as refused:
        Model(variant_gguf(heads=2, kv_heads=1), device="cpu/3")
    assert refused.value.status == Status.UNSUPPORTED


def test_more_ranks_than_a_model_has_layers(variant_gguf):
    with pytest.raises(DcaError, match=r"number of layers \(2, cut in units of 1\) cannot be shared"):
        Model(variant_gguf(), device="cpu/3/layers")


@pytest.mark.parametrize("cache_type", ["f16", "q4"])
@pytest.mark.parametrize("device", ["cpu/2", "cpu/3", "cpu/2/layers"])
def test_a_sequence_that_slept_goes_on_as_one_that_did_not(variant_gguf, device, cache_type):
    path, ids = variant_gguf(heads=6, kv_heads=2), ids_of(0, 330)  # of three ranks two have one key head
    with Model(path, device=device) as model:
        with (
            model.engine(tokens=1024, cache_type=cache_type, scheme=SCHEME) as engine,
            engine.sequence() as awake,
        ):
            engine.eval([(awake, ids[:300])])
            expected = engine.eval([(awake, ids[300:])])[0]
        with model.engine(tokens=1024, cache_type=cache_type, scheme=SCHEME) as engine:
            sequence, other = engine.sequence(), engine.sequence()
            engine.eval([(sequence, ids[:300])])
            sequence.sleep()
            assert sequence.asleep and engine.info.tokens_used == 0
            engine.eval([(other, ids_of(1, 600))])  # writes to the pages that it left
            np.testing.assert_array_equal(engine.eval([(sequence, ids[300:])])[0], expected)


@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
@pytest.mark.parametrize("device", ["cpu/2", "cpu/2=3,1", "cpu/2/layers"])
def test_parked_pages_come_back(variant_gguf, device, cache_type):
    ids = ids_of(0, 300)
    with (
        Model(variant_gguf(head_dim=64), device=device) as model,
        model.engine(tokens=1024, cache_type=cache_type) as engine,
    ):
        sequence, again = engine.sequence(), engine.sequence()
        engine.add_slots(2)
        engine.eval([(sequence, ids[:256])], logits=False)
        sequence.park_pages(0, [1, 0])
        (expected,) = engine.eval([(sequence, ids[256:])])
        sequence.close()
        with engine.sequence() as filler:
            engine.eval([(filler, ids_of(1, 900))], logits=False)
        again.unpark_pages(ids[:256], [1, 0])
        np.testing.assert_array_equal(engine.eval([(again, ids[256:])])[0], expected)


def test_a_step_that_is_cancelled_leaves_the_engine_usable(variant_gguf):
    path, ids = variant_gguf(), ids_of(5, 90)
    calls = []

    def cancel(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with (
        Model(path, device="cpu/2") as model,
        model.session(context=100, cache_type="f32", prefill_block=30, progress=cancel) as session,
    ):
        with pytest.raises(KeyboardInterrupt):
            session.append(ids)
        assert session.length == 0
        session.append(ids)
        assert session.length == len(ids)
