"""What every request passes: the key, the size of its body, origins of web pages, ids and the log."""

import json
import re
import time

import httpx
import pytest
from running_server import running

CHAT = {"messages": [{"role": "user", "content": "a secret question"}], "max_tokens": 2}
KEY = "open sesame"


@pytest.fixture(scope="module")
def server(tiny_model, tmp_path_factory):
    log = tmp_path_factory.mktemp("gate") / "log"
    options = ["--max-body", "2000", "--cors-origin", "https://chat.example", "--cache-tokens", "2048"]
    with running(tiny_model, log, *options, env={"DCA_API_KEY": KEY}) as server:
        yield server


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}],
)
def test_who_has_the_key_may_pass(http, headers):
    assert http.post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer other"},
        {"Authorization": f"Basic {KEY}"},
        {"x-api-key": KEY + "x"},
        {"x-api-key": "ä".encode()},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/version", "/openapi.json", "/docs", "/nothing"])
def test_who_has_not_may_not(http, headers, path):
    reply = http.get(path, headers=headers)
    assert reply.status_code == 401
    assert reply.json()["error"]["type"] == "authentication_error"
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/health"])
def test_head_is_get_without_a_body(http, path):
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


def test_head_needs_the_key_where_get_does(http):
    assert http.head("/v1/models").status_code == 401


def test_health_needs_no_key(http):
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(http, chunked):
    body = json.dumps(CHAT | {"user": "x" * 3000}).encode()
    content = iter([body[:1000], body[1000:]]) if chunked else body
    headers = {"Content-Type": "application/json", "x-api-key": KEY}
    reply = http.post("/v1/chat/completions", content=content, headers=headers)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "body_too_large"


def test_web_pages_of_named_origins_alone_may_speak(http):
    def ask(origin):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        return http.options("/v1/chat/completions", headers=headers).headers.get(
            "access-control-allow-origin"
        )

    assert ask("https://chat.example") == "https://chat.example"
    assert ask("https://other.example") is None


def test_every_answer_has_an_id_which_the_client_may_choose(http):
    assert re.fullmatch(r"[0-9a-f]{32}", http.get("/health").headers["x-request-id"])
    assert http.get("/health", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert http.get("/health", headers={"X-Request-Id": "two words"}).headers["x-request-id"] != "two words"


def logged(server, request_id):
    """The log, and a request's line in it."""
    lines: list[dict] = []
    for _ in range(100):  # the line is written once the answer is, which the client may read first
        text = server.log.read_text()
        lines = [one for one in map(json.loads, text.splitlines()) if one.get("id") == request_id]
        if lines:
            break
        time.sleep(0.05)
    (line,) = lines
    return text, line


def test_the_log_has_figures_and_neither_prompts_nor_keys(http, server):
    headers = {"x-api-key": KEY, "X-Request-Id": "logged"}
    reply = http.post("/v1/chat/completions", json=CHAT, headers=headers).json()
    text, line = logged(server, "logged")
    assert line["status"] == 200 and line["path"] == "/v1/chat/completions"
    assert line["prompt_tokens"] == reply["usage"]["prompt_tokens"]
    assert line["completion_tokens"] == reply["usage"]["completion_tokens"]
    assert "secret" not in text and KEY not in text


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_has_prompts_where_it_was_told_to(tiny_model, tmp_path, stream):
    with running(tiny_model, tmp_path / "log", "--log-prompts", env={"DCA_API_KEY": KEY}) as server:
        headers = {"x-api-key": KEY, "X-Request-Id": "logged"}
        url = f"{server.url}/v1/chat/completions"
        assert httpx.post(url, json=CHAT | {"stream": stream}, headers=headers, timeout=60).status_code == 200
        text, line = logged(server, "logged")
    assert "a secret question" in line["prompt"] and KEY not in text
