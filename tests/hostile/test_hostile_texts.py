"""Tokenizers and chat templates of a stranger: built, used or refused with a DcaError, within limits."""

import json

from hostile.damage import EXAMPLES, SETTINGS, damaged_json
from hostile.limited import limited
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hf import tiny_tokenizer

from dca_runtime.errors import DcaError
from dca_runtime.text.chat import MAX_SECONDS, render
from dca_runtime.text.tokenizer_json import build_from_json

COMPONENTS = [
    {"type": "Lowercase"},
    {"type": "NFKC"},
    {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": ""},
    {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": False},
    {"type": "Digits", "individual_digits": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "FixedLength", "length": 2**60},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Whitespace"},
]

TEXTS = ["hello world 42", " " * 5000, "?", "aa" * 500, "ы\u0301\U0001f600"]


def test_tokenizers():
    whole = json.loads(tiny_tokenizer().to_str())
    parts = st.sampled_from(["normalizer", "pre_tokenizer", "decoder", "post_processor"])
    components = st.dictionaries(parts, st.sampled_from(COMPONENTS), max_size=2)

    @SETTINGS
    @given(damaged_json(whole), components)
    def check(value, extra):
        if isinstance(value, dict):
            value |= extra

        def case():
            try:
                tokenizer = build_from_json(json.dumps(value), "here")
                for text in TEXTS:
                    tokenizer.decode(tokenizer.encode(text).ids)
            except DcaError as error:
                assert "\n" not in str(error)
            return 0

        ended = limited(case)
        assert ended.code == 0, (ended, json.dumps(value)[:2000])

    check()


PIECES = [
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
    "{{ 2 ** 2 ** 40 }}",
    "{{ 'x' * 10**10 }}",
    "{% set ns = namespace(s='xx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{{ messages.__class__.__mro__ }}",
    "{{ ''.__class__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ raise_exception('no') }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% if",
    "{{ unknown.thing.there }}",
    "{{ messages[99].content }}",
    "{{ '%1000000000d' % 3 }}",
    "{{ '{:>1000000000}'.format(3) }}",
    "{{ messages | tojson }}",
    "{{ 'a' | center(10**9) }}",
    "{{ lipsum(9999) }}",
    "{% include '/etc/passwd' %}",
    "\x00\x1b[2J",
    "{{ 10**99999 }}",
    "{{ range(10**8) | list | length }}",
]


def test_chat_templates():
    messages = [{"role": "user", "content": "hello"}]

    @settings(SETTINGS, max_examples=EXAMPLES // 2)  # one that breaks a limit takes seconds
    @given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), min_size=1, max_size=3))
    def check(pieces):
        try:
            text = render("".join(pieces), messages, True)
            assert len(text) < 64 << 20
            assert "root:" not in text and "<class" not in text
        except DcaError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000

    check()
    assert render(PIECES[0], messages, True) == "hello"
    assert MAX_SECONDS <= 10
