"""Runs a server: the port first, then the model, then requests until a signal comes."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import NamedTuple

import uvicorn
from fastapi import FastAPI

from dca_runtime.engine import Engine
from dca_runtime.errors import DcaError, Status
from dca_runtime.model import Model
from dca_runtime.prompt_store import Prompts
from dca_runtime.server.app import make_app
from dca_runtime.server.connections import Connection, limit_unsent, look_at_all
from dca_runtime.server.service import Service
from dca_runtime.server.settings import Settings


class Served(NamedTuple):
    """What is served."""

    model: Model
    engine: Engine
    prompts: Prompts | None = None  # of the engine's setup; None: nothing is kept on disk
    host_bytes: int = 0  # of host memory, for pages that sleep


Load = Callable[[], Served]

_LAST_SECONDS = 5  # for clients to take the ends of their answers
_LOOK_TICKS = 50  # tenths of a second between looks at connections
_SWITCH_SECONDS = 0.0005  # Python's own 5 ms between threads rival a step


def serve(load: Load, settings: Settings, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM; a second one ends at once.

    load: loads the model and makes its engine; called in a thread, while /health says 503.
    port: 0 takes any that is free.
    ready: called with the address when requests are answered.

    Raises DcaError and what ``load`` raises: the port cannot be had, or the model cannot be loaded.
    """
    listener = _listener(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    sys.setswitchinterval(_SWITCH_SECONDS)
    os.environ.setdefault(
        "TOKENIZERS_PARALLELISM", "false"
    )  # the pool of threads is enough, and forks stay quiet
    app = make_app(settings)
    failure: list[BaseException] = []
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            http=Connection,
            server_header=False,
            timeout_keep_alive=75,  # longer than clients and proxies do, so that none sends into the end
            timeout_graceful_shutdown=int(settings.stop_seconds) + _LAST_SECONDS,
        )
    )

    async def bring_up() -> None:
        try:
            served = Served(*await asyncio.to_thread(load))
            app.state.service = Service(
                served.model, served.engine, settings, app.state.metrics, served.prompts, served.host_bytes
            )
        except BaseException as error:
            failure.append(error)
            server.should_exit = True
            return
        # Nobody looks through all of what the start made for rubbish again, which holds everything up.
        gc.collect()
        gc.freeze()
        ready(address)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(bring_up())
        yield
        await loading
        if app.state.service is not None:
            await app.state.service.close()

    app.router.lifespan_context = lifespan
    with contextlib.closing(listener):
        server.run(sockets=[listener])
    if failure:
        raise failure[0]


class _Server(uvicorn.Server):
    """Stops at the first signal when answers are done or had their time, at the second at once."""

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if counter % _LOOK_TICKS == 0:
            app = self.config.app
            assert isinstance(app, FastAPI)
            look_at_all(self.server_state.connections, app.state.settings.slow_reader_seconds)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called after the first signal."""
        app = self.config.app
        assert isinstance(app, FastAPI)
        service: Service | None = app.state.service
        if service is None:
            await super().shutdown(sockets)
            return
        service.stopping = True
        ending = asyncio.get_running_loop().call_later(service.settings.stop_seconds, service.end_answers)
        await super().shutdown(sockets)
        ending.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called in a signal's handler."""
        if self.should_exit:
            logging.getLogger("dca_serve").warning("ending at once")
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.should_exit = True


def _listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        limit_unsent(listener)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        raise DcaError(f"cannot listen on --host {host} --port {port}: {error}", Status.IO) from error
    return listener
