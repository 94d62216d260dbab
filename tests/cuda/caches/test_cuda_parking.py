"""Pages of a card that are parked in host memory, and come back, while others' steps run."""

import numpy as np
import pytest

from dca_runtime import Model

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

SCHEME = (40, 24, 64)
PAGE = 128


def ids_of(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 515, count).tolist()


@pytest.fixture
def make(variant_gguf):
    """``make(pages, cache_type)``: an engine of its own model."""
    open_ones = []

    def make(pages, cache_type="f16"):
        model = Model(variant_gguf(head_dim=64), device="cuda")
        engine = model.engine(tokens=pages * PAGE, cache_type=cache_type, scheme=SCHEME)
        open_ones.extend([engine, model])
        return engine

    yield make
    for one in open_ones:
        one.close()


@pytest.mark.parametrize("slots", [[0, 1, 2, 3, 4], [4, 0, 3, 1, 2]])
@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8", "q4"])
def test_pages_come_back_with_the_same_bits(make, cache_type, slots):
    engine = make(16, cache_type)
    engine.add_slots(2)
    assert engine.add_slots(3) == 5
    first, other = engine.sequence(), engine.sequence()
    engine.eval([(first, ids_of(1, 5 * PAGE)), (other, [3])], logits=False)
    kept = first.fork()
    first.park_pages(0, slots)
    first.close()
    for n in range(5):
        engine.eval([(other, [n])])  # while they leave
    (expected,) = engine.eval([(kept, [7, 8])])
    kept.close()
    while engine.room != (15, 0):
        pass
    with engine.sequence() as filler:
        engine.eval([(filler, ids_of(2, 15 * PAGE))], logits=False)
    again = engine.sequence()
    again.unpark_pages(ids_of(1, 5 * PAGE), slots)
    for n in range(5):
        engine.eval([(other, [n])])  # while they come
    np.testing.assert_array_equal(engine.eval([(again, [7, 8])])[0], expected)
    assert again.in_place


def test_pages_that_leave_are_counted_until_they_have_left(make):
    engine = make(64)
    engine.add_slots(60)
    first = engine.sequence()
    engine.eval([(first, ids_of(1, 60 * PAGE))], logits=False)
    first.park_pages(0, range(60))
    first.close()
    seen = set()
    while (now := engine.room) != (64, 0):
        seen.add(sum(now))
    assert seen <= {64}


def test_what_is_closed_forked_or_shortened_on_its_way(make):
    engine = make(64)
    engine.add_slots(60)
    ids = ids_of(1, 60 * PAGE)
    first = engine.sequence()
    engine.eval([(first, ids)], logits=False)
    first.park_pages(0, range(60))
    (expected,) = engine.eval([(first, [5])])
    first.close()
    for shortened in (True, False):
        coming = engine.sequence()
        coming.unpark_pages(ids, range(60))
        fork = coming.fork()
        if shortened:
            coming.truncate(10 * PAGE)
        else:
            coming.close()
        np.testing.assert_array_equal(engine.eval([(fork, [5])])[0], expected)
        fork.close()
        coming.close()
    while engine.room != (64, 0):
        pass
    with engine.sequence() as filler:
        engine.eval([(filler, ids_of(2, 64 * PAGE))], logits=False)


def test_a_pool_whose_pages_are_all_on_their_way_waits_for_them(make):
    engine = make(32)
    engine.add_slots(32)
    first, second = engine.sequence(), engine.sequence()
    engine.eval([(first, ids_of(1, 32 * PAGE))], logits=False)
    first.park_pages(0, range(32))
    first.close()
    engine.eval([(second, ids_of(2, 31 * PAGE))], logits=False)  # takes pages as they are free
    assert second.length == 31 * PAGE
