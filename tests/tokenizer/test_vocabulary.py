"""Tokenizer keys: tokens, types and scores by id, special tokens, templates, and what is malformed."""

import json

import gguf
import numpy as np
import pytest
from gguf import TokenType
from sentencepiece_bytes import BPE, piece
from tiny_hf import CHAT_TEMPLATE, tiny_tokenizer, write_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile
from dca_export.tokenizer.vocabulary import read_vocabulary
from dca_runtime.text.tokenizer import Tokenizer as RuntimeTokenizer
from dca_runtime.text.vocabulary import build_tokenizer

HARD = [
    "the quick brown fox",
    "  two  spaces, three   spaces ",
    "def f(x):\n\treturn x ** 2  # 3.14159 1234567",
    "😀👩‍🚀 naïve café",
    "tiếng Việt 你好 العربية हिन्दी",
    "<s> not special </s>",
    "",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def keys_of(directory, vocab_size: int = 320) -> GgufFile:
    """The keys as they stand in a file that the vocabulary was added to."""
    path = directory / "vocab.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    read_vocabulary(directory, vocab_size).add_to(writer)
    writer.add_tensor("t", np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path)


def converted_sentencepiece() -> Tokenizer:
    """What Llama 2's tokenizer.json looks like: BPE with byte fallback and a prepended space."""
    words = ["▁", "t", "h", "e", "▁t", "he", "▁the", "q", "qu", "u"]
    vocab = {token: id_ for id_, token in enumerate(["<unk>", "<s>", "</s>", *BYTES, *words])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("q", "u")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def test_byte_level(tmp_path):
    write_tokenizer(tmp_path)
    keys, tokenizer = keys_of(tmp_path), tiny_tokenizer()
    assert keys["tokenizer.ggml.model"] == "gpt2"
    assert keys["tokenizer.ggml.pre"] == "gpt-2"
    size = tokenizer.get_vocab_size()
    assert keys["tokenizer.ggml.tokens"][:size] == [tokenizer.id_to_token(i) for i in range(size)]
    assert keys["tokenizer.ggml.token_type"][:3] == [TokenType.CONTROL, TokenType.CONTROL, TokenType.NORMAL]
    assert "tokenizer.ggml.scores" not in keys
    assert keys["tokenizer.ggml.bos_token_id"] == 0
    assert keys["tokenizer.ggml.eos_token_id"] == 1
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert keys["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert keys["tokenizer.huggingface.json"] == (tmp_path / "tokenizer.json").read_text()


def test_ids_without_a_token_are_unused(tmp_path):
    write_tokenizer(tmp_path)
    keys = keys_of(tmp_path, vocab_size=330)
    assert keys["tokenizer.ggml.tokens"][329] == "[PAD329]"
    assert keys["tokenizer.ggml.token_type"][329] == TokenType.UNUSED
    assert len(keys["tokenizer.ggml.tokens"]) == 330


def test_tokens_beyond_the_embeddings_are_left_out_with_a_note(tmp_path):
    write_tokenizer(tmp_path)
    size = tiny_tokenizer().get_vocab_size()
    vocabulary = read_vocabulary(tmp_path, size - 5)
    assert len(vocabulary.tokens) == size - 5
    assert vocabulary.notes == [
        f"5 tokens of tokenizer.json have ids beyond the model's {size - 5}: left out"
    ]


def test_converted_sentencepiece(tmp_path):
    write_tokenizer(tmp_path, converted_sentencepiece(), unk_token="<unk>")
    keys = keys_of(tmp_path, vocab_size=269)
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.pre"] == "default"
    types = keys["tokenizer.ggml.token_type"]
    assert types[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
    scores = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], strict=True))
    assert scores["▁t"] > scores["he"] > scores["▁the"] > scores["qu"]
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.add_eos_token"] is False
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    assert "tokenizer.ggml.merges" not in keys


@pytest.mark.parametrize(
    ("make", "vocab_size"), [(tiny_tokenizer, 320), (converted_sentencepiece, 269)], ids=["bytes", "pieces"]
)
def test_a_tokenizer_built_from_the_keys_gives_the_same_ids(tmp_path, make, vocab_size):
    write_tokenizer(tmp_path, make())
    built = build_tokenizer(keys_of(tmp_path, vocab_size))
    for text in HARD:
        wanted = make().encode(text, add_special_tokens=False).ids
        assert built.encode(text, add_special_tokens=False).ids == wanted


def test_newer_converted_sentencepiece_states_its_space_elsewhere(tmp_path):
    tokenizer = converted_sentencepiece()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=False)
    write_tokenizer(tmp_path, tokenizer)
    assert keys_of(tmp_path, 269)["tokenizer.ggml.add_space_prefix"] is False


