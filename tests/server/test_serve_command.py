"""dca-serve: what it prints, refuses, and how it ends."""

import json
import signal
import socket
import time

import httpx
import pytest
from running_server import running

from dca_export.cli.serve import main


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


def test_a_missing_file(capsys, tmp_path):
    assert "no such file" in refused(capsys, tmp_path / "none.gguf")


def test_a_directory(capsys, tmp_path):
    assert "a directory, expected a GGUF file" in refused(capsys, tmp_path)


def test_a_key_that_is_no_text(capsys, tiny_model, tmp_path):
    (tmp_path / "key").write_bytes(b"caf\xe9")
    assert "key: not UTF-8 text (byte 3)" in refused(capsys, tiny_model, "--api-key-file", tmp_path / "key")


def test_a_damaged_file(capsys, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    assert "bad.gguf" in refused(capsys, tmp_path / "bad.gguf", "--port", "0", "--device", "cpu")


def test_a_port_that_is_taken(capsys, tiny_model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}" in refused(capsys, tiny_model, "--port", port)


def test_a_context_that_does_not_fit(capsys, tiny_model):
    options = ["--context", "4096", "--cache-tokens", "1024", "--port", "0", "--device", "cpu"]
    assert "--context 4096 does not fit in --cache-tokens 1024" in refused(capsys, tiny_model, *options)


def test_an_empty_key(capsys, tiny_model, tmp_path):
    (tmp_path / "key").write_text("\n")
    assert "empty" in refused(capsys, tiny_model, "--api-key-file", tmp_path / "key")


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_no_port(capsys, tiny_model, port):
    assert "port" in refused(capsys, tiny_model, f"--port={port}")


def test_a_key_from_a_file(tiny_model, tmp_path):
    (tmp_path / "key").write_text("k1\n")
    with running(tiny_model, tmp_path / "log", "--api-key-file", str(tmp_path / "key")) as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        headers = {"Authorization": "Bearer k1"}
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200


def test_ranks_answer_what_one_does(tiny_model, tiny_server, tmp_path):
    body = {"model": "tiny", "prompt": "the in the", "max_tokens": 8, "temperature": 0}
    with running(tiny_model, tmp_path / "log", "--alias", "tiny", "--device", "cpu/2") as server:
        found = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    expected = httpx.post(f"{tiny_server.url}/v1/completions", json=body, timeout=60)
    assert found.status_code == expected.status_code == 200
    assert found.json()["choices"] == expected.json()["choices"]


def test_a_model_is_called_by_its_files_name_and_reaches_as_far_as_its_scheme(tiny_gguf, tmp_path):
    path = tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16)
    with running(path, tmp_path / "log", "--cache-tokens", "1024") as server:
        (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert model["id"] == path.stem
    assert model["max_model_len"] == 1024
    assert model["meta"]["scheme"]["chunk_size"] == 12


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_finish(tiny_model, tmp_path, sent):
    request = {"prompt": "the", "max_tokens": 900, "ignore_eos": True, "stream": True}
    with (
        running(tiny_model, tmp_path / "log") as server,
        httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=60) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        server.process.send_signal(sent)
        assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_answers_that_take_too_long_to_finish_end_with_a_word(tiny_gguf, tmp_path):
    model = tiny_gguf(tokenizer=True, context_length=60000)
    request = {"prompt": "the", "max_tokens": 50000, "ignore_eos": True, "stream": True}
    with (
        running(model, tmp_path / "log") as server,
        httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=60) as reply,
    ):
        lines = reply.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        last = [line for line in lines if line][-1]
        assert server.process.wait(30) == 0
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_second_signal_ends_at_once(tiny_gguf, tmp_path):
    model = tiny_gguf(tokenizer=True, context_length=60000)
    request = {"prompt": "the", "max_tokens": 50000, "ignore_eos": True, "stream": True}
    with (
        running(model, tmp_path / "log") as server,
        httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=60) as reply,
    ):
        lines = reply.iter_lines()  # which ends the stream when it is dropped
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) != 0
        assert time.monotonic() - start < 5
