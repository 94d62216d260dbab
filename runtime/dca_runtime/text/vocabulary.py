"""Builds a tokenizer from a GGUF file's tokenizer.ggml.* keys, for files without tokenizer.huggingface.json.

Three kinds: "gpt2", byte-level BPE with a list of merges, "llama", SentencePiece BPE, whose merges follow
from the tokens' scores, and "t5", SentencePiece's unigram model (unigram.py).
"""

import math
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from dca_runtime.errors import DcaError, Status
from dca_runtime.text.pretokenizers import PRETOKENIZERS, Pretokenizer
from dca_runtime.text.rust_guard import guarded, one_line
from dca_runtime.text.tokenizer_json import MAX_TOKEN_CHARACTERS, too_many_added
from dca_runtime.text.unigram import SPACE, unigram_tokenizer

MODEL_KEY = "tokenizer.ggml.model"
TOKENS_KEY = "tokenizer.ggml.tokens"
TYPES_KEY = "tokenizer.ggml.token_type"
SCORES_KEY = "tokenizer.ggml.scores"
MERGES_KEY = "tokenizer.ggml.merges"
PRE_KEY = "tokenizer.ggml.pre"
SPACE_PREFIX_KEY = "tokenizer.ggml.add_space_prefix"
EXTRA_SPACES_KEY = "tokenizer.ggml.remove_extra_whitespaces"
CHARACTER_MAP_KEY = "tokenizer.ggml.precompiled_charsmap"

# Of n tokens that are one another's beginnings each pair is a merge, so lengths and merges have limits.
MAX_PIECE_CHARACTERS = 256  # sentencepiece's own default is 16
MAX_MERGES = 1_000_000  # a vocabulary of 256,000 pieces has 580,000,
MAX_MERGED_CHARACTERS = 16_000_000  # which make 4,000,000 characters
MAX_TEXT_CHARACTERS = 32_000_000  # of all tokens together; as many as 256,000 tokens of 125


class TokenType(IntEnum):
    """Values of tokenizer.ggml.token_type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that the keys describe; it adds no special tokens of its own accord.

    Raises DcaError: a key is missing, is of a wrong type or contradicts another, or the kind is unknown.
    """
    kind = metadata.get(MODEL_KEY)
    if kind not in ("gpt2", "llama", "t5"):
        raise DcaError(
            f"{MODEL_KEY} is {one_line(repr(kind))}; this version builds the kinds 'gpt2', 'llama' and 't5'",
            Status.UNSUPPORTED,
        )
    tokens = token_list(metadata)
    types = token_types(metadata, len(tokens))
    with guarded(f"{TOKENS_KEY} makes no tokenizer"):
        if kind == "t5":
            build = _unigram(metadata, tokens, types)
        elif kind == "llama":
            build = _sentencepiece(metadata, tokens, types)
        else:
            build = _byte_level(metadata, tokens)
        _add_whole_tokens(build, tokens, types)
    return build


def token_list(metadata: Mapping[str, Any]) -> list[str]:
    """The tokens by id. Raises DcaError."""
    tokens = metadata.get(TOKENS_KEY)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise DcaError(f"{TOKENS_KEY} must be an array of strings", Status.FORMAT)
    longest, together = max(map(len, tokens), default=0), sum(map(len, tokens))
    if longest > MAX_TOKEN_CHARACTERS or together > MAX_TEXT_CHARACTERS:
        raise DcaError(
            f"{TOKENS_KEY} has a token of {longest:,} characters and {together:,} in all; at most "
            f"{MAX_TOKEN_CHARACTERS:,} and {MAX_TEXT_CHARACTERS:,} are supported",
            Status.FORMAT,
        )
    return tokens


def token_types(metadata: Mapping[str, Any], count: int) -> list[int]:
    """Each token's type; all normal where the file does not say. Raises DcaError."""
    types = metadata.get(TYPES_KEY, [TokenType.NORMAL] * count)
    if not _numbers(types, count, int):
        raise DcaError(f"{TYPES_KEY} must be an array of {count} integers, one a token", Status.FORMAT)
    return types


