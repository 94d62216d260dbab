"""Prompts: one beginning, no end, and control tokens only where the template has them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dca_runtime as dca
from dca_runtime import DcaError
from dca_runtime.generation.prompt import Marks, Prompt, encode_marked

CONTROL = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}  # of tiny models


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True)) as model:
        yield model


def control_tokens(model, messages, **variables) -> list[int]:
    ids = model.tokenize(model.apply_chat_template(messages, **variables))
    return [id_ for id_ in ids if id_ in CONTROL.values()]


PARTS = st.sampled_from([*CONTROL, "<|", "|>", "im_end", "\n", "the ", "<|im_end|", "in", "1000000000000000"])
CONTENTS = st.lists(PARTS, max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(CONTENTS, min_size=1, max_size=4))
def test_messages_add_no_control_token_and_lose_no_text(model, contents):
    messages = [{"role": "user", "content": content} for content in contents]
    prompt = model.apply_chat_template(messages)
    ids = model.tokenize(prompt)
    # The tiny template: one <|im_start|> and <|im_end|> a message, and one <|im_start|> for the answer.
    assert [id_ for id_ in ids if id_ in (0, 1, 2)] == [1, 2] * len(contents) + [1]
    assert model.detokenize(ids) == str(prompt)
    assert all(content in prompt for content in contents)


@settings(max_examples=50, deadline=None)
@given(CONTENTS)
def test_a_message_is_encoded_as_text(model, content):
    ids = model.tokenize(model.apply_chat_template([{"role": "user", "content": content}]))
    wanted = model.tokenize(f"user\n{content}", parse_special=False)
    assert ids == [1, *wanted, 2, *model.tokenize("\n"), 1, *model.tokenize("assistant\n")]


def test_roles_names_and_parts_are_text_too(model):
    assert control_tokens(model, [{"role": "user<|im_end|>", "content": "the"}]) == [1, 2, 1]
    parts = [{"type": "text", "text": "<|im_end|>"}]
    assert control_tokens(model, [{"role": "user", "content": parts[0]["text"]}]) == [1, 2, 1]


def test_honest_prompts_are_what_they_were(model):
    prompt = model.apply_chat_template([{"role": "user", "content": "the"}])
    assert prompt == "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"
    assert model.tokenize(prompt) == model.tokenize(str(prompt), add_special=False)


@pytest.mark.parametrize("number", [10**15, 1e15, -(10**15)])
def test_numbers_are_no_marks(number):
    marks = Marks(CONTROL, [{"content": "<|im_end|>", "amount": number}])
    rendered = f"{marks.mark('<|im_end|>')} {number!r}"
    assert str(marks.unmark(rendered)) == f"<|im_end|> {number!r}"


def test_a_mark_is_found_soon_whatever_numbers_a_text_holds():
    numbers = " ".join(str(10**15 + index) for index in range(60_000, 0, -1)) + " " + str(10**15)
    before = time.process_time()
    Marks(CONTROL, numbers)
    assert time.process_time() - before < 1


def test_spellings_of_control_tokens_cost_as_much_each_however_many_there_are():
    def seconds(count: int) -> float:
        text = "<|im_end|><|im_start|>" * count  # every second one is a message's
        prompt = Prompt(text, range(0, len(text), 22))
        before = time.process_time()
        ids = encode_marked(prompt, CONTROL, lambda part, parse: [parse] * part.count("<|"))
        assert len(ids) == 2 * count
        return time.process_time() - before

    few = min(seconds(500) for _ in range(3))
    assert seconds(16_000) < 150 * few + 0.5  # 32 times as many


@pytest.mark.parametrize("where", ["messages", "variables"])
def test_what_is_nested_too_deep_is_told(model, where):
    deep = "the"
    for _ in range(5000):
        deep = [deep]
    messages = [{"role": "user", "content": deep if where == "messages" else "the"}]
    with pytest.raises(DcaError, match="nested too deep"):
        model.apply_chat_template(messages, **({"deep": deep} if where == "variables" else {}))


@pytest.mark.parametrize("name", ["self", "template"])
def test_variables_of_a_template_have_any_name(model, name):
    messages = [{"role": "user", "content": "the"}]
    assert model.apply_chat_template(messages, **{name: "x"}) == model.apply_chat_template(messages)


# Beginnings and ends.


class Around:
    """A tokenizer that puts ``first`` before a text and ``last`` behind it."""

    def __init__(self, model, first: int | None, last: int | None) -> None:
        from dca_runtime.text.tokenizer import Tokenizer

        metadata = dict(model.metadata)
        metadata |= {"tokenizer.ggml.add_bos_token": first is not None}
        metadata |= {"tokenizer.ggml.add_eos_token": last is not None}
        metadata |= {"tokenizer.ggml.bos_token_id": first or 0, "tokenizer.ggml.eos_token_id": last or 2}
        self.tokenizer = Tokenizer(metadata)


@pytest.mark.parametrize("last", [None, 2])
@pytest.mark.parametrize(
    ("first", "text", "begins", "start"),
    [
        (0, "the", True, [0]),
        (0, "<|endoftext|>the", True, [0]),
        (0, "the", False, []),
        (0, "", True, [0]),
        (None, "the", True, []),
    ],
)
def test_a_prompt_has_one_beginning_and_no_end(model, first, last, text, begins, start):
    tokenizer = Around(model, first, last).tokenizer
    rest = tokenizer.encode(text.removeprefix("<|endoftext|>"), add_special=False)
    assert tokenizer.prompt_ids(text, begins) == start + rest


def test_a_session_that_holds_something_gets_no_second_beginning(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True)) as model, model.session() as session:
        model.tokenizer = Around(model, 0, None).tokenizer
        list(model.generate("the", 1, session, temperature=0.0))
        list(model.generate("the", 1, session, temperature=0.0))
        assert session.ids.tolist().count(0) == 1
