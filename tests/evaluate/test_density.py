"""dca-eval density: what is measured, how methods are held against the first, table and picture."""

import math

import numpy as np
import pytest
from tiny import Tiny, write_tiny_gguf

import dca_runtime as dca
from dca_export.evaluate import density, experiments
from dca_export.evaluate.methods import parse
from dca_export.evaluate.output import plots
from dca_export.evaluate.results import Results
from dca_export.evaluate.tasks import recall

LENGTH = 6000
NAMES = ["dca", "dca@sparse:0.03", "dca@sparse:0.3"]


def made(figures) -> Results:
    """`figures`: (density, rise of every block's nll, answers found of four) by method."""
    kept = Results(
        {
            "experiment": "density",
            "model": {"file": "m.gguf", "context_length": 100, "scheme": None},
            "settings": {},
        }
    )
    blocks = [2.0 + 0.3 * (i % 4) for i in range(32)]
    for method, (share, rise, found) in figures.items():
        nll = [each + rise for each in blocks]
        kept.add(
            {"part": "perplexity", "method": method, "lengths": [LENGTH]},
            {
                "lengths": [[LENGTH, sum(nll) / len(nll)]],
                "blocks": [[10 * i + 1, 10 * i + 11, each] for i, each in enumerate(nll)],
                "density": share,
            },
        )
        for trial in range(4):
            kept.add(
                {"part": "recall", "method": method, "task": "keys", "length": LENGTH, "trial": trial},
                {"found": int(trial < found), "wanted": [], "answer": "", "tokens": 9, "density": share / 2},
            )
    return kept


FIGURES = {NAMES[0]: (1.0, 0.0, 4), NAMES[1]: (0.5, 0.001, 4), NAMES[2]: (0.25, 0.02, 0)}


def test_points_hold_methods_against_the_first():
    dense, mild, wild = density.points(made(FIGURES))
    assert dense.ratio is None and dense.keeps is None
    assert mild.ratio.value == pytest.approx(math.exp(0.001)) and wild.ratio.value == pytest.approx(
        math.exp(0.02)
    )
    assert (mild.density, mild.prompts_density, mild.found, mild.prompts) == (0.5, 0.25, 1.0, 4)


@pytest.mark.parametrize(
    ("rise", "found", "keeps"),
    [(0.001, 4, True), (0.006, 4, False), (0.001, 0, False), (-0.01, 3, True)],
)
def test_a_method_keeps_both_or_does_not(rise, found, keeps):
    figures = {NAMES[0]: (1.0, 0.0, 4), NAMES[1]: (0.5, rise, found)}
    assert density.points(made(figures))[1].keeps is keeps


def test_where_the_first_finds_nothing_nothing_is_kept_or_lost():
    figures = {NAMES[0]: (1.0, 0.0, 0), NAMES[1]: (0.5, 0.001, 0)}
    assert density.points(made(figures))[1].keeps is None


def test_the_table_shows_all_of_it():
    (table,) = density.tables(made(FIGURES))
    assert [row[0] for row in table.rows] == NAMES
    assert [row[1] for row in table.rows] == ["100.0%", "50.0%", "25.0%"]
    assert [row[3] for row in table.rows][0] == "" and "+0.10 %" in table.rows[1][3]
    assert [row[-2] for row in table.rows] == ["4/4", "4/4", "0/4"]
    assert [row[-1] for row in table.rows] == ["", "yes", "no"]


def test_half_done_results_have_a_table_and_a_picture(tmp_path):
    kept = made(FIGURES)
    text_only = Results(kept.header)
    for cell, figures in kept.cells(part="perplexity"):
        text_only.add(cell, figures)
    for results in (kept, text_only):
        assert density.tables(results) and experiments.summary(results)["results"]
        plots.save(density.draw(results), tmp_path / "p.png")
        assert (tmp_path / "p.png").stat().st_size > 1000


def test_the_picture_has_a_line_a_length_and_a_shape_a_method():
    left, right = density.draw(made(FIGURES)).axes
    labels = left.get_legend_handles_labels()[1]
    assert labels == [f"{LENGTH:,} tokens", "+0.5%", "dense", "sparse:0.03", "sparse:0.3"]
    line, *marks = right.lines
    assert list(line.get_xdata()) == [12.5, 25, 50] and list(line.get_ydata()) == [0, 100, 100]
    assert len({mark.get_marker() for mark in marks}) == len(marks) == 3


def test_trials_come_one_after_another():
    methods = [parse(name) for name in NAMES]
    cells = density.plan(methods, [LENGTH], ["keys", "value"], 2)
    assert [cell["method"] for cell in cells[:3]] == NAMES
    asked = cells[3:]
    assert len(asked) == 12 and [cell["trial"] for cell in asked] == [0] * 6 + [1] * 6


def test_densities_are_those_of_the_tokens_measured(tmp_path):
    write_tiny_gguf(tmp_path / "m.gguf", Tiny(scheme=(512, 128, 1024), context_length=1024, tokenizer=True))
    sparse = "sparse:0.9:512"
    with dca.Model(tmp_path / "m.gguf", threads=1) as model:
        ids = np.random.default_rng(3).integers(0, 250, 2000)
        runner = density.Runner(model, ids, "f32", recall.Prompts(model, 0))

        def measured(**cell):
            return runner.measure(cell, lambda *_: None)

        text = {"part": "perplexity", "lengths": [2000]}
        assert measured(method="dca", **text)["density"] == 1.0
        found = measured(method=f"dca@{sparse}", **text)["density"]
        with model.session(context=2000, prefill=sparse, cache_type="f32") as session:
            session.score(ids)
            assert found == pytest.approx(np.nanmean(session.info.density)) and found < 1
        asked = {"part": "recall", "task": "keys", "length": 1500, "trial": 0}
        assert measured(method="dca", **asked)["density"] == 1.0
        assert measured(method=f"dca@{sparse}", **asked)["density"] < 1
