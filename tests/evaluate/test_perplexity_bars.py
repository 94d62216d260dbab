"""Perplexities carry their intervals, and differences are paired by blocks of the text."""

import math

import numpy as np
import pytest

from dca_export.evaluate import intervals, perplexity, perplexity_bars
from dca_export.evaluate.output.verdict import verdict
from dca_export.evaluate.results import Results

TRAINED = 10_000
LENGTHS = [1000, 2000]
WINDOW = 500


def measured(texts) -> Results:
    """``texts``: nll of every token but the first, by method."""
    kept = Results(
        {
            "experiment": "perplexity",
            "model": {"file": "m", "context_length": TRAINED, "scheme": [300, 100, 400, 0.0, 0]},
            "settings": {"text": "t"},
        }
    )
    for method, nll in texts.items():
        tokens = len(nll) + 1
        windows = [
            [at, at + WINDOW, float(nll[max(at - 1, 0) : at + WINDOW - 1].mean())]
            for at in range(0, tokens, WINDOW)
        ]
        kept.add(
            {"method": method, "lengths": LENGTHS},
            {
                "lengths": [[n, float(nll[: n - 1].mean())] for n in LENGTHS],
                "windows": windows,
                "blocks": perplexity_bars.measured(nll, tokens, [*LENGTHS, WINDOW, 3 * WINDOW]),
            },
        )
    return kept


@pytest.fixture
def nll():
    return np.random.default_rng(0).gamma(2.0, 1.0, 1999)


def test_blocks_hold_every_token_once_and_respect_borders(nll):
    rows = perplexity_bars.measured(nll, 2000, [70, 1000, 5000])
    assert rows[0][0] == 0 and rows[-1][1] == 2000
    assert [end for _, end, _ in rows[:-1]] == [start for start, _, _ in rows[1:]]
    assert {70, 1000} <= {end for _, end, _ in rows}
    assert max(end - start for start, end, _ in rows) == 2000 // 64
    for start, end, mean in rows:
        assert mean == pytest.approx(nll[max(start, 1) - 1 : end - 1].mean())


def test_long_texts_have_blocks_of_128():
    rows = perplexity_bars.measured(np.ones(99_999), 100_000, [])
    assert {end - start for start, end, _ in rows[:-1]} == {128}


def test_the_interval_is_of_the_blocks_up_to_the_length(nll):
    kept = measured({"plain": nll})
    (entry,) = perplexity.figures(kept)
    for found in entry["lengths"]:
        rows = [
            row
            for row in perplexity_bars.measured(nll, 2000, [*LENGTHS, 500, 1500])
            if row[1] <= found["length"]
        ]
        tokens = np.array([end - max(start, 1) for start, end, _ in rows])
        wanted = intervals.block_bootstrap(tokens, np.array([mean for *_, mean in rows]))
        assert found["interval"] == pytest.approx(tuple(map(math.exp, wanted)))
        assert found["blocks"] == len(rows)
    assert entry["seed"] == intervals.SEED and entry["scheme"] is None
    assert all(w["interval"][0] < w["perplexity"] < w["interval"][1] for w in entry["windows"])


def test_differences_are_paired(nll):
    """Both texts vary widely; their difference does not."""
    noise = np.random.default_rng(1).normal(0.02, 0.05, len(nll))
    kept = measured({"plain": nll, "dca": nll + noise})
    against = perplexity.figures(kept)[1]["lengths"][-1]["against"]
    low, high = against["interval"]
    assert against["method"] == "plain" and against["differs"]
    assert against["ratio"] == pytest.approx(math.exp(noise.mean()))
    assert low < against["ratio"] < high
    assert high - low < 0.02
    assert perplexity.figures(kept)[1]["scheme"] == [300, 100, 400, 0.0, 0]
    overview, compared, _ = perplexity.tables(kept)
    assert "[" in overview.rows[0][1] and compared.rows[0][0] == "dca"
    assert compared.rows[0][-1].startswith("×1.0")
    assert "×1.02 that of plain" in verdict(kept)[1]


def test_what_noise_explains_is_not_told_apart(nll):
    noise = np.random.default_rng(1).normal(0.0, 0.5, len(nll))
    kept = measured({"plain": nll, "dca": nll + noise})
    assert not perplexity.figures(kept)[1]["lengths"][-1]["against"]["differs"]
    assert perplexity.tables(kept)[1].rows[0][-1].startswith("≈ ×")
    assert "not told apart from plain" in verdict(kept)[1]


def test_results_of_before_have_no_intervals():
    kept = measured({})
    kept.add({"method": "plain", "lengths": [100]}, {"lengths": [[100, 2.0]], "windows": []})
    assert perplexity.figures(kept)[0]["lengths"][0]["interval"] is None
    assert perplexity.tables(kept)[0].rows == [["plain", "7.39"]]


def test_bands_are_drawn_where_there_are_intervals(nll):
    kept = measured({"plain": nll})
    axes = perplexity.draw(kept).axes[0]
    assert [w["interval"] for w in perplexity.figures(kept)[0]["windows"]] == [
        pytest.approx(tuple(segment[:, 1])) for segment in axes.collections[-1].get_segments()
    ]
