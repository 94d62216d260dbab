"""Anthropic's own client, unchanged."""

import anthropic
import pytest

from dca_runtime import Model

QUESTION = [{"role": "user", "content": "the in the"}]
GREEDY = {"extra_body": {"temperature": 0}}  # the client has no field for it any more
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
TOOLS = [{"name": "look_up", "description": "Looks up.", "input_schema": SCHEMA}]


@pytest.fixture(scope="module")
def client(tiny_server):
    return anthropic.Anthropic(base_url=tiny_server.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def model(tiny_model):
    with Model(tiny_model, threads=1) as model:
        yield model


def test_a_message_says_what_the_library_says(client, model):
    text = "".join(model.chat(QUESTION, 12, temperature=0))
    reply = client.messages.create(model="tiny", messages=QUESTION, max_tokens=12, **GREEDY)
    assert reply.content[0].text == text
    assert reply.stop_reason in ("max_tokens", "end_turn")
    assert reply.usage.output_tokens <= 12


def test_a_stream_gives_the_same(client):
    options = {"model": "tiny", "messages": QUESTION, "max_tokens": 12} | GREEDY
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_system_blocks_and_counting(client, model):
    system = [{"type": "text", "text": "in "}, {"type": "text", "text": "the"}]
    blocks = [{"role": "user", "content": [{"type": "text", "text": "the in the"}]}]
    counted = client.messages.count_tokens(model="tiny", messages=blocks, system=system)
    prompt = model.apply_chat_template([{"role": "system", "content": "in the"}, *QUESTION])
    assert counted.input_tokens == len(model.tokenize(prompt))


def test_an_answer_can_be_begun_by_the_client(client, model):
    prompt = model.tokenize(model.apply_chat_template(QUESTION)) + model.tokenize("in the")
    expected = "".join(model.generate(prompt, 8, temperature=0))
    messages = [*QUESTION, {"role": "assistant", "content": "in the"}]
    reply = client.messages.create(model="tiny", messages=messages, max_tokens=8, **GREEDY)
    assert reply.content[0].text == expected


def test_a_stop_sequence_is_told(client):
    options = {"model": "tiny", "messages": QUESTION, "max_tokens": 40} | GREEDY
    text = client.messages.create(**options).content[0].text
    reply = client.messages.create(**options, stop_sequences=[text[8:10]])
    assert reply.stop_reason == "stop_sequence"
    assert reply.stop_sequence == text[8:10]
    assert reply.content[0].text == text[: text.index(text[8:10])]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "look_up"}])
def test_a_tool_that_must_be_used_is_used(client, choice):
    options = {"model": "tiny", "messages": QUESTION, "max_tokens": 100} | GREEDY
    options |= {"tools": TOOLS, "tool_choice": choice}
    reply = client.messages.create(**options)
    assert reply.stop_reason == "tool_use"
    assert (reply.content[0].type, reply.content[0].name) == ("tool_use", "look_up")
    assert isinstance(reply.content[0].input["ok"], bool)
    with client.messages.stream(**options) as stream:
        assert stream.get_final_message().content[0].input == reply.content[0].input
    back = [
        *QUESTION,
        {"role": "assistant", "content": [block.model_dump() for block in reply.content]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": reply.content[0].id, "content": "yes"}],
        },
    ]
    assert client.messages.create(**(options | {"messages": back, "tool_choice": {"type": "auto"}}))


def test_errors_are_the_clients_own(client):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="other", messages=QUESTION, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError, match="context"):
        client.messages.create(model="tiny", messages=[{"role": "user", "content": "x" * 5000}], max_tokens=1)
