"""Renders chat templates in a process of its own, within limits: what chat.py starts.

Reads requests from standard input and answers on standard output, a line of JSON each. A template comes from
whoever made a file, so it runs in jinja2's sandbox and sees only what templates are written for: the
messages, the special tokens, and the helpers that transformers documents. The sandbox does not limit time
and memory; the process is there so that it can be given less of both.
"""

import datetime
import json
import resource
import signal
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 1 << 30  # of address space: a prompt of a million tokens, some times over
MAX_OUTPUT = 64 << 20  # characters


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}``: marks words for training; here only its body."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def answer(request: Mapping[str, Any]) -> dict[str, str]:
    """{"text": the prompt} for {"template": …, "variables": …}, or {"error": why there is none}."""
    try:
        pieces: list[str] = []
        length = 0
        for piece in _compile(request["template"]).generate(request["variables"]):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_OUTPUT:
                return {"error": f"it writes more than {MAX_OUTPUT:,} characters"}
        return {"text": "".join(pieces)}
    except jinja2.TemplateError as error:
        return {"error": str(error)}
    except Exception as error:  # all that expressions can raise, and compiling what was made of them
        return {"error": f"{type(error).__name__}: {error}"[:1000]}


@lru_cache(maxsize=4)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 - templates may name the argument
    return datetime.datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja2's own it does not escape for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def main() -> None:
    """Answers until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = MEMORY_BYTES if most == resource.RLIM_INFINITY else min(most, MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write("\n")  # ready
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
