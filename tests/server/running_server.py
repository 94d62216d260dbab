"""Starts the command in a process of its own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen
    log: Path

    def stop(self) -> int:
        """Ends it as an administrator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def running(model: Path, log: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """``dca-serve model --port 0 options`` once it answers."""
    command = [sys.executable, "-c", "from dca_export.cli.serve import main; raise SystemExit(main())"]
    command += [str(model), "--port", "0", "--device", "cpu", "--threads", "1", *options]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | (env or {})
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"listening on (http://\S+)\n", line)
            assert found, (line, log.read_text())
            yield Server(found[1], process, log)
        finally:
            process.kill()
            process.wait()


def sent(server: Server, body: dict) -> socket.socket:
    """A connection on which a request was sent, and nothing is read."""
    place = urlsplit(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((place.hostname, place.port))
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}"
    connection.sendall(head.encode() + b"\r\nContent-Type: application/json\r\n\r\n" + data)
    return connection
