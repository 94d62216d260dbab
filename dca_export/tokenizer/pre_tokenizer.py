"""Finds the name that llama.cpp has for the way a tokenizer.json cuts text before BPE.

tokenizer.json states patterns, tokenizer.ggml.pre a name. Patterns that mean the same are written in several
ways, so they are compared by what they do to a text made to tell them apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import tokenizers
from tokenizers import Regex, pre_tokenizers

from dca_runtime.text.pretokenizers import PRETOKENIZERS, Pretokenizer
from dca_runtime.text.rust_guard import guarded

# Contractions in both cases, digit runs of many lengths, words with inner capitals, combining marks, several
# scripts, punctuation against letters and line ends, all kinds of white space, and what only some patterns
# treat apart (slashes, currency and mathematical signs, digits that are not ASCII).
PROBE = (
    "Don't SHOUT'S we'll I'M they'Re 'tis x'd\n"
    "1 12 123 1234 12345 1234567 3.14 1,000 v2 2x ½ ٣٤٥ Ⅷ x²\n"
    "helloWorld HTTPServer iOS naïve cafe\u0301 über ǅungla ÀÉÎ\n"
    "你好世界 こんにちは カタカナ 한국어 tiếng Việt العربية हिन्दी русский ελληνικά עברית 中文abc漢字123\n"
    'a/b//c \\n #!$% ^&*() [x]{y} <|z|> f(x)=>y; "q" “curly” … — ！？。、 €100 5≤6 ~ ` | _u_\r\n'
    "  two   three    four\tand\t\ttabs \n\n\n  indented\n \n\t \r\n\r\n end  "
    "emoji 😀👩\u200d🚀🏳️ and \u00a0nbsp\u2003em\u3000ideographic ---- ==== ''''' !!!\n\n???\r\r end. \n"
)


def pre_tokenizer_name(parsed: Mapping[str, Any]) -> str | None:
    """The value of tokenizer.ggml.pre for a byte-level tokenizer.json, None if llama.cpp has none."""
    cuts = _cuts(_own_pre_tokenizer(parsed))
    ignore_merges = bool(parsed["model"].get("ignore_merges"))
    alike = [name for name in PRETOKENIZERS if _cuts_of(name) == cuts]
    # Names of one pattern may differ in whether whole words skip the merges; where none fits exactly, the
    # pattern matters more.
    exact = [name for name in alike if PRETOKENIZERS[name].ignore_merges == ignore_merges]
    return next(iter(exact + alike), None)


def _own_pre_tokenizer(parsed: Mapping[str, Any]) -> pre_tokenizers.PreTokenizer | None:
    """The pre-tokenizer alone, taken out by loading it with an empty model."""
    empty: dict[str, Any] = {"type": "BPE", "vocab": {}, "merges": []}
    shell: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "post_processor": None,
        "decoder": None,
    }
    alone = shell | {"pre_tokenizer": parsed.get("pre_tokenizer"), "model": empty}
    with guarded("the pre-tokenizer cannot be built"):
        return tokenizers.Tokenizer.from_str(json.dumps(alone)).pre_tokenizer


@cache
def _cuts_of(name: str) -> list[tuple[int, int]]:
    return _cuts(build_pre_tokenizer(PRETOKENIZERS[name]))


def build_pre_tokenizer(entry: Pretokenizer) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer that a name of llama.cpp stands for."""
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in entry.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, byte_level])


def _cuts(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> list[tuple[int, int]]:
    """Where the probe is cut, as (start, end) of each piece."""
    if pre_tokenizer is None:
        return [(0, len(PROBE))]
    with guarded("the pre-tokenizer fails on a text"):
        return [span for _, span in pre_tokenizer.pre_tokenize_str(PROBE)]
