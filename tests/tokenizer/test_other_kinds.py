"""Unigram models, Tekken and tiktoken files: ids are those that the formats' own programs give."""

import base64
import json

import numpy as np
import pytest
import sentencepiece
from test_vocabulary import keys_of
from tiny_hf import CORPUS

from dca_export.errors import InputError
from dca_export.tokenizer import effective
from dca_export.tokenizer.agreement import HARD_TEXTS
from dca_export.tokenizer.rank_files import _merges as merges_of
from dca_export.tokenizer.vocabulary import read_vocabulary
from dca_runtime.text.tokenizer import Tokenizer as RuntimeTokenizer
from dca_runtime.text.vocabulary import build_tokenizer

TEXTS = [*HARD_TEXTS, "the quick brown fox jumps", "  quick   fox ", "doesn't it? 123"]
REGEX = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_sentencepiece(directory, kind: str, name: str = "tokenizer.model", **options):
    text = directory / "corpus.txt"
    text.write_text("\n".join(CORPUS * 5 + ["Grüße aus 北京, ½ fox"] * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(directory / "m"),
        model_type=kind,
        vocab_size=options.pop("vocab_size", 60),
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (directory / "m.model").rename(directory / name)
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / name))


UNIGRAM = {
    "plain": {},
    "with bytes": {"byte_fallback": True, "vocab_size": 330},
    "no space in front": {"add_dummy_prefix": False},
    "as it is": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "own symbols": {"user_defined_symbols": ["<sep>", "<cls>"]},
}


@pytest.mark.parametrize("options", UNIGRAM)
@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_unigram_models(tmp_path, options, name):
    source = train_sentencepiece(tmp_path, "unigram", name, **UNIGRAM[options])
    keys = keys_of(tmp_path, 400)
    assert keys["tokenizer.ggml.model"] == "t5"
    tokenizer = RuntimeTokenizer(keys)
    for text in TEXTS:
        text = text.replace("\u0000", "")  # sentencepiece ends a text there
        if options == "as it is":
            text = text.lstrip()  # transformers puts no space in front of one, sentencepiece does
        assert tokenizer.encode(text, add_special=False) == source.encode(text), text


def test_a_unigram_tokenizer_json(tmp_path):
    source = train_sentencepiece(tmp_path, "unigram")
    (tmp_path / "tokenizer.json").write_text(read_vocabulary(tmp_path, 400).huggingface_json)
    (tmp_path / "tokenizer.model").unlink()
    tokenizer = RuntimeTokenizer(keys_of(tmp_path, 400))
    for text in TEXTS[-3:]:
        assert tokenizer.encode(text, add_special=False) == source.encode(text)


def test_unigram_keys_alone_make_the_tokenizer(tmp_path):
    source = train_sentencepiece(tmp_path, "unigram")
    keys = keys_of(tmp_path, 400)
    tokenizer = build_tokenizer({key: keys[key] for key in keys if "huggingface" not in key})
    for text in TEXTS[-3:]:
        assert tokenizer.encode(text, add_special_tokens=False).ids == source.encode(text)


def test_text_that_spells_a_control_token_is_not_one(tmp_path):
    train_sentencepiece(tmp_path, "unigram", byte_fallback=True, vocab_size=330)
    tokenizer = RuntimeTokenizer(keys_of(tmp_path, 400))
    assert 2 not in tokenizer.encode("the </s> fox", add_special=False, parse_special=False)
    assert 2 in tokenizer.encode("the </s> fox", add_special=False)


def byte_ranks(count: int = 300) -> dict[bytes, int]:
    """Bytes, then unions of earlier tokens as a trainer would find them."""
    ranks = {bytes([b]): b for b in range(256)}
    random = np.random.default_rng(3)
    text = " ".join(CORPUS).encode()
    while len(ranks) < count:
        start, length = random.integers(0, len(text) - 8), random.integers(2, 7)
        word = text[start : start + length]
        if word not in ranks and any(word[:i] in ranks and word[i:] in ranks for i in range(1, len(word))):
            ranks[word] = len(ranks)
    return ranks


def by_definition(ranks: dict[bytes, int], pattern: str, text: str, first: int = 0) -> list[int]:
    """tiktoken's ids: its loop, with another engine for the pattern."""
    import regex

    ids = []
    for word in regex.findall(pattern, text):
        parts = [bytes([b]) for b in word.encode()]
        if word.encode() in ranks:
            parts = [word.encode()]
        while len(parts) > 1:
            scores = [ranks.get(parts[i] + parts[i + 1], 10**9) for i in range(len(parts) - 1)]
            if min(scores) == 10**9:
                break
            i = scores.index(min(scores))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [first + ranks[part] for part in parts]
    return ids


