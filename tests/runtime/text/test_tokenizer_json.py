"""tokenizer.json and tokenizer.ggml.* of strangers: refused in one line, or built and of use, and soon."""

import base64
import json
import time
from typing import Any

import pytest
from tiny_hf import tiny_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from dca_runtime.errors import DcaError
from dca_runtime.text.character_map import character_map_problem
from dca_runtime.text.pretokenizers import PRETOKENIZERS
from dca_runtime.text.rust_guard import guarded
from dca_runtime.text.tokenizer import Tokenizer as RuntimeTokenizer
from dca_runtime.text.tokenizer_json import build_from_json, explodes

WHOLE: dict[str, Any] = json.loads(tiny_tokenizer().to_str())
VOCAB: dict[str, int] = WHOLE["model"]["vocab"]
ENTRY: dict[str, Any] = WHOLE["added_tokens"][0]


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replaced(string: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": string}, "content": content}


def around(ids: list[int], pieces: list[dict]) -> dict[str, Any]:
    token = {"id": "<s>", "ids": ids, "tokens": ["<s>"]}
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": {"<s>": token}}


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}}, "only BPE"),
        ({"model": WHOLE["model"] | {"dropout": 0.5}}, "dropout"),
        ({"model": WHOLE["model"] | {"unk_token": "none"}}, "unk_token"),
        ({"model": WHOLE["model"] | {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
        ({"model": WHOLE["model"] | {"vocab": VOCAB | {"zz": -1}}}, "out of range"),
        ({"model": WHOLE["model"] | {"vocab": VOCAB | {"zz": 2**31 - 1}}}, "out of range"),
        ({"model": WHOLE["model"] | {"vocab": VOCAB | {"z" * 5000: 400}}}, "5,000 characters"),
        ({"model": WHOLE["model"] | {"vocab": {"a": "b"}}}, "out of range"),
        ({"model": WHOLE["model"] | {"merges": ["a"]}}, ""),
        ({"added_tokens": [ENTRY | {"id": 2**40}]}, "out of range"),
        ({"added_tokens": [ENTRY | {"content": "x" * 10**6}]}, "1,000,000 characters"),
        ({"added_tokens": [ENTRY | {"content": "x" * 4000}] * 600}, "added tokens of 2,400,000"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////////"}}, "charsmap"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "é"}}, "base64"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 100}}, "100 characters"),
        ({"normalizer": {"type": "Sequence", "normalizers": [replaced("a", "aa")] * 40}}, "without bound"),
        ({"normalizer": {"type": ["NFC"]}}, "not supported"),
        ({"normalizer": []}, "no object"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "FixedLength"),
        ({"pre_tokenizer": split("(?:a|a)*b")}, "exponential"),
        ({"pre_tokenizer": split("")}, "empty"),
        ({"post_processor": around([-1], [BOS, TEXT])}, "no valid ids"),
        ({"post_processor": around([0] * 65, [BOS, TEXT])}, "no valid ids"),
        ({"post_processor": around([0], [BOS] * 65 + [TEXT])}, "more than 64"),
        ({"post_processor": around([0], [BOS])}, "each text once"),
        ({"post_processor": around([0], [{"SpecialToken": {"id": "["}}, TEXT])}, "special_tokens lacks"),
        ({"post_processor": around([0], [{"Sequence": {"id": "B", "type_id": 0}}])}, "each text once"),
        ({"post_processor": {"type": "BertProcessing"}}, "BertProcessing"),
        ({"decoder": {"type": "Strip", "content": " ", "start": 0, "stop": 2**60}}, "Strip"),
        ({"decoder": {"type": "CTC"}}, "CTC"),
    ],
)
def test_refused_in_one_line(change, reason):
    with pytest.raises(DcaError, match="tokenizer.huggingface.json: not a valid tokenizer") as caught:
        RuntimeTokenizer({"tokenizer.huggingface.json": json.dumps(WHOLE | change)})
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[" * 10**6, '{"model": 1, "model": 2}', '{"a": ' + "9" * 5000 + "}"])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(DcaError, match="not a valid tokenizer"):
        build_from_json(text, "x")


def test_padding_and_truncation_change_nothing():
    padded = Tokenizer.from_str(json.dumps(WHOLE))
    padded.enable_padding(length=32, pad_id=1, pad_token="</s>")
    padded.enable_truncation(2)
    wanted = tiny_tokenizer().encode("the quick brown fox").ids
    assert build_from_json(padded.to_str(), "x").encode("the quick brown fox").ids == wanted


def test_panics_of_the_package_are_errors():
    class PanicException(BaseException):
        """Named and derived as pyo3's."""

    with pytest.raises(DcaError, match=r"it failed \(a b\)"), guarded("it failed"):
        raise PanicException("a\nb")
    with pytest.raises(KeyboardInterrupt), guarded("it failed"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("pattern", ["(a+)+", "(?:a|b)*c", "((x)*y)+", r"(\w+\s?){2,}", "(?<n>a*)*"])
def test_patterns_that_explode(pattern):
    assert explodes(pattern)


def test_patterns_of_models_in_use_do_not_explode():
    assert not any(explodes(pattern) for entry in PRETOKENIZERS.values() for pattern in entry.patterns)


# deepseek-llm's trailing spaces


@pytest.mark.parametrize(
    "text", ["a  ", "  b", " \n\n x", "\n \n", "", " ", "a \t b  \u3000", "x\n  \n  y \n"]
)
def test_the_linear_pattern_cuts_as_the_quadratic_one(text):
    (linear,) = [pattern for pattern in PRETOKENIZERS["deepseek-llm"].patterns if pattern.endswith("$")]
    cuts = [
        pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)
        for pattern in (linear, r"\s+$")
    ]
    assert cuts[0] == cuts[1]


def test_a_file_with_the_quadratic_pattern_takes_linear_time():
    tokenizer = build_from_json(json.dumps(WHOLE | {"pre_tokenizer": split(r"\s+$")}), "x")
    start = time.perf_counter()
    tokenizer.encode(" " * 400_000 + "x")  # quadratic: a quarter of an hour
    assert time.perf_counter() - start < 20


# tokenizer.ggml.*

GOOD: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.scores": [0.0, 0.0, -1.0],
    "tokenizer.ggml.token_type": [1, 1, 1],
    "tokenizer.ggml.add_space_prefix": False,
}
NESTED = [chr(0x4E00 + i) * length for i in range(60) for length in range(1, 257)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pre", ["gpt-2"]),
        ("model", ["llama"]),
        ("scores", ["x", "y", "z"]),
        ("scores", [float("nan")] * 3),
        ("token_type", ["1"] * 3),
        ("token_type", [1.5] * 3),
        ("add_bos_token", "yes"),
        ("add_space_prefix", 1),
        ("eos_token_id", "2"),
        ("eos_token_id", 1.5),
        ("tokens", ["a", "b", "a" * 300]),
        ("tokens", ["a", "b", "a" * 10**6]),
    ],
)
def test_wrong_types_and_sizes_are_named(key, value):
    kind = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": []} if key == "pre" else {}
    with pytest.raises(DcaError, match=f"tokenizer.ggml.{key}"):
        tokenizer = RuntimeTokenizer(GOOD | kind | {f"tokenizer.ggml.{key}": value})
        assert tokenizer.end_ids is not None
        tokenizer.encode("ab")


