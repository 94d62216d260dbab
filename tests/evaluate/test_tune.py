"""Choosing a scheme on a text: what is enough evidence, what is chosen on it, what becomes of too little."""

import math

import numpy as np
import pytest

import dca_runtime as dca
from dca_export.evaluate import intervals, tune
from dca_export.evaluate.text import Text
from dca_export.scheme import Scheme

DEFAULT = Scheme(12, 4, 16)


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16), threads=1) as model:
        yield model


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("the cat in the hat sat on a mat. " * 400)
    return Text(tmp_path / "text.txt")


class Figures:
    """In place of readings and answers: mean nll of a window, and the keys found, by scheme."""

    def __init__(self, monkeypatch, nll, found, windows=32):
        self.asked = []

        def measure(model, ids, cell, progress, **_):
            values = nll(cell["method"], np.arange(windows))
            spans = [[i, i + 1, float(value)] for i, value in enumerate(values)]
            return {"lengths": [[len(ids), float(values.mean())]], "windows": spans}

        class Answerer:
            def __init__(self, *_):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def answer(_, method, ids, tokens, progress):
                self.asked.append(method)
                number = self.asked.count(method) - 1
                key = np.random.default_rng([0, number]).integers(10_000, 100_000)
                return f" {key}." if found(method, number) else "none"

        class Prompts:
            def __init__(self, *_):
                pass

            def build(self, length, depth, trial):
                return [1] * length

        monkeypatch.setattr(tune.perplexity, "measure", measure)
        monkeypatch.setattr(tune.retrieval, "Answerer", Answerer)
        monkeypatch.setattr(tune.needle, "Prompts", Prompts)


def tuned(model, text, seconds=1e9):
    return tune.tune(model, text, seconds, lambda spent, allowed, what: None)


def is_default(method):
    return method == "dca:12/4/16"


def test_the_default_comes_first_and_every_candidate_is_a_scheme():
    schemes = tune.candidates(Scheme.paper(8192))
    assert schemes[0] == Scheme.paper(8192) and len(set(schemes)) == len(schemes) == 6
    assert {scheme.pretraining_length for scheme in schemes} == {8192, 4096, 2048}


def test_a_scheme_that_is_better_on_one_count_and_as_good_on_the_other_is_chosen(monkeypatch, model, text):
    def nll(method, windows):
        return np.full(len(windows), {"dca:4/4/8": 1.8, "dca:6/2/8": 1.9}.get(method, 2.0))

    Figures(monkeypatch, nll, lambda method, number: number % 2 == 0)
    found = tuned(model, text)
    assert found.scheme == Scheme(4, 4, 8) and found.keys == tune.MOST_KEYS
    assert found.verdict.startswith("chosen: 4/4/8, perplexity 6.05 and 6 of 12")


def test_a_scheme_that_finds_fewer_keys_is_not_chosen(monkeypatch, model, text):
    def nll(method, windows):
        return np.full(len(windows), 2.0 if is_default(method) else 1.8)

    Figures(monkeypatch, nll, lambda method, number: is_default(method) or number > 0)
    found = tuned(model, text)
    assert found.scheme == DEFAULT and found.verdict.startswith("the default stays: no other scheme")


def test_a_scheme_that_predicts_worse_is_not_even_asked(monkeypatch, model, text):
    def nll(method, windows):
        return np.full(len(windows), 2.0 if is_default(method) else 2.1)

    figures = Figures(monkeypatch, nll, lambda method, number: not is_default(method))
    found = tuned(model, text)
    assert found.scheme == DEFAULT and "none of the others predicts" in found.verdict
    assert figures.asked == [] and len(found.trials) > 3


def test_what_noise_may_do_is_no_reason(monkeypatch, model, text):
    """Better in 18 windows of 32, a hair on average; as many keys."""

    def nll(method, windows):
        return np.full(len(windows), 2.0) + (not is_default(method)) * np.where(windows < 18, -0.01, 0.0128)

    Figures(monkeypatch, nll, lambda method, number: True)
    assert tuned(model, text).scheme == DEFAULT


