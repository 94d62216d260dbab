"""Perplexity and passkeys together: the grid, what is recommended, tables and pictures."""

import pytest

from dca_export.evaluate import ablation, combined, experiments, sweep
from dca_export.evaluate.methods import Method
from dca_export.evaluate.output import plots
from dca_export.evaluate.results import Results, measure_cells
from dca_export.scheme import Scheme

LENGTHS = [100, 200]


def results(experiment, methods, figures) -> Results:
    """``figures``: (nll, keys found of two) by method; no keys where that is None."""
    kept = Results(
        {
            "experiment": experiment,
            "model": {"file": "m.gguf", "context_length": 100},
            "settings": {"text": "t"},
        }
    )

    def measure(cell, progress):
        nll, found = figures[cell["method"]]
        if cell["part"] == combined.PREDICTION:
            lengths = [[length, nll] for length in cell["lengths"]]
            return {"lengths": lengths, "windows": [[0, 100, nll], [100, 200, nll + 1]]}
        return {"found": int(cell["trial"] < found), "answer": "", "key": "12345", "tokens": 9}

    cells = combined.plan(methods, LENGTHS, [200], [50], 2)
    cells = [c for c in cells if c["part"] == combined.PREDICTION or figures[c["method"]][1] is not None]
    measure_cells(kept, cells, measure, lambda *_: None)
    return kept


def test_the_grid_has_plain_and_every_scheme_once():
    methods = sweep.methods([4096, 2048], [0.75, 0.5], [1.0, 0.0, 1.0])
    assert methods[0] == Method("plain")
    assert [method.scheme for method in methods[1:]] == [
        Scheme(3072, 1024, 4096),
        Scheme(3072, 0, 4096),
        Scheme(2048, 2048, 4096),
        Scheme(2048, 0, 4096),
        Scheme(1536, 512, 2048),
        Scheme(1536, 0, 2048),
        Scheme(1024, 1024, 2048),
        Scheme(1024, 0, 2048),
    ]


FIGURES = {
    "plain": (9.0, 2),  # never recommended, however many keys it finds
    "dca:96/32/128": (3.00, 0),
    "dca:48/16/64": (3.04, 1),  # within 5 % of the best perplexity
    "dca:24/8/32": (3.30, 2),
    "dca:12/4/16": (2.00, None),  # its passkeys have not been measured
}
METHODS = [
    Method("plain"),
    *(Method("dca", Scheme(*s)) for s in [(96, 32, 128), (48, 16, 64), (24, 8, 32), (12, 4, 16)]),
]


def test_recommendations_weigh_both_figures():
    chosen = sweep.recommendations(results("sweep", METHODS, FIGURES))
    assert {name: candidate.method for name, candidate in chosen.items()} == {
        "recommended": "dca:48/16/64",
        "best prediction": "dca:96/32/128",
        "best retrieval": "dca:24/8/32",
    }
    assert chosen["recommended"].found == 0.5


def test_equal_finders_are_told_apart_by_perplexity():
    figures = FIGURES | {"dca:96/32/128": (3.0, 1)}
    chosen = sweep.recommendations(results("sweep", METHODS, figures))
    assert chosen["recommended"].method == "dca:96/32/128"


def test_nothing_measured_nothing_recommended():
    kept = results("sweep", METHODS, {name: (nll, None) for name, (nll, _) in FIGURES.items()})
    assert sweep.recommendations(kept) == {} and len(sweep.tables(kept)) == 1


def test_sweep_tables_say_what_to_write():
    schemes, advice = sweep.tables(results("sweep", METHODS, FIGURES))
    assert [row[0] for row in schemes.rows] == list(FIGURES)
    assert [row[-1] for row in schemes.rows] == ["", "best prediction", "recommended", "best retrieval", ""]
    shares = ["100% [34, 100]", "0% [0, 66]", "50% [9, 91]", "100% [34, 100]", ""]
    assert [row[-2] for row in schemes.rows] == shares
    assert advice.rows[0][0] == "recommended"
    assert advice.rows[0][-1] == "--chunk-size 48 --local-window 16 --pretraining-length 64"


def with_blocks(figures) -> Results:
    """``figures``: (nll of each block of ten tokens, keys found) by method."""
    kept = Results({"model": {"file": "m", "context_length": 100}, "settings": {"seed": 3}})
    for method, (nll, keys) in figures.items():
        length = 10 * len(nll) + 1
        kept.add(
            {"part": "perplexity", "method": method, "lengths": [length]},
            {
                "lengths": [[length, sum(nll) / len(nll)]],
                "blocks": [[10 * i + 1, 10 * i + 11, each] for i, each in enumerate(nll)],
            },
        )
        for trial, found in enumerate(keys):
            kept.add(
                {"part": "passkey", "method": method, "length": 5, "depth": 5, "trial": trial},
                {"found": found, "answer": ""},
            )
    return kept


