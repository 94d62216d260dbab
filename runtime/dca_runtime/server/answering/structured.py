"""Answers of a given form: masks of the tokens that may come next, from llguidance."""

import json
import threading
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from dca_runtime.model import Model
from dca_runtime.server.errors import ApiError

# No free white space: a model that may go on with spaces for ever does.
COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
ANY_OBJECT: dict[str, Any] = {"type": "object"}


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
        matcher = LLMatcher(tokenizer, lark, log_level=0)
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())[:500]
            raise ApiError(400, f"{param} cannot be followed: {reason}", param=param, code="invalid_schema")
        return GrammarConstraint(matcher, (self._model.info.n_vocab + 31) // 32)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        tokenizer = self._model.tokenizer
        ends = sorted(tokenizer.end_ids)
        if not ends:
            raise ApiError(400, "the model has no token that ends a text, so answers cannot be given a form")
        return LLTokenizer(tokenizer.to_json(), n_vocab=self._model.info.n_vocab, eos_token=ends)


class GrammarConstraint:
    """One answer's place in a grammar."""

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        """words: of 32 tokens, in the vocabulary; the matcher's own masks may have one more."""
        self._matcher = matcher
        self._words = words

    def mask(self) -> np.ndarray | None:
        """Bits of the tokens that may come next, uint32 ((n_vocab + 31) // 32,). Raises ApiError."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: self._words]
        self._check()
        return bits

    def accept(self, token: int) -> bool:
        """Takes the token that came; True if nothing may follow. Raises ApiError."""
        self._matcher.consume_token(token)
        self._check()
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())[:500]
            raise ApiError(400, f"the form that was asked for cannot be followed: {reason}")
