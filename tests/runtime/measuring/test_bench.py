"""The arithmetic of benchmarks, and that they measure what they name."""

import pytest

import dca_runtime as dca
from dca_runtime.measuring import bench


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(scheme=(12, 4, 16), context_length=16)) as model:
        yield model


def test_names_and_order():
    planned = bench.tests([512, 0], [64], [0, 8192])
    assert [test.name for test in planned] == ["pp512", "tg64", "pp512@d8192", "tg64@d8192"]


def test_results(model):
    planned = bench.tests([8], [4], [0, 30])
    results = list(bench.measure(model, planned, repeats=2, cache_type="f32"))
    assert [result.test for result in results] == ["pp8", "tg4", "pp8@d30", "tg4@d30"]
    for result in results:
        assert result.tokens_per_s > 0 and result.stdev >= 0
        assert (result.gflop_per_s is None) == (result.gb_per_s is not None) == result.test.startswith("tg")
        assert (result.attention, result.cache_type, result.repeats) == ("dca", "f32", 2)


def test_one_repeat_has_no_deviation(model):
    (result,) = bench.measure(model, bench.tests([4], [], [0]), repeats=1, attention="plain")
    assert result.stdev == 0 and result.attention == "plain"


@pytest.mark.parametrize(
    ("attention", "keys_seen"),
    [
        ("dca", range(21, 31)),  # each token sees itself and all before it
        ("intra", [9, 10, 11, 12, 1, 2, 3, 4, 5, 6]),  # what lies in its chunk of 12
    ],
)
def test_flop_counts_every_product_once(model, attention, keys_seen):
    # 10 tokens after 20: width 64, 4 heads of 16, 2 key heads, ff 96, 2 layers, 320 tokens in the vocabulary.
    weights = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96
    wanted = 2 * 2 * weights * 10 + 2 * 4 * 64 * sum(keys_seen) + 2 * 64 * 320
    with model.session(attention=attention) as session:
        assert bench.prefill_flop(model.info, session, bench.Test("pp", 10, 20)) == wanted


def test_bytes_count_weights_and_the_growing_cache(model):
    with model.session(context=64, cache_type="f32") as session:
        per_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, key heads, head size, bytes
        assert session.info.cache_bytes == 128 * per_token  # a page
        wanted = 3 * model.info.weight_bytes_used + (21 + 22 + 23) * per_token
        assert bench.decode_bytes(model.info, session, bench.Test("tg", 3, 20)) == wanted
