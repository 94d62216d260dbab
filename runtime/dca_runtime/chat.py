"""Renders the chat template that a file carries.

A template comes from whoever made the file, so it runs in jinja2's sandbox and sees only what templates
are written for: the messages, the special tokens, and the helpers that transformers documents.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dca_runtime.errors import DcaError, Status

TEMPLATE_KEY = "tokenizer.chat_template"


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}``: marks words for training; here only its body."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(
    template: str, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, **variables: Any
) -> str:
    """The prompt for ``messages``. Raises DcaError with what the template says is wrong."""
    try:
        return _compile(template).render(
            # Templates tell "no tools" by None, not by a variable that is missing.
            {"tools": None, "documents": None} | variables,
            messages=messages,
            add_generation_prompt=add_generation_prompt,
        )
    except jinja2.TemplateError as error:
        raise DcaError(f"the chat template failed: {error}", Status.FORMAT) from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # What the expressions of a template can raise, given messages it was not written for.
        raise DcaError(f"the chat template failed: {type(error).__name__}: {error}", Status.FORMAT) from error


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
