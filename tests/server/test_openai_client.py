"""OpenAI's own client, unchanged: chats, completions, responses, tools and structured answers."""

import asyncio
import json

import openai
import pytest

from dca_runtime import Model

QUESTION = [{"role": "user", "content": "the in the"}]
GREEDY = {"model": "tiny", "temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Looks up.", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def client(tiny_server):
    return openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def model(tiny_model):
    with Model(tiny_model, threads=1) as model:
        yield model


def test_a_chat_says_what_the_library_says(client, model):
    expected = model.chat(QUESTION, 20, temperature=0)
    text = "".join(expected)
    reply = client.chat.completions.create(messages=QUESTION, max_tokens=20, **GREEDY)
    assert reply.choices[0].message.content == text
    assert reply.usage.prompt_tokens == expected.prompt_tokens
    assert reply.usage.completion_tokens == len(expected.ids)
    assert reply.choices[0].finish_reason == expected.finish_reason


def test_a_stream_gives_the_same_text_and_then_usage(client):
    whole = client.chat.completions.create(messages=QUESTION, max_tokens=20, **GREEDY)
    chunks = list(
        client.chat.completions.create(
            messages=QUESTION, max_tokens=20, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) == {None}
    assert len({chunk.id for chunk in chunks}) == 1


def test_many_at_once_through_the_asynchronous_client(tiny_server, client):
    async def ask():
        many = openai.AsyncOpenAI(base_url=f"{tiny_server.url}/v1", api_key="none", max_retries=0)
        calls = [many.completions.create(prompt=f"in {n}", max_tokens=n + 1, **GREEDY) for n in range(24)]
        return await asyncio.gather(*calls)

    for n, reply in enumerate(asyncio.run(ask())):
        alone = client.completions.create(prompt=f"in {n}", max_tokens=n + 1, **GREEDY)
        assert reply.choices[0].text == alone.choices[0].text


def test_a_completion_says_what_the_library_says(client, model):
    expected = "".join(model.generate("the the", 12, temperature=0))
    assert client.completions.create(prompt="the the", max_tokens=12, **GREEDY).choices[0].text == expected


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seed_means_what_it_means_in_the_library(client, model, seed):
    options = {"seed": seed, "temperature": 1.1, "top_p": 0.9}
    expected = "".join(model.generate("the the", 30, min_p=0.02, **options))
    reply = client.completions.create(
        model="tiny", prompt="the the", max_tokens=30, extra_body={"min_p": 0.02}, **options
    )
    assert reply.choices[0].text == expected


def test_ids_are_a_prompt_too(client, model):
    ids = model.tokenize("the the")
    texts = [client.completions.create(prompt=p, **GREEDY).choices[0].text for p in ("the the", ids, [ids])]
    assert len(set(texts)) == 1


def test_echo_gives_the_prompt_first(client):
    plain = client.completions.create(prompt="the the", max_tokens=4, **GREEDY).choices[0].text
    echoed = client.completions.create(prompt="the the", max_tokens=4, echo=True, **GREEDY).choices[0].text
    assert echoed == "the the" + plain


def test_a_stop_text_ends_an_answer_and_is_not_shown(client):
    text = client.completions.create(prompt="the in", max_tokens=40, **GREEDY).choices[0].text
    stop = text[10:13]
    at = text.index(stop)
    stopped = client.completions.create(prompt="the in", max_tokens=40, stop=[stop, "never"], **GREEDY)
    assert stopped.choices[0].text == text[:at]
    assert stopped.choices[0].finish_reason == "stop"
    chunks = client.completions.create(prompt="the in", max_tokens=40, stop=stop, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text[:at]


def test_a_seed_repeats_itself_and_another_differs(client):
    def ask(seed):
        return client.completions.create(model="tiny", prompt="a", max_tokens=20, temperature=1, seed=seed)

    assert ask(1).choices[0].text == ask(1).choices[0].text != ask(2).choices[0].text


def test_n_answers_are_those_of_following_seeds(client):
    def ask(seed, n):
        options = {"prompt": "a", "max_tokens": 12, "temperature": 1}
        return [
            one.text for one in client.completions.create(model="tiny", seed=seed, n=n, **options).choices
        ]

    assert ask(5, 3) == ask(5, 1) + ask(6, 1) + ask(7, 1)


def test_a_bias_decides(client, model):
    (id_,) = model.tokenize("x")
    options = {"prompt": "the", "max_tokens": 5, "logit_bias": {str(id_): 100}}
    assert client.completions.create(**options, **GREEDY).choices[0].text == "xxxxx"


def test_a_frequency_penalty_ends_a_repetition(client, model):
    (id_,) = model.tokenize("x")
    options = {"prompt": "the", "max_tokens": 40, "logit_bias": {str(id_): 20}, "frequency_penalty": 2}
    text = client.completions.create(**options, **GREEDY).choices[0].text
    # Bias 20 against 2 a time: after about a dozen it has had enough.
    assert text.startswith("xxxx") and text.rstrip("x") != ""


def test_log_probabilities_are_the_models_own(client, model):
    expected = model.chat(QUESTION, 6, temperature=0, logprobs=3)
    list(expected)
    reply = client.chat.completions.create(
        messages=QUESTION, max_tokens=6, logprobs=True, top_logprobs=3, **GREEDY
    )
    content = reply.choices[0].logprobs.content
    assert len(content) == len(expected.logprobs)
    for given, own in zip(content, expected.logprobs, strict=True):
        assert given.logprob == pytest.approx(own.logprob, abs=2e-3)
        assert [top.logprob for top in given.top_logprobs] == pytest.approx([p for _, p in own.top], abs=2e-3)


def test_json_of_a_schema(client):
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    reply = client.chat.completions.create(
        model="tiny", messages=QUESTION, response_format=wanted, max_tokens=60, temperature=1, seed=1
    )
    text = reply.choices[0].message.content
    assert set(json.loads(text)) == {"ok", "n"}
    assert " " not in text
    assert reply.choices[0].finish_reason == "stop"


def test_any_json_object(client):
    reply = client.chat.completions.create(
        model="tiny", messages=QUESTION, response_format={"type": "json_object"}, max_tokens=300, seed=3
    )
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content), dict)
    else:
        assert reply.choices[0].message.content.startswith("{")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look_up"}}])
def test_a_tool_that_must_be_called_is_called(client, choice):
    options = {"messages": QUESTION, "tools": [TOOL], "tool_choice": choice, "max_tokens": 120}
    reply = client.chat.completions.create(**options, **GREEDY).choices[0]
    assert reply.finish_reason == "tool_calls"
    (call,) = reply.message.tool_calls
    assert call.function.name == "look_up"
    assert set(json.loads(call.function.arguments)) == {"ok", "n"}
    with client.chat.completions.stream(**options, **GREEDY) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.arguments == call.function.arguments
    assert final.finish_reason == "tool_calls"


def test_a_result_of_a_tool_goes_back_to_the_model(client):
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"n": 3}'}}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "three"},
    ]
    reply = client.chat.completions.create(messages=messages, tools=[TOOL], max_tokens=4, **GREEDY)
    plain = client.chat.completions.create(messages=QUESTION, tools=[TOOL], max_tokens=4, **GREEDY)
    assert reply.usage.prompt_tokens > plain.usage.prompt_tokens + len("three")


