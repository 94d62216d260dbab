"""Tokenizer files of a Hugging Face directory as GGUF keys: tokenizer.ggml.* and tokenizer.huggingface.json.

Two kinds, as llama.cpp names them: "gpt2", byte-level BPE, and "llama", SentencePiece's BPE, from
tokenizer.model or from a tokenizer.json that was converted from one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import tokenizers
from gguf import TokenType

from dca_export.config import read_json_object
from dca_export.errors import InputError
from dca_export.tokenizer.pre_tokenizer import pre_tokenizer_name
from dca_export.tokenizer.sentencepiece_model import read_sentencepiece

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"

UNUSED_SCORE = -10000.0  # what llama.cpp gives ids that no token has, and
ADDED_SCORE = -1000.0  # tokens added to a SentencePiece model: below all of its own

# Added tokens that a config forgot to call special: llama.cpp takes these texts for control tokens too.
_CONTROL_TEXT = re.compile(r"<\|.*\|>|<｜.*｜>|<pad>|<mask>", re.DOTALL)
_BYTE_TEXT = re.compile(rb"<0x[0-9A-Fa-f]{2}>")


@dataclass
class Vocabulary:
    """Everything a GGUF file says of a tokenizer. `notes` are for the user."""

    kind: str
    pre: str
    tokens: list[bytes]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] = field(default_factory=list)
    special: gguf.SpecialVocab | None = None
    adds: dict[str, bool] = field(default_factory=dict)  # "bos", "eos", "space_prefix"
    huggingface_json: str | None = None
    notes: list[str] = field(default_factory=list)

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Adds the keys to a file that is being prepared."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.special is not None:
            self.special.add_special_token.update({k: v for k, v in self.adds.items() if k != "space_prefix"})
            self.special.add_to_gguf(writer, quiet=True)
        if "space_prefix" in self.adds:
            writer.add_add_space_prefix(self.adds["space_prefix"])
        if self.huggingface_json is not None:
            writer.add_string(gguf.Keys.Tokenizer.HF_JSON, self.huggingface_json)


def read_vocabulary(directory: Path, vocab_size: int) -> Vocabulary:
    """The tokenizer in `directory`, for a model with `vocab_size` embeddings. Raises InputError."""
    json_path, model_path = directory / "tokenizer.json", directory / "tokenizer.model"
    text = _read_text(json_path) if json_path.is_file() else None
    parsed = _parse(json_path, text) if text is not None else None
    if parsed is not None and _is_byte_level(parsed):
        vocabulary = _byte_level(json_path, parsed, vocab_size)
    elif model_path.is_file():
        vocabulary = _sentencepiece(model_path, vocab_size)
    elif parsed is not None:
        vocabulary = _converted_sentencepiece(json_path, parsed, vocab_size)
    else:
        raise InputError(f"{directory}: no tokenizer (tokenizer.json or tokenizer.model)")
    added = _added_tokens(directory, parsed)
    _apply_added_tokens(vocabulary, added, vocab_size)
    vocabulary.huggingface_json = text
    vocabulary.special = _special_tokens(directory, vocab_size)
    vocabulary.adds |= _added_around_text(text, directory, vocabulary)
    return vocabulary


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid UTF-8 ({error})") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    """tokenizer.json as an object whose model is BPE, once the tokenizers library has accepted all of it."""
    try:
        tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: not a valid tokenizer ({error})") from None
    parsed = json.loads(text)
    kind = parsed["model"].get("type") or ("BPE" if "merges" in parsed["model"] else "no BPE")
    if kind != "BPE":
        raise InputError(f"{path}: the model is {kind}, only BPE is supported")
    return parsed


def _is_byte_level(parsed: Mapping[str, Any]) -> bool:
    return any(step.get("type") == "ByteLevel" for step in steps_of(parsed.get("pre_tokenizer"))) or (
        "ByteLevel" in {step.get("type") for step in steps_of(parsed.get("decoder"))}
    )


def steps_of(component: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The steps of a pre-tokenizer, normalizer or decoder, sequences flattened."""
    if component is None:
        return []
    if component.get("type") != "Sequence":
        return [component]
    lists = (component.get(key) for key in ("pretokenizers", "normalizers", "decoders", "processors"))
    return [inner for steps in lists if steps for step in steps for inner in steps_of(step)]


