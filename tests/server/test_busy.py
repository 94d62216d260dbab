"""A server that has no room now, or is not ready yet, says so and when to come again."""

import re
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from running_server import running, sent

ENDLESS = {"prompt": "the", "max_tokens": 50000, "ignore_eos": True}
SHORT = {"prompt": "the", "max_tokens": 2}

SLOW_LOADING = """
import pathlib, sys, time
from dca_runtime import Model
from dca_runtime.server.serve import Served, serve
from dca_runtime.server.settings import Settings

def load():
    while not pathlib.Path(sys.argv[2]).exists():
        time.sleep(0.01)
    model = Model(sys.argv[1], threads=1)
    return Served(model, model.engine(tokens=1024))

serve(load, Settings("tiny"), "127.0.0.1", int(sys.argv[3]), lambda address: print(address, flush=True))
"""


def wait_until_one_is(state, http, url):
    end = time.monotonic() + 20
    one = re.compile(rf"^vllm:num_requests_{state}\{{.*\}} 1\.0$", re.MULTILINE)
    while not one.search(http.get(f"{url}/metrics").text):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_who_finds_the_queue_full_is_told_when_to_come_again(tiny_gguf, tmp_path):
    # Steps of some milliseconds: the loop of a busy machine falls behind shorter ones, and gives way.
    model = tiny_gguf(tokenizer=True, context_length=60000, layers=8, width=256, ff=1024)
    options = ["--max-sequences", "1", "--max-queue", "1"]
    with running(model, tmp_path / "log", *options) as server, httpx.Client(timeout=60) as http:
        url = f"{server.url}/v1/completions"
        first = sent(server, ENDLESS)
        wait_until_one_is("running", http, server.url)
        replies: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: replies.append(httpx.post(url, json=SHORT, timeout=60)))
        waiting.start()
        wait_until_one_is("waiting", http, server.url)
        refused = http.post(url, json=SHORT)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        first.close()
        waiting.join(30)
        assert replies[0].status_code == 200  # its turn came when the first client left


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_health_says_503_until_the_model_is_there(tiny_model, tmp_path, free_port):
    go = tmp_path / "go"
    command = [sys.executable, "-c", SLOW_LOADING, str(tiny_model), str(go), str(free_port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{free_port}"
    try:
        with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=8)) as http:
            early = [http.get("/health"), http.get("/v1/models"), http.post("/v1/completions", json=SHORT)]
            assert [reply.status_code for reply in early] == [503] * 3
            assert early[0].json()["error"]["code"] == "loading"
            assert http.get("/").status_code == 200
            go.touch()
            assert process.stdout is not None
            assert process.stdout.readline() == f"{url}\n"
            assert http.get("/health").status_code == 200
            assert http.post("/v1/completions", json=SHORT).status_code == 200
    finally:
        process.terminate()
    assert process.wait(30) == 0
