"""Tokenizers read from a file's metadata, against llama.cpp and sentencepiece."""

import pydoc_data.topics
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dca_runtime.errors import DcaError, Status
from dca_runtime.tokenizer import Tokenizer

HARD = [
    "Hello world",
    " leading space",
    "  two leading spaces and two  inside, one behind ",
    "tabs\tand\n\nnewlines\r\n  \n   indented",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < 10; ++i) { a[i] += b->c; }",
    "1234567890123456789012345678901234567890 3.14159 1,000,000 0x7fff 12ab34",
    "I'm you're WE'LL they'd it's O'Brien 'tis",
    "Tiếng Việt có nhiều dấu thanh: ngã, hỏi, nặng.",
    "中文分词并不容易，尤其是没有空格。日本語のテキスト、カタカナ。한국어 문장",
    "اللغة العربية تُكتب من اليمين إلى اليسار ١٢٣",
    "emoji 😀👩‍👩‍👧‍👦🇻🇳 and combining e\u0301 and zero\u200bwidth",
    "½ ² Ⅷ ٣ 𝟛 numbers that are not digits",
    "naïve café ÀÉÎÕÜ ß ﬁ",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>text <|im_end|> after",
    "<|im_start|><|im_start|>  <|not_a_token|>",
    "a" * 300,
    " " * 70 + "x" + "\n" * 9,
    "\x00\x01\x7f control bytes",
]


def metadata_of(path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def llama_cpp(path):
    module = pytest.importorskip("llama_cpp")
    return module.Llama(str(path), vocab_only=True, verbose=False)


@pytest.fixture(scope="module")
def smollm2_metadata(smollm2_gguf) -> dict[str, Any]:
    return metadata_of(smollm2_gguf)


@pytest.fixture(scope="module")
def smollm2(smollm2_metadata) -> Tokenizer:
    return Tokenizer(smollm2_metadata)


@pytest.fixture(scope="module")
def smollm2_oracle(smollm2_gguf):
    return llama_cpp(smollm2_gguf)


@pytest.mark.parametrize("parse_special", [True, False])
@pytest.mark.parametrize("text", HARD)
def test_smollm2_ids_are_those_of_llama_cpp(smollm2, smollm2_oracle, text, parse_special):
    wanted = smollm2_oracle.tokenize(text.encode(), add_bos=True, special=parse_special)
    assert smollm2.encode(text, parse_special=parse_special) == wanted


def test_smollm2_long_text(smollm2, smollm2_oracle):
    text = "\n".join(pydoc_data.topics.topics.values())[:200_000]
    assert smollm2.encode(text) == smollm2_oracle.tokenize(text.encode(), add_bos=True, special=True)


@pytest.mark.parametrize("text", HARD)
def test_decode_undoes_encode(smollm2, text):
    assert smollm2.decode(smollm2.encode(text)) == text


def test_special_tokens_can_be_left_out(smollm2):
    ids = smollm2.encode("<|im_start|>user<|im_end|>")
    assert smollm2.decode(ids, skip_special=True) == "user"


def test_end_ids_include_the_end_of_a_turn(smollm2):
    assert smollm2.end_ids == {0, 2}  # <|endoftext|>, <|im_end|>


def test_huggingface_json_is_preferred_and_gives_the_same(smollm2_metadata, smollm2):
    serialized = smollm2._backend.to_str()
    other = Tokenizer({"tokenizer.huggingface.json": serialized, "tokenizer.ggml.eos_token_id": 2})
    assert [other.encode(text) for text in HARD] == [smollm2.encode(text) for text in HARD]
    assert other.end_ids == smollm2.end_ids


def test_without_flags_tokenizer_json_adds_its_own_special_tokens(smollm2):
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    backend = Backend.from_str(smollm2._backend.to_str())
    backend.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    metadata: dict[str, Any] = {"tokenizer.huggingface.json": backend.to_str()}
    plain = smollm2.encode("text")
    assert Tokenizer(metadata).encode("text") == [1, *plain]
    assert Tokenizer(metadata).encode("text", add_special=False) == plain
    assert Tokenizer(metadata | {"tokenizer.ggml.add_bos_token": False}).encode("text") == plain


def test_flags_add_the_special_tokens_once(smollm2_metadata, smollm2):
    flags = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    ids = Tokenizer(smollm2_metadata | flags).encode("text")
    assert ids == [1, *smollm2.encode("text"), 2]


PRETOKENIZERS = [
    "default",
    "gpt-2",
    "llama-bpe",
    "glm4",
    "dbrx",
    "qwen2",
    "qwen35",
    "tekken",
    "gpt-4o",
    "deepseek-v3",
    "deepseek-llm",
    "deepseek-coder",
    "falcon",
    "bloom",
    "viking",
]


@pytest.mark.parametrize("pre", PRETOKENIZERS)
def test_pretokenizers_cut_as_llama_cpp_does(smollm2_metadata, tmp_path, pre):
    # The first tokens and merges of a real vocabulary: merges are what makes a wrong cut show.
    merges = smollm2_metadata["tokenizer.ggml.merges"][:4000]
    tokens = smollm2_metadata["tokenizer.ggml.tokens"]
    products = {merge.replace(" ", "") for merge in merges}
    tokens = [token for id_, token in enumerate(tokens) if len(token) == 1 or id_ < 17 or token in products]
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if id_ < 17 else 1 for id_ in range(len(tokens))])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    oracle = llama_cpp(tmp_path / "vocabulary.gguf")
    tokenizer = Tokenizer(metadata_of(tmp_path / "vocabulary.gguf"))
    for text in HARD:
        assert tokenizer.encode(text) == oracle.tokenize(text.encode(), add_bos=True, special=True), text


