"""Tokenizers read from a file's metadata, against llama.cpp and sentencepiece.

llama.cpp's answers lie in llama_cpp_ids.json: ids of the hard texts for SmolLM2, and for each
pre-tokenizer a SHA-256 of the ids that a vocabulary made for it gives. Where llama-cpp-python is installed
the file itself is checked; ``python tests/runtime/text/test_tokenizer.py MODEL.gguf`` writes it.
"""

import hashlib
import json
import pydoc_data.topics
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hard_texts import HARD, PRETOKENIZERS, metadata_of, write_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from dca_runtime.errors import DcaError, Status
from dca_runtime.text.tokenizer import Tokenizer

RECORDED = Path(__file__).with_name("llama_cpp_ids.json")


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text())


def digest(ids: list[list[int]]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def llama_cpp_encoder(path: Path) -> Callable[[str, bool], list[int]]:
    import llama_cpp

    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return lambda text, special: model.tokenize(text.encode(), add_bos=True, special=special)


def answers_of_llama_cpp(path: Path, scratch: Path) -> dict[str, Any]:
    encode = llama_cpp_encoder(path)
    answers: dict[str, Any] = {
        "special tokens": [encode(text, True) for text in HARD],
        "as text": [encode(text, False) for text in HARD],
    }
    for pre in PRETOKENIZERS:
        write_vocabulary(scratch / f"{pre}.gguf", pre)
        encode = llama_cpp_encoder(scratch / f"{pre}.gguf")
        answers[pre] = digest([encode(text, True) for text in texts_for(pre)])
    return answers


def texts_for(pre: str) -> list[str]:
    """HARD, less texts with combining marks where llama.cpp, unlike the models' own files, cuts at these."""
    if pre not in ("tekken", "gpt-4o"):
        return HARD
    return [text for text in HARD if not any(unicodedata.category(c).startswith("M") for c in text)]


@pytest.fixture(scope="module")
def smollm2_metadata(smollm2_gguf) -> dict[str, Any]:
    return metadata_of(smollm2_gguf)


@pytest.fixture(scope="module")
def smollm2(smollm2_metadata) -> Tokenizer:
    return Tokenizer(smollm2_metadata)


@pytest.mark.parametrize(("parse_special", "answers"), [(True, "special tokens"), (False, "as text")])
def test_smollm2_ids_are_those_of_llama_cpp(smollm2, recorded, parse_special, answers):
    for text, ids in zip(HARD, recorded[answers], strict=True):
        assert smollm2.encode(text, parse_special=parse_special) == ids, text


def test_recorded_answers_are_those_of_llama_cpp(smollm2_gguf, recorded, tmp_path):
    pytest.importorskip("llama_cpp")
    assert answers_of_llama_cpp(smollm2_gguf, tmp_path) == recorded


def test_a_long_text(smollm2, smollm2_gguf):
    pytest.importorskip("llama_cpp")
    text = "\n".join(pydoc_data.topics.topics.values())[:200_000]
    assert smollm2.encode(text) == llama_cpp_encoder(smollm2_gguf)(text, True)


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


@pytest.mark.parametrize("pre", PRETOKENIZERS)
def test_pretokenizers_cut_as_llama_cpp_does(recorded, tmp_path, pre):
    write_vocabulary(tmp_path / "vocabulary.gguf", pre)
    tokenizer = Tokenizer(metadata_of(tmp_path / "vocabulary.gguf"))
    assert digest([tokenizer.encode(text) for text in texts_for(pre)]) == recorded[pre]


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
    assert "".join(pieces) == "\ufffd" * 9  # the last may still become a character
    assert stream.flush() == "\ufffd"
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


if __name__ == "__main__":  # with tests/ in PYTHONPATH
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        answers = answers_of_llama_cpp(Path(sys.argv[1]), Path(directory))
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in answers.items())
    RECORDED.write_text(f"{{\n{lines}\n}}\n")


def test_other_threads_run_while_a_long_text_is_encoded(smollm2):
    """Python's lock is free: a thread that sleeps a millisecond at a time is never kept for half of it."""
    text = "It is a truth universally acknowledged. " * 40_000
    awake, over = [time.perf_counter()], threading.Event()

    def tick():
        while not over.wait(0.001):
            awake.append(time.perf_counter())

    ticking = threading.Thread(target=tick)
    ticking.start()
    start = time.perf_counter()
    ids = smollm2.encode(text)
    seconds = time.perf_counter() - start
    over.set()
    ticking.join()
    assert max(np.diff([at for at in awake if at >= start] + [start + seconds])) < seconds / 2
    assert ids[:10] == smollm2.encode(text[:400])[:10]
    assert smollm2.decode(ids) == text


@pytest.mark.parametrize("parse_special", [False, True])
def test_long_texts_have_the_ids_of_their_parts(smollm2, parse_special):
    """Above and below the length from which another way of the package is taken."""
    part = "One line of text, 今天 é 😀.\n"
    ids = smollm2.encode(part * 10, False, parse_special)
    long = smollm2.encode(part * 1000, False, parse_special)
    assert len(part * 10) < 512 < len(part * 1000)
    assert long == ids * 100


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_a_text_has_no_fewer_tokens_than_its_length_tells(smollm2, text):
    assert smollm2.least_tokens(text) <= len(smollm2.encode(text, add_special=False))


def test_the_longest_token_is_what_a_length_is_told_by(smollm2):
    longest = max(map(len, smollm2._metadata["tokenizer.ggml.tokens"]))  # a letter for each byte
    assert smollm2.least_tokens("#" * 80_000) == -(-80_000 // longest) > 900


def test_bytes_that_are_no_token_count_for_nothing():
    tokenizer = Tokenizer(GOOD)
    assert tokenizer.least_tokens("ab" * 1000 + "c" * 5000) == len(tokenizer.encode("ab" * 1000)) == 1000