@pytest.mark.parametrize("id_", [-1, 2**40, 3])
def test_an_id_without_a_token_counts_as_none(id_):
    tokenizer = RuntimeTokenizer(GOOD | {"tokenizer.ggml.eos_token_id": id_})
    assert tokenizer.eos_id is None
    assert tokenizer.encode("ab") == [2]


def test_nested_tokens_are_refused_before_their_merges_fill_memory():
    count = len(NESTED)
    keys = {"tokens": NESTED, "scores": [0.0] * count, "token_type": [1] * count}
    with pytest.raises(DcaError, match="can be merged in more than"):
        RuntimeTokenizer(GOOD | {f"tokenizer.ggml.{key}": value for key, value in keys.items()})


def test_every_listed_end_ends_whether_special_or_not():
    ends = RuntimeTokenizer(GOOD | {"tokenizer.end_token_ids": [2, 0]}).end_ids
    assert ends == {0, 2}


@pytest.mark.parametrize("ids", [[-1], [2**31], [2**70]])
def test_what_is_no_id_gives_no_text(ids):
    assert RuntimeTokenizer(GOOD).decode(ids) == ""


def test_what_is_no_integer_cannot_be_decoded():
    with pytest.raises(DcaError, match="must be an integer"):
        RuntimeTokenizer(GOOD).decode([1.5])


# SentencePiece's map of characters


def character_map(trie: bytes, texts: bytes) -> bytes:
    return len(trie).to_bytes(4, "little") + trie + texts


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no size"),
        (b"\xff" * 6, "no size"),
        (character_map(b"\0" * 5, b""), "no size"),
        (character_map(b"\xff" * 1024, b"a\0"), "outside"),
        (character_map(b"\0" * 1024, b"\xff\0"), "not UTF-8"),
    ],
)
def test_damaged_maps(data, problem):
    assert problem in str(character_map_problem(data))


def leading_to(value: int) -> bytes:
    """A trie of the one key "a": its root's children stand at 256 ^ label, the value at 512."""
    units = [0] * 768
    units[0] = 256 << 10
    units[256 ^ ord("a")] = (256 ^ ord("a") ^ 512) << 10 | 1 << 8 | ord("a")
    units[512] = 1 << 31 | value
    return b"".join(unit.to_bytes(4, "little") for unit in units)


def test_a_map_of_one_character():
    data = character_map(leading_to(2), b"x\0yz\0")
    assert character_map_problem(data) is None
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
    bpe = json.loads(Tokenizer(models.BPE({"y": 0, "z": 1}, [])).to_str())
    assert build_from_json(json.dumps(bpe | {"normalizer": normalizer}), "x").encode("a").ids == [0, 1]


@pytest.mark.parametrize(("value", "texts"), [(9, b"x\0"), (1, "é\0".encode()), (0, b"x" * 300)])
def test_maps_that_lead_nowhere_or_grow(value, texts):
    assert character_map_problem(character_map(leading_to(value), texts)) is not None
