"""tokenizer.model: the few fields of SentencePiece's protocol buffer that a GGUF file needs.

Field numbers are those of sentencepiece_model.proto; types of pieces have the same numbers in GGUF.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dca_export.errors import InputError
from dca_export.small_files import read_bytes

PIECES, TRAINER, NORMALIZER, DENORMALIZER = 1, 2, 3, 5  # fields of ModelProto
PIECE_TEXT, PIECE_SCORE, PIECE_TYPE = 1, 2, 3  # of ModelProto.SentencePiece
MODEL_TYPE, SPACE_AS_SUFFIX = 3, 24  # of TrainerSpec
CHARACTER_MAP, ADD_DUMMY_PREFIX, REMOVE_EXTRA_SPACES, ESCAPE_SPACES = 2, 3, 4, 5  # of NormalizerSpec
UNIGRAM, BPE = 1, 2  # of TrainerSpec.ModelType
NORMAL, LAST_TYPE = 1, 6

MAX_PIECES = 1_000_000


@dataclass(frozen=True)
class SentencePieceModel:
    """Pieces by id, with their scores and types."""

    texts: list[bytes]
    scores: list[float]
    types: list[int]
    is_bpe: bool
    adds_space: bool  # whether text gets a leading space
    character_map: bytes  # how characters are replaced before all else; empty: they are not
    removes_extra_spaces: bool  # at both ends, and all but one of each run


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Reads a tokenizer.model. Raises InputError if it is not one."""
    texts: list[bytes] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    denormalizer: dict[int, int | bytes] = {}
    data = read_bytes(path)
    try:
        for number, value in _fields(data):
            if number == PIECES:
                piece = dict(_fields(_message(value)))
                texts.append(_message(piece.get(PIECE_TEXT, b"")))
                scores.append(struct.unpack("<f", _message(piece.get(PIECE_SCORE, bytes(4))))[0])
                types.append(int(piece.get(PIECE_TYPE, NORMAL)))
                if len(texts) > MAX_PIECES:
                    raise ValueError(f"more than {MAX_PIECES:,} pieces")
            elif number == TRAINER:
                trainer = dict(_fields(_message(value)))
            elif number == NORMALIZER:
                normalizer = dict(_fields(_message(value)))
            elif number == DENORMALIZER:
                denormalizer = dict(_fields(_message(value)))
        character_map = _message(normalizer.get(CHARACTER_MAP, b""))
    except (ValueError, TypeError, struct.error, IndexError) as error:
        raise InputError(f"{path}: not a SentencePiece model ({error})") from None
    if not texts:
        raise InputError(f"{path}: not a SentencePiece model (it has no pieces)")
    if trainer.get(SPACE_AS_SUFFIX):
        raise InputError(f"{path}: its pieces end with their space; only spaces in front are supported")
    kind = trainer.get(MODEL_TYPE, UNIGRAM)
    if kind not in (UNIGRAM, BPE):
        raise InputError(f"{path}: model_type is {kind!r}, expected {UNIGRAM} (unigram) or {BPE} (BPE)")
    if not normalizer.get(ESCAPE_SPACES, 1):
        raise InputError(f"{path}: its pieces hold spaces as they are; only visible ones are supported")
    if denormalizer.get(CHARACTER_MAP):
        raise InputError(f"{path}: replaces characters of what it decodes, which is not supported")
    for id_, (score, type_) in enumerate(zip(scores, types, strict=True)):
        if not math.isfinite(score) or not NORMAL <= type_ <= LAST_TYPE:
            raise InputError(
                f"{path}: piece {id_} has score {score} and type {str(type_)[:20]}, expected a finite number "
                f"and {NORMAL} to {LAST_TYPE}"
            )
    return SentencePieceModel(
        texts,
        scores,
        types,
        is_bpe=kind == BPE,
        adds_space=bool(normalizer.get(ADD_DUMMY_PREFIX, 1)),
        character_map=character_map,
        removes_extra_spaces=bool(normalizer.get(REMOVE_EXTRA_SPACES, 1)),
    )


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where a message should be")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message: an int for varints, bytes for everything else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type == 0:
            number, at = _varint(data, at)
            yield tag >> 3, number
            continue
        if wire_type == 2:
            size, at = _varint(data, at)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {at}")
        if size > len(data) - at:
            raise ValueError(f"a field at byte {at} goes past the end")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"an endless number at byte {at}")
