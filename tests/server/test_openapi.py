"""Whatever the OpenAPI page allows, and much that it does not: no answer is a failure or undocumented."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
QUICK = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def page(tiny_server):
    return httpx.get(f"{tiny_server.url}/openapi.json").json()


ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/v1/models/{name}"),
]


POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CASES = [(*route, POSITIVE) for route in ROUTES]
CASES += [(*route, NEGATIVE) for route in ROUTES if route[0] == "POST"]  # any name will do in a path


@pytest.fixture(scope="module")
def api(tiny_server):
    return schemathesis.openapi.from_url(f"{tiny_server.url}/openapi.json")


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_no_answer_is_a_failure_or_undocumented(api, method, path, mode):
    @QUICK
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    def check(case):
        case.call_and_validate(checks=CHECKS, timeout=120)

    check()


def test_every_route_is_tried_that_takes_anything(page):
    taking = {
        (method.upper(), path)
        for path, methods in page["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation or operation.get("parameters")
    }
    assert taking == set(ROUTES)


def test_every_route_documents_its_errors(page):
    for path, methods in page["paths"].items():
        for method, operation in methods.items():
            assert "422" not in operation["responses"], (path, method)
            assert "default" in operation["responses"], (path, method)
