"""The page in a real browser: a document is read, asked about, and nothing hostile gets through."""

import json
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright
from running_server import running

CHROMIUM = shutil.which("chromium")
HOSTILE = (
    "<script>window.hacked = 1</script><img src=http://elsewhere.invalid/x onerror='window.hacked = 2'>"
    "\n\n![x](http://elsewhere.invalid/y)\n\n[here](javascript:window.hacked=3)\n\n"
    "[there](http://elsewhere.invalid/z)\n\n**bold** <style>body{display:none}</style>"
    "<svg onload='window.hacked=4'></svg>"
)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tiny_gguf, tmp_path_factory):
    model = tiny_gguf(tokenizer=True, context_length=4096)
    with running(model, tmp_path_factory.mktemp("page") / "log", "--alias", "tiny") as server:
        yield server


@pytest.fixture
def page(browser, server):
    """The page, open; at the end it must have asked nobody but its server and met no error."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    context.set_default_timeout(60_000)
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("tiny")
    yield page
    assert errors == []
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []
    context.close()


def answers_with(page, text, pieces=1):
    """The server's answers are ``text`` from now on."""
    size = -(-len(text) // pieces)
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": text[at : at + size]}}]}
        for at in range(0, len(text), size)
    ]
    usage = {"total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 3}}
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in [*chunks, {"choices": [], "usage": usage}])
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=body + "data: [DONE]\n\n", content_type="text/event-stream"),
    )


def ask(page, question):
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")


def choose(page, text, name="book.txt"):
    files = {"name": name, "mimeType": "text/plain", "buffer": text.encode()}
    page.get_by_label("Choose a text file").set_input_files(files)


def test_a_question_is_answered_and_its_figures_shown(page):
    ask(page, "the in the")
    expect(page.locator("article.user")).to_contain_text("the in the")
    expect(page.locator("#figures")).to_contain_text("tokens used")
    expect(page.get_by_role("button", name="Answer again")).to_be_visible()


def test_a_document_is_read_once_for_all_conversations(page):
    choose(page, "a long document, " * 60)
    expect(page.locator("#document-state")).to_contain_text("read (")
    for question in ("one", "two"):
        page.get_by_role("button", name="New conversation", exact=True).last.click()
        ask(page, question)
        expect(page.locator("#figures")).to_contain_text("were read before")
        read_before = int(
            page.locator("#figures").inner_text().split("used, ")[1].split()[0].replace(",", "")
        )
        assert read_before >= 512
        page.get_by_role("button", name="Stop").wait_for(state="hidden")
    expect(page.get_by_role("list", name="Conversations").get_by_role("listitem")).to_have_count(2)
    page.get_by_role("list", name="Conversations").get_by_role("button", name="one").click()
    expect(page.locator("article.user")).to_have_text(["Youone"])


def test_a_document_beyond_the_context_is_refused_with_figures(page):
    choose(page, "x" * 5000)
    expect(page.get_by_role("alert")).to_contain_text("more than the context of 4,096")


def test_reading_and_answering_can_be_stopped(page):
    page.route("**/v1/chat/completions", lambda route: None)  # never answers
    ask(page, "the")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#said")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()


def test_answering_again_replaces_the_answer(page):
    answers_with(page, "first")
    ask(page, "the")
    expect(page.locator("article.assistant")).to_contain_text("first")
    page.unroute("**/v1/chat/completions")
    answers_with(page, "second")
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator("article.assistant")).to_contain_text("second")
    expect(page.locator("article")).to_have_count(2)


@pytest.mark.parametrize("pieces", [1, 40])
def test_hostile_text_from_the_model_does_nothing(page, pieces):
    answers_with(page, HOSTILE, pieces)
    ask(page, HOSTILE)
    expect(page.locator("article.assistant strong")).to_have_text("bold")
    assert page.evaluate("window.hacked") is None
    assert page.locator("article :is(script, img, style, svg, iframe)").count() == 0
    links = page.locator("article a").evaluate_all("nodes => nodes.map(node => [node.href, node.rel])")
    assert links
    assert all(href.startswith("http") and "noopener" in rel for href, rel in links)
    expect(page.locator("article.user")).to_contain_text("<script>")


def test_a_name_of_a_file_is_text(page):
    choose(page, "the", name="<img src=x onerror=alert(1)>.txt")
    expect(page.locator("#document-state")).to_contain_text("<img src=x")
    assert page.locator("#document-state img").count() == 0


def test_it_can_be_used_with_the_keyboard_alone(page):
    answers_with(page, "answer")
    for _ in range(20):
        if page.evaluate("document.activeElement.id") == "question":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("typed")
    page.keyboard.press("Enter")
    expect(page.locator("article.assistant")).to_contain_text("answer")
    assert page.evaluate("document.activeElement.id") == "question"


def test_everything_has_a_name_for_screen_readers(page):
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, progress")]
            .filter(node => !(node.labels?.length || node.ariaLabel || node.textContent.trim()))
            .map(node => node.id)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phones_width_has_room_for_all(browser, server, scheme):
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server.url)
    answers_with(page, "| a | b |\n|---|---|\n| " + "x" * 300 + " | y |\n\n`" + "y" * 300 + "`")
    ask(page, "z" * 300)
    expect(page.locator("article.assistant table")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_a_server_with_a_key_asks_for_it(browser, tiny_model, tmp_path):
    with running(tiny_model, tmp_path / "log", "--api-key", "sesame", "--alias", "locked") as server:
        page = browser.new_page()
        page.goto(server.url)
        expect(page.get_by_role("alert")).to_contain_text("needs a key")
        page.get_by_label("Key of this server").fill("sesame")
        page.keyboard.press("Tab")
        expect(page.get_by_role("heading", level=1)).to_have_text("locked")
        page.close()
