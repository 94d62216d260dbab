"""The name llama.cpp has for a pre-tokenizer, found by what the pre-tokenizer does."""

import json

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from dca_export.tokenizer.pre_tokenizer import build_pre_tokenizer, pre_tokenizer_name
from dca_runtime.text.pretokenizers import PRETOKENIZERS

# The patterns as the models' own tokenizer.json files have them.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def parsed(pre_tokenizer: pre_tokenizers.PreTokenizer | None, **model) -> dict:
    tokenizer = Tokenizer(models.BPE(**model))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return json.loads(tokenizer.to_str())


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES])


def test_gpt_2():
    assert pre_tokenizer_name(parsed(pre_tokenizers.ByteLevel(add_prefix_space=False))) == "gpt-2"


def test_smollm():
    digits = pre_tokenizers.Digits(individual_digits=True)
    sequence = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert pre_tokenizer_name(parsed(sequence)) == "smollm"


def test_llama_3():
    assert pre_tokenizer_name(parsed(split(LLAMA_3), ignore_merges=True)) == "llama-bpe"


def test_phi_4_has_llama_3s_pattern_but_not_its_way_with_whole_words():
    assert pre_tokenizer_name(parsed(split(LLAMA_3))) == "dbrx"


def test_qwen_2():
    assert pre_tokenizer_name(parsed(split(QWEN_2))) == "qwen2"


def test_whole_words_matter_less_than_the_pattern():
    assert pre_tokenizer_name(parsed(split(QWEN_2), ignore_merges=True)) == "qwen2"


@pytest.mark.parametrize("name", sorted(PRETOKENIZERS))
def test_every_name_finds_one_that_does_the_same(name):
    entry = PRETOKENIZERS[name]
    found = pre_tokenizer_name(parsed(build_pre_tokenizer(entry), ignore_merges=entry.ignore_merges))
    assert found is not None
    assert PRETOKENIZERS[found].patterns == entry.patterns
    assert PRETOKENIZERS[found].ignore_merges == entry.ignore_merges


@pytest.mark.parametrize("pre_tokenizer", [None, split(r"\d{4}"), pre_tokenizers.WhitespaceSplit()])
def test_an_unknown_one_has_no_name(pre_tokenizer):
    assert pre_tokenizer_name(parsed(pre_tokenizer)) is None
