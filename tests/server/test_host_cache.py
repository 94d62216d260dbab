"""dca-serve --host-cache: conversations that the pool has no room for sleep in host memory and are woken."""

import logging
from types import SimpleNamespace

import httpx
import pytest
from running_server import running

from dca_export.cli.serve import _host_bytes, main
from dca_runtime import library

PROMPTS = [
    f"{n} " + "It was a dark night, and nobody knew what the morning would bring. " * 12 for n in range(5)
]


@pytest.fixture(scope="module")
def model(tiny_gguf):
    return tiny_gguf(tokenizer=True, context_length=4096)


def ask(server, prompt):
    body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    return reply["choices"][0]["text"], reply["usage"]["prompt_tokens_details"]["cached_tokens"]


def figure(server, name):
    text = httpx.get(f"{server.url}/metrics").text
    line = next(line for line in text.splitlines() if line.startswith(f"{name}{{"))
    return float(line.rpartition(" ")[2])


def test_conversations_are_woken(model, tmp_path):
    options = ["--no-cache", "--cache-tokens", "1536", "--host-cache", "64M"]
    with running(model, tmp_path / "log", *options) as server:
        first = [ask(server, prompt) for prompt in PROMPTS]
        again = [ask(server, prompt) for prompt in PROMPTS]
        assert [text for text, _ in again] == [text for text, _ in first]
        assert all(cached >= 512 for _, cached in again)
        assert figure(server, "dca:host_cache_hits_total") >= 4 * 512
        assert figure(server, "dca:host_cache_slept_tokens_total") >= 4 * 512
        health = httpx.get(f"{server.url}/health").json()
        assert health["status"] == "ok"
        assert 0 < health["host_cache"]["bytes"] <= health["host_cache"]["limit"] <= 64_000_000
        assert figure(server, "dca:host_cache_bytes") == health["host_cache"]["bytes"]
    assert "a larger --cache-tokens holds as much" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("options", [[], ["--host-cache", "0"]])
def test_on_the_cpu_none_sleep_unless_it_is_asked_for(model, tmp_path, options):
    with running(model, tmp_path / "log", "--no-cache", "--cache-tokens", "1536", *options) as server:
        for prompt in PROMPTS[:3]:
            ask(server, prompt)
        assert ask(server, PROMPTS[0])[1] < 512  # what was left in the pool
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        assert figure(server, "dca:host_cache_limit_bytes") == 0
    assert "host-cache" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("size", ["-1", "much", "nan"])
def test_a_size_that_is_none(capsys, model, size):
    assert main([str(model), f"--host-cache={size}"]) == 2
    assert "expected a size like 500M or 20G" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "wanted", "available", "expected"),
    [
        ("cuda:0 (NVIDIA H100 80GB HBM3)", None, 200 * 10**9, 50 * 10**9),
        ("cuda:0 (NVIDIA H100 80GB HBM3)", 0, 200 * 10**9, 0),
        ("cuda:0 (NVIDIA H100 80GB HBM3)", 7 * 10**9, 200 * 10**9, 7 * 10**9),
        ("cuda:0 (NVIDIA H100 80GB HBM3)", None, None, 0),
        ("cpu (AVX-512, 2 threads)", None, 200 * 10**9, 0),
    ],
)
def test_what_may_sleep_where_nothing_is_said(monkeypatch, device, wanted, available, expected):
    monkeypatch.setattr(library, "available_memory", lambda: available)
    model = SimpleNamespace(info=SimpleNamespace(device=device))
    assert _host_bytes(wanted, model, logging.getLogger("dca_serve")) == expected
