"""A connection: an answer that nobody takes stands still soon, and ends; errors come in our form."""

import asyncio
import socket
import struct
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from dca_runtime.server.answering.streaming import dumps
from dca_runtime.server.errors import ApiError

# Bytes that wait for a client before its answer stands still: in the process, and in the kernel beyond what
# the client's side has room for. The kernel's own four megabytes would take whole answers of clients that
# never read.
_WAITING = 4096
_MOST_HEAD = 65536  # bytes of a request's head: nothing else limits what is kept of it
_REQUEST_SECONDS = 120.0  # for a client to say what it wants


def limit_unsent(listener: socket.socket) -> None:
    """Lets the kernel hold little that a client has no room for, on each connection of the listener."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _WAITING)


class Connection(HttpToolsProtocol):
    """One client's."""

    _head = 0  # bytes that came since a head was whole, or part of a body: of the next head, or trailers
    _unsent = 0  # bytes, when they became fewer the last time
    _since = 0.0  # when that was, or when there was something to do

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called when a client connects."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_WAITING)
        self._since = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Called with what comes."""
        self._head += len(data)
        super().data_received(data)
        if self._head > _MOST_HEAD and not self.transport.is_closing():
            if self.cycle is not None and not self.cycle.response_complete:
                self.transport.abort()
            else:
                message = f"the request's head is larger than {_MOST_HEAD} bytes"
                self._refuse(ApiError(431, message, code="head_too_large"))

    def on_headers_complete(self) -> None:
        """Called when the head of a request is whole."""
        self._head = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called with parts of a body."""
        self._head = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Called when an answer is whole, though perhaps not sent."""
        self._since = time.monotonic()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP."""
        self._refuse(ApiError(400, "the request is not valid HTTP", code="invalid_http"))

    def _refuse(self, error: ApiError) -> None:
        body = dumps(error.body())
        head = STATUS_LINE[error.status] + b"content-type: application/json\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()

    def look(self, slow_seconds: float) -> None:
        """Ends a connection on which nothing is being answered if its client takes or sends nothing.

        A stream looks after itself. What was written before a connection is closed stays in memory, with the
        connection, until the client takes it.
        """
        if self.cycle is not None and not self.cycle.response_complete and not self.transport.is_closing():
            return
        now, unsent = time.monotonic(), self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._since = unsent, now
        if now - self._since > (slow_seconds if unsent else _REQUEST_SECONDS):
            # Reset: the kernel would go on offering what it holds.
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


def look_at_all(connections: set[Any], slow_seconds: float) -> None:
    """``Connection.look`` for all of a server's."""
    for connection in list(connections):
        if isinstance(connection, Connection):
            connection.look(slow_seconds)
