"""The page at ``/docs``: what ``/openapi.json`` says as HTML, with no script and nothing from elsewhere."""

import json
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from dca_runtime.server.page_routes import HEADERS

Schema = dict[str, Any]


def add_reference(app: FastAPI) -> None:
    """Adds the page to an application that makes none of its own."""

    @app.get("/docs", include_in_schema=False)
    async def reference() -> Response:
        return HTMLResponse(reference_html(app.openapi()), headers=HEADERS)


def reference_html(document: Schema) -> str:
    """An OpenAPI 3.1 document as a page: each route with its answers, then the fields of each body."""
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    routes = [
        (method, path, route)
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]
    schemas = document.get("components", {}).get("schemas", {})
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{escape(title)}</title><link rel="stylesheet" href="/page/reference.css"></head><body>',
            f"<h1>{escape(title)}</h1>",
            '<p>The same for programs: <a href="/openapi.json">openapi.json</a></p><main>',
            *(_route(*one) for one in routes),
            "<h2>Bodies</h2>",
            *(_schema(name, schema) for name, schema in schemas.items()),
            "</main></body></html>",
        )
    )


def _route(method: str, path: str, route: Schema) -> str:
    body = route.get("requestBody", {}).get("content", {})
    takes = "".join(
        f"<p>Takes {_type(content['schema'])} as {escape(kind)}.</p>" for kind, content in body.items()
    )
    parameters = [
        (one["name"], one.get("schema", {}), one.get("required", False))
        for one in route.get("parameters", [])
    ]
    answers = "".join(
        f"<tr><td>{escape(status)}<td>{escape(answer.get('description', ''))}<td>{_contents(answer)}"
        for status, answer in route["responses"].items()
    )
    return (
        f"<section><h2>{escape(method.upper())} <code>{escape(path)}</code></h2>"
        f"<p>{escape(route.get('description', ''))}</p>{_fields(parameters)}{takes}"
        f"<table><tr><th>status<th>meaning<th>body{answers}</table></section>"
    )


def _contents(answer: Schema) -> str:
    return ", ".join(
        f"{escape(kind)}: {_type(content.get('schema', {}))}"
        for kind, content in answer.get("content", {}).items()
    )


def _schema(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    fields = [(field, one, field in required) for field, one in schema.get("properties", {}).items()]
    return (
        f'<section><h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>'
        f"{_fields(fields)}</section>"
    )


def _fields(fields: list[tuple[str, Schema, bool]]) -> str:
    if not fields:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' (required)' if required else ''}<td>{_type(schema)}"
        f"<td>{escape(schema.get('description', ''))}"
        for name, schema, required in fields
    )
    return f"<table><tr><th>field<th>what it takes<th>meaning{rows}</table>"


_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "characters from",
    "maxLength": "characters up to",
    "minItems": "items from",
    "maxItems": "items up to",
    "default": "by default",
}


def _type(schema: Schema) -> str:
    """What a schema allows, in a line of HTML."""
    limits = [f"{text} {_value(schema[key])}" for key, text in _LIMITS.items() if schema.get(key) is not None]
    return ", ".join((_kind(schema), *(escape(limit) for limit in limits)))


def _value(value: Any) -> str:
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def _kind(schema: Schema) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(one) for one in schema[key])
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(one))}</code>" for one in allowed)
    if schema.get("type") == "array":
        return f"list of ({_type(schema.get('items', {}))})"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of ({_type(schema['additionalProperties'])})"
    return escape(str(schema.get("type", "anything")))
