"""Renders the chat template that a file carries, in a process that can be stopped.

The process starts with the first template, in about a tenth of a second, and stays: a turn of a chat then
costs one exchange of a line. It is given a limit on memory (template_worker.py) and one on time.
"""

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dca_runtime.errors import DcaError, Status
from dca_runtime.text.rust_guard import one_line

TEMPLATE_KEY = "tokenizer.chat_template"

MAX_SECONDS = 5.0  # for one rendering; those of published templates take milliseconds
_START_SECONDS = 30.0  # for the process to start, on a machine that is busy


def render(
    template: str, messages: Sequence[Mapping[str, Any]], /, add_generation_prompt: bool, **variables: Any
) -> str:
    """The prompt for ``messages``, which like ``variables`` must be what JSON can say.

    Raises DcaError with what the template says is wrong, or which limit it broke.
    """
    # Templates tell "no tools" by None, not by a variable that is missing.
    known = {"tools": None, "documents": None} | variables
    known |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
    try:
        request = json.dumps({"template": template, "variables": known}, default=_as_json)
    except (TypeError, ValueError, RecursionError) as error:
        raise DcaError(f"the messages cannot be given to a chat template: {one_line(error)}") from error
    reply = _worker.ask(request)
    if "text" not in reply:
        raise DcaError(f"the chat template failed: {one_line(reply.get('error'))}", Status.FORMAT)
    return reply["text"]


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON can say")


class _Worker:
    """The process that renders: started when it is needed, and again after it had to be stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # id of the process that started it: a fork must not share its pipes

    def ask(self, request: str) -> dict[str, str]:
        """The answer to a request of template_worker.py. Raises DcaError if there is none in time."""
        with self._lock:
            process = self._running()
            try:
                line = _exchange(process, request.encode() + b"\n", MAX_SECONDS)
            except BaseException:  # also Ctrl-C: the answer to this must not become that to the next
                self.stop()
                raise
            return json.loads(line)

    def stop(self) -> None:
        """Ends the process, if this one started it."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._process, self._owner = _start(), os.getpid()
        return self._process


def _start() -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-P", "-m", "dca_runtime.text.template_worker"]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
    except OSError as error:
        raise DcaError(f"no process for chat templates can be started: {error}", Status.INTERNAL) from error
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        os.set_blocking(pipe.fileno(), False)
    try:
        _exchange(process, b"", _START_SECONDS)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process


def _exchange(process: "subprocess.Popen[bytes]", request: bytes, seconds: float) -> bytes:
    """Sends a line, gets a line; both as the pipes take them, within a time."""
    assert process.stdin is not None and process.stdout is not None
    to, back = process.stdin.fileno(), process.stdout.fileno()
    left, answer, deadline = memoryview(request), bytearray(), time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(back, selectors.EVENT_READ)
        if left:
            selector.register(to, selectors.EVENT_WRITE)
        while not answer.endswith(b"\n"):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise DcaError(f"the chat template failed: it takes more than {seconds:g} s", Status.FORMAT)
            for key, _ in ready:
                if key.fd == to:
                    left = left[_write(to, left) :]
                    if not left:
                        selector.unregister(to)
                elif piece := os.read(back, 1 << 20):
                    answer += piece
                else:
                    raise DcaError("the chat template failed: its process died", Status.FORMAT)
    return bytes(answer)


def _write(to: int, data: memoryview) -> int:
    try:
        return os.write(to, data)
    except BrokenPipeError:
        raise DcaError("the chat template failed: its process died", Status.FORMAT) from None


_worker = _Worker()
atexit.register(_worker.stop)
