"""What a server read is found by the next one, and a store that fails fails nobody's request."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from running_server import running

from dca_export.cli.serve import main

DOCUMENT = "It was a dark night, and nobody knew what the morning would bring. " * 12


@pytest.fixture(scope="module")
def model(tiny_gguf):
    return tiny_gguf(tokenizer=True, context_length=4096)


@pytest.fixture
def serving(model, tmp_path):
    """``with serving(options) as server``: over a store of the test's own."""

    @contextlib.contextmanager
    def serving(*options):
        place = () if "--no-cache" in options else ("--cache-dir", str(tmp_path / "store"))
        with running(model, tmp_path / "log", "--cache-tokens", "8192", *place, *options) as server:
            yield server

    return serving


def ask(server, prompt=DOCUMENT, **more):
    body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True} | more
    reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    return reply["choices"][0]["text"], reply["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.fixture
def expected(serving):
    """The answer without a store."""
    with serving("--no-cache") as server:
        text, cached = ask(server)
    assert cached == 0
    return text


@pytest.fixture
def read_before(serving):
    """A server read the document and stopped."""
    with serving() as server:
        assert ask(server)[1] == 0
        assert server.stop() == 0


def figure(server, name):
    text = httpx.get(f"{server.url}/metrics").text
    line = next(line for line in text.splitlines() if line.startswith(f"{name}{{"))
    return float(line.rpartition(" ")[2])


def page_files(tmp_path):
    return sorted((tmp_path / "store").glob("*/*.pages"))


def test_the_next_server_finds_what_was_read(serving, read_before, expected):
    with serving() as server:
        text, cached = ask(server)
        assert (text, cached % 128) == (expected, 0)
        assert cached > 0
        assert figure(server, "vllm:external_prefix_cache_hits_total") == cached
        assert figure(server, "vllm:prefix_cache_hits_total") == 0
        assert ask(server) == (expected, cached)  # from the pool now
        assert figure(server, "vllm:external_prefix_cache_hits_total") == cached


def test_progress_counts_what_came_from_the_store(serving, read_before):
    body = {"messages": [{"role": "user", "content": DOCUMENT}], "max_tokens": 1}
    body |= {"stream": True, "return_progress": True}
    with serving() as server:
        httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)  # another prompt
        server.stop()
    with serving() as server:
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    first = next(chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk)
    assert first["cached"] == first["processed"] > 0


def test_cache_prompt_false_leaves_the_store_alone(serving, tmp_path):
    with serving() as server:
        ask(server, cache_prompt=False)
        server.stop()
    assert page_files(tmp_path) == []


def test_cache_prompt_false_uses_nothing_of_the_store(serving, read_before, expected):
    with serving() as server:
        assert ask(server, cache_prompt=False) == (expected, 0)


def test_without_a_store_none_is_made(serving, tmp_path, expected):
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("where", [5000, -5000, 20])
def test_a_damaged_store_costs_a_line_in_the_log(serving, read_before, expected, tmp_path, where):
    for path in page_files(tmp_path):
        data = bytearray(path.read_bytes())
        data[where] ^= 0xFF
        path.write_bytes(data)
    with serving() as server:
        assert ask(server)[0] == expected
        assert ask(server)[0] == expected
        server.stop()
    assert "skipped" in (tmp_path / "log").read_text()


def test_many_clients_share_what_is_stored(serving, read_before):
    prompts = [DOCUMENT + f"Question {n}?" for n in range(6)]
    prompts += [DOCUMENT[:-300] + f"Another end {n}." for n in range(6)]
    with serving("--no-cache") as server:
        expected = [ask(server, prompt, cache_prompt=False)[0] for prompt in prompts]
    with serving() as server, ThreadPoolExecutor(12) as threads:
        replies = list(threads.map(lambda prompt: ask(server, prompt), prompts))
    assert [text for text, _ in replies] == expected
    assert all(cached > 0 for _, cached in replies)


def test_a_store_that_cannot_be_where_it_was_asked_for(capsys, model, tmp_path):
    (tmp_path / "file").write_text("")
    assert main([str(model), "--port", "0", "--device", "cpu", "--cache-dir", str(tmp_path / "file")]) == 2
    assert "no prompt store can be here" in capsys.readouterr().err


def test_no_store_where_nobody_asked_for_one(model, tmp_path):
    (tmp_path / "file").write_text("")
    with running(model, tmp_path / "log", env={"DCA_CACHE_DIR": str(tmp_path / "file")}) as server:
        assert ask(server)[1] == 0
    assert "going on without one" in (tmp_path / "log").read_text()
