"""Prompts that share their start."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dca_runtime as dca
from dca_runtime.generation.prompt_cache import PromptCache


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(scheme=(12, 4, 16), context_length=16)) as model:
        yield model


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=30), min_size=1, max_size=5))
def test_sharing_changes_nothing(model, prompts):
    # Tokens are 0 or 1, so that prompts often share a start, contain each other, or are equal.
    with model.session(cache_type="f32") as shared:
        cache = PromptCache(shared)
        for ids in prompts:
            logits = shared.eval(cache.rest(ids))
            assert shared.length == len(ids)
            with model.session(cache_type="f32") as fresh:
                np.testing.assert_allclose(logits, fresh.eval(ids), atol=2e-4)


def test_only_what_differs_is_left(model):
    with model.session() as session:
        cache = PromptCache(session)
        session.append(cache.rest([1, 2, 3, 4]))
        assert cache.rest([1, 2, 3, 9, 9]) == [9, 9]
        assert session.length == 3


def test_what_was_cut_off_is_not_shared(model):
    with model.session() as session:
        cache = PromptCache(session)
        session.append(cache.rest([1, 2, 3, 4, 5]))
        session.truncate(3)
        assert cache.rest([1, 2, 3, 4, 5, 6]) == [4, 5, 6]
