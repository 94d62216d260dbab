"""Thoughts and calls are found in an answer wherever it is cut into pieces."""

import itertools

import pytest

from dca_runtime.server.answering.thinking import ThoughtReader, thinks
from dca_runtime.server.answering.tools import HERMES, LLAMA, CallReader, call_format


def cuts(text):
    """The text in pieces: whole, by character, and in two at every place."""
    yield [text]
    yield list(text)
    for at in range(1, len(text)):
        yield [text[:at], text[at:]]


def read_calls(form, pieces):
    reader = CallReader(form)
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.flush()
    text = "".join(part.text for part in parts if part.kind == "text")
    calls = []
    for kind, group in itertools.groupby(
        (part for part in parts if part.kind != "text"), key=lambda part: part.kind
    ):
        if kind == "call":
            calls += [[part.text, ""] for part in group]
        else:
            calls[-1][1] += "".join(part.text for part in group)
    return text, [tuple(call) for call in calls]


HERMES_CASES = {
    "no call at all": ("no call at all", []),
    "a < b and <tool": ("a < b and <tool", []),
    '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>': ("", [("f", '{"a": 1}')]),
    'Well.\n<tool_call>\n{"name": "f", "arguments": {"a": "}{\\"</tool_call>"}}\n</tool_call>': (
        "Well.",
        [("f", '{"a": "}{\\"</tool_call>"}')],
    ),
    '<tool_call>{"name":"f","arguments":{}}</tool_call>\n<tool_call>{"name":"g","arguments":{"b":[1,{}]}}'
    "</tool_call>": ("", [("f", "{}"), ("g", '{"b":[1,{}]}')]),
    '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\nDone.': ("Done.", [("f", "{}")]),
    '<tool_call>\n{"name": "f", "arguments": {"a": ': ("", [("f", '{"a": ')]),
    "<tool_call>\nnonsense": ("<tool_call>\nnonsense", []),
}


@pytest.mark.parametrize("text", HERMES_CASES)
def test_calls_are_found(text):
    for pieces in cuts(text):
        assert read_calls(HERMES, pieces) == HERMES_CASES[text], pieces


def test_where_no_mark_begins_a_call_only_the_whole_answer_is_one():
    call = '{"name": "f", "parameters": {"a": 1}}'
    for pieces in cuts(call):
        assert read_calls(LLAMA, pieces) == ("", [("f", '{"a": 1}')])
    for pieces in cuts(f"Say {call}"):
        assert read_calls(LLAMA, pieces) == (f"Say {call}", [])


def read_thoughts(opened, pieces):
    reader = ThoughtReader(opened)
    parts = [reader.push(piece) for piece in pieces] + [reader.flush()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.parametrize(
    ("opened", "text", "found"),
    [
        (False, "<think>\nhm < so\n</think>\n\nYes.", ("hm < so", "Yes.")),
        (True, "hm\n</think>\n\nYes.\n", ("hm", "Yes.\n")),
        (False, "Yes. <think>no</think>", ("", "Yes. <think>no</think>")),
        (False, "<thin", ("", "<thin")),
        (True, "still at it </thi", ("still at it </thi", "")),
        (False, "<think>\n\n</think>\n\nYes.", ("", "Yes.")),
    ],
)
def test_thoughts_are_found(opened, text, found):
    for pieces in cuts(text):
        assert read_thoughts(opened, pieces) == found, pieces


def test_templates_tell_what_their_models_do():
    assert call_format(None) == (HERMES, False)
    assert call_format("{{ messages }}") == (HERMES, False)
    assert call_format("{% if tools %}<tool_call>{% endif %}") == (HERMES, True)
    assert call_format('{% if tools %}{"name": name, "parameters": x}{% endif %}') == (LLAMA, True)
    assert thinks("{{ '<think>' }}") and not thinks("{{ messages }}") and not thinks(None)
