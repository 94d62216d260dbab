"""tokenizer.json for directories without one: from vocab.json and merges.txt, or from tokenizer.model."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from gguf import TokenType

from dca_export.config import read_json_object
from dca_export.errors import InputError
from dca_export.small_files import read_text
from dca_export.tokenizer.sentencepiece_model import SentencePieceModel
from dca_export.tokenizer.settings import Settings
from dca_runtime.errors import DcaError
from dca_runtime.text.pretokenizers import PRETOKENIZERS
from dca_runtime.text.vocabulary import SPACE, merges_by_score

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def from_vocab_and_merges(settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """Byte-level BPE as the tokenizer's class cuts text, and notes. Raises InputError."""
    directory = settings.directory
    vocab = read_json_object(directory / "vocab.json")
    merges = _merges(directory / "merges.txt")
    prefix = settings.flag("add_prefix_space") or False
    notes = []
    normalizer: dict[str, Any] | None = None
    cut: dict[str, Any] = _BYTE_LEVEL | {"add_prefix_space": prefix}
    if settings.tokenizer_class.startswith("Qwen"):
        normalizer = {"type": "NFC"}
        (pattern,) = PRETOKENIZERS["qwen2"].patterns
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        cut = {"type": "Sequence", "pretokenizers": [split, cut | {"use_regex": False}]}
    elif settings.tokenizer_class != "GPT2Tokenizer":
        named = settings.tokenizer_class or "no tokenizer_class"
        notes.append(f"{named} beside vocab.json and merges.txt: text is cut as GPT-2's tokenizer cuts it")
    return _tokenizer_json(
        _bpe(vocab, merges), normalizer=normalizer, pre_tokenizer=cut, decoder=_BYTE_LEVEL
    ), notes


def _merges(path: Path) -> list[list[str]]:
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise InputError(f"{path}: line {number} is not two tokens with a space between")
        merges.append(parts)
    return merges


def from_sentencepiece(model: SentencePieceModel, settings: Settings, path: Path) -> dict[str, Any]:
    """What sentencepiece does with a text, in the words of tokenizer.json. Raises InputError.

    `legacy` decides, as in transformers, whether a text after a special token begins with a space too.
    """
    try:
        texts = [text.decode("utf-8") for text in model.texts]
        ids: dict[str, int] = {}
        for id_, text in enumerate(texts):
            ids.setdefault(text, id_)
        merges = merges_by_score(ids, model.scores, model.types) if model.is_bpe else []
    except (UnicodeDecodeError, DcaError) as error:
        raise InputError(f"{path}: {error}") from None
    steps: list[dict[str, Any]] = []
    if model.character_map:
        encoded = base64.b64encode(model.character_map).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    prefix = settings.flag("add_prefix_space")
    prefix = model.adds_space if prefix is None else prefix
    if model.removes_extra_spaces:
        # A space in front is left where there will be one anyway: without it the package would no longer
        # see that a piece begins the text.
        steps.append({"type": "Strip", "strip_left": not prefix, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    scheme = ("always" if settings.flag("legacy") else "first") if prefix else "never"
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = next((t for t, kind in zip(texts, model.types, strict=True) if kind == TokenType.UNKNOWN), None)
    vocabulary = _bpe(ids, [list(merge) for merge in merges]) | {"unk_token": unknown, "fuse_unk": True}
    if not model.is_bpe:
        vocabulary = {"type": "Unigram", "unk_id": None if unknown is None else ids[unknown]}
        vocabulary["vocab"] = [[text, score] for text, score in zip(texts, model.scores, strict=True)]
    vocabulary["byte_fallback"] = model.types.count(TokenType.BYTE) == 256  # SentencePiece takes no fewer
    whole = (TokenType.CONTROL, TokenType.USER_DEFINED)
    added = [
        _added(id_, text, special=kind == TokenType.CONTROL)
        for id_, (text, kind) in enumerate(zip(texts, model.types, strict=True))
        if kind in whole and ids[text] == id_
    ]
    return _tokenizer_json(
        vocabulary,
        normalizer={"type": "Sequence", "normalizers": steps} if steps else None,
        pre_tokenizer=metaspace,
        decoder={"type": "Sequence", "decoders": decoders},
        added_tokens=added,
    )


def template_around(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> dict[str, Any] | None:
    """A post-processor that puts these tokens (text and id) around a text."""
    present = [token for token in (bos, eos) if token is not None]
    if not present:
        return None
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    if bos is not None:
        single.insert(0, {"SpecialToken": {"id": bos[0], "type_id": 0}})
    if eos is not None:
        single.append({"SpecialToken": {"id": eos[0], "type_id": 0}})
    tokens = {text: {"id": text, "ids": [id_], "tokens": [text]} for text, id_ in present}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def _added(id_: int, text: str, special: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id_, "content": text, "special": special} | plain


def _bpe(vocab: dict[str, Any], merges: list[list[str]]) -> dict[str, Any]:
    return {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocab, "merges": merges}


def _tokenizer_json(model: dict[str, Any], **parts: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    return empty | {"post_processor": None} | parts | {"model": model}