def test_more_keys_are_a_reason(monkeypatch, model, text):
    def nll(method, windows):
        return np.full(len(windows), 2.0)

    Figures(monkeypatch, nll, lambda method, number: number < (7 if is_default(method) else 12))
    assert tuned(model, text).scheme != DEFAULT
    Figures(monkeypatch, nll, lambda method, number: number < (8 if is_default(method) else 12))
    assert tuned(model, text).scheme == DEFAULT  # four keys more: one chance in 16


def test_figures_carry_their_intervals(monkeypatch, model, text):
    noise = np.random.default_rng(0).normal(0, 0.3, 32)

    def nll(method, windows):
        return noise + np.full(len(windows), {"dca:4/4/8": 1.8}.get(method, 2.0))

    Figures(monkeypatch, nll, lambda method, number: number % 2 == 0)
    trials = {each["scheme"]: each for each in tuned(model, text).as_json()["trials"]}
    low, high = trials["4/4/8"]["perplexity_interval"]
    assert low < trials["4/4/8"]["perplexity"] < high and high - low > 0.5
    # Paired, the text's own noise cancels.
    assert trials["4/4/8"]["times_the_default"] == pytest.approx([math.exp(-0.2)] * 2, abs=1e-3)
    wanted = intervals.wilson(0.5, tune.MOST_KEYS)
    assert trials["4/4/8"]["keys_interval"] == pytest.approx(wanted, abs=1e-3)
    assert trials["6/2/8"]["keys_found"] is not None or trials["6/2/8"]["keys_interval"] is None


def test_a_scheme_that_gives_no_number_is_never_chosen(monkeypatch, model, text):
    def nll(method, windows):
        return np.full(len(windows), 2.0 if is_default(method) else math.nan)

    Figures(monkeypatch, nll, lambda method, number: True)
    assert tuned(model, text).scheme == DEFAULT


def test_a_short_text_is_no_evidence(model, tmp_path):
    (tmp_path / "short.txt").write_text("the")
    found = tuned(model, Text(tmp_path / "short.txt"))
    assert found.scheme == DEFAULT and found.trials == []
    assert "the text has 1 tokens, and what lies beyond 16 is told from 20 on" in found.verdict


def test_a_text_in_which_no_key_fits_leaves_the_default(monkeypatch, model, text):
    """16 tokens to begin with: reading shows a better scheme, and a prompt has no room."""

    def measure(model, ids, cell, progress, **_):
        nll = 2.0 if is_default(cell["method"]) else 1.0
        return {"lengths": [[len(ids), nll]], "windows": [[i, i + 1, nll] for i in range(32)]}

    monkeypatch.setattr(tune.perplexity, "measure", measure)
    found = tuned(model, text)
    assert found.scheme == DEFAULT and "no key can be hidden in the text (24 tokens need" in found.verdict


def test_little_time_is_no_evidence_and_the_time_needed_is_said(model, text):
    found = tuned(model, text, seconds=1e-6)
    assert found.scheme == DEFAULT and len(found.trials) == 1
    assert "telling two schemes apart takes 10: allow 1 minutes" in found.verdict


def test_a_real_run_measures_both(tiny_gguf, text):
    """No figures are made up: a random model, whose default stays or not."""
    path = tiny_gguf(tokenizer=True, scheme=(384, 128, 512), context_length=512)
    with dca.Model(path, threads=1) as model:
        check_a_real_run(model, text)


def check_a_real_run(model, text):
    found = tune.tune(model, text, 60.0, lambda spent, allowed, what: None)
    assert found.tokens == 768 and len(found.trials) == 6
    for trial in found.trials:
        with model.session(1024, attention="dca") as session:
            own = session.score(text.ids(model, 768)).mean()
        if trial.scheme == found.default:
            assert trial.nll == pytest.approx(float(own), rel=1e-6)