def test_what_was_read_before_is_told(client):
    messages = [{"role": "user", "content": "a long document, " * 20}]
    first = client.chat.completions.create(messages=messages, max_tokens=1, **GREEDY)
    again = client.chat.completions.create(messages=messages, max_tokens=1, **GREEDY)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached == (again.usage.prompt_tokens - 1) // 128 * 128 > 0


def test_progress_of_reading_is_streamed_where_asked_for(client):
    messages = [{"role": "user", "content": "another document, " * 40}]
    chunks = list(
        client.chat.completions.create(
            messages=messages, max_tokens=1, stream=True, extra_body={"return_progress": True}, **GREEDY
        )
    )
    told = [chunk.model_extra["prompt_progress"] for chunk in chunks if not chunk.choices]
    assert all(one["total"] > 500 and 0 < one["processed"] <= one["total"] for one in told)
    assert [one["processed"] for one in told] == sorted(one["processed"] for one in told)


def test_responses(client, model):
    text = "".join(model.chat(QUESTION, 12, temperature=0))
    reply = client.responses.create(input="the in the", max_output_tokens=12, **GREEDY)
    assert reply.output_text == text
    events = list(client.responses.create(input="the in the", max_output_tokens=12, stream=True, **GREEDY))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.output_text == text


def test_a_call_through_responses(client):
    tool = {"type": "function", "name": "look_up", "parameters": SCHEMA}
    options = {"input": QUESTION, "tools": [tool], "tool_choice": "required", "max_output_tokens": 120}
    reply = client.responses.create(**options, **GREEDY)
    assert reply.output[0].type == "function_call"
    assert set(json.loads(reply.output[0].arguments)) == {"ok", "n"}
    with client.responses.stream(**options, **GREEDY) as stream:
        final = stream.get_final_response()
    assert final.output[0].arguments == reply.output[0].arguments
    answered = client.responses.create(
        input=[
            *QUESTION,
            {"type": "function_call", "call_id": "c", "name": "look_up", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "three"},
        ],
        max_output_tokens=3,
        **GREEDY,
    )
    assert answered.status in ("completed", "incomplete")


def test_json_through_responses(client):
    form = {"type": "json_schema", "name": "n", "schema": SCHEMA}
    reply = client.responses.create(
        model="tiny", input="the", text={"format": form}, max_output_tokens=60, temperature=1
    )
    assert set(json.loads(reply.output_text)) == {"ok", "n"}


def test_models_are_listed(client):
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
