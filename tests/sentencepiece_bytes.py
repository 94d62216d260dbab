"""Writes the few fields of a SentencePiece model that matter, as protocol buffers lay them out."""

import struct


def field(number: int, data: bytes) -> bytes:
    """A field with a length (below 128)."""
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def piece(text: bytes, score: float, kind: int | None = None) -> bytes:
    """A piece of the vocabulary; kind None leaves the type to its default, normal."""
    body = field(1, text) + bytes([2 << 3 | 5]) + struct.pack("<f", score)
    return field(1, body + (bytes([3 << 3, kind]) if kind is not None else b""))


BPE = field(2, bytes([3 << 3, 2]))  # a trainer specification that says BPE
