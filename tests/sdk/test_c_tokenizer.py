"""The tokenizer in C against the one in Python: the same ids and the same text, or both refuse."""

import pydoc_data.topics
import random
from pathlib import Path
from typing import Any

import pytest
from c_tokenizer import CTokenizer
from hard_texts import HARD, PRETOKENIZERS, metadata_of, write_metadata, write_vocabulary
from hypothesis import given, note, settings
from hypothesis import strategies as st
from tiny import byte_characters

from dca_runtime.errors import DcaError
from dca_runtime.text.pretokenizers import PRETOKENIZERS as BY_NAME
from dca_runtime.text.tokenizer import Tokenizer

# Characters at which patterns, case and clusters turn.
TURNS = "aZsSlLtTrRvVeEmMdD019'ſﬆßK ǅʰªʻ한ᅡ中ぁé़्́̈ \t\n\r\x0b\x85\xa0"
TURNS += "\u3000\u200b\u200d!?.,/\\|()[]{}<>=+~^$`…。，٣Ⅷ½😀🇻🇳\u0600\x00"
TURNS += "<s>▁"
texts = st.text(st.sampled_from(TURNS) | st.characters(codec="utf-8"), max_size=60)


def both(path: Path, metadata: dict[str, Any]) -> tuple[CTokenizer, Tokenizer]:
    write_metadata(path, metadata)
    return CTokenizer(path), Tokenizer(metadata)


def assert_same_ids(c: CTokenizer, python: Tokenizer, text: str) -> None:
    for add_special in (True, False):
        for parse_special in (True, False):
            ids = python.encode(text, add_special, parse_special)
            assert c.encode(text, add_special, parse_special) == ids, (text, add_special, parse_special)
    assert c.prompt_ids(text) == python.prompt_ids(text), text


def assert_same_text(c: CTokenizer, python: Tokenizer, ids: list[int], after: list[int]) -> None:
    for skip_special in (True, False):
        whole = python.decode(ids, skip_special)
        assert c.decode(ids, skip_special) == whole, ids
        assert "".join(c.pieces(ids, (), skip_special)) == whole, ids
    if "\ufffd" in python.decode(after):  # which of the wrong bytes were shown before is each one's own
        return
    stream = python.stream(after)
    assert "".join(c.pieces(ids, after)) == "".join(map(stream.push, ids)) + stream.flush(), (after, ids)


# Byte-level BPE.


@pytest.mark.parametrize("pre", PRETOKENIZERS)
def test_hard_texts(tmp_path, pre):
    write_vocabulary(tmp_path / "vocabulary.gguf", pre)
    c, python = CTokenizer(tmp_path / "vocabulary.gguf"), Tokenizer(metadata_of(tmp_path / "vocabulary.gguf"))
    for text in HARD:
        assert_same_ids(c, python, text)
        assert c.decode(c.encode(text)) == python.decode(python.encode(text))


def cutting(pre: str) -> dict[str, Any]:
    """A vocabulary that shows every cut: whatever bytes stand side by side in a piece become one token."""
    letters = byte_characters()
    rng = random.Random(1)
    data = [letters[byte] for text in (TURNS, *HARD) for byte in text.encode()]
    pairs = sorted({a + b for a, b in zip(data, data[1:], strict=False)})
    pairs += sorted({rng.choice(letters) + rng.choice(letters) for _ in range(3000)} - set(pairs))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": ["<s>", *letters, *pairs],
        "tokenizer.ggml.token_type": [3] + [1] * (256 + len(pairs)),
        "tokenizer.ggml.merges": [f"{pair[0]} {pair[1]}" for pair in pairs],
        "tokenizer.ggml.bos_token_id": 0,
    }


@pytest.mark.parametrize("pre", sorted(BY_NAME))
def test_every_pretokenizer_cuts_where_python_does(tmp_path, pre):
    c, python = both(tmp_path / "cutting.gguf", cutting(pre))
    for text in HARD:
        assert_same_ids(c, python, text)

    @settings(max_examples=60, deadline=None)
    @given(texts)
    def check(text):
        assert_same_ids(c, python, text)

    check()


