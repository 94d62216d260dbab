"""A command on a terminal, as a person uses it."""

import os
import pty
import select
import signal
import subprocess
import sys
import time


class Terminal:
    """A dca-run on a terminal of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._end, child = pty.openpty()
        self._ahead = b""  # read, but not asked for yet
        program = "import sys; from dca_export.cli.run import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"} | environment,
            start_new_session=True,
        )
        os.close(child)

    def until(self, text: str, seconds: float = 60) -> str:
        """Everything shown up to and including ``text``."""
        end = time.monotonic() + seconds
        while (found := self._ahead.find(text.encode())) < 0:
            ready, _, _ = select.select([self._end], [], [], max(end - time.monotonic(), 0))
            assert ready, f"waited in vain for {text!r}, saw {self._ahead!r}"
            self._ahead += os.read(self._end, 4096)
        cut = found + len(text.encode())
        seen, self._ahead = self._ahead[:cut], self._ahead[cut:]
        return seen.decode()

    def type(self, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        while data:
            data = data[os.write(self._end, data) :]
            if data:
                self._ahead += os.read(self._end, 65536)  # the echo, which would fill the terminal up

    def interrupt(self) -> None:
        """Ctrl-C, by a person who has seen what is shown.

        Python's readline notices a signal only while it waits for a key: one that comes while it still draws
        the last key is noticed at the next.
        """
        time.sleep(1)
        os.killpg(self.process.pid, signal.SIGINT)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)