def write_tekken(directory, ranks: dict[bytes, int], specials: int = 20, **changes) -> None:
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for token, rank in ranks.items()
    ]
    config = {
        "pattern": REGEX,
        "default_vocab_size": len(ranks) + specials,
        "default_num_special_tokens": specials,
    }
    (directory / "tekken.json").write_text(json.dumps({"config": config | changes, "vocab": vocab}))


def test_tekken(tmp_path):
    pytest.importorskip("regex")
    ranks = byte_ranks()
    write_tekken(tmp_path, ranks)
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    tokenizer = RuntimeTokenizer(keys_of(tmp_path, 320))
    for text in TEXTS:
        assert tokenizer.encode(text, add_special=False) == by_definition(ranks, REGEX, text, 20), text
    assert tokenizer.encode("[INST]") == [1, 3]


def test_tekken_beyond_its_vocabulary(tmp_path):
    write_tekken(tmp_path, byte_ranks(), default_vocab_size=290)
    assert (
        len(json.loads(read_vocabulary(tmp_path, 320).huggingface_json)["model"]["vocab"]) == 290
    )  # special ones among them


@pytest.mark.parametrize("name", ["qwen.tiktoken", "tokenizer.model"])
@pytest.mark.parametrize("kind", ["QWenTokenizer", "ChatGLM4Tokenizer"])
def test_tiktoken(tmp_path, name, kind):
    pytest.importorskip("regex")
    ranks = byte_ranks()
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    settings = {
        "tokenizer_class": kind,
        "added_tokens_decoder": {"300": {"content": "<|end|>", "special": True}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = RuntimeTokenizer(keys_of(tmp_path, 320))
    digits = r"\p{N}" if kind == "QWenTokenizer" else r"\p{N}{1,3}"
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + REGEX.replace(r"\p{N}| ", digits + "| ")
    for text in TEXTS:
        assert tokenizer.encode(text, add_special=False) == by_definition(ranks, pattern, text), text
    assert tokenizer.encode("<|end|>") == [300]


def test_a_class_whose_cuts_are_not_known(tmp_path):
    (tmp_path / "x.tiktoken").write_text("IQ== 0\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "OtherTokenizer"}))
    with pytest.raises(InputError, match="how OtherTokenizer cuts text is not known"):
        read_vocabulary(tmp_path, 320)


DAMAGED = {
    "no base64": ("!! 0\n", "line 1 holds '!!', expected bytes"),
    "a byte is missing": ("IQ== 0\n", "1 tokens, expected 256"),
    "no rank": ("IQ==\n", "line 1 is not a token"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_tiktoken_files(tmp_path, case):
    content, message = DAMAGED[case]
    (tmp_path / "x.tiktoken").write_text(content)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "QWenTokenizer"}))
    with pytest.raises(InputError, match=message):
        read_vocabulary(tmp_path, 320)


@pytest.mark.parametrize("change", [{"pattern": None}, {"default_vocab_size": "x"}])
def test_damaged_tekken_files(tmp_path, change):
    write_tekken(tmp_path, byte_ranks(), **change)
    with pytest.raises(InputError, match="config must have a pattern"):
        read_vocabulary(tmp_path, 320)


def test_a_tokenizer_that_disagrees_with_its_source_is_not_written(tmp_path, monkeypatch):
    from dca_export.tokenizer import rank_files

    ranks = byte_ranks()
    write_tekken(tmp_path, ranks)
    monkeypatch.setattr(rank_files, "_merges", lambda known: merges_of(known)[:3])
    with pytest.raises(
        InputError, match=r"tekken.json: the tokenizer made of it gives other ids.* id \d+ is"
    ):
        read_vocabulary(tmp_path, 320)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_that_is_misread(tmp_path, kind, monkeypatch):
    train_sentencepiece(tmp_path, kind, vocab_size=100)
    made = effective.from_sentencepiece

    def misread(*arguments):
        parsed = made(*arguments)
        if kind == "bpe":
            parsed["model"]["merges"] = parsed["model"]["merges"][::-1]
        else:
            for entry in parsed["model"]["vocab"]:
                entry[1] = -entry[1]
        return parsed

    monkeypatch.setattr(effective, "from_sentencepiece", misread)
    with pytest.raises(InputError, match="gives other ids than it does itself"):
        read_vocabulary(tmp_path, 400)
