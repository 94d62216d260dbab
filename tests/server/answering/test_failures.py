"""What clients are told of what failed, and what the log holds of it."""

import json
import logging
import sys

import pytest

from dca_runtime.errors import DcaError, Status
from dca_runtime.server.answering.streaming import dumps
from dca_runtime.server.errors import ApiError
from dca_runtime.server.protocols.messages import _object


def test_the_log_says_how_a_request_failed_that_nobody_thought_of(caplog):
    with caplog.at_level(logging.ERROR, "dca_serve"):
        error = ApiError.of(TypeError("a mistake"))
    assert error.status == 500 and "its log says how" in error.message
    assert [record.exc_info[1].args for record in caplog.records] == [("a mistake",)]


@pytest.mark.parametrize("error", [DcaError("no", Status.IO), MemoryError(), ApiError(400, "no")])
def test_what_clients_are_told_of_is_not_in_the_log(caplog, error):
    ApiError.of(error)
    assert not caplog.records


@pytest.mark.parametrize(("number", "told"), [("1e999", sys.float_info.max), ("-1e999", -sys.float_info.max)])
def test_arguments_of_calls_stay_json(number, told):
    value = _object(f'{{"a": {number}}}')
    assert json.loads(dumps(value), parse_constant=lambda name: pytest.fail(name)) == {"a": told}


def test_arguments_that_are_nested_too_deep_are_none():
    assert _object('{"a":' * 100_000 + "1" + "}" * 100_000) == {}
