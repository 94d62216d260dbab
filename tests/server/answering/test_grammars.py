"""What a grammar lets through and what not, and what a chat becomes for templates of different kinds."""

import json
from types import SimpleNamespace

import pytest

from dca_runtime import DcaError, Model
from dca_runtime.server.answering.structured import Grammars, json_grammar
from dca_runtime.server.answering.tools import HERMES, LLAMA, Tool, call_grammar
from dca_runtime.server.errors import ApiError
from dca_runtime.server.protocols.chat_prompt import Chat, prepare
from dca_runtime.text.chat import TEMPLATE_KEY

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
SCHEMA |= {"additionalProperties": False}
TOOLS = [Tool("f", "Does it.", SCHEMA), Tool("g")]
CALL_F = '<tool_call>\n{"name": "f", "arguments": {"n": 1}}\n</tool_call>'
CALL_G = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
QUESTION = [{"role": "user", "content": "the"}]

WITH_TOOLS = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call>{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls %}({{ c.function.name }} {{ c.function.arguments.n }}){% endfor %}"
    "{% endfor %}[assistant]"
)
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
THINKING = PLAIN + "{% if think is not defined or think %}<think>\n{% else %}<think>\n\n</think>\n{% endif %}"


@pytest.fixture(scope="module")
def model(tiny_model):
    with Model(tiny_model, threads=1) as model:
        yield model


