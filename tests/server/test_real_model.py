"""A real model from end to end: SmolLM2 over HTTP says what it says in the library."""

import json

import openai
import pytest
from running_server import running

from dca_runtime import Model

GREEDY = {"model": "smollm2", "temperature": 0}
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 20}, "in_europe": {"type": "boolean"}},
    "required": ["capital", "in_europe"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(smollm2_gguf, tmp_path_factory):
    log = tmp_path_factory.mktemp("smollm2") / "log"
    with running(smollm2_gguf, log, "--alias", "smollm2", "--cache-tokens", "16384") as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300)


def test_a_chat(client, smollm2_gguf):
    with Model(smollm2_gguf) as model:
        expected = "".join(model.chat(QUESTION, 24, temperature=0))
    reply = client.chat.completions.create(messages=QUESTION, max_tokens=24, **GREEDY)
    assert reply.choices[0].message.content == expected
    assert "Paris" in expected


def test_a_question_about_a_text_that_is_read_in_pieces_and_shared(client):
    text = "The grass is green. The sky is blue. " * 60
    messages = [{"role": "user", "content": f"{text}The door code is 4172. {text}What is the door code?"}]
    first = client.chat.completions.create(messages=messages, max_tokens=16, **GREEDY)
    again = client.chat.completions.create(messages=messages, max_tokens=16, **GREEDY)
    assert "4172" in first.choices[0].message.content
    assert again.choices[0].message.content == first.choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens > 1000


def test_an_answer_in_a_form(client):
    wanted = {"type": "json_schema", "json_schema": {"name": "facts", "schema": SCHEMA}}
    reply = client.chat.completions.create(messages=QUESTION, response_format=wanted, max_tokens=60, **GREEDY)
    assert json.loads(reply.choices[0].message.content)["capital"] == "Paris"