# SentencePiece


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no-prefix"])
def sentencepiece_model(request, tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece")
    directory = tmp_path_factory.mktemp("sentencepiece")
    text = directory / "text.txt"
    text.write_text("\n".join(pydoc_data.topics.topics.values())[:150_000], encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(directory / "model"),
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=request.param,
        split_digits=True,
        user_defined_symbols=["<tool>"],
        minloglevel=2,
        num_threads=1,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "model.model")), request.param


def sentencepiece_metadata(processor, space_prefix: bool) -> dict[str, Any]:
    def kind(id_: int) -> int:
        if processor.is_unknown(id_):
            return 2
        if processor.is_control(id_):
            return 3
        if processor.is_byte(id_):
            return 6
        return 4 if processor.id_to_piece(id_) == "<tool>" else 1

    ids = range(processor.vocab_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(id_) for id_ in ids],
        "tokenizer.ggml.scores": [processor.get_score(id_) for id_ in ids],
        "tokenizer.ggml.token_type": [kind(id_) for id_ in ids],
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.add_space_prefix": space_prefix,
    }


@pytest.fixture(scope="module")
def sentencepiece_tokenizer(sentencepiece_model) -> Tokenizer:
    return Tokenizer(sentencepiece_metadata(*sentencepiece_model))


@pytest.mark.parametrize("text", [text for text in HARD if "\x00" not in text])
def test_sentencepiece_ids(sentencepiece_model, sentencepiece_tokenizer, text):
    processor, _ = sentencepiece_model
    assert sentencepiece_tokenizer.encode(text) == [processor.bos_id(), *processor.encode(text)]


@pytest.mark.parametrize("text", HARD)
def test_sentencepiece_decode_undoes_encode(sentencepiece_tokenizer, text):
    ids = sentencepiece_tokenizer.encode(text, add_special=False)
    assert sentencepiece_tokenizer.decode(ids) == text


def test_sentencepiece_user_defined_and_control_tokens(sentencepiece_model, sentencepiece_tokenizer):
    processor, _ = sentencepiece_model
    assert processor.piece_to_id("<tool>") in sentencepiece_tokenizer.encode("a<tool>b")
    assert sentencepiece_tokenizer.encode("</s>", add_special=False) == [processor.eos_id()]
    as_text = sentencepiece_tokenizer.encode("</s>", add_special=False, parse_special=False)
    assert as_text == processor.encode("</s>")


