"""Writes the tables of characters of this folder, as ranges of code points.

    python native/core/tokenizer/unicode/make_unicode_table.py [--check]

unicode_table.h: the classes that pretokenizers' patterns name. cluster_table.h: which characters join others
to what a person takes for one. Both come from what the Python tokenizer uses (the tokenizers package, its
regular expressions by Oniguruma, its clusters by unicode-segmentation), so that both tokenizers cut at the
same places; each table says which Unicode that knows. With --check nothing is written, and the exit code is
1 where a table differs.
"""

import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenizers import Regex, __version__, normalizers, pre_tokenizers

FOLDER = Path(__file__).parent

# In the order of CharacterClass (unicode.h). A character has one of them.
CLASSES = {
    "Space": r"\s",
    "Upper": r"\p{Lu}",
    "Lower": r"\p{Ll}",
    "Title": r"\p{Lt}",
    "Modifier": r"\p{Lm}",
    "Letter": r"\p{Lo}",
    "Mark": r"\p{M}",
    "Number": r"\p{N}",
    "Punctuation": r"\p{P}",
    "Symbol": r"\p{S}",
}
EXTENDS, PREPENDS, CONTROLS = 1, 2, 4  # bits of Joining (clusters.cpp)

# A character that each version added, the newest first: with a class, and that extends.
LANDMARKS = {"17.0": 0xA7CE, "16.0": 0x1C89, "15.1": 0x2EBF0, "15.0": 0x11F02, "14.0": 0x61D}
EXTENDING_LANDMARKS = {"17.0": 0x1ACF, "16.0": 0x897, "15.0": 0xCF3, "14.0": 0x898}

SURROGATES = range(0xD800, 0xE000)
CODES = [code for code in range(0x110000) if code not in SURROGATES]


def classes() -> bytearray:
    """The class of every code point, 0 for none."""
    found = bytearray(0x110000)
    text = "".join(map(chr, CODES))
    for number, pattern in enumerate(CLASSES.values(), 1):
        split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        for piece, _ in split.pre_tokenize_str(text):
            for character in piece:
                assert found[ord(character)] == 0, f"U+{ord(character):04X} has two classes"
                found[ord(character)] = number
    return found


def joining() -> bytearray:
    """How every code point joins its neighbours, as bits.

    The package replaces a cluster of up to five bytes as a whole by what its first byte leads to, here "b".
    """
    replace = normalizers.Precompiled(map_of_first_bytes()).normalize_str
    codes = [code for code in CODES if chr(code) not in "\r\n"]

    def together(before: str, after: str) -> list[bool]:
        return [
            line == "b" for line in replace("\n".join(before + chr(c) + after for c in codes)).split("\n")
        ]

    found = bytearray(0x110000)
    found[ord("\r")] = found[ord("\n")] = CONTROLS
    marked = together("", "\u0301")
    for code, extends, prepends, takes_mark in zip(
        codes, together("a", ""), together("", "a"), marked, strict=True
    ):
        controls = code < 0x10000 and not takes_mark  # with a mark, what is above has six bytes
        found[code] = EXTENDS * extends | PREPENDS * prepends | CONTROLS * controls
    return found


def map_of_first_bytes() -> bytes:
    """A map of characters (character_map.h) in which every byte but a line's end leads to "b"."""
    units = [0] * 768
    units[0] = 256 << 10
    for byte in range(1, 256):
        if byte != ord("\n"):
            units[256 ^ byte] = ((256 ^ byte) ^ 512) << 10 | 1 << 8 | byte
    units[512] = 1 << 31
    return struct.pack("<I768I", 4 * len(units), *units) + b"b\0"


def ranges(found: bytearray) -> Iterator[tuple[int, int]]:
    """First code point and number of each range, the one before the first having the number 0."""
    before = 0
    for code, number in enumerate(found):
        if number != before and code not in SURROGATES:
            yield code, number
            before = number


def table(name: str, meaning: str, found: bytearray, landmarks: Mapping[str, int]) -> str:
    version = next(version for version, code in landmarks.items() if found[code])
    entries = [f"0x{code << 4 | number:x}" for code, number in ranges(found)]
    lines = [", ".join(entries[start : start + 12]) for start in range(0, len(entries), 12)]
    return "\n".join(
        [
            f"// Unicode {version}: {Path(__file__).name} made it from tokenizers {__version__}.",
            "#pragma once",
            "",
            "#include <cstdint>",
            "",
            "namespace dca {",
            "",
            f"// Where a range of characters begins, times 16, plus {meaning}.",
            "// clang-format off",
            f"inline constexpr uint32_t {name}[] = {{",
            *(f"    {line}," for line in lines),
            "};",
            "// clang-format on",
            "",
            "}  // namespace dca",
            "",
        ]
    )


def tables() -> dict[str, str]:
    """The files' texts by their names."""
    return {
        "unicode_table.h": table("kClassRanges", "the number of its class (unicode.h)", classes(), LANDMARKS),
        "cluster_table.h": table(
            "kClusterRanges", "how they join others (clusters.cpp)", joining(), EXTENDING_LANDMARKS
        ),
    }


def main() -> int:
    differs = False
    for name, text in tables().items():
        path = FOLDER / name
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            print(f"{name} is another than {Path(__file__).name} makes; run it", file=sys.stderr)
            differs = True
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
