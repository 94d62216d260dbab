"""Benchmarks of many sequences: what they count and that they run what they name."""

import pytest

import dca_runtime as dca
from dca_runtime.measuring import bench_batches

PAGE = 128
TOKEN_BYTES = 2 * 2 * 2 * 16 * 2  # keys and values, layers, key heads, head size, bytes of f16


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(scheme=(12, 4, 16), context_length=16)) as model:
        yield model


def test_a_result_for_each_number_of_sequences(model):
    results = list(bench_batches.measure_batches(model, [1, 3], 20, 4, bandwidth=100.0, repeats=2))
    assert [result.sequences for result in results] == [1, 3]
    for result in results:
        assert result.prefill_tokens_per_s > 0 and result.decode_tokens_per_s > 0
        assert result.share == pytest.approx(result.gb_per_s / 100)
        assert (result.attention, result.repeats, result.shared_prompt) == ("dca", 2, False)


def test_a_shared_prompt_takes_its_pages_once(model):
    # 300 tokens: two full pages shared, a page of 44 copied by each of 5 but the last who writes to it.
    assert bench_batches._pages(5, 300, 8, True) == 3 + 5
    (result,) = bench_batches.measure_batches(model, [5], 300, 8, shared_prompt=True)
    assert result.shared_prompt and result.share is None


@pytest.mark.parametrize("prompt", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("shared", [False, True])
def test_the_pool_has_room(model, prompt, shared):
    """Prompts that end near a page's border: neither the steps that warm up nor copies overflow the pool."""
    (result,) = bench_batches.measure_batches(model, [3], prompt, 126, shared_prompt=shared)
    assert result.generated == 126


@pytest.mark.parametrize(("shared", "prompts"), [(False, 3), (True, 1)])
def test_bytes_are_weights_and_caches_of_every_step(model, shared, prompts):
    with model.engine(tokens=2 * PAGE) as engine:
        assert engine.info.cache_bytes == 2 * PAGE * TOKEN_BYTES
        wanted = 2 * model.info.weight_bytes_used + (2 * prompts * 20 + 3 * (1 + 2)) * TOKEN_BYTES
        assert bench_batches.decode_bytes(model.info, engine, 3, 20, 2, shared) == wanted


def test_of_a_mixture_no_bytes_are_claimed(variant_gguf):
    with dca.Model(variant_gguf(experts=4)) as model:
        one, two = bench_batches.measure_batches(model, [1, 2], 5, 3, bandwidth=10.0)
    assert one.gb_per_s is not None and one.share is not None
    assert two.gb_per_s is None and two.share is None


def test_decoding_appends_what_was_chosen(model):
    with model.engine(tokens=512) as engine:
        a, b = engine.sequence(), engine.sequence()
        bench_batches.decode(engine, [a, b], 5)
        for first, sequence in enumerate((a, b)):
            ids = sequence.ids.tolist()
            assert ids[0] == first
            again = engine.sequence()
            assert engine.sample([(again, ids[:4], dca.Sampling(temperature=0))]) == [ids[4]]
