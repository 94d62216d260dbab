"""Samplings in C: those of one step are there for the next, and no longer."""

import weakref

import numpy as np
import pytest

from dca_runtime import DcaError, Sampling
from dca_runtime.engine._samplings import Samplings

N_VOCAB = 320


def step(samplings, *chosen):
    """The native samplings of a step of items that have these."""
    items = [(None, [1], sampling) for sampling in chosen]
    return [native for native, *_ in samplings.of(items, [None] * len(items))]


def test_a_sampling_that_comes_in_the_next_step_is_not_converted_again():
    samplings, sampling = Samplings(N_VOCAB), Sampling(temperature=0)
    assert step(samplings, sampling) == step(samplings, sampling)


def test_one_that_two_items_of_a_step_have_is_converted_once():
    first, second = step(Samplings(N_VOCAB), *[Sampling(temperature=0)] * 2)
    assert first == second


def test_one_that_a_step_does_not_have_is_let_go():
    samplings, sampling = Samplings(N_VOCAB), Sampling(temperature=0)
    step(samplings, sampling)
    there = weakref.ref(sampling)
    del sampling
    step(samplings, Sampling(temperature=0))
    assert there() is None


def test_a_step_that_fails_keeps_those_of_no_earlier_one():
    samplings, sampling = Samplings(N_VOCAB), Sampling(temperature=0)
    step(samplings, sampling)
    there = weakref.ref(sampling)
    del sampling
    mask_of_another_vocabulary = np.zeros(1, np.uint32)
    with pytest.raises(DcaError, match="10 words"):
        samplings.of([(None, [1], Sampling(temperature=0), mask_of_another_vocabulary)], [None])
    assert there() is None
