"""Answers of a given form: masks of the tokens that may come next, from llguidance."""

import json
import re
import threading
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from dca_runtime.errors import Status
from dca_runtime.model import Model
from dca_runtime.server.errors import ApiError
from dca_runtime.text.rust_guard import guarded

# No free white space: a model that may go on with spaces for ever does.
COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
ANY_OBJECT: dict[str, Any] = {"type": "object"}
_CANNOT = "the form that was asked for cannot be followed"
_GRAMMAR = re.compile(r" 1 \| %llguidance")  # with numbers of its lines


def json_lark(schema: dict[str, Any], separators: dict[str, Any]) -> str:
    """The part of a Lark grammar that is JSON of a schema."""
    return "%json " + json.dumps({**schema, "x-guidance": separators})


def json_grammar(schema: dict[str, Any], after_thinking: bool) -> str:
    """A Lark grammar for JSON of a schema, where asked for after thoughts that end with ``</think>``."""
    value = f"value: {json_lark(schema, COMPACT)}\n"
    if not after_thinking:
        return f"%llguidance {{}}\nstart: value\n{value}"
    thought = "thought[lazy]: /(.|\\n)*<\\/think>/"
    return f"%llguidance {{}}\nstart: thought /\\s{{0,2}}/ value\n{thought}\n{value}"


class Grammars:
    """Makes constraints for one model's tokens. Any thread may."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()

    def constraint(self, lark: str, param: str) -> "GrammarConstraint":
        """The constraint that a Lark grammar is. Raises ApiError that names the request's ``param``."""
        with self._lock:
            tokenizer = self._tokenizer
        with guarded(_CANNOT, Status.ARGUMENT):
            matcher = LLMatcher(tokenizer, lark, log_level=0)
            if not matcher.is_error():
                # The first mask takes seconds where a form is large, and tells whether there is an answer at
                # all: it is made here, not in a step.
                first = matcher.compute_bitmask()
        if matcher.is_error():
            reason = _reason(matcher)
            raise ApiError(400, f"{param} cannot be followed: {reason}", param=param, code="invalid_schema")
        return GrammarConstraint(matcher, (self._model.info.n_vocab + 31) // 32, first)

    def constraints(self, count: int, lark: str, param: str) -> list["GrammarConstraint"]:
        """As many of them, for a request's answers. Raises ApiError."""
        first = self.constraint(lark, param)
        return [first, *(first.copy() for _ in range(count - 1))]

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        tokenizer = self._model.tokenizer
        ends = sorted(tokenizer.end_ids)
        if not ends:
            raise ApiError(400, "the model has no token that ends a text, so answers cannot be given a form")
        return LLTokenizer(tokenizer.to_json(), n_vocab=self._model.info.n_vocab, eos_token=ends)


class GrammarConstraint:
    """One answer's place in a grammar."""

    def __init__(self, matcher: LLMatcher, words: int, first: bytes) -> None:
        """words: of 32 tokens, in the vocabulary; its masks, as the ``first``, may have one more."""
        self._matcher = matcher
        self._words = words
        self._next: bytes | None = first  # the mask of the next token, if it is known

    def mask(self) -> np.ndarray | None:
        """Bits of the tokens that may come next, uint32 ((n_vocab + 31) // 32,). Raises ApiError."""
        if self._next is None:
            with guarded(_CANNOT, Status.ARGUMENT):
                self._next = self._matcher.compute_bitmask()
            self._check()
        return np.frombuffer(self._next, np.uint32)[: self._words]

    def copy(self) -> "GrammarConstraint":
        """Another answer's, at the same place."""
        copied = GrammarConstraint(self._matcher.deep_copy(), self._words, b"")
        copied._next = self._next
        return copied

    def accept(self, token: int) -> bool:
        """Takes the token that came; True if nothing may follow. Raises ApiError."""
        self._next = None
        with guarded(_CANNOT, Status.ARGUMENT):
            self._matcher.consume_token(token)
        self._check()
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ApiError(400, f"{_CANNOT}: {_reason(self._matcher)}")


def _reason(matcher: LLMatcher) -> str:
    """What the matcher says is wrong, in a line: without its own state, and the grammar that it was given."""
    text = " ".join(matcher.get_error().split("<state>")[0].split())
    return _GRAMMAR.split(text)[0][:500]
