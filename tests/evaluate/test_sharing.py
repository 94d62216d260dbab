"""How many tokens of prompts the trials evaluate, and that sharing them changes no answer."""

import pytest

import dca_runtime as dca
from dca_export.evaluate import retrieval
from dca_export.evaluate.methods import Method, pairs, parse
from dca_export.evaluate.tasks import needle, passkey

CHUNK = 480


@pytest.fixture(scope="module")
def model(tiny_gguf):
    path = tiny_gguf(tokenizer=True, scheme=(CHUNK, 160, 640), context_length=640, layers=1)
    with dca.Model(path) as model:
        yield model


@pytest.fixture(scope="module")
def prompts(model):
    return passkey.Prompts(model, seed=0)


def run(model, prompts, cells):
    """The figures, and how many tokens of prompts were evaluated for them."""
    with retrieval.Answerer(model, 1100, "f32") as answerer:
        figures = [passkey.measure(prompts, answerer, cell, lambda *_: None) for cell in cells]
        return figures, answerer.evaluated


def common(first, second):
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))


def test_trials_of_a_method_evaluate_what_comes_after_the_key_before(model, prompts):
    depths, trials = [20, 50, 80], 3
    cells = retrieval.plan([Method("plain")], [1000], depths, trials)
    _, evaluated = run(model, prompts, cells)
    ids = [prompts.build(1000, depth, trial)[0] for depth in depths for trial in range(trials)]
    wanted = len(ids[0]) + sum(len(b) - common(a, b) for a, b in zip(ids, ids[1:], strict=False))
    assert evaluated == wanted
    # Nothing can share more than the filler before its key with a trial of another key.
    assert evaluated < 0.65 * sum(map(len, ids))


def test_a_prompt_in_the_first_chunk_is_evaluated_once_for_both_methods(model, prompts):
    cells = retrieval.plan([Method("plain"), Method("dca")], [CHUNK - 10], [10, 90], 2)
    _, alone = run(model, prompts, [cell for cell in cells if cell["method"] == "plain"])
    _, together = run(model, prompts, cells)
    assert together == alone + len(cells) // 2  # the last token of each prompt, for its logits


def test_of_a_longer_prompt_the_first_chunk_is_shared(model, prompts):
    depths = [10, 30]
    cells = retrieval.plan([Method("plain"), Method("dca")], [1000], depths, 2)
    _, together = run(model, prompts, cells)
    apart = sum(
        run(model, prompts, [cell for cell in cells if cell["method"] == method])[1]
        for method in ("plain", "dca")
    )
    ids = [prompts.build(1000, depth, trial)[0] for depth in depths for trial in range(2)]
    shared = [0, *(common(a, b) for a, b in zip(ids, ids[1:], strict=False))]
    assert apart - together == sum(max(CHUNK - own, 0) for own in shared)


@pytest.mark.parametrize("module", [passkey, needle])
def test_sharing_changes_no_answer(model, prompts, module):
    methods = [Method("plain"), Method("dca"), parse("dca:300/100/400"), parse("plain@ntk:2")]
    plan = retrieval.plan if module is passkey else needle.plan
    if module is passkey:
        measure = prompts
    else:
        text = "".join(f"This is sentence {n} of the book.\n" for n in range(300))
        measure = needle.Prompts(model, text, needle.NEEDLE, needle.QUESTION, seed=0)
    extra = () if module is passkey else (["sandwich"],)
    cells = plan(methods, [400, 1000], [30, 80], 2)
    with retrieval.Answerer(model, 1100, "f32") as answerer:
        shared = [module.measure(measure, *extra, answerer, cell, lambda *_: None) for cell in cells]
    alone = []
    for cell in cells:
        with retrieval.Answerer(model, 1100, "f32") as answerer:
            alone.append(module.measure(measure, *extra, answerer, cell, lambda *_: None))
    assert shared == alone


def test_neighbours_with_the_same_rope_are_paired():
    names = ["plain", "dca", "intra", "plain@ntk:2", "dca@ntk:2", "plain@yarn:2", "intra+inter"]
    assert [[method.name for method in pair] for pair in pairs([parse(n) for n in names])] == [
        ["plain", "dca"],
        ["intra"],
        ["plain@ntk:2", "dca@ntk:2"],
        ["plain@yarn:2"],
        ["intra+inter"],
    ]


def test_methods_are_measured_in_the_order_given():
    cells = retrieval.plan([parse(n) for n in ("plain", "dca", "plain@ntk:2")], [100], [10, 90], 2)
    assert list(dict.fromkeys(cell["method"] for cell in cells)) == ["plain", "dca", "plain@ntk:2"]
    assert [cell["method"] for cell in cells[:4]] == ["plain", "dca", "plain", "dca"]


class Crowded:
    """A model on a device with room for one session."""

    def __init__(self, model) -> None:
        self._model = model
        self.tokenizer = model.tokenizer
        self._last = None

    def session(self, **options):
        if self._last is not None and self._last._free.alive:
            raise dca.DcaError("not enough memory", dca.Status.MEMORY)
        self._last = self._model.session(**options)
        return self._last


def test_where_two_sessions_do_not_fit_one_does(model, prompts):
    cells = retrieval.plan([Method("plain"), Method("dca")], [600], [10, 90], 1)
    assert run(Crowded(model), prompts, cells)[0] == run(model, prompts, cells)[0]
