"""Passkey prompts, trials that share their start, and what counts as found."""

import re

import numpy as np
import pytest

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.evaluate import retrieval
from dca_export.evaluate.methods import Method
from dca_export.evaluate.results import Results, measure_cells
from dca_export.evaluate.tasks import passkey


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf):
    with dca.Model(smollm2_gguf) as model:
        yield model


@pytest.fixture(scope="module")
def prompts(smollm2):
    return passkey.Prompts(smollm2, seed=0)


@pytest.mark.parametrize("length", [300, 1000, 4096])
@pytest.mark.parametrize("depth", [0, 30, 100])
def test_prompts_have_the_length_and_the_key_at_its_depth(smollm2, prompts, length, depth):
    ids, key = prompts.build(length, depth, trial=1)
    assert length - 40 < len(ids) <= length
    text = smollm2.detokenize(ids)
    before, after = text.split(f"The pass key is {key}. Remember it. {key} is the pass key.")
    fillers = before.count(passkey.FILLER), after.count(passkey.FILLER)
    assert fillers[0] == round(sum(fillers) * depth / 100)
    assert text.startswith(passkey.TASK) and text.endswith(passkey.QUESTION)
    assert len(key) == 5 and key.isdigit()


def test_keys_depend_on_everything_and_nothing_else(smollm2, prompts):
    def key(length=500, depth=30, trial=0, seed=0):
        return passkey.Prompts(smollm2, seed).build(length, depth, trial)[1]

    assert key() == prompts.build(500, 30, 0)[1]
    assert len({key(), key(length=501), key(depth=31), key(trial=1), key(seed=1)}) == 5


class MadeUpTokenizer:
    """Cuts text with a regular expression: as many tokens as it has matches."""

    def __init__(self, pattern: str):
        self.pattern = pattern

    def tokenize(self, text: str) -> list[str]:
        return re.findall(self.pattern, text, re.DOTALL)


@pytest.mark.parametrize(
    ("pattern", "one_filler"),
    [
        (".", 92),  # characters
        (r"\w+|\W", 50),
        (r"0+|[1-9]|\D+?(?=[ .])|\D", 60),  # keys take as many tokens as they have digits that are not 0
        (r"(?:The grass is green.{69} ?){1,4}|.", 10),  # repeated filler is one token, four at a time
        (r".{1,500}", 10),
    ],
)
@pytest.mark.parametrize("length", [600, 1500])
def test_prompts_hold_their_length_for_every_tokenizer(pattern, one_filler, length):
    model = MadeUpTokenizer(pattern)
    for trial in range(3):
        ids, key = passkey.Prompts(model, seed=0).build(length, 50, trial)
        assert length - one_filler - 5 <= len(ids) <= length
        assert "".join(ids).count(key) == 2


def test_a_length_without_room_is_said(prompts):
    with pytest.raises(InputError, match="90"):
        prompts.build(90, 50, 0)


def test_a_real_model_finds_the_key_within_its_context(smollm2, prompts):
    cells = retrieval.plan([Method("plain")], [400], [20, 70], 2)
    with retrieval.Answerer(smollm2, 420, "f16") as answerer:
        found = [passkey.measure(prompts, answerer, cell, lambda *_: None) for cell in cells]
    assert [figures["found"] for figures in found] == [1, 1, 1, 1]
    assert all(figures["key"] in figures["answer"] for figures in found)


def test_sharing_a_start_changes_no_answer(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16)) as model:
        prompts = [[5] * n + [7] * m for n, m in [(30, 4), (20, 9), (40, 2), (40, 2), (3, 50)]]
        methods = ["dca", "dca", "plain", "plain", "dca"]
        with retrieval.Answerer(model, 80, "f32") as answerer:
            shared = [
                answerer.answer(m, ids, 8, lambda *_: None) for m, ids in zip(methods, prompts, strict=True)
            ]
        alone = []
        for method, ids in zip(methods, prompts, strict=True):
            with model.session(attention=method, cache_type="f32") as session:
                alone.append("".join(model.generate(ids, 8, session, temperature=0.0)))
    assert shared == alone


def test_progress_tells_of_the_prompt_only(tiny_gguf):
    seen = []
    with dca.Model(tiny_gguf(tokenizer=True)) as model, retrieval.Answerer(model, 400, "f16") as answerer:
        answerer.answer("plain", [5] * 300, 5, lambda *counts: seen.append(counts))
    assert all(total == 300 for _, total in seen)


class Echo:
    """Answers with a fixed text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def answer(self, method, ids, tokens, progress) -> str:
        return self._text


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (" {key}.", 1),
        ("{key}", 1),
        (": **{key}**", 1),
        (" 1{key}", 0),
        (" {key}0", 0),
        (" 12 and {key}", 0),
        (" green", 0),
        ("", 0),
    ],
)
def test_the_first_number_must_be_the_key(prompts, answer, found):
    cell = {"method": "plain", "length": 300, "depth": 50, "trial": 0}
    _, key = prompts.build(300, 50, 0)
    figures = passkey.measure(prompts, Echo(answer.format(key=key)), cell, lambda *_: None)
    assert figures["found"] == found


def trials(found) -> Results:
    kept = Results({"experiment": "passkey", "model": {}, "settings": {}})
    cells = retrieval.plan([Method("plain"), Method("dca")], [200, 100], [10, 90], 2)
    measure_cells(kept, cells, lambda cell, _: {"found": found(cell), "answer": "a"}, lambda *_: None)
    return kept


def test_tables_count_what_was_found():
    kept = trials(lambda cell: int(cell["method"] == "dca" and (cell["length"] == 100 or cell["trial"] == 0)))
    overview, against, plain, chunked = passkey.tables(kept)
    assert overview.columns == ["tokens", "100", "200", "all"]
    # In brackets Wilson's intervals: of 0 of n, 0 to z² / (n + z²); of 2 of 4, 1/2 ± z / (2 √(4 + z²)).
    assert overview.rows == [
        ["plain", "0/4 [0, 49]", "0/4 [0, 49]", "0/8 [0, 32]"],
        ["dca", "4/4 [51, 100]", "2/4 [15, 85]", "6/8 [41, 93]"],
    ]
    # Bonett and Price for 4, 2 and 6 prompts won and none lost, of 4, 4 and 8.
    assert against.rows == [["dca", "+100 [+7, +100]", "≈ +50 [-26, +93]", "+75 [+19, +100]"]]
    assert chunked.rows == [
        ["10 %", "2/2 [34, 100]", "1/2 [9, 91]"],
        ["90 %", "2/2 [34, 100]", "1/2 [9, 91]"],
    ]
    entries = passkey.figures(kept)
    assert [entry["found"] for entry in entries if entry["method"] == "dca"] == [1.0, 1.0, 0.5, 0.5]
    assert np.isnan(retrieval.mean_found(kept, method="none"))


def test_heat_maps_are_drawn(tmp_path):
    from dca_export.evaluate.output import plots

    plots.save(passkey.draw(trials(lambda cell: cell["trial"])), tmp_path / "map.svg")
    assert "<svg" in (tmp_path / "map.svg").read_text()


def test_many_heat_maps_stay_as_wide_as_a_page():
    from dca_export.evaluate.output import plots

    width, height = plots.heat_maps(
        {str(n): [[n / 4]] for n in range(4)}, [1], [1], "x", "y"
    ).get_size_inches()
    assert width == plots.MAPS_ACROSS * plots.PANEL[0] and height == 2 * plots.PANEL[1]


def test_a_depth_is_a_percentage():
    with pytest.raises(InputError, match="101"):
        retrieval.plan([Method("plain")], [100], [101], 1)
