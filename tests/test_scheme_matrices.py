"""The NumPy scheme's position matrices lie in tests/native/scheme_matrices.h, where native positions are held
against them; this test keeps the file what dca_export/scheme.py gives.

    python tests/test_scheme_matrices.py    writes it
"""

from pathlib import Path

from dca_export.scheme import Scheme

HEADER = Path(__file__).parent / "native" / "scheme_matrices.h"
TOKENS = 26
SCHEMES = [
    Scheme(6, 4, 10),  # figure 2
    Scheme(4, 3, 8),  # figure 8
    Scheme(7, 0, 9),  # no window
    Scheme(5, 2, 20),  # positions that nothing uses
    Scheme(1, 1, 2),
    Scheme(25, 2, 27),  # the second chunk begins with the last token
]


def rendered() -> str:
    lines = [
        "// Written by tests/test_scheme_matrices.py from dca_export/scheme.py: not by hand.",
        "#pragma once",
        "",
        "#include <cstdint>",
        "",
        "struct SchemeMatrix {",
        "    uint32_t chunk_size, local_window, pretraining_length;",
        "    const char* distances;  // row i: of the query at i to keys 0 ... i",
        "};",
        "",
        "// A distance d is the character 'A' + d.",
        f"constexpr uint32_t kMatrixTokens = {TOKENS};",
        "constexpr SchemeMatrix kSchemeMatrices[] = {",
    ]
    for scheme in SCHEMES:
        rows = scheme.relative_positions(TOKENS).tolist()
        lines.append(f"    {{{scheme.chunk_size}, {scheme.local_window}, {scheme.pretraining_length},")
        lines += [f'     "{"".join(chr(ord("A") + d) for d in row[: i + 1])}"' for i, row in enumerate(rows)]
        lines[-1] += "},"
    return "\n".join([*lines, "};", ""])


def test_the_native_tests_read_what_the_numpy_scheme_gives():
    assert HEADER.read_text("utf-8") == rendered()


if __name__ == "__main__":
    HEADER.write_text(rendered(), "utf-8")
