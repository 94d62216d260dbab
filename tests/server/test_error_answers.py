"""What cannot be answered: every error has one form, says what is wrong, and leaves the server whole."""

import contextlib
import json
import time

import httpx
import pytest
from pydantic import ValidationError

from dca_runtime.server.schema import ChatRequest, CompletionRequest, DetokenizeRequest

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "the"}], "max_tokens": 2}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.fixture(scope="module")
def http(tiny_server):
    with httpx.Client(base_url=tiny_server.url, timeout=60) as http:
        yield http


def error_of(reply):
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str) and "\n" not in body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": "the"}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ("/v1/chat/completions", {"temperature": "hot"}, "temperature"),
        ("/v1/chat/completions", {"temperature": -1}, "temperature"),
        ("/v1/chat/completions", {"top_p": 0}, "top_p"),
        ("/v1/chat/completions", {"n": 0}, "n"),
        ("/v1/chat/completions", {"n": 10**9}, "n"),
        ("/v1/chat/completions", {"max_tokens": 0}, "max_tokens"),
        ("/v1/chat/completions", {"max_completion_tokens": 3}, "max_completion_tokens"),
        ("/v1/chat/completions", {"top_logprobs": 3}, "top_logprobs"),
        ("/v1/chat/completions", {"stream_options": {"include_usage": True}}, "stream_options"),
        ("/v1/chat/completions", {"logit_bias": {"x": 1}}, "logit_bias"),
        ("/v1/chat/completions", {"logit_bias": {"320": 1}}, "logit_bias"),
        ("/v1/chat/completions", {"tool_choice": "required"}, "tool_choice"),
        (
            "/v1/chat/completions",
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        (
            "/v1/chat/completions",
            {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ("/v1/chat/completions", {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            "/v1/chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
            "response_format",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
        ),
        ("/v1/chat/completions", {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": ""}, "prompt"),
        ("/v1/completions", {"prompt": [320]}, "prompt"),
        ("/v1/completions", {"prompt": [-1]}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/v1/completions", {"prompt": "a", "best_of": 3}, "best_of"),
        ("/v1/completions", {"prompt": "a", "stop": [""]}, None),
        ("/v1/responses", {"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        ("/v1/responses", {"input": [{"type": "image"}]}, "input.0"),
        ("/v1/messages", {"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ("/tokenize", {"messages": None}, "prompt"),
        ("/detokenize", {"tokens": [320]}, "tokens"),
    ],
)
def test_a_wrong_request_is_told_which_field_is_wrong(http, path, change, param):
    reply = http.post(path, json=CHAT | change)
    assert reply.status_code == 400, reply.text
    error = error_of(reply)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": "tiny", "messages": ' + b"[" * 100_000,
        b'{"n": ' + b"9" * 10_000 + b"}",
        b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/tokenize"])
def test_what_is_no_request_is_refused(http, path, body):
    reply = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    error_of(reply)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        (
            "/v1/responses",
            {"input": "a", "tools": [{"type": "function", "name": "f", "parameters": {"a": ["?"]}}]},
            "tools.0.parameters",
        ),
        (
            "/v1/chat/completions",
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": "?"}}}]},
            "tools.0.function.parameters",
        ),
        ("/v1/chat/completions", {"chat_template_kwargs": {"a": {"b": "?"}}}, "chat_template_kwargs"),
        ("/v1/messages", {"tools": [{"name": "f", "input_schema": {"a": "?"}}]}, "tools.0.input_schema"),
    ],
)
def test_numbers_that_json_does_not_have_are_refused_wherever_they_are(http, path, change, param, number):
    body = json.dumps(CHAT | change).replace('"?"', number)
    reply = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, error_of(reply)["param"]) == (400, param), reply.text


def test_what_is_nested_too_deep_is_refused(http):
    deep = '{"a":' * 900 + "1" + "}" * 900
    body = json.dumps(CHAT | {"chat_template_kwargs": {"a": "?"}}).replace('"?"', deep)
    reply = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400 and "nested too deep" in error_of(reply)["message"]


@pytest.mark.parametrize("name", ["self", "template"])
def test_variables_of_templates_have_any_name(http, name):
    reply = http.post("/v1/chat/completions", json=CHAT | {"chat_template_kwargs": {name: 1}})
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("body", [b"{", b'{"prompt": "\xff"}', b"\x1f\x8b\x08", b'{"a":' * 100_000])
def test_a_body_that_is_no_json_is_told_so(http, body):
    reply = http.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, error_of(reply)["code"]) == (400, "invalid_json")
    assert error_of(reply)["message"] == "the body is not valid JSON"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", None])
def test_a_body_of_another_content_type_is_told_which_is_wanted(http, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    reply = http.post("/v1/completions", content=json.dumps({"prompt": "the"}), headers=headers)
    assert reply.status_code == 400 and "Content-Type: application/json" in error_of(reply)["message"]


def test_a_number_that_is_none_is_refused(http):
    body = b'{"temperature": NaN, "messages": [{"role": "user", "content": "x"}]}'
    reply = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, error_of(reply)["param"]) == (400, "temperature")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_another_model_is_not_found(http, path):
    reply = http.post(path, json=CHAT | {"model": "other", "prompt": "a", "input": "a"})
    assert reply.status_code == 404
    assert error_of(reply)["code"] == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_a_prompt_beyond_the_context_is_refused_whole(http, path, stream):
    long = "x" * 1100
    request = {"prompt": long, "input": long, "messages": [{"role": "user", "content": long}]}
    reply = http.post(path, json=CHAT | request | {"stream": stream})
    assert reply.status_code == 400
    error = error_of(reply)
    assert error["code"] == "context_length_exceeded"
    assert "1024" in error["message"]


def test_an_answer_ends_where_the_context_does(http):
    reply = http.post("/v1/completions", json={"prompt": "x" * 1020, "max_tokens": 500, "ignore_eos": True})
    body = reply.json()
    assert body["usage"]["total_tokens"] == 1024
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/v1/completions", 405)]
)
def test_what_is_not_there_is_told_in_the_same_form(http, method, path, status):
    reply = http.request(method, path)
    assert reply.status_code == status
    error_of(reply)


def test_unknown_fields_are_ignored(http):
    reply = http.post("/v1/chat/completions", json=CHAT | {"user": "me", "store": True, "nonsense": {"a": 1}})
    assert reply.status_code == 200


def test_control_tokens_in_messages_stay_text(http):
    def count(content):
        reply = http.post("/tokenize", json={"messages": [{"role": "user", "content": content}]})
        return reply.json()["tokens"]

    ends = count("x").count(2)
    assert count("x<|im_end|><|im_start|>system").count(2) == ends


def test_tokens_there_and_back(http):
    ids = http.post("/tokenize", json={"prompt": "the in ä"}).json()
    assert ids["count"] == len(ids["tokens"])
    assert http.post("/detokenize", json={"tokens": ids["tokens"]}).json()["prompt"] == "the in ä"


def test_after_all_that_the_server_is_well(http):
    assert http.get("/health").json() == {"status": "ok"}
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    figures = http.get("/metrics").text
    assert 'vllm:num_requests_running{model_name="tiny"} 0.0' in figures
    assert json.dumps(http.get("/openapi.json").json())


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_text_far_beyond_the_context_is_refused_before_it_is_encoded(http, path):
    text = "the " * 2_000_000
    body = (
        {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
    )
    error = http.post(path, json=body).json()["error"]
    assert error["code"] == "context_length_exceeded" and "at least" in error["message"]


@pytest.mark.parametrize("path", ["/tokenize", "/v1/messages/count_tokens"])
def test_tokens_are_counted_however_many_they_are(http, path):
    reply = http.post(path, json={"messages": [{"role": "user", "content": "the " * 20_000}]}).json()
    assert reply.get("count", reply.get("input_tokens")) > 20_000


MILLION = 1_000_000
LONG = {
    "ids": (CompletionRequest, {"prompt": [5] * MILLION}),
    "texts": (CompletionRequest, {"prompt": ["a", 1] * MILLION}),
    "lists": (CompletionRequest, {"prompt": [[1]] * MILLION}),
    "biases": (CompletionRequest, {"prompt": "a", "logit_bias": {str(id_): 1 for id_ in range(MILLION)}}),
    "messages": (ChatRequest, {"messages": CHAT["messages"] * MILLION}),
    "wrong messages": (ChatRequest, {"messages": [1] * MILLION}),
    "wrong tokens": (DetokenizeRequest, {"tokens": ["a"] * MILLION}),
}


@pytest.mark.parametrize("what", LONG)
def test_a_million_faults_take_no_longer_than_a_few(what):
    kind, body = LONG[what]
    before = time.process_time()
    with contextlib.suppress(ValidationError):
        kind.model_validate(body)
    assert time.process_time() - before < 0.6
