"""The embedded tokenizer and the names beside it, against what transformers makes of the same directory."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_vocabulary import HARD, keys_of
from tiny_hf import write_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from dca_export.errors import InputError
from dca_export.tokenizer.vocabulary import read_vocabulary
from dca_runtime.text.tokenizer import Tokenizer as RuntimeTokenizer

transformers = pytest.importorskip("transformers")

TEXTS = [*HARD, "<|im_start|>user\nHi<|im_end|>\n", "a<tool>b", "a <tool> b</s>", "cafe\u0301"]
SIZE = 400


def byte_level(*special: str, vocab: int = 290) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(text, special=True) for text in special or ("<s>", "</s>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog 123 times"] * 4, trainer)
    return tokenizer


def entries(first: int, **special: bool) -> dict[str, Any]:
    """added_tokens_decoder for these tokens; < and > around each."""
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {
        str(first + i): {"content": f"<{text}>", "special": kind} | flags
        for i, (text, kind) in enumerate(special.items())
    }


def agrees(directory: Path, model_type: str = "llama", vocab_size: int = SIZE, special: bool = True) -> None:
    """The runtime's tokenizer of an export gives transformers' ids and texts."""
    config = {"model_type": model_type, "vocab_size": vocab_size}
    (directory / "config.json").write_text(json.dumps(config | {"bos_token_id": 0, "eos_token_id": 1}))
    ours = RuntimeTokenizer(keys_of(directory, vocab_size))
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=special)
        assert ours.encode(text, add_special=special) == ids
        for skip in (False, True):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": entries(290, tool=False) | entries(291, end=True)},
        {"added_tokens_decoder": entries(0, s=True)},
        {"added_tokens_decoder": entries(1) | {"1": entries(1, x=False)["1"] | {"content": "</s>"}}},
        {"pad_token": "<pad>"},
        {"eos_token": "<never seen>"},
        {"additional_special_tokens": ["<tool>", "<|im_start|>"]},
        {"extra_special_tokens": {"tool_token": "<tool>"}},
        {"add_bos_token": True, "add_eos_token": True},
        {"bos_token": None, "eos_token": None},
        {"tokenizer_class": "LlamaTokenizerFast"},
    ],
)
def test_tokens_that_only_tokenizer_config_states(tmp_path, config):
    write_tokenizer(tmp_path, byte_level(), **({"tokenizer_class": "PreTrainedTokenizerFast"} | config))
    agrees(tmp_path)


def test_added_tokens_json(tmp_path):
    write_tokenizer(tmp_path, byte_level(), eos_token="<|im_end|>")
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 290, "<|im_end|>": 291}')
    agrees(tmp_path)


def test_an_end_token_of_the_vocabulary_matches_as_a_whole(tmp_path):
    parsed = json.loads(byte_level().to_str())
    parsed["model"]["vocab"]["<|im_end|>"] = 290
    write_tokenizer(tmp_path, eos_token="<|im_end|>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed))
    agrees(tmp_path)
    assert keys_of(tmp_path, SIZE)["tokenizer.ggml.eos_token_id"] == 290


def test_an_added_token_keeps_the_id_that_is_stated(tmp_path):
    write_tokenizer(tmp_path, byte_level(), added_tokens_decoder=entries(350, tool=False))
    keys = keys_of(tmp_path, SIZE)
    assert keys["tokenizer.ggml.tokens"][350] == "<tool>"
    assert 350 in RuntimeTokenizer(keys).encode("a<tool>b")


def test_tokens_that_the_model_has_no_row_for_are_left_out(tmp_path):
    write_tokenizer(tmp_path, byte_level(), pad_token="<pad>", added_tokens_decoder=entries(290, tool=False))
    vocabulary = read_vocabulary(tmp_path, 290)
    assert [note.split(" ")[1] for note in vocabulary.notes] == ["'<tool>'", "'<pad>'"]
    assert "pad" not in vocabulary.special.ids


@pytest.mark.parametrize("side", ["left", "right"])
def test_saved_padding_and_truncation(tmp_path, side):
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    plain = [tokenizer.encode(text).ids for text in TEXTS]
    tokenizer.enable_padding(direction=side, length=32, pad_id=1, pad_token="</s>")
    tokenizer.enable_truncation(16)
    write_tokenizer(tmp_path, tokenizer)
    keys = keys_of(tmp_path)
    assert [RuntimeTokenizer(keys).encode(text) for text in TEXTS] == plain
    assert (keys["tokenizer.ggml.add_bos_token"], keys["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert json.loads(keys["tokenizer.huggingface.json"])["padding"] is None


# What stands around a text


@pytest.mark.parametrize(
    "single", ["<s> $A", "<s> $A </s>", "$A </s>", "<s> <s> $A", "</s> $A", "$A </s> <s>"]
)
@pytest.mark.parametrize("bos", ["<s>", None, "unnamed"])
def test_what_encoding_adds(tmp_path, single, bos):
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    write_tokenizer(tmp_path, tokenizer, bos_token=bos)
    if bos == "unnamed":
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        del config["bos_token"]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    agrees(tmp_path)


def test_one_leading_token_is_the_bos_where_none_is_named(tmp_path):
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    (tmp_path / "config.json").write_text('{"bos_token_id": 1}')
    keys = keys_of(tmp_path)
    assert keys["tokenizer.ggml.bos_token_id"] == 0
    assert keys["tokenizer.ggml.add_bos_token"] is True


def test_several_leading_tokens_are_left_to_tokenizer_json_with_a_note(tmp_path):
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> <s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    write_tokenizer(tmp_path, tokenizer)
    assert "tokenizer.ggml.add_bos_token" not in keys_of(tmp_path)
    assert "puts </s> <s> around a text" in read_vocabulary(tmp_path, 290).notes[0]


# Names and ends


def test_null_stays_null_and_what_is_not_stated_comes_from_config(tmp_path):
    write_tokenizer(tmp_path, byte_level(), bos_token=None)
    (tmp_path / "config.json").write_text('{"bos_token_id": 0, "pad_token_id": 1}')
    special = read_vocabulary(tmp_path, 290).special
    assert "bos" not in special.ids
    assert special.ids["pad"] == 1


def test_without_tokenizer_config(tmp_path):
    (tmp_path / "tokenizer.json").write_text(byte_level().to_str())
    (tmp_path / "config.json").write_text('{"bos_token_id": 0, "eos_token_id": [1]}')
    (tmp_path / "chat_template.jinja").write_text("{{ 1 }}")
    keys = keys_of(tmp_path)
    assert keys["tokenizer.ggml.bos_token_id"] == 0
    assert keys["tokenizer.ggml.eos_token_id"] == 1
    assert keys["tokenizer.chat_template"] == "{{ 1 }}"


def test_every_end_id_is_written_eos_first(tmp_path):
    write_tokenizer(tmp_path, byte_level("<s>", "</s>", "<turn>"), eos_token="<turn>")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 7, 2]}')
    (tmp_path / "config.json").write_text('{"eos_token_id": 9}')
    keys = keys_of(tmp_path)
    assert keys["tokenizer.end_token_ids"] == [2, 1, 7, 9]
    assert keys["tokenizer.ggml.eos_token_id"] == 2
    assert keys["tokenizer.ggml.eot_token_id"] == 1
    assert RuntimeTokenizer(keys).end_ids == {1, 2, 7, 9}


@pytest.mark.parametrize("id_", ["Infinity", '"1"', "1.5", "true", "[[1]]"])
def test_an_end_id_that_is_no_integer(tmp_path, id_):
    write_tokenizer(tmp_path, byte_level())
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": {id_}}}')
    with pytest.raises(InputError, match="generation_config.json: eos_token_id holds"):
        read_vocabulary(tmp_path, 290)


# Templates


def test_a_template_file_wins(tmp_path):
    write_tokenizer(tmp_path, chat_template="old")
    (tmp_path / "chat_template.json").write_text('{"chat_template": "older"}')
    assert keys_of(tmp_path)["tokenizer.chat_template"] == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert keys_of(tmp_path)["tokenizer.chat_template"] == "new"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("documents")
    keys = keys_of(tmp_path)
    assert keys["tokenizer.chat_template"] == "new"
    assert keys["tokenizer.chat_template.rag"] == "documents"


@pytest.mark.parametrize("config", [{"chat_template": "\ud800"}, {"eos_token": "\ud800"}, {"pad_token": 7}])
def test_texts_that_cannot_be_written_are_refused(tmp_path, config):
    write_tokenizer(tmp_path, **config)
    with pytest.raises(InputError):
        read_vocabulary(tmp_path, 290)


# Directories without tokenizer.json


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("qwen2", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "bos_token": None}),
        ("qwen3", {"eos_token": "<|endoftext|>"}),
        ("llama", {"tokenizer_class": "GPT2Tokenizer"}),
        ("llama", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
        ("llama", {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}),
    ],
)
def test_vocab_and_merges(tmp_path, model_type, config):
    model = json.loads(byte_level("<|endoftext|>").to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"]), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines))
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 290, "<|im_end|>": 291}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    agrees(tmp_path, model_type)


@pytest.mark.parametrize(("name", "text"), [("merges.txt", "a b\nc\n"), ("vocab.json", "[1]")])
def test_malformed_vocab_and_merges(tmp_path, name, text):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("a b\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        read_vocabulary(tmp_path, 3)


def test_tekken_is_named(tmp_path):
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(InputError, match="tekken.json"):
        read_vocabulary(tmp_path, 290)


LLAMA = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
}


@pytest.fixture
def trained(tmp_path):
    """Trains a tokenizer.model in tmp_path; gives the package's own processor for it."""
    sentencepiece = pytest.importorskip("sentencepiece")

    def train(**options):
        text = tmp_path / "text"
        text.write_text("the quick brown fox says hi there, user system assistant\n" * 40)
        sentencepiece.SentencePieceTrainer.train(
            input=str(text),
            model_prefix=str(tmp_path / "tokenizer"),
            **{"model_type": "bpe", "vocab_size": 360, "byte_fallback": True, "minloglevel": 2}
            | {"hard_vocab_limit": False, "num_threads": 1}
            | options,
        )
        return sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))

    return train


IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.mark.parametrize("legacy", [None, True, False])
def test_tokenizer_model_as_transformers_reads_it(tmp_path, trained, legacy):
    size = trained(**IDENTITY).vocab_size()
    stated = {} if legacy is None else {"legacy": legacy}
    tokens = {"<|im_start|>": size, "<|im_end|>": size + 1}
    plain = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    decoder = {str(id_): {"content": text} | plain for text, id_ in tokens.items()}
    config = LLAMA | stated | {"added_tokens_decoder": decoder}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    agrees(tmp_path, vocab_size=size + 2)


@pytest.mark.parametrize("adds_space", [True, False])
def test_tokenizer_model_normalises_as_sentencepiece_does(tmp_path, trained, adds_space):
    processor = trained(normalization_rule_name="nmt_nfkc", add_dummy_prefix=adds_space)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(LLAMA))
    ours = RuntimeTokenizer(keys_of(tmp_path, processor.vocab_size()))
    for text in ["the fox", "  two   spaces ", " ", "ﬁne ½ １２", "cafe\u0301", "a\t\nb \u3000 c"]:
        assert ours.encode(text, add_special=False) == processor.encode(text)
    (note,) = read_vocabulary(tmp_path, processor.vocab_size()).notes
    assert "normalised" in note


# Keys for other engines


