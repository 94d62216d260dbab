"""tokenizer.json for vocabularies of byte strings by rank: Mistral's tekken.json and tiktoken's files.

Both merge, within each piece of a text, the neighbours whose union has the lowest rank, until no union is a
token; a piece that is a token as a whole is that token.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dca_export.config import read_json_object
from dca_export.errors import InputError
from dca_export.small_files import read_bytes
from dca_export.tokenizer.settings import Settings
from dca_runtime.text.pretokenizers import PRETOKENIZERS

MAX_TOKENS = 1_000_000
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}

# How each class of tokenizer with such a file cuts text, by llama.cpp's names; Meta's files of Llama 3 say no
# class but the model's.
_CUT_BY = {
    "QWenTokenizer": "qwen2",
    "Qwen2Tokenizer": "qwen2",
    "ChatGLM4Tokenizer": "glm4",
    "LlamaTokenizer": "llama-bpe",
    "PreTrainedTokenizer": "llama-bpe",
}
# Special tokens that no file beside states follow the ranks: those of QWenTokenizer, and of Llama 3.
_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
_LLAMA3 = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
)
_FOLLOWING = {"qwen2": _QWEN, "llama-bpe": _LLAMA3}
# Those of Tekken files before they listed them; ids without a name are <SPECIAL_n>.
_TEKKEN = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


@dataclass(frozen=True)
class Ranks:
    """Byte strings by rank; the id of rank r is `first_id` + r."""

    ranks: Mapping[bytes, int]
    first_id: int


def read_tekken(path: Path) -> tuple[dict[str, Any], Ranks]:
    """tekken.json as a tokenizer.json, and its ranks. Raises InputError."""
    file = read_json_object(path)
    config, vocab = file.get("config"), file.get("vocab")
    if not isinstance(config, dict) or not isinstance(vocab, list):
        raise InputError(f"{path}: config or vocab is missing, so it is not a Tekken tokenizer")
    size: Any = config.get("default_vocab_size")
    specials: Any = config.get("default_num_special_tokens")
    pattern = config.get("pattern")
    if not _is_count(size) or not _is_count(specials) or size < specials or not isinstance(pattern, str):
        raise InputError(
            f"{path}: config must have a pattern, default_vocab_size and default_num_special_tokens"
        )
    ranks: dict[bytes, int] = {}
    for entry in vocab[: size - specials]:
        rank: Any = entry.get("rank") if isinstance(entry, dict) else None
        if not _is_count(rank) or rank >= size - specials:
            raise InputError(f"{path}: an entry of vocab has no rank below {size - specials}")
        ranks[_bytes_of(entry.get("token_bytes"), path, f"rank {rank}")] = rank
    named = {number: text for number, text in enumerate(_TEKKEN) if number < specials}
    for entry in file.get("special_tokens") or []:
        rank = entry.get("rank") if isinstance(entry, dict) else None
        text = entry.get("token_str") if isinstance(entry, dict) else None
        if not _is_count(rank) or rank >= specials or not isinstance(text, str):
            raise InputError(f"{path}: an entry of special_tokens has no token_str or rank below {specials}")
        named[rank] = text
    added = [_added(number, named.get(number, f"<SPECIAL_{number}>")) for number in range(specials)]
    return _tokenizer_json(_checked(ranks, path), specials, pattern, added), Ranks(ranks, specials)


def is_tiktoken(path: Path) -> bool:
    """Whether a tokenizer.model is a list of tokens in base64 with ranks, not SentencePiece's."""
    with open(path, "rb") as file:
        line = file.readline(4096).split()
    if len(line) != 2 or not line[1].isdigit():
        return False
    try:
        base64.b64decode(line[0], validate=True)
    except binascii.Error:
        return False
    return True


def read_tiktoken(path: Path, settings: Settings) -> tuple[dict[str, Any], Ranks]:
    """A tiktoken file as a tokenizer.json, and its ranks. Raises InputError."""
    named = settings.tokenizer_class
    if named not in _CUT_BY:
        raise InputError(
            f"{path}: how {named or 'a tokenizer of no stated class'} cuts text is not known (known are "
            f"{', '.join(_CUT_BY)}); save the tokenizer with transformers, which writes tokenizer.json"
        )
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[1].isdigit():
            raise InputError(f"{path}: line {number} is not a token in base64 and a rank")
        ranks[_bytes_of(parts[0].decode("ascii", "replace"), path, f"line {number}")] = int(parts[1])
    _checked(ranks, path)
    cut = _CUT_BY[named]
    added: list[dict[str, Any]] = []
    if "added_tokens_decoder" not in settings.tokenizer:
        first = max(ranks.values()) + 1
        added = [_added(first + i, text) for i, text in enumerate(_FOLLOWING.get(cut, ()))]
    (pattern,) = PRETOKENIZERS[cut].patterns
    return _tokenizer_json(ranks, 0, pattern, added), Ranks(ranks, 0)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS


def _bytes_of(text: Any, path: Path, where: str) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        found = b""
    if not found:
        raise InputError(f"{path}: {where} holds {str(text)[:40]!r}, expected bytes in base64")
    return found


def _checked(ranks: dict[bytes, int], path: Path) -> dict[bytes, int]:
    """Raises InputError unless every byte has a rank, and every rank one token."""
    if not 256 <= len(ranks) <= MAX_TOKENS or len(set(ranks.values())) != len(ranks):
        raise InputError(f"{path}: {len(ranks)} tokens, expected 256 to {MAX_TOKENS:,} of different ranks")
    missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if missing is not None:
        raise InputError(f"{path}: the byte {missing} is no token, so not every text could be written")
    return ranks


def byte_characters() -> dict[int, str]:
    """The character that byte-level BPE writes each byte as: itself if visible, or the next one from 256."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _tokenizer_json(
    ranks: Mapping[bytes, int], first_id: int, pattern: str, added: list[dict[str, Any]]
) -> dict[str, Any]:
    characters = byte_characters()
    text = {token: "".join(characters[byte] for byte in token) for token in ranks}
    merges = [[text[left], text[right]] for left, right in _merges(ranks)]
    vocab = {text[token]: first_id + rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocab, "merges": merges}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]},
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": model | {"ignore_merges": True},
    }


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every way to cut a token into two others, by the rank of the token, then of its parts."""
    found = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = ranks.get(token[:cut]), ranks.get(token[cut:])
            if left is not None and right is not None:
                found.append((rank, left, right, token, cut))
    return [(token[:cut], token[cut:]) for *_, token, cut in sorted(found)]


def _added(id_: int, text: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id_, "content": text} | flags