def test_a_cost_that_may_be_noise_excludes_no_finder():
    base = [2.0 + 0.3 * (i % 4) for i in range(32)]
    noisy = [each + (0.9 if i % 3 else -1.5) for i, each in enumerate(base)]  # dearer by 0.09 ± 0.4
    surely = [each + 0.09 for each in base]
    for dearer, chosen in ((noisy, B), (surely, A)):
        kept = with_blocks({A: (base, [0] * 6), B: (dearer, [1] * 6)})
        assert sweep.recommendations(kept)["recommended"].method == chosen


def test_recommendations_carry_their_bars():
    kept = with_blocks(
        {A: ([2.0, 2.0, 2.1] * 5, [1, 1, 1, 1, 0, 1]), B: ([2.05, 2.05, 2.12] * 5, [1, 0, 1, 0, 1, 1])}
    )
    first = sweep.figures(kept)["recommendations"]["recommended"]
    assert first["method"] == A and first["scheme"] == [96, 32, 128, 0.0, 0] and first["seed"] == 3
    low, high = first["perplexity_interval"]
    assert low < first["perplexity"] < high
    assert first["not_told_apart"] == [B]


def ranked(rows) -> Results:
    """rows: (method, length, nll, keys found of how many)."""
    kept = Results({"model": {"file": "m", "context_length": 100}})
    for method, length, nll, keys in rows:
        kept.add({"part": "perplexity", "method": method, "lengths": [length]}, {"lengths": [[length, nll]]})
        for trial, found in enumerate(keys):
            kept.add(
                {"part": "passkey", "method": method, "length": length, "depth": 5, "trial": trial},
                {"found": found, "answer": ""},
            )
    return kept


A, B, C = "dca:96/32/128", "dca:48/16/64", "dca:24/8/32"


def test_only_schemes_of_the_same_length_are_compared():
    kept = ranked([(A, 100, 2.0, [1] * 4), (B, 300, 3.0, [1, 1, 1, 0]), (C, 300, 3.1, [1, 0, 0, 0])])
    assert {c.method for c in sweep.recommendations(kept).values()} == {B}
    assert sweep.ranking(kept).left_out == [A]
    assert any(A in line for line in sweep.verdict(kept))


def test_what_is_not_finite_is_not_ranked():
    for nll in (float("nan"), 800.0):
        kept = ranked([(A, 300, nll, [1, 1]), (B, 300, 3.0, [0, 1])])
        assert sweep.recommendations(kept)["recommended"].method == B
        assert sweep.tables(kept)


def test_one_trial_is_no_choice():
    kept = ranked([(A, 300, 3.0, [0]), (B, 300, 3.01, [1])])
    assert set(sweep.recommendations(kept)) == {"best prediction"}
    assert sweep.verdict(kept)[0].startswith("No recommendation: 1 passkey a scheme in one trial")


def test_the_verdict_states_n_and_how_sure_it_is():
    kept = ranked([(A, 300, 3.0, [1, 1, 1, 1, 0]), (B, 300, 3.01, [1, 1, 1, 1, 1])])
    first, second = sweep.verdict(kept)
    # Wilson's interval of 5 of 5: 5 / (5 + 1.96²) to 1
    assert first.startswith(f"Recommended: {B}") and "n = 5" in first and "57% to 100%" in first
    assert second.startswith("1 of the 1 others cannot be told apart")


ABLATION = {"plain": (5.0, 0), "intra": (3.0, 0), "intra+inter": (3.2, 2), "dca": (3.0, 2)}


def test_ablation_compares_one_mechanism_more_at_a_time():
    assert [method.name for method in ablation.methods(None)] == list(ABLATION)
    assert [method.name for method in ablation.methods(Scheme(12, 4, 16))] == [
        "plain",
        "intra:12/4/16",
        "intra+inter:12/4/16",
        "dca:12/4/16",
    ]


def test_ablation_tables():
    prediction, keys, against = ablation.tables(results("ablation", ablation.methods(None), ABLATION))
    assert [row[0] for row in prediction.rows] == list(ABLATION)
    none, both = "0/2 [0, 66]", "2/2 [34, 100]"
    assert keys.rows == [
        ["plain", none, none],
        ["intra", none, none],
        ["intra+inter", both, both],
        ["dca", both, both],
    ]
    assert [row[0] for row in against.rows] == ["intra", "intra+inter", "dca"]


@pytest.mark.parametrize(
    ("name", "methods", "figures"),
    [("sweep", METHODS, FIGURES), ("ablation", ablation.methods(None), ABLATION)],
)
def test_pictures_and_json(tmp_path, name, methods, figures):
    kept = results(name, methods, figures)
    plots.save(experiments.of(kept).draw(kept), tmp_path / "plot.png")
    summary = experiments.summary(kept)
    assert summary["experiment"] == name
    assert {entry["method"] for entry in summary["results"]["perplexity"]} == set(figures)
