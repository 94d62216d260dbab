"""The texts of dca-eval recall, and how answers are scored."""

import re

import numpy as np
import pytest

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.evaluate import results
from dca_export.evaluate.methods import Method
from dca_export.evaluate.tasks import recall
from dca_export.evaluate.tasks.recall_tasks import FILLER, HIDDEN_KEYS, HOPS, TASKS


def made(task, units=60, seed=0):
    return TASKS[task].make(np.random.default_rng(seed), units)


@pytest.mark.parametrize("seed", range(5))
def test_the_asked_key_has_one_code_among_several(seed):
    text = made("keys", seed=seed)
    codes = dict(re.findall(r"The code of (\S+) is (\d{5})\.", text.body))
    assert len(codes) == HIDDEN_KEYS and text.body.count(FILLER) == 60
    name = re.fullmatch(r"What is the code of (\S+)\? The code of \1 is", text.question)[1]
    assert text.answers == (codes[name],)
    assert len(set(codes.values())) == HIDDEN_KEYS


@pytest.mark.parametrize("units", [1, 7, 3000])
def test_a_value_among_as_many_as_there_are_units(units):
    text = made("value", units)
    codes = dict(re.findall(r"The code of (\S+) is (\d{5})\.", text.body))
    assert len(codes) == units
    assert text.answers == (codes[re.search(r"code of (\S+)\?", text.question)[1]],)


@pytest.mark.parametrize("seed", range(5))
def test_a_chain_leads_to_its_number(seed):
    text = made("chain", seed=seed)
    values = {}
    for name, _, other, number in re.findall(r"VAR (\w+) = (VAR (\w+)|(\d+))\.", text.body):
        values[name] = number or values[other]  # assigned before it is used
    number = re.search(r"value (\d+)", text.question)[1]
    assert set(text.answers) == {name for name, value in values.items() if value == number}
    assert len(text.answers) == HOPS + 1 < len(values)


@pytest.mark.parametrize("units", [10, 400])
def test_the_commonest_words_are_the_answer(units):
    text = made("count", units)
    words = re.findall(r"\d+\. (\w+)", text.body)
    counts = {word: words.count(word) for word in words}
    least = min(counts[word] for word in text.answers)
    assert least >= 2 * max(count for word, count in counts.items() if word not in text.answers)


def test_answers_count_as_whole_words():
    assert recall.score(" 12345.", ["12345"]) == 1
    assert recall.score("123456", ["12345"]) == 0
    assert recall.score("ABC, and DEF", ["ABC", "DEF", "GHI", "JKL"]) == 0.5


@pytest.fixture(scope="module")
def prompts(smollm2_gguf):
    with dca.Model(smollm2_gguf) as model:
        yield recall.Prompts(model, seed=0)


@pytest.mark.parametrize("task", list(TASKS))
def test_prompts_are_nearly_as_long_as_asked(prompts, task):
    ids, _ = prompts.build(task, 1500, 0)
    assert 1400 <= len(ids) <= 1500
    assert ids == prompts.build(task, 1500, 0)[0] != prompts.build(task, 1500, 1)[0]


def test_a_task_that_does_not_fit(prompts):
    with pytest.raises(InputError, match="needs more than 20 tokens"):
        prompts.build("chain", 20, 0)


def test_a_task_not_known():
    with pytest.raises(InputError, match="none of keys, value, chain, count"):
        recall.plan([Method("plain")], [100], ["needles"], 1)


def test_tables_and_figures_say_how_sure_they_are(tiny_gguf):
    with dca.Model(tiny_gguf()) as model:
        measured = results.open_results(None, results.header("recall", model, {}, ["dca-eval"]))
    cells = recall.plan([Method("plain")], [100], ["keys"], 4)
    shares = iter([1.0, 0.0, 1.0, 1.0])
    results.measure_cells(measured, cells, lambda *_: {"found": next(shares)}, lambda *_: None)
    (table,) = recall.tables(measured)
    assert table.rows == [["plain, keys", "75% (30 to 95)"]]
    (entry,) = recall.figures(measured)
    assert entry["found"] == 0.75 and entry["interval"] == pytest.approx([0.3006, 0.9544], abs=1e-3)


def test_methods_are_compared_on_the_same_prompts(tiny_gguf):
    with dca.Model(tiny_gguf()) as model:
        measured = results.open_results(None, results.header("recall", model, {"seed": 3}, ["dca-eval"]))
    found = {"plain": [0.0] * 20, "string:9/1": [1.0] * 15 + [0.0] * 5}
    for method, shares in found.items():
        for trial, share in enumerate(shares):
            cell = {"method": method, "task": "keys", "length": 100, "trial": trial}
            measured.add(cell, {"found": share})
    _, compared = recall.tables(measured)
    ((name, cell),) = compared.rows
    assert name == "string:9/1, keys" and re.fullmatch(r"\+75 \[\+\d+, \+\d+\]", cell)
    entry = recall.figures(measured)[1]
    against = entry["against"]
    assert (against["method"], against["n"], against["difference"]) == ("plain", 20, 0.75)
    assert against["differs"] and entry["scheme"] == [9, 1] and entry["seed"] == 3