def _numbers(values: Any, count: int, kind: Any) -> bool:
    """Whether these are ``count`` finite numbers of a kind."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, kind) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    )


def _byte_level(metadata: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    merges = metadata.get(MERGES_KEY)
    if not isinstance(merges, list) or not all(isinstance(m, str) and m.count(" ") == 1 for m in merges):
        raise DcaError(f"{MERGES_KEY} must be an array of strings, each 'left right'", Status.FORMAT)
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    pretokenizer = byte_level_pretokenizer(metadata)
    tokenizer = Tokenizer(_bpe(_ids_by_token(tokens), pairs, ignore_merges=pretokenizer.ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pretokenizer.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_level_pretokenizer(metadata: Mapping[str, Any]) -> Pretokenizer:
    """The entry that tokenizer.ggml.pre names. Raises DcaError."""
    name = metadata.get(PRE_KEY, "default")
    if not isinstance(name, str) or name not in PRETOKENIZERS:
        known = ", ".join(sorted(PRETOKENIZERS))
        raise DcaError(f"{PRE_KEY} is {one_line(repr(name))}; known are {known}", Status.UNSUPPORTED)
    return PRETOKENIZERS[name]


def _scores(metadata: Mapping[str, Any], count: int) -> list[float]:
    scores = metadata.get(SCORES_KEY)
    if not _numbers(scores, count, int | float):
        raise DcaError(f"{SCORES_KEY} must be an array of {count} finite numbers, one a token", Status.FORMAT)
    assert isinstance(scores, list)
    return scores


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise DcaError(f"{key} must be true or false", Status.FORMAT)
    return value


def _unigram(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    listed = metadata.get(CHARACTER_MAP_KEY, [])
    if not isinstance(listed, list) or not all(isinstance(byte, int) for byte in listed):
        raise DcaError(f"{CHARACTER_MAP_KEY} must be an array of bytes", Status.FORMAT)
    return unigram_tokenizer(
        list(zip(tokens, _scores(metadata, len(tokens)), strict=True)),
        unknown=next((id_ for id_, kind in enumerate(types) if kind == TokenType.UNKNOWN), None),
        byte_fallback=TokenType.BYTE in types,
        character_map=bytes(byte & 255 for byte in listed),
        space_prefix=_flag(metadata, SPACE_PREFIX_KEY, True),
        removes_extra_spaces=_flag(metadata, EXTRA_SPACES_KEY, False),
        where=TOKENS_KEY,
    )


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    scores = _scores(metadata, len(tokens))
    ids = _ids_by_token(tokens)
    merges = merges_by_score(ids, scores, types)
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.UNKNOWN), None)
    tokenizer = Tokenizer(_bpe(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    space_prefix = _flag(metadata, SPACE_PREFIX_KEY, True)
    visible_spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(SPACE), visible_spaces]) if space_prefix else visible_spaces
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if space_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def merges_by_score(ids: Mapping[str, int], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """The merges in the order SentencePiece's BPE makes them: the result with the best score first.

    Every way to cut a token into two others is a merge of it; equal scores keep the order of the ids.
    Raises DcaError where there would be too many.
    """
    mergeable = {token: id_ for token, id_ in ids.items() if types[id_] == TokenType.NORMAL}
    longest = max(map(len, mergeable), default=0)
    if longest > MAX_PIECE_CHARACTERS:
        raise DcaError(
            f"{TOKENS_KEY} has a token of {longest:,} characters that could be merged, at most "
            f"{MAX_PIECE_CHARACTERS} are supported",
            Status.FORMAT,
        )
    found: list[tuple[float, int, int, str, int]] = []
    characters = 0
    for merge in _cuts(mergeable, scores):
        found.append(merge)
        characters += len(merge[3])
        if len(found) > MAX_MERGES or characters > MAX_MERGED_CHARACTERS:
            raise DcaError(
                f"{TOKENS_KEY} can be merged in more than {MAX_MERGES:,} ways, or into more than "
                f"{MAX_MERGED_CHARACTERS:,} characters",
                Status.FORMAT,
            )
    return [(token[:cut], token[cut:]) for *_, token, cut in sorted(found)]


def _cuts(mergeable: Mapping[str, int], scores: list[float]) -> Iterator[tuple[float, int, int, str, int]]:
    for token, id_ in mergeable.items():
        for cut in range(1, len(token)):
            left, right = mergeable.get(token[:cut]), mergeable.get(token[cut:])
            if left is not None and right is not None:
                yield -scores[id_], left, right, token, cut


def _ids_by_token(tokens: list[str]) -> dict[str, int]:
    """Ids by token; of equal tokens the first keeps the text."""
    ids: dict[str, int] = {}
    for id_, token in enumerate(tokens):
        ids.setdefault(token, id_)
    return ids


def _bpe(ids: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    with guarded(f"{MERGES_KEY} does not fit {TOKENS_KEY}"):  # for instance a merge of no token
        return models.BPE(ids, merges, **options)


def _add_whole_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Tokens that match as a whole before anything is cut: control tokens and user-defined ones."""
    typed = list(zip(tokens, types, strict=True))
    special = [token for token, kind in typed if token and kind in (TokenType.CONTROL, TokenType.UNKNOWN)]
    defined = [token for token, kind in typed if token and kind == TokenType.USER_DEFINED]
    if problem := too_many_added(special + defined):
        raise DcaError(f"{TYPES_KEY}: {problem}", Status.FORMAT)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in defined])