def test_tokenizer_model(tmp_path):
    pieces = piece(b"<unk>", 0.0, 2) + piece(b"<s>", 0.0, 3) + piece(b"</s>", 0.0, 3)
    pieces += piece(b"<0x0A>", 0.0, 6) + piece("▁a".encode(), -1.0) + piece(b"<tool>", 0.0, 4)
    (tmp_path / "tokenizer.model").write_bytes(pieces + BPE)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": {"content": "<s>"},
                "added_tokens_decoder": {
                    "6": {"content": "<|end|>", "special": False},
                    "7": {"content": "▁▁", "special": False},
                },
            }
        )
    )
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    keys = keys_of(tmp_path, vocab_size=9)
    assert keys["tokenizer.ggml.model"] == "llama"
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁a", "<tool>", "<|end|>", "  ", "[PAD8]"]
    assert keys["tokenizer.ggml.tokens"] == tokens
    assert keys["tokenizer.ggml.token_type"] == [2, 3, 3, 6, 1, 4, 3, 4, 5]
    assert keys["tokenizer.ggml.scores"] == [0, 0, 0, 0, -1, 0, -1000, -1000, -10000]
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert json.loads(keys["tokenizer.huggingface.json"])["model"]["vocab"]["▁a"] == 4


def test_tokenizer_json_comes_before_tokenizer_model(tmp_path):
    write_tokenizer(tmp_path, converted_sentencepiece())
    (tmp_path / "tokenizer.model").write_bytes(piece(b"<unk>", 0.0, 2) + piece(b"x", -7.0) + BPE)
    keys = keys_of(tmp_path, vocab_size=269)
    assert keys["tokenizer.ggml.tokens"][1] == "<s>"
    assert keys["tokenizer.huggingface.json"] == (tmp_path / "tokenizer.json").read_text()


def test_user_defined_and_forgotten_control_tokens(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("<|tool|>", special=False)])
    write_tokenizer(tmp_path, tokenizer)
    keys = keys_of(tmp_path, vocab_size=400)
    types = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"], strict=True))
    assert types["<think>"] == TokenType.USER_DEFINED
    assert types["<|tool|>"] == TokenType.CONTROL


