"""Connections on which nothing moves: they end, and meanwhile hold little."""

import json
import re
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import httpx
import pytest
from running_server import Server, sent

IMPATIENT = """
import sys
from dca_runtime import Model
from dca_runtime.server.serve import Served, serve
from dca_runtime.server.settings import Settings

def load():
    model = Model(sys.argv[1], threads=1)
    return Served(model, model.engine(tokens=65536))

settings = Settings("tiny", slow_reader_seconds=1.0)
serve(load, settings, "127.0.0.1", 0, lambda address: print(address, flush=True))
"""
LONG = {"prompt": "the", "max_tokens": 50000, "ignore_eos": True, "stream": True, "logprobs": 5}


@pytest.fixture(scope="module")
def server(tiny_gguf, tmp_path_factory):
    """One that waits a second for those who do not read."""
    model = tiny_gguf(tokenizer=True, context_length=60000)
    log = tmp_path_factory.mktemp("connections") / "log"
    command = [sys.executable, "-c", IMPATIENT, str(model)]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), log.read_text()
        yield Server(url, process, log)
        process.terminate()
        process.wait(30)


def asked(server, data):
    """A connection on which something was sent, and whose client takes as little as it can."""
    place = urlsplit(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((place.hostname, place.port))
    connection.sendall(data)
    return connection


def figure(server, name):
    text = httpx.get(f"{server.url}/metrics", timeout=60).text
    found = re.search(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def is_over(connection):
    """Whether the server let go of a connection, though what it sent was never taken."""
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    established = 1
    return state != established


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_who_never_reads_is_written_for_a_little_and_let_go(server):
    before = figure(server, "vllm:generation_tokens_total")
    connection = sent(server, LONG)
    wait_until(lambda: is_over(connection))
    assert 0 < figure(server, "vllm:generation_tokens_total") - before < 500  # of 50,000
    assert figure(server, "vllm:num_requests_running") == 0
    connection.close()


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_a_whole_answer_that_nobody_takes_is_let_go(server, more):
    connection = asked(server, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
    wait_until(lambda: is_over(connection))
    connection.close()


def test_a_slow_client_that_reads_gets_all_of_it(server):
    whole = httpx.get(f"{server.url}/openapi.json").content
    connection = asked(server, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    got = b""
    while piece := connection.recv(2048):
        got += piece
        time.sleep(0.05)
    assert got.endswith(whole)


@pytest.mark.parametrize(
    "data", [b"POST / HTTP/1.1\r\nHost x\r\n\x00\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/9\r\n\r\n"]
)
def test_what_is_no_http_is_told_so_in_the_form_of_all_errors(server, data):
    reply = b""
    with asked(server, data) as connection:
        while piece := connection.recv(4096):
            reply += piece
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("head", [b"X: " + b"x" * 100_000, b"X: y\r\n" * 20_000])
def test_a_head_that_does_not_end_is_refused(server, head):
    with asked(server, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + head) as connection:
        reply = connection.recv(4096)
    assert reply.startswith(b"HTTP/1.1 431 ")
    assert b'"head_too_large"' in reply


def test_trailers_that_do_not_end_are_not_kept(server):
    start = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    with asked(server, start) as connection, pytest.raises(ConnectionError):
        for _ in range(1000):
            connection.sendall(b"X: " + b"x" * 10_000 + b"\r\n")
            time.sleep(0.001)


def test_bodies_and_many_requests_are_no_heads(server):
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for _ in range(3):
            reply = http.post("/tokenize", json={"prompt": "the " * 30_000})
            assert reply.status_code == 200
        for _ in range(300):
            assert http.get("/health", headers={"X": "x" * 1000}).status_code == 200
        body = iter([b'{"prompt": "', *[b"the " * 100] * 400, b'"}'])
        reply = http.post("/tokenize", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 200


def test_steps_are_counted_with_the_time_between_them(server):
    before = figure(server, "dca:steps_total")
    httpx.post(f"{server.url}/v1/completions", json={"prompt": "the", "max_tokens": 9, "ignore_eos": True})
    assert figure(server, "dca:steps_total") - before == 9
    assert 0 < figure(server, "dca:between_steps_seconds_total") < figure(server, "dca:step_seconds_total")