def test_classes_of_characters_are_those_of_the_table():
    from importlib.util import module_from_spec, spec_from_file_location

    folder = Path(__file__).parents[2] / "native" / "core" / "tokenizer" / "unicode"
    spec = spec_from_file_location("make_unicode_table", folder / "make_unicode_table.py")
    assert spec is not None and spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, text in script.tables().items():
        made, there = text.splitlines()[1:], (folder / name).read_text(encoding="utf-8").splitlines()[1:]
        assert made == there, f"{name}: run make_unicode_table.py"


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf) -> tuple[CTokenizer, Tokenizer]:
    return CTokenizer(smollm2_gguf), Tokenizer(metadata_of(smollm2_gguf))


def test_smollm2(smollm2):
    c, python = smollm2
    for text in (*HARD, "\n".join(pydoc_data.topics.topics.values())[:200_000]):
        assert_same_ids(c, python, text)
    assert c.end_ids == python.end_ids
    assert c.special == (python.bos_id, python.eos_id)


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.integers(-2, 49_200), max_size=40), after=st.lists(st.integers(0, 49_151), max_size=12)
)
def test_smollm2_text(smollm2, ids, after):
    assert_same_text(*smollm2, ids, after)


# Small vocabularies of every kind, with whatever can be odd about one.

LETTERS = st.sampled_from(
    [*"ab ▁AB", "é", "中", "\u0301", "<s>", "<0x61>", "<0xC3>", "<0xA9>", "<0xE4>", "Ġ", "Ã", "©"]
)
WORDS = st.lists(LETTERS, max_size=4).map("".join)
SOME_BYTES = [f"<0x{byte:02X}>" for byte in (0x41, 0x62, 0xC3, 0xA9, 0xE4, 0xB8, 0xAD, 0xE2, 0x96, 0x81)]


