"""Confidence intervals hold what they are about as often as they say."""

import numpy as np
import pytest

from dca_export.evaluate import intervals

SIMULATIONS = 2000
COVERAGE = (0.93, 0.97)


def covered(found) -> float:
    low, high, truth = np.array(found).T
    return float(np.mean((low <= truth) & (truth <= high)))


def texts(random, blocks: int, tokens: int, correlation: float) -> tuple[np.ndarray, float]:
    """Blocks' mean nll of many made-up texts (texts, blocks), and its true mean: the exponential of a
    stationary AR(1) process, so skewed and correlated, within blocks and from one to the next."""
    process = random.standard_normal((SIMULATIONS, blocks * tokens))
    process[:, 1:] *= np.sqrt(1 - correlation**2)
    for index in range(1, blocks * tokens):
        process[:, index] += correlation * process[:, index - 1]
    nll = np.exp(0.5 * process)
    return nll.reshape(SIMULATIONS, blocks, tokens).mean(axis=2), float(np.exp(0.5**2 / 2))


@pytest.mark.parametrize("blocks", [8, 16, 64])
def test_the_bootstrap_covers_the_mean_of_a_text(blocks):
    means, truth = texts(np.random.default_rng(blocks), blocks, 64, 0.3)
    tokens = np.full(blocks, 64)
    found = [(*intervals.block_bootstrap(tokens, text), truth) for text in means]
    assert COVERAGE[0] <= covered(found) <= COVERAGE[1]


def test_hard_pages_that_follow_each_other_are_covered():
    """Blocks of 16 tokens of which neighbours go together (correlation 0.4): drawn one by one they would give
    intervals half as wide as they must be."""
    means, truth = texts(np.random.default_rng(0), 1024, 16, 0.9)
    means = means[: SIMULATIONS // 4]
    assert np.mean([np.corrcoef(text[:-1], text[1:])[0, 1] for text in means]) > 0.35
    tokens = np.full(1024, 16)
    found = [(*intervals.block_bootstrap(tokens, text), truth) for text in means]
    assert COVERAGE[0] <= covered(found) <= COVERAGE[1]


def test_a_long_text_has_more_pieces_and_narrower_intervals():
    means = np.random.default_rng(3).normal(3.0, 0.3, 4096)
    widths = [np.subtract(*intervals.block_bootstrap(np.ones(n), means[:n])[::-1]) for n in (64, 1024, 4096)]
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.5)
    assert widths[2] == pytest.approx(widths[1] / 2, rel=0.4)


def test_the_bootstrap_covers_a_paired_difference_and_pairing_narrows_it():
    random = np.random.default_rng(1)
    tokens = np.full(32, 128)
    paired, alone = [], []
    for _ in range(SIMULATIONS):
        common = random.gamma(4.0, 0.5, 32)
        one, other = common + random.normal(0.1, 0.05, 32), common + random.normal(0.0, 0.05, 32)
        paired.append((*intervals.block_bootstrap(tokens, one - other), 0.1))
        alone.append(intervals.block_bootstrap(tokens, one))
    assert COVERAGE[0] <= covered(paired) <= COVERAGE[1]
    widths = [(high - low) / (b - a) for (low, high, _), (a, b) in zip(paired, alone, strict=True)]
    assert np.median(widths) < 0.1 and max(widths) < 0.5


def test_blocks_weigh_as_much_as_their_tokens():
    tokens, means = np.array([1, 100] * 32), np.array([50.0, 2.0] * 32)
    means[1::2] += np.random.default_rng(4).normal(0.0, 0.1, 32)
    low, high = intervals.block_bootstrap(tokens, means)
    assert 2.4 < low < high < 2.6


@pytest.mark.parametrize("means", [[1.0] * 7, [1.0] * 20 + [np.nan]])
def test_no_interval_where_nothing_tells(means):
    assert intervals.block_bootstrap(np.ones(len(means)), np.array(means)) is None


def test_the_same_blocks_give_the_same_interval():
    means = np.random.default_rng(0).normal(size=20)
    found = {intervals.block_bootstrap(np.ones(20), means) for _ in range(3)}
    assert len(found) == 1


def test_student_at_its_tables():
    wanted = {7: 2.3646, 15: 2.1314, 30: 2.0423, 1000: 1.9623}
    for freedom, t in wanted.items():
        assert intervals._student(freedom) == pytest.approx(t, abs=2e-3)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.85])
@pytest.mark.parametrize("n", [40, 180])
def test_wilsons_interval_covers_a_share(share, n):
    random = np.random.default_rng(n)
    found = [(*intervals.wilson(k / n, n), share) for k in random.binomial(n, share, 20000)]
    assert COVERAGE[0] <= covered(found) <= COVERAGE[1]


def test_wilsons_interval_at_its_ends():
    """n found of n: n / (n + z²) to 1."""
    assert intervals.wilson(1.0, 5) == (pytest.approx(5 / (5 + 1.959964**2)), 1.0)
    assert intervals.wilson(0.0, 5) == (0.0, pytest.approx(1 - 5 / (5 + 1.959964**2)))


@pytest.mark.parametrize(("first", "second", "agree"), [(0.7, 0.4, 0.0), (0.6, 0.5, 0.6)])
def test_the_paired_interval_covers_a_difference_of_shares(first, second, agree):
    """Two methods asked the same: with probability ``agree`` both are decided by one draw."""
    random = np.random.default_rng(2)
    found = []
    for _ in range(SIMULATIONS):
        one, other = random.random((2, 90))
        other = np.where(random.random(90) < agree, one, other)
        differs = intervals.paired_shares((one < first).astype(float), (other < second).astype(float))
        found.append((*differs, first - second))
    assert COVERAGE[0] <= covered(found) <= COVERAGE[1]
