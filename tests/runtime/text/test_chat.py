"""Chat templates: what transformers renders, and nothing that a sandbox should stop."""

import pytest

from dca_runtime.errors import DcaError
from dca_runtime.text import chat

MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": 'Say "hi" to Zoë.'},
]

TEMPLATES = {
    "blocks are trimmed": "{% for message in messages %}\n    {%- if message.role == 'user' %}\n"
    "    {{ message.content }}\n    {% endif %}\n{% endfor %}",
    "tojson does not escape": "{{ messages | tojson }} {{ messages | tojson(indent=2) }}",
    "special tokens": "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}",
    "generation prompt": "{% if add_generation_prompt %}assistant:{% endif %}",
    "loop controls": "{% for message in messages %}{{ message.role }}{% break %}{% endfor %}",
    "generation tag": "{% generation %}{{ messages[1].content }}{% endgeneration %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for message in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}",
    "date": "{{ strftime_now('%Y') }}",
    "no tools": "{% if tools is not none %}tools{% endif %}{% if custom is defined %}custom{% endif %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_renders_as_transformers_does(template):
    transformers = pytest.importorskip("transformers.utils.chat_template_utils")
    wanted, _ = transformers.render_jinja_template(
        [MESSAGES], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    got = chat.render(template, MESSAGES, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
    assert got == wanted[0]


def test_the_templates_own_complaint_is_the_message():
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DcaError, match="roles must alternate"):
        chat.render(template, MESSAGES, add_generation_prompt=True)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
        "{% if %}",
        "{{ messages | nothing }}",
    ],
)
def test_what_a_template_must_not_or_cannot_do_is_one_error(template):
    with pytest.raises(DcaError, match="chat template failed") as caught:
        chat.render(template, MESSAGES, add_generation_prompt=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 0.5 s"),
        ("{{ 2 ** (2 ** 40) }}", ""),
        ("{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}", ""),
        ("{{ 'a' * 10 ** 10 }}", "MemoryError"),
        ("{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}", "more than 67,108,864 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ " + "-" * 100_000 + "1 }}", "RecursionError"),
        ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "SyntaxError"),
        ("{{ raise_exception('two\nlines \x1b[31m') }}", "two lines [31m"),
    ],
)
def test_a_template_without_bounds_is_stopped(template, reason, monkeypatch):
    monkeypatch.setattr(chat, "MAX_SECONDS", 0.5)
    with pytest.raises(DcaError, match="chat template failed") as caught:
        chat.render(template, MESSAGES, add_generation_prompt=True)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(chat, "MAX_SECONDS", 30.0)
    if reason not in str(caught.value):  # a busy machine may reach the limit of time first
        assert "more than 0.5 s" in str(caught.value)
    assert chat.render("{{ messages[1].role }}", MESSAGES, add_generation_prompt=True) == "user"


def test_one_process_renders_all_turns():
    chat.render("{{ 1 }}", MESSAGES, add_generation_prompt=True)
    process = chat._worker._process
    chat.render("{{ 2 }}", MESSAGES, add_generation_prompt=True)
    assert chat._worker._process is process


def test_messages_that_json_cannot_say_are_refused():
    with pytest.raises(DcaError, match="object is nothing that JSON can say"):
        chat.render("{{ 1 }}", [{"content": object()}], add_generation_prompt=True)


def test_long_messages_pass_both_ways():
    text = "é" * 2_000_000
    assert chat.render("{{ messages[0].content }}", [{"content": text}], add_generation_prompt=True) == text
