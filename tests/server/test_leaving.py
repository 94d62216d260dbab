"""Clients that leave, and clients that do not read: their places are freed, the others notice nothing."""

import time

import httpx
import pytest
from running_server import running, sent


@pytest.fixture(scope="module")
def server(tiny_gguf, tmp_path_factory):
    model = tiny_gguf(tokenizer=True, context_length=60000)
    log = tmp_path_factory.mktemp("leaving") / "log"
    with running(model, log, "--max-sequences", "2", "--cache-tokens", "65536") as server:
        yield server


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


def endless(prompt="the", **more):
    return {"prompt": prompt, "max_tokens": 50000, "ignore_eos": True, "temperature": 0} | more


def figure(http, name):
    line = next(line for line in http.get("/metrics").text.splitlines() if line.startswith(f"{name}{{"))
    return float(line.rpartition(" ")[2])


def wait_for(condition, seconds=60):  # no measure of speed: other work may hold the machine
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def idle(http):
    return figure(http, "vllm:num_requests_running") == figure(http, "vllm:num_requests_waiting") == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["the", "x" * 50000])
def test_a_client_that_leaves_frees_its_place(http, server, stream, prompt):
    connection = sent(server, endless(prompt, stream=stream))
    wait_for(lambda: figure(http, "vllm:num_requests_running") == 1)
    connection.close()
    wait_for(lambda: idle(http))
    assert figure(http, "vllm:kv_cache_usage_perc") == 0


def test_many_that_leave_while_reading_delay_nobody(http, server):
    expected = http.post("/v1/completions", json={"prompt": "in", "max_tokens": 4, "temperature": 0}).json()
    gone = [sent(server, endless(f"{n} " * 10000)) for n in range(20)]
    wait_for(lambda: figure(http, "vllm:num_requests_running") > 0)
    for connection in gone:
        connection.close()
    reply = http.post("/v1/completions", json={"prompt": "in", "max_tokens": 4, "temperature": 0}).json()
    assert reply["choices"] == expected["choices"]
    wait_for(lambda: idle(http))


def test_who_does_not_read_is_waited_for_while_others_go_on(http, server):
    slow = sent(server, endless(stream=True))
    wait_for(lambda: figure(http, "vllm:num_requests_running") == 1)
    before = -1.0
    while (now := figure(http, "vllm:generation_tokens_total")) != before:  # until it is paused
        before = now
        time.sleep(0.5)
    reply = http.post("/v1/completions", json={"prompt": "in", "max_tokens": 4, "temperature": 0})
    assert reply.json()["usage"]["completion_tokens"] == 4
    assert figure(http, "vllm:generation_tokens_total") == before + 4
    slow.close()
    wait_for(lambda: idle(http))