def test_bos_that_the_post_processor_adds(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    write_tokenizer(tmp_path, tokenizer)
    keys = keys_of(tmp_path)
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.add_eos_token"] is True


def test_tokenizer_json_has_the_last_word_on_bos(tmp_path):
    write_tokenizer(tmp_path, converted_sentencepiece(), add_bos_token=False)
    vocabulary = read_vocabulary(tmp_path, 269)
    assert vocabulary.special.adds["bos"] is True
    assert vocabulary.notes[0].startswith("tokenizer.json adds the bos token, add_bos_token in")


def test_tokenizer_config_decides_where_there_is_no_tokenizer_json(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(piece(b"<unk>", 0.0, 2) + piece(b"a", -1.0) + BPE)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "add_eos_token": true}')
    (tmp_path / "config.json").write_text('{"bos_token_id": 0, "eos_token_id": 1}')
    assert read_vocabulary(tmp_path, 2).special.adds == {"bos": False, "eos": True}


def test_template_in_its_own_file(tmp_path):
    write_tokenizer(tmp_path, chat_template=None)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_text("{{ 'own file' }}")
    assert keys_of(tmp_path)["tokenizer.chat_template"] == "{{ 'own file' }}"


def test_several_templates(tmp_path):
    named = [{"name": "default", "template": "{{ 1 }}"}, {"name": "tool_use", "template": "{{ 2 }}"}]
    write_tokenizer(tmp_path, chat_template=named)
    keys = keys_of(tmp_path)
    assert keys["tokenizer.chat_template"] == "{{ 1 }}"
    assert keys["tokenizer.chat_template.tool_use"] == "{{ 2 }}"
    assert keys["tokenizer.chat_templates"] == ["tool_use"]


def test_an_unknown_pre_tokenizer_is_noted(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    write_tokenizer(tmp_path, tokenizer)
    vocabulary = read_vocabulary(tmp_path, 320)
    assert vocabulary.pre == "default"
    assert "llama.cpp has no name for" in vocabulary.notes[0]


def refused(directory, message: str, vocab_size: int = 320) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_vocabulary(directory, vocab_size)
    assert "\n" not in str(caught.value)


def test_no_tokenizer(tmp_path):
    refused(tmp_path, r"no tokenizer \(tokenizer.json or tokenizer.model, or")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": {"type": "BPE"}}'])
def test_malformed_tokenizer_json(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    refused(tmp_path, "tokenizer.json: not a valid tokenizer")


def test_other_kinds_of_model(tmp_path):
    (tmp_path / "tokenizer.json").write_text(Tokenizer(models.WordPiece({"a": 0}, unk_token="a")).to_str())
    refused(tmp_path, "the model is WordPiece, only BPE and Unigram are supported")
    (tmp_path / "tokenizer.json").write_text(Tokenizer(models.BPE({"a": 0}, [])).to_str())
    refused(tmp_path, "neither byte-level BPE nor SentencePiece's BPE")


def test_other_kinds_without_a_type(tmp_path):
    untyped = json.loads(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    del untyped["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(untyped))
    refused(tmp_path, "the model is no BPE, only BPE and Unigram are supported")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder must be an object"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "token id 'x' must be an integer"),
        ({"added_tokens_decoder": {"-1": {"content": "a"}}}, "token id '-1' must be an integer"),
        ({"added_tokens_decoder": {"5": "a"}}, "5 has no content"),
        ({"chat_template": [{"name": "default"}]}, "chat_template must be a string or a list"),
        ({"chat_template": [{"name": 3, "template": "x"}]}, "chat_template must be a string or a list"),
        ({"chat_template": [7]}, "chat_template must be a string or a list"),
    ],
)
def test_malformed_tokenizer_config(tmp_path, config, message):
    write_tokenizer(tmp_path, **config)
    refused(tmp_path, message)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
def test_files_beside_that_are_no_objects(tmp_path, name):
    write_tokenizer(tmp_path)
    (tmp_path / name).write_text("[1]")
    refused(tmp_path, f"{name}: expected a JSON object")


def test_other_malformed_files_beside_get_one_line(tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    refused(tmp_path, "config.json: expected a JSON object")


@pytest.mark.parametrize(
    ("make", "vocab_size"), [(tiny_tokenizer, 320), (converted_sentencepiece, 269)], ids=["bytes", "pieces"]
)
def test_the_runtime_gives_the_ids_transformers_gives(tmp_path, make, vocab_size):
    transformers = pytest.importorskip("transformers")
    write_tokenizer(tmp_path, make())
    ours = RuntimeTokenizer(keys_of(tmp_path, vocab_size))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in HARD:
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("key", ["add_bos_token", "add_eos_token"])
@pytest.mark.parametrize("value", [1, "true", [], {}])
def test_a_flag_that_is_none_is_refused(tmp_path, key, value):
    write_tokenizer(tmp_path, **{key: value})
    with pytest.raises(InputError, match=f"tokenizer_config.json: {key} must be true or false"):
        read_vocabulary(tmp_path, 320)


def test_a_pattern_that_gives_up_is_named(tmp_path):
    written = json.loads(tiny_tokenizer().to_str())
    split = {"type": "Split", "pattern": {"Regex": "(.*)" * 6 + "x"}, "behavior": "Isolated", "invert": False}
    written["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, written["pre_tokenizer"]]}
    write_tokenizer(tmp_path, Tokenizer.from_str(json.dumps(written)))
    with pytest.raises(InputError, match="tokenizer.json: it cannot"):
        read_vocabulary(tmp_path, 320)