def _byte_level(path: Path, parsed: Mapping[str, Any], vocab_size: int) -> Vocabulary:
    vocabulary = _empty(BYTE_LEVEL, vocab_size, scored=False)
    _place(vocabulary, {token: id_ for token, id_ in parsed["model"]["vocab"].items()}, path, vocab_size)
    vocabulary.merges = [_merge_text(merge) for merge in parsed["model"]["merges"]]
    name = pre_tokenizer_name(parsed)
    if name is None:
        vocabulary.notes.append(
            "this tokenizer cuts text in a way that llama.cpp has no name for: there it may give other "
            'tokens (tokenizer.ggml.pre is "default"); dca-run uses tokenizer.huggingface.json'
        )
    vocabulary.pre = name or "default"
    return vocabulary


def _merge_text(merge: str | list[str]) -> str:
    """'left right'; a space inside a part is written as byte-level BPE writes it."""
    return merge if isinstance(merge, str) else " ".join(part.replace(" ", "Ġ") for part in merge)


def _sentencepiece(path: Path, vocab_size: int) -> Vocabulary:
    model = read_sentencepiece(path)
    if not model.is_bpe:
        raise InputError(f"{path}: a unigram SentencePiece model; only BPE ones are supported")
    vocabulary = _empty(SENTENCEPIECE, vocab_size, scored=True)
    assert vocabulary.scores is not None
    for id_, piece in enumerate(zip(model.texts, model.scores, model.types, strict=True)):
        if id_ < vocab_size:
            vocabulary.tokens[id_], vocabulary.scores[id_], vocabulary.types[id_] = piece
    _note_tokens_beyond(vocabulary, len(model.texts) - vocab_size, path.name, vocab_size)
    vocabulary.adds["space_prefix"] = model.adds_space
    return vocabulary


def _converted_sentencepiece(path: Path, parsed: Mapping[str, Any], vocab_size: int) -> Vocabulary:
    """A SentencePiece model that only survives as tokenizer.json: scores follow from the order of merges."""
    model = parsed["model"]
    if not model.get("byte_fallback"):
        raise InputError(f"{path}: neither byte-level BPE nor SentencePiece's BPE, the kinds supported")
    vocabulary = _empty(SENTENCEPIECE, vocab_size, scored=True)
    assert vocabulary.scores is not None
    _place(vocabulary, model["vocab"], path, vocab_size)
    for id_, token in enumerate(vocabulary.tokens):
        if vocabulary.types[id_] == TokenType.NORMAL:
            is_byte = _BYTE_TEXT.fullmatch(token) is not None
            vocabulary.types[id_] = TokenType.BYTE if is_byte else TokenType.NORMAL
            vocabulary.scores[id_] = 0.0
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        id_ = model["vocab"].get(left + right, vocab_size)
        if id_ < vocab_size and vocabulary.scores[id_] == 0.0:
            vocabulary.scores[id_] = -float(rank + 1)
    if (unknown := model["vocab"].get(model.get("unk_token"), vocab_size)) < vocab_size:
        vocabulary.types[unknown] = TokenType.UNKNOWN
    vocabulary.adds["space_prefix"] = any(
        step.get("type") == "Prepend" or step.get("prepend_scheme") in ("always", "first")
        for component in ("normalizer", "pre_tokenizer")
        for step in steps_of(parsed.get(component))
    )
    return vocabulary


def _empty(kind: str, vocab_size: int, scored: bool) -> Vocabulary:
    return Vocabulary(
        kind,
        "default",
        tokens=[b"[PAD%d]" % id_ for id_ in range(vocab_size)],
        types=[int(TokenType.UNUSED)] * vocab_size,
        scores=[UNUSED_SCORE] * vocab_size if scored else None,
    )


def _place(vocabulary: Vocabulary, ids: Mapping[str, int], path: Path, vocab_size: int) -> None:
    for token, id_ in ids.items():
        if id_ < vocab_size:
            vocabulary.tokens[id_] = token.encode("utf-8")
            vocabulary.types[id_] = TokenType.NORMAL
    _note_tokens_beyond(vocabulary, max(ids.values(), default=-1) + 1 - vocab_size, path.name, vocab_size)


def _note_tokens_beyond(vocabulary: Vocabulary, count: int, name: str, vocab_size: int) -> None:
    if count > 0:
        vocabulary.notes.append(
            f"{count} tokens of {name} have ids beyond the model's {vocab_size}: left out"
        )


@dataclass(frozen=True)
class _AddedToken:
    text: str
    special: bool


