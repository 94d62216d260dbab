"""Pages that are parked in host memory come back as they were, for all with the same tokens before them."""

import threading

import numpy as np
import pytest

import dca_runtime as dca
from dca_runtime.library import available_memory

SCHEME = (100, 30, 160)
IDS = np.random.default_rng(5).integers(0, 320, 1000).astype(np.int32)
PAGE = 128


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(scheme=SCHEME, head_dim=64, context_length=160), threads=1) as model:
        yield model


@pytest.fixture
def engine(model):
    with model.engine(tokens=8 * PAGE) as engine:
        yield engine


def read(engine, count, start=0):
    sequence = engine.sequence()
    engine.eval([(sequence, IDS[start : start + count])], logits=False)
    return sequence


def overwrite(engine):
    """Other tokens in every free page."""
    free, _ = engine.room
    with engine.sequence() as other:
        engine.eval([(other, IDS[: free * PAGE][::-1])], logits=False)


@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
def test_pages_come_back_with_the_same_bits(model, cache_type):
    with model.engine(tokens=8 * PAGE, cache_type=cache_type) as engine:
        assert engine.add_slots(4) == 4
        first = read(engine, 3 * PAGE)
        first.park_pages(0, [3, 0, 1])
        (expected,) = engine.eval([(first, IDS[384:400])])
        first.close()
        overwrite(engine)
        again = engine.sequence()
        again.unpark_pages(IDS[: 3 * PAGE], [3, 0, 1])
        assert again.in_place and np.array_equal(again.ids, IDS[:384])
        (found,) = engine.eval([(again, IDS[384:400])])
    assert np.array_equal(found, expected)


def test_pages_are_free_when_the_sequence_lets_go_of_them(engine):
    engine.add_slots(4)
    sequence = read(engine, 4 * PAGE)
    sequence.park_pages(1, [0, 1, 2])
    assert engine.room == (4, 0)
    sequence.truncate(PAGE)
    assert engine.room == (7, 0)


def test_who_shares_a_beginning_wakes_it_from_the_same_slots(engine):
    engine.add_slots(2)
    with read(engine, 2 * PAGE) as first:
        first.park_pages(0, [0, 1])
        (expected,) = engine.eval([(first, [7])])
    both = [engine.sequence(), engine.sequence()]
    for sequence in both:
        sequence.unpark_pages(IDS[:PAGE], [0])
        sequence.unpark_pages(IDS[PAGE : 2 * PAGE], [1])
    for found in engine.eval([(sequence, [7]) for sequence in both]):
        np.testing.assert_allclose(found, expected, atol=2e-2)


def test_a_slot_may_be_given_to_another_page(engine):
    engine.add_slots(1)
    with read(engine, PAGE) as first, read(engine, PAGE, start=300) as second:
        first.park_pages(0, [0])
        woken = engine.sequence()
        woken.unpark_pages(IDS[:PAGE], [0])
        second.park_pages(0, [0])
        (expected,), (found,) = engine.eval([(first, [7])]), engine.eval([(woken, [7])])
        assert np.array_equal(found, expected)
        other = engine.sequence()
        other.unpark_pages(IDS[300:428], [0])
        (expected,), (found,) = engine.eval([(second, [7])]), engine.eval([(other, [7])])
    assert np.array_equal(found, expected)


def test_slots_are_added_in_another_thread_while_steps_run(engine):
    adding = threading.Thread(target=lambda: [engine.add_slots(1) for _ in range(50)])
    sequence = read(engine, 2 * PAGE)
    adding.start()
    while adding.is_alive():
        engine.eval([(sequence, [1])])
        sequence.truncate(2 * PAGE)
    assert engine.add_slots(0) == 50
    sequence.park_pages(0, [49, 7])


def test_a_sequence_that_sleeps_is_not_in_place(engine):
    sequence = read(engine, 10)
    assert sequence.in_place
    sequence.sleep()
    assert not sequence.in_place
    sequence.wake()
    assert sequence.in_place


def test_a_sleeping_sequence_is_parked_and_unparked(engine):
    engine.add_slots(1)
    sequence, plain = read(engine, PAGE), read(engine, PAGE)
    sequence.sleep()
    sequence.park_pages(0, [0])
    assert not sequence.asleep
    sequence.sleep()
    sequence.unpark_pages(IDS[:PAGE], [0])  # the same keys at other positions: its logits say nothing
    sequence.truncate(PAGE)
    np.testing.assert_array_equal(engine.eval([(sequence, [7])])[0], engine.eval([(plain, [7])])[0])


@pytest.mark.parametrize(
    ("first", "slots", "message"),
    [
        (2, [0], "pages 2 to 3 are to be parked, the sequence has 2 whole ones"),
        (0, [0, 1, 2], "pages 0 to 3 are to be parked, the sequence has 2 whole ones"),
        (0, [0, 9], "slot 9 is not there: there are 2 slots"),
        (0, [-1], "a slot must be an integer from 0"),
    ],
)
def test_what_cannot_be_parked(engine, first, slots, message):
    engine.add_slots(2)
    with read(engine, 300) as sequence, pytest.raises(dca.DcaError, match=message):
        sequence.park_pages(first, slots)


@pytest.mark.parametrize(
    ("length", "count", "slots", "message"),
    [
        (5, PAGE, [0], "a sequence of 5 tokens cannot get 128 more as 1 whole pages"),
        (PAGE, 100, [0], "a sequence of 128 tokens cannot get 100 more as 1 whole pages"),
        (PAGE, PAGE, [0, 1], "cannot get 128 more as 2 whole pages"),
        (PAGE, PAGE, [2], "slot 2 is not there: there are 2 slots"),
        (7 * PAGE, 2 * PAGE, [0, 1], "holds 1024 tokens, 896 are in"),
    ],
)
def test_what_cannot_be_unparked_leaves_the_sequence_as_it_is(engine, length, count, slots, message):
    engine.add_slots(2)
    sequence = read(engine, length)
    with pytest.raises(dca.DcaError, match=message):
        sequence.unpark_pages(IDS[:count], slots)
    assert sequence.length == length and sequence.in_place
    assert np.isfinite(engine.eval([(sequence, [1])])[0]).all()


def test_a_pool_without_room_says_so(engine):
    engine.add_slots(1)
    with read(engine, PAGE) as first:
        first.park_pages(0, [0])
    full, woken = read(engine, 8 * PAGE), engine.sequence()
    with pytest.raises(dca.DcaError) as error:
        woken.unpark_pages(IDS[:PAGE], [0])
    assert error.value.status == dca.Status.CONTEXT
    full.close()
    woken.unpark_pages(IDS[:PAGE], [0])


def test_more_than_the_machine_has(engine):
    with pytest.raises(dca.DcaError, match="pages in host memory take") as error:
        engine.add_slots(2**31)
    assert error.value.status == dca.Status.MEMORY
    assert engine.add_slots(1) == 1


def test_a_closed_engine_gets_no_slots(model):
    with model.engine(tokens=PAGE) as engine:
        pass
    with pytest.raises(dca.DcaError, match="closed"):
        engine.add_slots(1)


def test_memory_that_is_available():
    assert available_memory() is None or 0 < available_memory() < 2**50
