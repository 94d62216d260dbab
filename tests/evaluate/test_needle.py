"""Needle prompts, with a chat template and without."""

import pytest

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.evaluate import retrieval
from dca_export.evaluate.methods import Method
from dca_export.evaluate.tasks import needle, sentences
from dca_export.evaluate.text import Text

TEXT = "".join(f"Sentence {number} says nothing. " for number in range(400))


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf):
    with dca.Model(smollm2_gguf) as model:
        yield model


@pytest.fixture(scope="module")
def prompts(smollm2):
    return needle.Prompts(smollm2, TEXT, needle.NEEDLE, needle.QUESTION, seed=0)


@pytest.mark.parametrize("depth", [0, 40, 100])
@pytest.mark.parametrize("trial", [0, 3])
def test_the_needle_stands_between_sentences_at_its_depth(smollm2, prompts, depth, trial):
    ids = prompts.build(1000, depth, trial)
    assert len(ids) == 1000
    text = smollm2.detokenize(ids)
    before, after = text.split(f" {needle.NEEDLE}")
    assert text.startswith("<|im_start|>system") and "<|im_start|>user\n" in before
    assert after.endswith(f"\n\n{needle.QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    hay_before = before.split("<|im_start|>user\n")[1]
    assert hay_before == "" or hay_before.endswith(("nothing.", "nothing. "))
    share = len(hay_before) / (len(hay_before) + len(after.split(f"\n\n{needle.QUESTION}")[0]))
    assert share == pytest.approx(depth / 100, abs=0.02)


def test_trials_read_different_parts_of_the_text(smollm2, prompts):
    texts = [smollm2.detokenize(prompts.build(600, 50, trial)) for trial in range(3)]
    assert "Sentence 0 says" in texts[0]
    assert len(set(texts)) == 3


def test_without_a_template_the_question_is_plain(tiny_gguf, monkeypatch):
    with dca.Model(tiny_gguf(tokenizer=True)) as model:
        plain = dict(model.metadata)
        del plain["tokenizer.chat_template"]
        model.metadata = plain
        text = model.detokenize(needle.Prompts(model, TEXT, "Needle.", "What?", 0).build(400, 50, 0))
    assert text.startswith("Sentence 0") and text.endswith("\n\nQuestion: What?\nAnswer:")
    assert "nothing. Needle." in text


@pytest.mark.parametrize("length", [20, 100_000])
def test_lengths_that_cannot_be(prompts, length):
    with pytest.raises(InputError, match="text"):
        prompts.build(length, 50, 0)


def test_what_the_answer_contains_is_its_score(prompts):
    class Echo:
        def answer(self, method, ids, tokens, progress):
            return "Eat a Sandwich in the park"

    cell = {"method": "plain", "length": 500, "depth": 50, "trial": 0}
    figures = needle.measure(prompts, ["sandwich", "Dolores Park"], Echo(), cell, lambda *_: None)
    assert figures["found"] == 0.5


def test_a_real_model_finds_a_needle(smollm2):
    prompts = needle.Prompts(
        smollm2, TEXT, "The colour of the door is purple.", "What colour is the door?", 0
    )
    with retrieval.Answerer(smollm2, 400 + needle.ANSWER_TOKENS, "f16") as answerer:
        cells = needle.plan([Method("plain")], [400], [50], 1)
        found = [needle.measure(prompts, ["purple"], answerer, cell, lambda *_: None) for cell in cells]
    assert [figures["found"] for figures in found] == [1.0]


def test_cells_of_one_haystack_follow_each_other():
    # Two methods that share prefill take turns on each prompt; the third has its turn after them.
    cells = needle.plan([Method("plain"), Method("dca"), Method("intra")], [10, 20], [0, 50], 2)
    assert [(cell["method"], cell["trial"]) for cell in cells] == [
        (method, trial)
        for pair in (("plain", "dca"), ("intra",))
        for trial in (0, 1)
        for _ in range(4)
        for method in pair
    ]


# Between sentences.

WRAPPED = (
    "It is a truth universally acknowledged, that a single man\nin possession of a good fortune, must be in\n"
    "want of a wife. However little known the feelings or views\nof such a man may be on his first entering "
    "a "
    "neighbourhood,\nthis truth is so well fixed in the minds of the\nsurrounding families, that he is "
    'considered the rightful\nproperty of some one or other of their daughters.\n"My dear Mr. Bennet," said '
    'his lady to him one day, "have\nyou heard that Netherfield Park is let at last?" Mr.\nBennet replied '
    "that he had not.\n"
)


@pytest.mark.parametrize("trial", [0, 2])
def test_a_line_break_ends_no_sentence(smollm2, trial):
    prompts = needle.Prompts(smollm2, WRAPPED * 30, needle.NEEDLE, needle.QUESTION, seed=0)
    ends = ("want of a wife.", "of their daughters.", 'at last?"', "had not.")
    starts = ("However", '"My dear', "Mr.\nBennet", "It is")
    for depth in range(3, 100, 7):
        ids = prompts.build(1200, depth, trial)
        assert len(ids) == 1200
        before, after = smollm2.detokenize(ids).split(needle.NEEDLE)
        assert before.rstrip().endswith(ends), before[-60:]
        assert after.lstrip().startswith(starts), after[:60]
        assert before[-1].isspace() and after[0].isspace()


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("One two. Three four.", ["One two.", "One two. Three four."]),
        ("He met Dr. Grey at 3.30 p.m. there. Then", ["He met Dr. Grey at 3.30 p.m. there."]),
        ('"Stop!" she said. "No."', ['"Stop!" she said.', '"Stop!" she said. "No."']),
        ("A heading\n\nThe text goes\non", ["A heading\n\n"]),
        ("你好。再见。", ["你好。", "你好。再见。"]),
    ],
)
def test_where_sentences_end(text, places):
    """Every character a token."""
    found = {
        sentences.between_sentences("".join, text, at).at
        for at in range(1, len(text) + 1)
        if sentences.Place("".join, text, at).ends_sentence
    }
    assert found and {text[:at].rstrip(" ") for at in found} == set(places)


def test_a_text_without_sentences_is_cut_between_words():
    text = "word " * 400
    assert text[sentences.between_sentences("".join, text, 777).at - 1 :][:2].strip() != "or"


def test_only_the_beginning_of_a_large_text_is_read(tmp_path):
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.write(b"A sentence. " * 1_500_000)
        file.write(b"\xff" * 100)  # never reached
    assert len(needle.haystack(Text(path), 1000)) == 4 << 20
