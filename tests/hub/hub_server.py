"""A server that speaks as much of the Hugging Face Hub's API as fetching a model needs."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


@dataclass
class Repository:
    """Files by name at each revision; a commit is a revision too."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False
    listed: tuple[str, ...] = ()  # names that are listed and are not there

    def commit(self, revision: str) -> str | None:
        for name, files in self.revisions.items():
            commit = hashlib.sha1(repr(sorted((k, len(v)) for k, v in files.items())).encode()).hexdigest()
            if revision in (name, commit):
                return commit
        return None

    def files(self, revision: str) -> dict[str, bytes]:
        return next(f for n, f in self.revisions.items() if self.commit(n) == self.commit(revision))


@dataclass
class Hub:
    """What the server has, and what it was asked for."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    address: str = ""
    asked: list[str] = field(default_factory=list)  # "GET /path", with "bytes=…" where it was a part
    cut: int | None = None  # a file's first answer breaks off after so many bytes


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlparse(self.path).path)
            part = self.headers.get("Range", "")
            hub.asked.append(f"{self.command} {path} {part}".strip())
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                return self.info(found[1], found[2] or "main")
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.file(found[1], found[2], found[3], part, body)
            self.fail(404, "EntryNotFound")

        def info(self, name: str, revision: str) -> None:
            repository = hub.repositories.get(name)
            if repository is None:
                return self.fail(401, "RepoNotFound")
            commit = repository.commit(revision)
            if commit is None:
                return self.fail(404, "RevisionNotFound")
            names = [*repository.files(revision), *repository.listed]
            self.reply(
                200,
                json.dumps(
                    {"id": name, "sha": commit, "siblings": [{"rfilename": each} for each in names]}
                ).encode(),
                {"Content-Type": "application/json"},
            )

        def file(self, name: str, revision: str, file: str, part: str, body: bool) -> None:
            repository = hub.repositories.get(name)
            if repository is None:
                return self.fail(401, "RepoNotFound")
            if repository.gated:
                return self.fail(403, "GatedRepo")
            commit = repository.commit(revision)
            if commit is None:
                return self.fail(404, "RevisionNotFound")
            data = repository.files(revision).get(file)
            if data is None:
                return self.fail(404, "EntryNotFound")
            headers = {
                "X-Repo-Commit": commit,
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "Accept-Ranges": "bytes",
            }
            status, total = 200, len(data)
            if part:
                first = int(re.match(r"bytes=(\d+)-", part)[1])
                status, data = 206, data[first:]
                headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
            self.reply(status, data, headers, body, cut=hub.cut if body and not part else None)

        def fail(self, status: int, code: str) -> None:
            self.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def reply(self, status, data, headers, body=True, cut=None) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD" or not body:
                return
            if cut is not None and len(data) > cut:
                hub.cut = None
                self.wfile.write(data[:cut])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return
            self.wfile.write(data)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
