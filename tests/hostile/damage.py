"""Strategies of hypothesis that damage what is valid: JSON at its joints, bytes anywhere."""

import copy
import json
import os
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("DCA_FUZZ_EXAMPLES", "20"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="DCA_FUZZ_EXAMPLES" not in os.environ,
    phases=[Phase.explicit, Phase.generate],  # a case is a child process: none to spare for shrinking
    suppress_health_check=list(HealthCheck),
)

NUMBERS = [0, -1, 1, 2**31, 2**40, 2**63, 2**64, 10**400, 1e300, 1e-300, -0.0, 0.5]
VALUES = st.one_of(
    st.sampled_from([None, True, False, *NUMBERS, float("inf"), float("nan")]),
    st.sampled_from(["", "x", "\ud800", "\x1b[31m", "x" * 70_000, "None", "../..", "ы", "(a*)*b", "\n"]),
    st.sampled_from([[], {}, [[]], {"": {}}, [0] * 1000, {"type": "Sequence"}, [None], {"content": 3}]),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything in a JSON value; long lists and objects by their first and last few."""
    if path:
        yield path
    keys: list[Any] = []
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    for key in keys if len(keys) <= 12 else keys[:6] + keys[-6:]:
        yield from places(value[key], (*path, key))


@st.composite
def damaged_json(draw: st.DrawFn, value: Any) -> Any:
    """``value`` with one to three of its parts replaced, removed, doubled, renamed or nested deeply."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(value))
        if not paths:
            return value
        *way, key = draw(st.sampled_from(paths))
        parent = value
        for step in way:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "double", "rename", "nest"])):
            case "replace":
                parent[key] = copy.deepcopy(draw(VALUES))  # or the next edit changes the choices
            case "remove":
                del parent[key]
            case "double" if isinstance(parent, list):
                parent.insert(0, copy.deepcopy(parent[key]))
            case "rename" if isinstance(parent, dict):
                parent[draw(st.text(max_size=5))] = parent.pop(key)
            case "nest":
                for _ in range(draw(st.sampled_from([1, 50, 400]))):
                    parent[key] = [parent[key]]
    return value


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` with a few edits: bytes, numbers, pieces cut out or put twice."""
    edited = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(edited) - 1, 0)))
        length = draw(st.sampled_from([1, 2, 7, 64, 1000]))
        match draw(st.sampled_from(["byte", "number", "cut", "twice", "end"])):
            case "byte":
                edited[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                number = draw(st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1]))
                edited[at : at + 8] = struct.pack("<Q", number)
            case "cut":
                del edited[at : at + length]
            case "twice":
                edited[at:at] = edited[at : at + length]
            case "end":
                del edited[at:]
    return bytes(edited)


def as_json(value: Any) -> bytes:
    """As Python writes it: lone surrogates escaped, Infinity and NaN by name."""
    return json.dumps(value).encode()
