"""SentencePiece's map of characters, checked: a double-array trie of prefixes and the texts it leads to.

Bytes 0 to 3 hold the trie's size in bytes, then come its units of 32 bits, then the texts, each ended by a
zero byte. A unit's low byte is its label; bit 8 says that a value hangs below it; bits 10 to 31, shifted by 8
more where bit 9 is set, are XORed to its place to find its children. The tokenizers package follows these
numbers without looking.
"""

import numpy as np

MAX_REPLACEMENT = 256  # bytes; NFKC's longest is 33


def character_map_problem(data: bytes) -> str | None:
    """What is wrong with a map, None if it is whole."""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 8 or size == 0 or size % 4 or size > len(data) - 4:
        return "its trie has no size that fits"
    units = np.frombuffer(data, "<u4", size // 4, 4)
    texts = data[4 + size :]
    try:
        texts.decode("utf-8")
    except UnicodeDecodeError:
        return "its texts are not UTF-8"
    values = _values(units)
    if values is None:
        return "its trie points outside itself"
    ends = np.array([at for at, byte in enumerate(texts) if byte == 0] + [len(texts)])
    for start in values.tolist():
        if start > len(texts) or (start < len(texts) and texts[start] & 0xC0 == 0x80):
            return "its trie points beside its texts"
        if ends[np.searchsorted(ends, start)] - start > MAX_REPLACEMENT:
            return f"it has a replacement of more than {MAX_REPLACEMENT} bytes"
    return None


def _values(units: np.ndarray) -> np.ndarray | None:
    """The values of all keys, in whatever order; None if a place lies outside."""
    labels = np.arange(1, 256)
    seen = np.zeros(len(units), bool)
    places, values = np.zeros(1, np.int64), [np.zeros(0, np.int64)]
    while places.size:
        parents = units[places].astype(np.int64)
        inner = places ^ ((parents >> 10) << ((parents & 0x200) >> 6))
        if (inner | 0xFF).max() >= len(units):
            return None
        leaves = inner[(parents & 0x100 != 0) & (places != 0)]
        values.append(units[leaves].astype(np.int64) & 0x7FFFFFFF)
        children = inner[:, None] ^ labels
        # Bit 31 marks a value, which must not be taken for a unit whose label fits.
        places = np.unique(children[(units[children] & 0x800000FF) == labels])
        places = places[~seen[places]]
        seen[places] = True
    return np.concatenate(values)
