"""Behind nginx, configured as docs/server.md says: pieces come as they are made, and who leaves has left."""

import grp
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from running_server import running

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or shutil.which(
    "nginx"
)
PAGE = Path(__file__).parents[2] / "docs" / "server.md"
CONFIGURATION = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; user {user} {group};
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; {location} }}
}}
"""
ENDLESS = {"prompt": "the", "max_tokens": 50000, "ignore_eos": True, "temperature": 0, "stream": True}

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")


@pytest.fixture(scope="module")
def server(tiny_gguf, tmp_path_factory):
    model = tiny_gguf(tokenizer=True, context_length=60000)
    with running(model, tmp_path_factory.mktemp("behind") / "log", "--max-sequences", "2") as server:
        yield server


@pytest.fixture(scope="module")
def proxied(server, tmp_path_factory):
    """The address of nginx in front of it."""
    folder = tmp_path_factory.mktemp("nginx")
    (block,) = re.findall(r"^```nginx\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    location = block.replace("http://127.0.0.1:8080", server.url)
    assert location != block
    file = folder / "nginx.conf"
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name  # whose folder it is
    text = CONFIGURATION.format(folder=folder, port=port, location=location, user=user, group=group)
    file.write_text(text, encoding="utf-8")
    process = subprocess.Popen(
        [str(NGINX), "-p", str(folder), "-c", str(file), "-e", str(folder / "error.log")]
    )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as http:
            assert http.get(f"{url}/health").status_code == 200
        yield url
    finally:
        process.terminate()
        process.wait(30)


def running_requests(url: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    return float(re.search(r"^vllm:num_requests_running\{.*\} (\S+)$", text, re.MULTILINE)[1])


def test_pieces_come_while_the_answer_is_written_and_who_leaves_frees_his_place(server, proxied):
    with httpx.stream("POST", f"{proxied}/v1/completions", json=ENDLESS, timeout=60) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith("data: {")
        assert running_requests(server.url) == 1  # it is far from its end
    end = time.monotonic() + 60
    while running_requests(server.url):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_answers_are_those_without_it(server, proxied):
    body = {"messages": [{"role": "user", "content": "the " * 1000}], "max_tokens": 8, "temperature": 0}
    direct, behind = (
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
        for url in (server.url, proxied)
    )
    assert direct["choices"] == behind["choices"]


def test_a_document_of_many_megabytes_passes(proxied):
    reply = httpx.post(f"{proxied}/v1/completions", json={"prompt": "the " * 2_000_000}, timeout=60)
    assert reply.json()["error"]["code"] == "context_length_exceeded"