def test_sentencepiece_stream_continues_with_its_space(sentencepiece_tokenizer):
    prompt = sentencepiece_tokenizer.encode("the value", add_special=False)
    both = sentencepiece_tokenizer.encode("the value of the object", add_special=False)
    stream = sentencepiece_tokenizer.stream(after=prompt)
    text = "".join(stream.push(id_) for id_ in both[len(prompt) :]) + stream.flush()
    assert text == " of the object"


# Streaming


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_stream_gives_what_decode_gives_in_whole_characters(smollm2, text):
    ids = smollm2.encode(text)
    whole = smollm2.decode(ids)  # not always `text`: the vocabulary lacks some bytes
    stream = smollm2.stream(skip_special=False)
    pieces = [stream.push(id_) for id_ in ids]
    assert "".join(pieces) + stream.flush() == whole
    assert "\ufffd" in whole or "\ufffd" not in "".join(pieces)


def test_stream_survives_bytes_that_are_no_text(smollm2):
    begin_of_three_bytes = smollm2._metadata["tokenizer.ggml.tokens"].index("å")
    stream = smollm2.stream()
    pieces = [stream.push(begin_of_three_bytes) for _ in range(10)]
    assert "".join(pieces) == "\ufffd" * 7  # three may still become a character
    assert stream.flush() == "\ufffd" * 3
    assert "".join(map(stream.push, smollm2.encode("hi"))) == "hi"


# Wrong metadata

GOOD: Mapping[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.merges": ["a b"],
}


def test_small_vocabulary_works():
    assert Tokenizer(GOOD).encode("abba") == [2, 1, 0]


@pytest.mark.parametrize(
    ("change", "names", "status"),
    [
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model", Status.UNSUPPORTED),
        ({"tokenizer.ggml.model": 7}, "tokenizer.ggml.model", Status.UNSUPPORTED),
        ({"tokenizer.ggml.pre": "nobody's"}, "tokenizer.ggml.pre", Status.UNSUPPORTED),
        ({"tokenizer.ggml.tokens": 3}, "tokenizer.ggml.tokens", Status.FORMAT),
        ({"tokenizer.ggml.tokens": ["a", 3]}, "tokenizer.ggml.tokens", Status.FORMAT),
        ({"tokenizer.ggml.token_type": [1]}, "tokenizer.ggml.token_type", Status.FORMAT),
        ({"tokenizer.ggml.merges": ["ab"]}, "tokenizer.ggml.merges", Status.FORMAT),
        ({"tokenizer.ggml.merges": ["a q"]}, "tokenizer.ggml.merges", Status.FORMAT),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges", Status.FORMAT),
        ({"tokenizer.ggml.tokens": ["a", "b", "ab", "\udcff"]}, "tokenizer.ggml.tokens", Status.FORMAT),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.scores", Status.FORMAT),
        ({"tokenizer.huggingface.json": "{"}, "tokenizer.huggingface.json", Status.FORMAT),
        ({"tokenizer.huggingface.json": 1}, "tokenizer.huggingface.json", Status.FORMAT),
    ],
)
def test_wrong_metadata_is_named(change, names, status):
    with pytest.raises(DcaError, match=names) as caught:
        Tokenizer({**GOOD, **change})
    assert caught.value.status == status


def test_no_tokenizer_is_said():
    with pytest.raises(DcaError, match="no tokenizer"):
        Tokenizer({"general.architecture": "llama"})


def test_text_that_is_not_unicode_is_refused(smollm2):
    with pytest.raises(DcaError, match="Unicode"):
        smollm2.encode("a\ud800")


def test_ids_of_numpy_decode(smollm2):
    assert smollm2.decode(np.array(smollm2.encode("some text"), np.int64)) == "some text"
