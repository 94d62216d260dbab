"""Choosing tokens."""

import numpy as np
import pytest

from dca_runtime.errors import DcaError
from dca_runtime.sampling import Sampler, Sampling

# Probabilities 0.5, 0.25, 0.15, 0.1 for ids 3, 1, 0, 2.
LOGITS = np.log(np.array([0.15, 0.25, 0.1, 0.5])).astype(np.float32)


def picks(count: int = 4000, **fields) -> np.ndarray:
    """Shares of the ids among ``count`` picks."""
    sampler = Sampler(Sampling(**({"min_p": 0.0, "temperature": 1.0, "seed": 0} | fields)))
    return np.bincount([sampler.pick(LOGITS) for _ in range(count)], minlength=4) / count


def test_temperature_zero_is_greedy():
    assert picks(temperature=0.0, count=20).tolist() == [0, 0, 0, 1]


def test_temperature_one_follows_the_distribution():
    # 4000 draws: three standard deviations are 0.024 at most.
    np.testing.assert_allclose(picks(), np.exp(LOGITS), atol=0.025)


def test_low_temperature_sharpens():
    squared = np.exp(LOGITS) ** 2
    np.testing.assert_allclose(picks(temperature=0.5), squared / squared.sum(), atol=0.025)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top_k": 1}, {3}),
        ({"top_k": 3}, {3, 1, 0}),
        ({"top_k": 9}, {3, 1, 0, 2}),
        ({"top_p": 0.4}, {3}),
        ({"top_p": 0.7}, {3, 1}),
        ({"top_p": 0.8}, {3, 1, 0}),
        ({"min_p": 0.4}, {3, 1}),
        ({"min_p": 1.0}, {3}),
        ({"top_k": 3, "min_p": 0.25, "top_p": 0.6}, {3, 1}),
    ],
)
def test_filters_keep(fields, kept):
    assert set(np.flatnonzero(picks(count=800, **fields))) == kept


def test_a_seed_repeats_itself_and_another_differs():
    def sequence(seed):
        sampler = Sampler(Sampling(temperature=1.0, min_p=0.0, seed=seed))
        return [sampler.pick(LOGITS) for _ in range(50)]

    assert sequence(7) == sequence(7) != sequence(8)


def test_repeat_penalty_moves_away_from_recent_tokens():
    sampler = Sampler(Sampling(temperature=0.0, repeat_penalty=4.0, repeat_window=1))
    sampler.see([3])
    assert [sampler.pick(LOGITS) for _ in range(3)] == [1, 3, 1]


def test_logits_are_left_as_they_were():
    before = LOGITS.copy()
    picks(count=1, repeat_penalty=2.0)
    np.testing.assert_array_equal(LOGITS, before)


def test_minus_infinity_is_never_picked():
    sampler = Sampler(Sampling(temperature=5.0, min_p=0.0, seed=0))
    logits = np.array([-np.inf, 0.0, -np.inf, 1.0], np.float32)
    assert {sampler.pick(logits) for _ in range(100)} == {1, 3}


def test_nan_is_an_error():
    with pytest.raises(DcaError, match="not numbers"):
        Sampler(Sampling()).pick(np.array([0.0, np.nan], np.float32))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"repeat_penalty": 0.0},
        {"repeat_window": -1},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_named(fields):
    with pytest.raises(DcaError, match=next(iter(fields))):
        Sampling(**fields)


# The ends of what is allowed.

USUAL = np.array([3.0, 1.0, -2.0, 0.5], np.float32)
INF = np.inf


@pytest.mark.parametrize("temperature", [1e-3, 1e-310, 5e-324])
def test_a_tiny_temperature_takes_the_likeliest(temperature):
    assert Sampler(Sampling(temperature=temperature, min_p=0.0)).pick(USUAL) == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_plus_infinity_is_chosen_and_minus_infinity_never(temperature):
    sampler = Sampler(Sampling(temperature=temperature, min_p=0.0, seed=0))
    picked = {sampler.pick(np.array([9, INF, -INF, INF], np.float32)) for _ in range(40)}
    assert picked == ({1} if temperature == 0 else {1, 3})
    assert {sampler.pick(np.array([-INF, 0, -INF, 0], np.float32)) for _ in range(40)} <= {1, 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_to_choose_from_is_said(temperature):
    with pytest.raises(DcaError, match="every token is forbidden"):
        Sampler(Sampling(temperature=temperature)).pick(np.full(3, -INF, np.float32))


@pytest.mark.parametrize(
    "fields",
    [
        {name: value}
        for name in ("temperature", "top_p", "min_p", "repeat_penalty", "top_k", "repeat_window", "seed")
        for value in (INF, np.nan, "x", -1)
    ]
    + [{name: 1.5} for name in ("top_k", "repeat_window", "seed")]
    + [
        {name: value}
        for name in ("temperature", "repeat_penalty", "presence_penalty")
        for value in ("1", b"1")
    ],
)
def test_values_of_another_kind_are_said(fields):
    with pytest.raises(DcaError, match=next(iter(fields))):
        Sampling(**fields)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint64])
def test_integers_of_numpy_are_those_of_python(kind):
    def picks(number):
        sampler = Sampler(Sampling(seed=number(7), top_k=number(50), repeat_window=number(3)))
        return [sampler.pick(np.zeros(100, np.float32)) for _ in range(20)]

    assert picks(kind) == picks(int)


def test_extreme_penalties_still_choose():
    for penalty in (1e-320, 1e300):
        sampler = Sampler(Sampling(repeat_penalty=penalty, seed=0))
        sampler.see([0, 1, 2])
        assert 0 <= sampler.pick(USUAL) < 4
