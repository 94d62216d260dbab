"""A request that is over holds nothing: all of it is freed with its answer, without a search for circles."""

import json
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest

# Prints at SIGUSR1 what of requests is there. The collector is off, so what holds itself in a circle stays.
COUNTING = """
import collections, gc, signal, sys
from dca_runtime import Model
from dca_runtime.server.serve import Served, serve
from dca_runtime.server.settings import Settings

OURS = ("dca_runtime", "fastapi", "starlette", "uvicorn")
KINDS = ("Answer", "ApiError", "Exchange", "HTTPException", "Job", "Request", "RequestResponseCycle",
         "RequestValidationError", "Token")

def tell(*_):
    kinds = [type(one) for one in gc.get_objects()]
    there = collections.Counter(kind.__name__ for kind in kinds if kind.__module__.startswith(OURS))
    print(*[f"{kind}:{there[kind]}" for kind in KINDS if there[kind]], flush=True)

def load():
    model = Model(sys.argv[1], threads=1)
    return Served(model, model.engine(tokens=8192))

def ready(address):
    gc.disable()
    print(address, flush=True)

signal.signal(signal.SIGUSR1, tell)
serve(load, Settings("tiny", max_body=100_000, slow_reader_seconds=1.0), "127.0.0.1", 0, ready)
"""
CHAT = {"messages": [{"role": "user", "content": "the"}], "max_tokens": 4}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TEXT = {"prompt": "the", "max_tokens": 4}
LONG = {"prompt": "the", "max_tokens": 900, "ignore_eos": True}


class Counting:
    """A server that says what it holds."""

    def __init__(self, process, url):
        self.process, self.url = process, url

    def connect(self, path, body):
        """A connection on which a request was sent."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        place = urlsplit(self.url)
        connection = socket.create_connection((place.hostname, place.port), 60)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return connection

    def status(self, path, body):
        """The status of an answer that was read to its end."""
        with self.connect(path, body) as connection, connection.makefile("rb") as answer:
            return int(answer.read().split()[1])

    def there(self):
        """What of requests is there now."""
        self.process.send_signal(signal.SIGUSR1)
        line = self.process.stdout.readline()
        assert line, "the server died"
        return line.strip()

    def held(self):
        """What of requests is there, once nothing is, or after some seconds."""
        end = time.monotonic() + 20
        while (held := self.there()) and time.monotonic() < end:
            time.sleep(0.1)
        return held


@pytest.fixture(scope="module")
def server(tiny_model, tmp_path_factory):
    """One that says what it holds."""
    log = tmp_path_factory.mktemp("freed") / "log"
    with log.open("w") as errors:
        command = [sys.executable, "-c", COUNTING, str(tiny_model)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), log.read_text()
        yield Counting(process, url)
        process.terminate()
        process.wait(30)


ANSWERED = {
    "text": ("/v1/completions", TEXT),
    "stream": ("/v1/completions", TEXT | {"stream": True}),
    "several": ("/v1/completions", TEXT | {"n": 3, "logprobs": 3, "temperature": 1.0}),
    "stop": ("/v1/completions", LONG | {"stop": ["a", "e", "i", "o", " "]}),
    "chat": ("/v1/chat/completions", CHAT),
    "form": ("/v1/chat/completions", CHAT | {"response_format": {"type": "json_object"}}),
    "tool": ("/v1/chat/completions", CHAT | {"tools": [TOOL], "tool_choice": "required"}),
    "response": ("/v1/responses", {"input": "the", "max_output_tokens": 4, "stream": True}),
    "message": ("/v1/messages", CHAT | {"stream": True}),
}
REFUSED = {
    "another model": ("/v1/completions", TEXT | {"model": "another"}, 404),
    "no such field's value": ("/v1/completions", TEXT | {"n": -1}, 400),
    "a prompt too long": ("/v1/completions", TEXT | {"prompt": "7 " * 4000}, 400),
    "broken JSON": ("/v1/completions", b'{"prompt": "the", ', 400),
    "JSON too deep": ("/v1/completions", b"[" * 50_000, 400),
    "no UTF-8": ("/v1/completions", b'{"prompt": "\xff\xfe"}', 400),
    "a body too large": ("/v1/completions", {"prompt": "7 " * 60_000}, 413),
    "no such path": ("/v1/nothing", TEXT, 404),
    "no such schema": (
        "/v1/chat/completions",
        CHAT
        | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "x"}}}},
        400,
    ),
}


@pytest.mark.parametrize("kind", ANSWERED)
def test_what_was_answered_holds_nothing(server, kind):
    assert server.status(*ANSWERED[kind]) == 200
    assert server.held() == ""


@pytest.mark.parametrize("kind", REFUSED)
def test_what_was_refused_holds_nothing(server, kind):
    path, body, status = REFUSED[kind]
    assert server.status(path, body) == status
    assert server.held() == ""


def test_who_left_holds_nothing(server):
    with server.connect("/v1/completions", LONG | {"stream": True}) as connection:
        assert connection.recv(100)
    assert server.held() == ""


def test_who_never_reads_holds_nothing_once_it_was_let_go(server):
    connection = server.connect("/v1/completions", LONG | {"stream": True, "logprobs": 5})
    with connection:
        seen, end = "", time.monotonic() + 20
        while not ("Job" in seen and "Exchange" in seen and "Answer" in seen) and time.monotonic() < end:
            seen = server.there()
        assert "Job:1" in seen and "Exchange:1" in seen and "Answer:1" in seen  # so what is held is seen
        assert server.held() == ""
