"""Tools a model may call: how a call is written, the grammar that makes it right, and reading it back.

Templates write calls in ways of their own. Known here are those of Hermes, which Qwen and most others took
over, and of Llama 3. For a template that knows no tools they are described in the system message, in Hermes'
way.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dca_runtime.server.answering.structured import json_lark

_SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as models learnt it


@dataclass(frozen=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None  # a JSON schema

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}

    @property
    def schema(self) -> dict[str, Any]:
        """The schema of the arguments, an object's."""
        return self.parameters or {"type": "object", "properties": {}}


@dataclass(frozen=True)
class CallFormat:
    """How a call is spelt: begin, {"name": "…", "ARGUMENTS": {…}}, end."""

    begin: str
    arguments: str
    end: str
    only_first: bool  # a call is the whole answer

    def opening(self, name: str) -> str:
        """What comes before the arguments."""
        return f'{self.begin}{{"name": {json.dumps(name)}, "{self.arguments}": '

    @property
    def trigger(self) -> str:
        """What tells that a call begins."""
        return self.begin.strip() or '{"name": "'

    def spelled(self, name: str, arguments: str) -> str:
        """A whole call."""
        return self.opening(name) + arguments + "}" + self.end


HERMES = CallFormat("<tool_call>\n", "arguments", "\n</tool_call>", only_first=False)
LLAMA = CallFormat("", "parameters", "", only_first=True)


def call_format(template: str | None) -> tuple[CallFormat, bool]:
    """How a model of that chat template writes calls, and whether the template describes tools itself."""
    if template is None or not re.search(r"\btools\b", template):
        return HERMES, False
    return (LLAMA if "<tool_call>" not in template and '"parameters": ' in template else HERMES), True


def description(tools: Sequence[Tool]) -> str:
    """A system message for a template that does not know tools."""
    listed = "\n".join(json.dumps(tool.for_template(), ensure_ascii=False) for tool in tools)
    form = HERMES.spelled("NAME", "ARGUMENTS")
    return f"You may call these functions:\n{listed}\nTo call one, answer like this:\n{form}"


def call_grammar(
    tools: Sequence[Tool], form: CallFormat, *, required: bool, several: bool, after_thinking: bool
) -> str:
    """A Lark grammar of answers: text with calls in it, or nothing but calls where they are ``required``."""
    one = " | ".join(f"call_{index}" for index in range(len(tools)))
    rules = []
    trigger = form.trigger
    for index, tool in enumerate(tools):
        opening = form.opening(tool.name)
        head = _quoted(opening if required else opening[len(trigger) :])
        body = f"{head} {json_lark(tool.schema, _SPACED)} {_quoted('}' + form.end)}"
        rules.append(f"call_{index}: {body}")
    if required:
        start = f'({one}) ("\\n" ({one}))*' if several and not form.only_first else f"({one})"
        if after_thinking:
            start = f"thought /\\s{{0,2}}/ {start}"
            rules.append("thought[lazy]: /(.|\\n)*<\\/think>/")
    elif form.only_first:
        # Text that begins like a call is one; any other begins with another character.
        start = f"{_quoted(trigger)} ({one}) | TEXT"
        rules.append(r"TEXT: /([^{](.|\n)*)?/")
    else:
        start = f"(trigger ({one})){'*' if several else '?'} TEXT"
        rules += [f"trigger[lazy]: TEXT {_quoted(trigger)}", r"TEXT: /(.|\n)*/"]
    return "%llguidance {}\nstart: " + start + "\n" + "\n".join(rules) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True)
class Part:
    """A piece of an answer: text, the beginning of a call, or more of its arguments."""

    kind: str  # "text", "call" or "arguments"
    text: str  # of a call its name


class CallReader:
    """Finds the calls in an answer that comes piece by piece."""

    _HEAD = re.compile(
        r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)'
    )

    def __init__(self, form: CallFormat) -> None:
        self._form = form
        self._held = ""
        self._state = "text"
        self._began = False  # some text or call has been given
        self._after_call = False
        self._depth, self._in_string, self._escaped = 0, False, False

    def push(self, piece: str) -> list[Part]:
        """Takes more of the answer; gives what is certain now."""
        self._held += piece
        parts: list[Part] = []
        while self._advance(parts):
            pass
        return parts

    def flush(self) -> list[Part]:
        """What was held back, once no more comes. A call that is not whole counts as text."""
        held, self._held = self._held, ""
        if self._state == "text" and not (self._after_call and not held.strip()):
            return [Part("text", held)] if held else []
        if self._state == "head":
            return [Part("text", (self._form.begin.strip() if self._form.begin else "") + held)]
        return []

    def _advance(self, parts: list[Part]) -> bool:
        if self._state == "text":
            return self._in_text(parts)
        if self._state == "head":
            return self._in_head(parts)
        if self._state == "arguments":
            return self._in_arguments(parts)
        return self._in_tail()

    def _in_text(self, parts: list[Part]) -> bool:
        trigger = self._form.trigger
        at = self._held.find(trigger)
        if at >= 0 and not (self._form.only_first and (self._began or self._held[:at].strip())):
            self._text(parts, self._held[:at].rstrip())
            # Where no mark begins a call, what tells it is part of the call itself.
            self._held = self._held[at + (len(trigger) if self._form.begin else 0) :]
            self._state = "head"
            return True
        searching = not (self._form.only_first and self._began)
        kept = _overlap(self._held, trigger) if searching else 0
        cut = len(self._held) - kept
        # White space before a call is not part of the text.
        cut = len(self._held[:cut].rstrip()) if searching else cut
        text, self._held = self._held[:cut], self._held[cut:]
        self._text(parts, text)
        return False

    def _text(self, parts: list[Part], text: str) -> None:
        if self._after_call:
            text = text.lstrip()
        if text:
            self._began, self._after_call = True, False
            parts.append(Part("text", text))

    def _in_head(self, parts: list[Part]) -> bool:
        found = self._HEAD.match(self._held)
        if found is None:
            return False
        try:
            name = json.loads(found[1])
        except ValueError:
            return False
        parts.append(Part("call", name))
        self._held = self._held[found.end() :]
        self._began = True
        self._state = "arguments"
        self._depth, self._in_string, self._escaped = 0, False, False
        return True

    def _in_arguments(self, parts: list[Part]) -> bool:
        end = self._end_of_value()
        text = self._held if end is None else self._held[:end]
        self._held = "" if end is None else self._held[end:]
        if text:
            parts.append(Part("arguments", text))
        if end is None:
            return False
        self._state = "tail"
        return True

    def _end_of_value(self) -> int | None:
        """Where the JSON object ends in what is held, None if not yet."""
        for index, character in enumerate(self._held):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
        return None

    def _in_tail(self) -> bool:
        tail = "}" + self._form.end.strip()
        compact = self._held.lstrip()
        squeezed = re.match(r"\}\s*" + re.escape(self._form.end.strip()), compact)
        if squeezed is None:
            if len(compact) > len(tail) + 8:  # the model writes something else: the call was whole
                self._state, self._after_call = "text", True
                return True
            return False
        self._held = compact[squeezed.end() :]
        self._state, self._after_call = "text", True
        return True


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that ``mark`` begins with."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)