def test_a_visible_space_is_one_only_in_sentencepiece(tmp_path):
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("<tool▁call>", special=False, normalized=False)])
    write_tokenizer(tmp_path, tokenizer)
    assert keys_of(tmp_path, SIZE)["tokenizer.ggml.tokens"][290] == "<tool▁call>"


def test_a_piece_without_a_merge_gets_a_low_score_and_a_note(tmp_path):
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "ab": 4, "ba": 5}
    model = models.BPE(vocab, [("a", "b")], unk_token="<unk>", byte_fallback=True)
    write_tokenizer(tmp_path, Tokenizer(model))
    scores = keys_of(tmp_path, 6)["tokenizer.ggml.scores"]
    assert scores[4] == -1
    assert scores[5] < -100_000
    assert any("1 pieces come from no merge" in note for note in read_vocabulary(tmp_path, 6).notes)


@pytest.mark.parametrize("change", [{"normalizer": {"type": "Precompiled"}}, {"decoder": {"type": "CTC"}}])
def test_a_hostile_tokenizer_json_is_refused(tmp_path, change):
    write_tokenizer(tmp_path)
    parsed = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed | change))
    with pytest.raises(InputError, match="tokenizer.json: not a valid tokenizer"):
        read_vocabulary(tmp_path, 290)