def _added_tokens(directory: Path, parsed: Mapping[str, Any] | None) -> dict[int, _AddedToken]:
    """Tokens added to the model's own, by id, from all the files that may list them (the last one wins)."""
    added: dict[int, _AddedToken] = {}
    listed = directory / "added_tokens.json"
    if listed.is_file():
        for text, id_ in read_json_object(listed).items():
            added[_token_id(listed, id_)] = _AddedToken(text, special=False)
    config = directory / "tokenizer_config.json"
    if config.is_file():
        decoder = read_json_object(config).get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict):
            raise InputError(f"{config}: added_tokens_decoder must be an object")
        for id_, token in decoder.items():
            if not isinstance(token, dict) or not isinstance(token.get("content"), str):
                raise InputError(f"{config}: added_tokens_decoder: {id_} has no content")
            added[_token_id(config, id_)] = _AddedToken(token["content"], bool(token.get("special")))
    for token in (parsed or {}).get("added_tokens") or []:
        added[token["id"]] = _AddedToken(token["content"], token["special"])
    return added


def _token_id(path: Path, id_: Any) -> int:
    try:
        value = int(id_)
    except (TypeError, ValueError):
        value = -1
    if value < 0:
        raise InputError(f"{path}: token id {id_!r} must be an integer, 0 or more")
    return value


def _apply_added_tokens(vocabulary: Vocabulary, added: Mapping[int, _AddedToken], vocab_size: int) -> None:
    for id_, token in added.items():
        if id_ >= vocab_size:
            continue
        if vocabulary.types[id_] in (TokenType.UNKNOWN, TokenType.BYTE):
            continue
        if token.special or _CONTROL_TEXT.fullmatch(token.text):
            vocabulary.types[id_], text = int(TokenType.CONTROL), token.text
        else:
            # User-defined tokens match text before anything turns its spaces into SentencePiece's.
            vocabulary.types[id_], text = int(TokenType.USER_DEFINED), token.text.replace("\u2581", " ")
        vocabulary.tokens[id_] = text.encode("utf-8")
        if vocabulary.scores is not None:
            vocabulary.scores[id_] = ADDED_SCORE
    beyond = sum(id_ >= vocab_size for id_ in added)
    _note_tokens_beyond(vocabulary, beyond, "the added tokens", vocab_size)


def _special_tokens(directory: Path, vocab_size: int) -> gguf.SpecialVocab:
    """Ids of bos, eos, …, and chat templates, from the several files that may state them."""
    quiet = logging.getLogger("gguf.vocab")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        special = gguf.SpecialVocab(directory, load_merges=False, n_vocab=vocab_size)
    except Exception as error:  # it reads five files and trusts the shape of each
        raise InputError(
            f"{directory}: malformed tokenizer configuration ({type(error).__name__}: {error})"
        ) from None
    finally:
        quiet.setLevel(level)
    template = special.chat_template
    if template is not None and not isinstance(template, str):
        named = [t for t in template if isinstance(t, Mapping)]
        texts = [value for t in named for value in (t.get("name"), t.get("template"))]
        if len(named) != len(template) or not all(isinstance(value, str) for value in texts):
            raise InputError(f"{directory}: chat_template must be a string or a list of named strings")
    return special


def _added_around_text(text: str | None, directory: Path, vocabulary: Vocabulary) -> dict[str, bool]:
    """Whether the model expects its bos before and its eos after a text.

    What tokenizer.json does decides, as in transformers; tokenizer_config.json only where there is none.
    """
    assert vocabulary.special is not None
    ids_of = vocabulary.special.special_token_ids
    config = directory / "tokenizer_config.json"
    stated = read_json_object(config) if config.is_file() else {}
    adds = {"bos": vocabulary.kind == SENTENCEPIECE, "eos": False}
    if text is not None:
        ids = tokenizers.Tokenizer.from_str(text).encode("a").ids
        adds["bos"] = bool(ids) and ids[0] == ids_of.get("bos")
        adds["eos"] = len(ids) > 1 and ids[-1] == ids_of.get("eos")
    for name, found in adds.items():
        wanted = stated.get(f"add_{name}_token")
        if not isinstance(wanted, bool) or wanted == found:
            continue
        if text is None:
            adds[name] = wanted
        else:
            does = "adds" if found else "does not add"
            vocabulary.notes.append(
                f"tokenizer.json {does} the {name} token, add_{name}_token in tokenizer_config.json says "
                "otherwise: the former counts, as in transformers"
            )
    if isinstance(stated.get("add_prefix_space"), bool):
        adds["space_prefix"] = stated["add_prefix_space"]
    return adds
