"""A model whose template never ends: its chats are told so, and nobody else waits for them."""

import threading
import time

import httpx
import pytest
from running_server import running
from tiny import Tiny, write_tiny_gguf

LOOPS = "".join(f"{{% for {name} in range(9999) %}}" for name in "ijk") + "{% endfor %}" * 3
CHAT = {"messages": [{"role": "user", "content": "the"}], "max_tokens": 2}


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr("tiny.CHAT_TEMPLATE", LOOPS)
    write_tiny_gguf(tmp_path / "loops.gguf", Tiny(tokenizer=True, context_length=1024))
    with running(tmp_path / "loops.gguf", tmp_path / "log") as server:
        yield server


def test_a_template_that_loops_ends_its_own_chats_alone(server):
    with httpx.Client(base_url=server.url, timeout=120) as http:
        body = {"prompt": "the", "max_tokens": 4, "temperature": 0}
        alone = http.post("/v1/completions", json=body).json()["choices"]
        told: list[httpx.Response] = []

        def chat() -> None:
            told.append(httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, timeout=120))

        chats = [threading.Thread(target=chat) for _ in range(3)]
        for thread in chats:
            thread.start()
        time.sleep(0.3)
        assert len(told) < len(chats)  # some are under way
        assert http.get("/health").status_code == 200
        assert http.post("/v1/completions", json=body).json()["choices"] == alone
        for thread in chats:
            thread.join(120)
        assert [reply.status_code < 500 and "error" in reply.json() for reply in told] == [True] * 3
        assert http.post("/v1/completions", json=body).json()["choices"] == alone
