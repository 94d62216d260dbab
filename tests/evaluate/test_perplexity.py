"""Perplexity by window, by length and with a sliding context."""

import math

import numpy as np
import pytest

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.evaluate import perplexity
from dca_export.evaluate.methods import Method, parse
from dca_export.evaluate.results import Results, measure_cells

OPTIONS = dict(window=20, stride=0, cache_type="f32")


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(scheme=(12, 4, 16), context_length=30)) as model:
        yield model


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(0, 320, 70, np.int32)


def scores(model, ids, method="dca"):
    """Oracle: nll of each token but the first, as softmax of all the logits gives it."""
    with parse(method).session(model, cache_type="f32") as session:
        logits = session.eval(ids, all_logits=True).astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -logits[np.arange(len(ids) - 1), ids[1:]]


def measured(model, ids, cells, **options) -> Results:
    kept = Results(
        {
            "experiment": "perplexity",
            "model": {"context_length": model.info.context_length, "file": "tiny.gguf"},
            "settings": {"text": "random"},
        }
    )
    measure_cells(
        kept,
        cells,
        lambda cell, progress: perplexity.measure(model, ids, cell, progress, **OPTIONS | options),
        lambda *_: None,
    )
    return kept


@pytest.mark.parametrize("method", ["plain", "dca", "dca:8/2/12"])
def test_one_pass_gives_means_of_windows_and_lengths(model, ids, method):
    kept = measured(model, ids, perplexity.plan([parse(method)], [50, 30, 50], 0))
    (entry,) = perplexity.figures(kept)
    nll = scores(model, ids[:50], method)
    assert entry["method"] == method
    assert [(window["start"], window["end"]) for window in entry["windows"]] == [(0, 20), (20, 40), (40, 50)]
    wanted = [nll[:19].mean(), nll[19:39].mean(), nll[39:].mean()]
    assert [window["nll"] for window in entry["windows"]] == pytest.approx(wanted, abs=1e-4)
    assert [length["length"] for length in entry["lengths"]] == [30, 50]
    assert [length["nll"] for length in entry["lengths"]] == pytest.approx(
        [nll[:29].mean(), nll.mean()], abs=1e-4
    )
    assert entry["lengths"][0]["perplexity"] == pytest.approx(math.exp(nll[:29].mean()), rel=1e-4)


def test_a_stride_scores_each_token_once_with_the_context_it_says(model, ids):
    kept = measured(model, ids[:50], perplexity.plan([Method("plain")], [20], 7), stride=7)
    wanted = list(scores(model, ids[:20], "plain"))
    for end in (27, 34, 41, 48):
        wanted += list(scores(model, ids[end - 20 : end], "plain")[-7:])
    wanted += list(scores(model, ids[30:50], "plain")[-2:])  # the last context ends where the text does
    (_, figures), *none = kept.cells()
    assert none == []
    assert figures["nll"] == pytest.approx(np.mean(wanted), abs=1e-4)
    assert figures["tokens"] == len(wanted)
    assert [start for start, _, _ in figures["blocks"]] == [0, *range(2, 50)]
    assert [nll for *_, nll in figures["blocks"]] == pytest.approx(wanted, abs=1e-4)


def test_the_largest_stride_that_leaves_a_context(model, ids):
    kept = measured(model, ids[:60], perplexity.plan([Method("plain")], [20], 19), stride=19)
    wanted = [
        *scores(model, ids[:20], "plain"),
        *scores(model, ids[19:39], "plain"),
        *scores(model, ids[38:58], "plain"),
        *scores(model, ids[40:60], "plain")[-2:],
    ]
    (_, figures), *_ = kept.cells()
    assert figures["nll"] == pytest.approx(np.mean(wanted), abs=1e-4)


def test_every_length_is_scored_over_the_same_tokens():
    for tokens in (50, 51, 60):
        for length in (10, 25, 50):
            contexts = perplexity._contexts(tokens, length, 7)
            assert sum(scored for _, scored in contexts) == tokens - 1
            assert contexts[-1][0] + length == tokens


def test_what_overflows_is_said(model):
    assert perplexity.shown(800.0) == "overflow" and perplexity.shown(math.nan) == "NaN"


@pytest.mark.parametrize(("lengths", "stride"), [([1], 0), ([20, 40], 20)])
def test_lengths_that_cannot_be(lengths, stride):
    with pytest.raises(InputError):
        perplexity.plan([Method("plain")], lengths, stride)


def test_tables_mark_what_rose_beyond_the_trained_length():
    kept = Results({"experiment": "perplexity", "model": {"context_length": 100}, "settings": {}})
    for method, nlls in {"plain": (2.0, 2.1, 9.0), "dca": (2.0, 2.0, 2.1)}.items():
        lengths = [[length, nll] for length, nll in zip((50, 100, 200), nlls, strict=True)]
        kept.add({"method": method}, {"lengths": lengths, "windows": [[0, 100, 2.0], [100, 200, nlls[2]]]})
    overview, windows = perplexity.tables(kept)
    assert overview.columns == ["tokens", "50", "100", "200"]
    assert overview.rows == [["plain", "7.39", "8.17", "8,103 !"], ["dca", "7.39", "7.39", "8.17"]]
    assert windows.rows == [["0 – 100", "7.39", "7.39"], ["100 – 200", "8,103", "8.17"]]


def test_what_rose_is_marked_where_no_trained_length_was_asked_for():
    kept = Results({"experiment": "perplexity", "model": {"context_length": 100}, "settings": {}})
    windows = [[0, 50, 2.0], [50, 100, 2.0], [100, 200, 4.0]]
    kept.add({"method": "plain"}, {"lengths": [[200, 3.0]], "windows": windows})
    assert perplexity.tables(kept)[0].rows == [["plain", "20.09 !"]]
    assert [length["risen"] for length in perplexity.figures(kept)[0]["lengths"]] == [True]


def test_plots_are_drawn(model, ids, tmp_path):
    from dca_export.evaluate.output import plots

    kept = measured(model, ids, perplexity.plan([Method("plain"), Method("dca")], [50], 0))
    path = tmp_path / "plot.png"
    plots.save(perplexity.draw(kept), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [item.name for item in tmp_path.iterdir()] == ["plot.png"]
    with pytest.raises(InputError, match=".png"):
        plots.save(perplexity.draw(kept), tmp_path / "plot.exe")


def test_windows_are_those_of_the_longest_pass_wherever_it_comes():
    """Passes to 1,500 and 1,900 tokens have two windows each of 1,000."""
    for order in ([1500, 1900], [1900, 1500]):
        results = Results({"model": {"file": "m", "context_length": 64}, "settings": {}})
        for length in order:
            windows = [[0, 1000, 1.0], [1000, length, length / 1000]]
            results.add(
                {"method": "plain", "lengths": [length]}, {"lengths": [[length, 1.0]], "windows": windows}
            )
        assert perplexity.windows_of(results, "plain") == [(0, 1000, 1.0), (1000, 1900, 1.9)]