@pytest.fixture
def allows(model):
    """``allows(lark, text)``: whether the grammar lets the text be a whole answer."""
    grammars = Grammars(model)

    def check(lark, text):
        matcher = grammars.constraint(lark, "tools")._matcher
        ids = model.tokenize(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return check


def test_a_form_that_no_answer_has_is_refused_before_a_step(model):
    with pytest.raises(ApiError) as caught:
        Grammars(model).constraint(json_grammar({"$ref": "#"}, False), "response_format")
    error = caught.value
    assert (error.status, error.param, error.code) == (400, "response_format", "invalid_schema")
    assert "<state>" not in error.message and len(error.message) < 200


def test_what_is_wrong_with_a_schema_is_told_without_the_grammar_around_it(model):
    with pytest.raises(ApiError, match="Unknown format: nonsense$"):
        Grammars(model).constraint(json_grammar({"type": "string", "format": "nonsense"}, False), "x")


def test_the_first_mask_is_made_with_the_constraint(model, monkeypatch):
    constraint = Grammars(model).constraint(json_grammar(SCHEMA, False), "response_format")
    made = constraint.mask()
    with monkeypatch.context() as patch:
        patch.setattr(constraint, "_matcher", None)  # a step asks nothing of it
        assert (constraint.mask() == made).all()
    (brace,) = model.tokenize("{")
    constraint.accept(brace)
    assert (constraint.mask() != made).any()


class Panic(BaseException):
    """As the package's is no Exception where its code panics."""


@pytest.mark.parametrize("call", ["compute_bitmask", "consume_token"])
def test_a_matcher_that_panics_ends_its_answer_alone(model, monkeypatch, call):
    def panic(*_):
        raise Panic("index out of bounds")

    constraint = Grammars(model).constraint(json_grammar(SCHEMA, False), "response_format")
    constraint.accept(model.tokenize("{")[0])
    monkeypatch.setattr(constraint, "_matcher", SimpleNamespace(**{call: panic}))
    with pytest.raises(
        DcaError, match="the form that was asked for cannot be followed .*index out of bounds"
    ):
        constraint.mask() if call == "compute_bitmask" else constraint.accept(1)


def test_answers_to_one_request_go_ways_of_their_own(model):
    first, second = Grammars(model).constraints(2, json_grammar(SCHEMA, False), "response_format")
    begin = second.mask()
    for id_ in model.tokenize('{"n":'):
        first.accept(id_)
    assert (second.mask() == begin).all()
    for id_ in model.tokenize('{"n":1'):
        second.accept(id_)
    assert second.mask()[model.tokenize("}")[0] // 32] >> model.tokenize("}")[0] % 32 & 1


def calls(form, required, several, after_thinking=False):
    return call_grammar(TOOLS, form, required=required, several=several, after_thinking=after_thinking)


@pytest.mark.parametrize(
    ("required", "several", "text", "allowed"),
    [
        (True, False, CALL_F, True),
        (True, False, CALL_G, True),
        (True, False, f"{CALL_F}\n{CALL_G}", False),
        (True, True, f"{CALL_F}\n{CALL_G}", True),
        (True, False, "the", False),
        (True, False, CALL_F.replace("1", '"x"'), False),
        (True, False, CALL_F.replace('"f"', '"h"'), False),
        (True, False, CALL_F.replace('{"n": 1}', '{"n":  1}'), False),
        (True, False, CALL_F.replace('{"n": 1}', "{}"), False),
        (False, True, "the", True),
        (False, True, "", True),
        (False, True, "a < b, and\nmore", True),
        (False, True, f"Well.\n{CALL_F}\n{CALL_G}", True),
        (False, True, f"Well.\n{CALL_F}\nDone.", True),
        (False, True, "<tool_call>\nthe", False),
        (False, False, f"{CALL_F}", True),
        (False, False, f"{CALL_F}\n{CALL_G}", True),  # the second is text: no call is read in it …
    ],
)
def test_calls_in_hermes_form(allows, required, several, text, allowed):
    assert allows(calls(HERMES, required, several), text) == allowed


@pytest.mark.parametrize(
    ("required", "text", "allowed"),
    [
        (True, '{"name": "f", "parameters": {"n": 1}}', True),
        (True, "the", False),
        (False, '{"name": "f", "parameters": {"n": 1}}', True),
        (False, '{"name": "h", "parameters": {"n": 1}}', False),
        (False, "the {}", True),
        (False, "", True),
    ],
)
def test_calls_in_llamas_form(allows, required, text, allowed):
    assert allows(calls(LLAMA, required, False), text) == allowed


@pytest.mark.parametrize(
    ("after_thinking", "text", "allowed"),
    [
        (False, '{"n":1}', True),
        (False, '{"n": 1}', False),
        (False, '{"n":1} ', False),
        (True, 'hm {"n":\n</think>\n\n{"n":1}', True),
        (True, '</think>{"n":1}', True),
        (True, '{"n":1}', False),
        (True, "hm</think>\n\nthe", False),
    ],
)
def test_json_after_thoughts_or_without(allows, after_thinking, text, allowed):
    assert allows(json_grammar(SCHEMA, after_thinking), text) == allowed


def test_a_call_that_must_be_made_may_be_thought_about(allows):
    assert allows(calls(HERMES, True, False, after_thinking=True), f"hm\n</think>\n\n{CALL_F}")


@pytest.fixture
def chat(model, monkeypatch):
    """``chat(template, **fields of Chat)``: its prompt as text, and the ChatPrompt."""

    def make(template, **fields):
        monkeypatch.setattr(model, "metadata", {**model.metadata, TEMPLATE_KEY: template})
        service = SimpleNamespace(template=template, model=model, check_text=lambda text, param: None)
        prompt = prepare(service, Chat(**({"messages": QUESTION} | fields)), ("stop",))
        return model.detokenize(prompt.ids), prompt

    return make


def test_a_template_that_knows_tools_gets_them(chat):
    text, prompt = chat(WITH_TOOLS, tools=TOOLS)
    assert json.dumps(TOOLS[0].for_template()) in text
    assert prompt.reading.calls == HERMES and prompt.grammar is not None
    assert chat(WITH_TOOLS)[0] == "[user]the[assistant]"
    assert chat(WITH_TOOLS, tools=TOOLS, choice="none")[1].grammar is None


def test_one_that_does_not_is_told_of_them_in_the_system_message(chat):
    text, prompt = chat(PLAIN, tools=TOOLS, messages=[{"role": "system", "content": "Be kind."}, *QUESTION])
    assert text.startswith("[system]Be kind.") and '"name": "f"' in text and "<tool_call>" in text
    assert prompt.reading.calls == HERMES
    assert chat(PLAIN)[0] == "[user]the[assistant]"


def test_calls_and_results_of_before_reach_the_model(chat):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"n": 7}}}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "seven"},
    ]
    assert chat(WITH_TOOLS, messages=messages)[0] == "[user]the[assistant](f 7)[tool]seven[assistant]"
    text = chat(PLAIN, messages=messages)[0]
    assert '{"name": "f", "arguments": {"n": 7}}' in text and "<tool_response>\nseven" in text


def test_a_tool_named_is_the_only_one(chat, allows):
    _, prompt = chat(PLAIN, tools=TOOLS, choice="=g")
    assert allows(prompt.grammar[0], CALL_G) and not allows(prompt.grammar[0], CALL_F)


def test_templates_that_begin_a_thought_are_noticed(chat):
    assert chat(THINKING)[1].reading.thought_open
    _, prompt = chat(THINKING, variables={"think": False})
    assert prompt.reading.thoughts and not prompt.reading.thought_open
    assert not chat(PLAIN)[1].reading.thoughts


def test_variables_that_are_none_are_refused(chat):
    for name in ("messages", "tools", "add_generation_prompt", "a b", ""):
        with pytest.raises(ApiError):
            chat(PLAIN, variables={name: 1})
