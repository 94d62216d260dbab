"""Sequences of a card that sleep in host memory, while others' steps run."""

import numpy as np
import pytest

from dca_runtime import Model

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

SCHEME = (40, 24, 64)


def ids_of(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 515, count).tolist()


@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
def test_a_sequence_goes_on_with_the_same_bits(variant_gguf, cache_type):
    with (
        Model(variant_gguf(head_dim=64), device="cuda") as model,
        model.engine(tokens=2048, cache_type=cache_type, scheme=SCHEME) as engine,
    ):
        a, b, other = (engine.sequence() for _ in range(3))
        engine.eval([(a, ids_of(1, 700)), (b, ids_of(1, 700)), (other, [3])], logits=False)
        a.sleep()
        for n in range(5):
            engine.eval([(other, [n])])  # while it leaves
        with engine.sequence() as filler:
            engine.eval([(filler, ids_of(2, 1000))], logits=False)
        a.wake()
        assert not a.asleep
        engine.eval([(other, [5])])  # while it comes
        found, expected = (engine.eval([(each, [7, 8])])[0] for each in (a, b))
    np.testing.assert_array_equal(found, expected)


def test_more_conversations_than_the_pool_holds(variant_gguf):
    path = variant_gguf()
    with (
        Model(path, device="cuda") as model,
        model.engine(tokens=1024, scheme=SCHEME) as engine,
        model.engine(tokens=8192, scheme=SCHEME) as large,
    ):
        small, awake = [], []
        for n in range(6):
            small.append(engine.sequence())
            awake.append(large.sequence())
            engine.eval([(small[-1], ids_of(n, 900))], logits=False)
            large.eval([(awake[-1], ids_of(n, 900))], logits=False)
            small[-1].sleep()
        for one, other in zip(small, awake, strict=True):
            np.testing.assert_array_equal(engine.eval([(one, [7])])[0], large.eval([(other, [7])])[0])
            one.sleep()


def test_closing_while_pages_are_on_their_way(variant_gguf):
    with Model(variant_gguf(), device="cuda") as model:
        for wake in (False, True):
            with model.engine(tokens=4096, scheme=SCHEME) as engine:
                a = engine.sequence()
                engine.eval([(a, ids_of(1, 3000))], logits=False)
                a.sleep()
                if wake:
                    a.wake()
                a.close()
                b = engine.sequence()
                engine.eval([(b, ids_of(1, 4000))], logits=False)
