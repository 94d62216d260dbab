"""Bodies that no client would send: an error of the API's form or an answer, and the server goes on."""

import json

import httpx
import pytest
from hostile.damage import SETTINGS, as_json, damaged_bytes, damaged_json
from hypothesis import given
from hypothesis import strategies as st

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
MESSAGE = {"role": "user", "content": [{"type": "text", "text": "the"}]}
BODIES = {
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [{"role": "system", "content": "x"}, MESSAGE],
        "max_tokens": 2,
        "tools": [TOOL],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}},
        },
        "logit_bias": {"3": 1.0},
        "stop": ["x"],
        "temperature": 0.5,
        "seed": 3,
    },
    "/v1/completions": {
        "model": "tiny",
        "prompt": ["the", [1, 2]],
        "max_tokens": 2,
        "logprobs": 1,
        "echo": True,
    },
    "/v1/responses": {"model": "tiny", "input": [MESSAGE], "max_output_tokens": 16},
    "/v1/messages": {"model": "tiny", "messages": [{"role": "user", "content": "the"}], "max_tokens": 2},
    "/tokenize": {"content": "the"},
    "/detokenize": {"tokens": [1, 2, 3]},
}


@pytest.mark.parametrize("path", BODIES)
def test_no_body_brings_the_server_down(tiny_server, path):
    whole = BODIES[path]
    bodies = st.one_of(damaged_json(whole).map(as_json), damaged_bytes(json.dumps(whole).encode()))

    with httpx.Client(base_url=tiny_server.url, timeout=60) as http:

        @SETTINGS
        @given(bodies)
        def check(body):
            reply = http.post(path, content=body, headers={"content-type": "application/json"})
            assert reply.status_code < 500, (reply.status_code, reply.text, body[:2000])
            if reply.status_code != 200:
                error = reply.json()["error"]
                assert "\n" not in error["message"] and "Traceback" not in reply.text

        check()
        assert http.get("/health").status_code == 200
