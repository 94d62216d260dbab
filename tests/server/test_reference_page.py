"""/docs: all that /openapi.json says, and nothing from anywhere else."""

from html.parser import HTMLParser

import httpx
import pytest

from dca_runtime.server.reference_page import reference_html


class Read(HTMLParser):
    """What a browser would fetch, follow and show."""

    def __init__(self, html):
        super().__init__()
        self.addresses, self.ids, self.tags, self.texts = [], set(), set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        given = dict(attrs)
        self.addresses += [given[name] for name in ("href", "src") if name in given]
        self.ids.add(given.get("id"))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def reply(tiny_server):
    return httpx.get(f"{tiny_server.url}/docs")


@pytest.fixture(scope="module")
def document(tiny_server):
    return httpx.get(f"{tiny_server.url}/openapi.json").json()


def test_it_asks_its_own_server_alone_and_runs_nothing(reply, tiny_server):
    page = Read(reply.text)
    assert "script" not in page.tags
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert all(address.startswith(("/", "#")) and address[1:2] != "/" for address in page.addresses)
    for address in {address for address in page.addresses if address.startswith("/")}:
        assert httpx.get(f"{tiny_server.url}{address}").status_code == 200


def test_it_names_every_route_and_field(reply, document):
    shown = Read(reply.text).texts
    assert set(document["paths"]) <= set(shown)
    for schema in document["components"]["schemas"].values():
        assert set(schema.get("properties", ())) <= set(shown)


def test_its_links_lead_somewhere(reply):
    page = Read(reply.text)
    links = {address[1:] for address in page.addresses if address.startswith("#")}
    assert links and links <= page.ids


def test_text_is_never_markup():
    hostile = "<script>x</script>\"'&"
    field = {"type": hostile, "description": hostile, "default": hostile, "enum": [hostile]}
    schema = {"description": hostile, "properties": {hostile: field, "a": {"$ref": f"#/{hostile}"}}}
    route = {"description": hostile, "responses": {hostile: {"description": hostile}}}
    page = Read(
        reference_html(
            {
                "info": {"title": hostile, "version": hostile},
                "paths": {hostile: {"get": route}},
                "components": {"schemas": {hostile: schema}},
            }
        )
    )
    assert "script" not in page.tags
    assert any(hostile in text for text in page.texts)
