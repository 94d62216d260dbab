"""dca-serve: serves a model over HTTP, in OpenAI's and Anthropic's protocols."""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dca_export.cli.shared.argument_types import disk_size, positive_int
from dca_export.cli.shared.command import EXIT_OK, command_parser, run
from dca_export.cli.shared.runtime import add_model_arguments
from dca_export.cli.shared.sources import model_file
from dca_export.cli.shared.store import add_store_arguments, chosen_store
from dca_export.documents.decode import stated_text
from dca_export.errors import InputError
from dca_runtime.model_file.model_path import check_path

if TYPE_CHECKING:
    from dca_runtime import Model
    from dca_runtime.server.serve import Served
    from dca_runtime.server.settings import Settings

EXAMPLE = """
dca-serve model.gguf
dca-serve model.gguf --host 0.0.0.0 --api-key-file key.txt --cache-tokens 262144
"""

KEY_VARIABLE = "DCA_API_KEY"
DEFAULT_CACHE_TOKENS = 65536
HOST_SHARE = (
    4  # of the host memory that is available when the model is loaded, a card's pages get the fourth part
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command_parser(
        "dca-serve",
        "Serves a model over HTTP: /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages, … "
        "(docs/server.md). Prints where it listens when it answers.",
        EXAMPLE,
    )
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8080, help="0: any that is free (default: 8080)")
    parser.add_argument(
        "--alias", metavar="NAME", help="what clients call the model (default: the file's name)"
    )
    parser.add_argument(
        "--context",
        type=positive_int,
        metavar="N",
        help="tokens of a request, prompt and answer (default: what the model is good for: with a DCA scheme "
        "--cache-tokens, else its trained context)",
    )
    parser.add_argument(
        "--cache-tokens",
        type=positive_int,
        default=DEFAULT_CACHE_TOKENS,
        metavar="N",
        help=f"tokens whose keys and values are kept, all requests' (default: {DEFAULT_CACHE_TOKENS})",
    )
    parser.add_argument(
        "--max-sequences",
        type=positive_int,
        default=64,
        metavar="N",
        help="answers that are written at once; others wait (default: 64)",
    )
    parser.add_argument(
        "--host-cache",
        type=_host_size,
        metavar="SIZE",
        help="host memory in which conversations sleep that a card has no room for, like 20G; 0: none "
        "(default: on cards a quarter of what is available; none on the CPU)",
    )
    add_store_arguments(parser)
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-queue",
        type=positive_int,
        default=512,
        metavar="N",
        help="requests that may wait; more are told 429 (default: 512)",
    )
    limits.add_argument(
        "--queue-seconds",
        type=positive_int,
        default=300,
        metavar="S",
        help="a request that would wait longer is told 429 (default: 300)",
    )
    limits.add_argument(
        "--request-seconds",
        type=positive_int,
        default=3600,
        metavar="S",
        help="a request that takes longer ends (default: 3600)",
    )
    limits.add_argument(
        "--max-body",
        type=positive_int,
        default=32 << 20,
        metavar="BYTES",
        help="the largest request (default: 33554432)",
    )
    access = parser.add_argument_group("access")
    key = access.add_mutually_exclusive_group()
    key.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"the key that requests must carry; lists of processes show it, {KEY_VARIABLE} and "
        "--api-key-file do not",
    )
    key.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file that holds the key")
    access.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a web page's origin from which browsers may speak to the server, or * (may be repeated; "
        "default: none)",
    )
    access.add_argument(
        "--log-prompts", action="store_true", help="put the texts of prompts into the log (default: never)"
    )
    return run(parser, _serve, argv)


def _serve(arguments: argparse.Namespace) -> int:
    try:
        from dca_runtime.server.serve import serve
    except ImportError as error:
        raise InputError(
            f"dca-serve needs packages that are not installed ({error.name}): pip install 'dca-export[serve]'"
        ) from error
    arguments.model = model_file(arguments.model)
    check_path(arguments.model)
    settings = _settings(arguments)
    _log_to_stderr()

    def ready(address: str) -> None:
        print(f"listening on {address}", flush=True)

    def load() -> "Served":
        return _load(arguments)

    serve(load, settings, arguments.host, arguments.port, ready)
    return EXIT_OK


def _load(arguments: argparse.Namespace) -> "Served":
    from dca_runtime import Model
    from dca_runtime.server.serve import Served

    log = logging.getLogger("dca_serve")
    told: list[str] = []  # about a new store, once there is a model that it is for
    store = chosen_store(arguments, tell=told.append, warn=log.warning)
    model = Model(
        arguments.model, device=arguments.device, threads=arguments.threads, repack=arguments.repack
    )
    for line in told:
        log.info(line)
    engine = model.engine(
        tokens=arguments.cache_tokens, cache_type=arguments.cache_type, prefill=arguments.prefill
    )
    prompts = None if store is None else store.prompts(engine, Path(model.path).name)
    return Served(model, engine, prompts, _host_bytes(arguments.host_cache, model, log))


def _host_bytes(wanted: int | None, model: "Model", log: logging.Logger) -> int:
    """How much host memory pages may sleep in."""
    from dca_runtime.library import available_memory

    if model.info.device.startswith("cpu"):
        if wanted:
            log.warning(
                "--host-cache: on the CPU keys and values are in host memory anyway; a larger --cache-tokens "
                "holds as much and copies nothing"
            )
        return wanted or 0
    size = (available_memory() or 0) // HOST_SHARE if wanted is None else wanted
    if size:
        log.info("idle conversations sleep in up to %.1f GB of host memory (--host-cache)", size / 1e9)
    return size


def _settings(arguments: argparse.Namespace) -> "Settings":
    from dca_runtime.server.settings import Settings

    return Settings(
        name=arguments.alias or Path(arguments.model).stem,
        context=arguments.context,
        max_sequences=arguments.max_sequences,
        api_key=_key(arguments),
        log_prompts=arguments.log_prompts,
        cors_origins=tuple(arguments.cors_origin),
        max_body=arguments.max_body,
        max_queue=arguments.max_queue,
        queue_seconds=arguments.queue_seconds,
        request_seconds=arguments.request_seconds,
    )


def _key(arguments: argparse.Namespace) -> str | None:
    """The key that requests must carry; None: none. Raises InputError for one that is empty."""
    key, source = arguments.api_key, "--api-key"
    if arguments.api_key_file is not None:
        source = str(arguments.api_key_file)
        key = stated_text(arguments.api_key_file.read_bytes(), source).strip()
    elif key is None and KEY_VARIABLE in os.environ:
        key, source = os.environ[KEY_VARIABLE], KEY_VARIABLE
    if key is not None and not key.strip():
        raise InputError(f"{source}: the key is empty, expected some characters")
    return key


def _host_size(text: str) -> int:
    return 0 if text == "0" else disk_size(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


class _JsonLines(logging.Formatter):
    """One line of JSON an event; those of the access log are JSON already."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict = {"time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + "Z"}
        if record.name.endswith(".access"):
            return json.dumps(line | json.loads(record.getMessage()))
        line |= {"level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name, level in (("dca_serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