@st.composite
def vocabularies(draw, model: str) -> dict[str, Any]:
    tokens = draw(st.lists(WORDS, min_size=1, max_size=40))
    tokens += draw(st.lists(st.sampled_from(SOME_BYTES), max_size=12))
    if draw(st.booleans()):
        tokens += list("ab▁é中ABĠÃ©") + ["ab", "▁a", "aa", "bb", "▁▁", "Ã©"]
    if model == "t5":
        tokens = list(dict.fromkeys(tokens))
    count = len(tokens)
    kinds = draw(st.lists(st.sampled_from([1, 1, 1, 1, 1, 2, 3, 4, 5, 6]), min_size=count, max_size=count))
    # One text as a control token and as a user-defined one is half of either in the tokenizers package.
    defined = {token for token, kind in zip(tokens, kinds, strict=True) if kind == 4}
    kinds = [4 if token in defined else kind for token, kind in zip(tokens, kinds, strict=True)]
    scores = st.lists(st.integers(-40, 8).map(lambda n: n / 4), min_size=count, max_size=count)
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": draw(scores),
        "tokenizer.ggml.bos_token_id": draw(st.integers(0, count // 2)),
        "tokenizer.ggml.eos_token_id": draw(st.sampled_from([-1, *range(count // 2 + 1, count + 1)])),
    }
    for key in ("add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"):
        if draw(st.booleans()):
            metadata[f"tokenizer.ggml.{key}"] = draw(st.booleans())
    if model == "gpt2":
        known = set(tokens)
        pairs = sorted(
            {(a, b) for a in known for b in known if a + b in known and a and b and " " not in a + b}
        )
        chosen = draw(st.lists(st.sampled_from(pairs), max_size=20)) if pairs else []
        metadata["tokenizer.ggml.merges"] = [f"{a} {b}" for a, b in chosen] or ["x"]
        metadata["tokenizer.ggml.pre"] = draw(st.sampled_from(PRETOKENIZERS))
    return metadata


@pytest.mark.parametrize("model", ["gpt2", "llama", "t5"])
def test_any_vocabulary(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("any") / "vocabulary.gguf"

    @settings(max_examples=300, deadline=None)
    @given(vocabularies(model), st.lists(LETTERS | texts, max_size=12).map("".join), st.data())
    def check(metadata, text, data):
        note(repr(metadata))
        try:
            python = Tokenizer(metadata)
        except DcaError:
            write_metadata(path, metadata)
            with pytest.raises(DcaError):
                CTokenizer(path)
            return
        c, _ = both(path, metadata)
        try:
            python.encode(text, parse_special=False)
        except DcaError:  # a unigram model without an unknown token
            with pytest.raises(DcaError):
                c.encode(text, parse_special=False)
        else:
            assert_same_ids(c, python, text)
        count = len(metadata["tokenizer.ggml.tokens"])
        ids = data.draw(st.lists(st.integers(-1, count), max_size=12))
        after = data.draw(st.lists(st.integers(0, count), max_size=12))
        assert_same_text(c, python, ids, after)
        assert c.end_ids == python.end_ids
        assert c.special == tuple(-1 if id_ is None else id_ for id_ in (python.bos_id, python.eos_id))

    check()


# SentencePiece's own.


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def sentencepiece_pair(request, tmp_path_factory) -> tuple[CTokenizer, Tokenizer]:
    sentencepiece = pytest.importorskip("sentencepiece")
    directory = tmp_path_factory.mktemp("sentencepiece")
    text = directory / "text.txt"
    text.write_text("\n".join(pydoc_data.topics.topics.values())[:150_000], encoding="utf-8")
    unigram = request.param == "unigram"
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(directory / "model"),
        model_type=request.param,
        vocab_size=900,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc" if unigram else "identity",
        remove_extra_whitespaces=unigram,
        user_defined_symbols=["<tool>"],
        minloglevel=2,
        num_threads=1,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "model.model"))
    ids = range(processor.vocab_size())
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "t5" if unigram else "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(id_) for id_ in ids],
        "tokenizer.ggml.scores": [processor.get_score(id_) for id_ in ids],
        "tokenizer.ggml.token_type": [
            2
            if processor.is_unknown(id_)
            else 3
            if processor.is_control(id_)
            else 6
            if processor.is_byte(id_)
            else 1
            for id_ in ids
        ],
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.remove_extra_whitespaces": unigram,
    }
    metadata["tokenizer.ggml.token_type"][processor.piece_to_id("<tool>")] = 4
    if unigram:
        metadata["tokenizer.ggml.precompiled_charsmap"] = list(character_map(directory / "model.model"))
    return both(directory / "vocabulary.gguf", metadata)


def character_map(model: Path) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    parsed = sentencepiece_model_pb2.ModelProto()
    parsed.ParseFromString(model.read_bytes())
    return parsed.normalizer_spec.precompiled_charsmap


def test_sentencepiece_models(sentencepiece_pair):
    c, python = sentencepiece_pair
    for text in (*HARD, "\n".join(pydoc_data.topics.topics.values())[:50_000]):
        assert_same_ids(c, python, text)

    @settings(max_examples=300, deadline=None)
    @given(texts, st.lists(st.integers(0, 899), max_size=40))
    def check(text, ids):
        assert_same_ids(c, python, text)
        assert_same_text(c, python, ids, [])

    check()


# Hostile texts and vocabularies: what takes more than linear time would not end within the tests' limit.


@pytest.mark.parametrize("text", ["a", " ", "\n ", "A", "aA", "'", "9", "\u0301", "<s", "<s>"])
@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "gpt-4o", "deepseek-llm", "deepseek-v3", "default"])
def test_long_runs_end(tmp_path, pre, text):
    path = tmp_path / "vocabulary.gguf"
    write_vocabulary(path, pre)
    c = CTokenizer(path)
    long = text * (2_000_000 // len(text.encode()))
    assert len(c.encode(long)) > 0


@pytest.mark.parametrize("kind", [3, 4])
def test_whole_tokens_that_begin_alike_end(tmp_path, kind):
    whole = ["a" * length + "b" for length in range(0, 2000, 4)]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*whole, "a", "aa"],
        "tokenizer.ggml.token_type": [kind] * len(whole) + [1, 1],
        "tokenizer.ggml.merges": ["a a"],
    }
    write_metadata(tmp_path / "alike.gguf", metadata)
    ids = CTokenizer(tmp_path / "alike.gguf").encode("a" * 1_000_000)
    assert ids == [len(whole) + 1] * 500_000


def test_pieces_that_begin_alike_end(tmp_path):
    tokens = ["<unk>", "▁", *("a" * length for length in range(1, 257))]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2] + [1] * (len(tokens) - 1),
        "tokenizer.ggml.scores": [float(-len(token)) for token in tokens],
    }
    write_metadata(tmp_path / "alike.gguf", metadata)
    text = "a" * 200_000
    c = CTokenizer(tmp_path / "alike.gguf")
    assert c.decode(c.encode(text)) == text
