"""The NumPy scheme's position matrices lie in tests/native/scheme_matrices.h, where native positions are held
against them, with those of the methods whose border moves with the query; this test keeps the file what
dca_export/scheme.py and the formulas below give.

    python tests/test_scheme_matrices.py    writes it
"""

from pathlib import Path

import numpy as np

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
# dca_attention of dca.h; window and beyond as in dca_border.
STRING, STREAMING, LM_INFINITE = 5, 6, 7
BORDERS = [
    *((STRING, window, beyond) for window, beyond in ((8, 3), (1, 0), (1, 1), (9, 9), (26, 5))),
    *((STREAMING, window, sinks) for window, sinks in ((6, 4), (1, 1), (3, 0), (20, 9), (30, 2))),
    *((LM_INFINITE, window, sinks) for window, sinks in ((6, 4), (1, 1), (3, 0), (20, 9), (30, 2))),
]


def border_distances(attention: int, window: int, beyond: int) -> np.ndarray:
    """(TOKENS, TOKENS): the distance of query i to key j <= i, -1 where it does not see it."""
    i, j = np.indices((TOKENS, TOKENS))
    m = i - j
    if attention == STRING:  # arXiv 2410.18745: far distances are moved down by S - W
        return np.where(m < window, m, m - window + beyond)
    far = {
        STREAMING: np.minimum(i, beyond + window - 1) - j,  # arXiv 2309.17453: places in a cache of both
        LM_INFINITE: np.full_like(m, window),  # arXiv 2308.16137: the limit on distances
    }[attention]
    return np.where(m < window, m, np.where(j < beyond, far, -1))


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
        "struct BorderMatrix {",
        "    int32_t attention;  // dca_attention",
        "    uint32_t window, beyond;",
        "    const char* distances;",
        "};",
        "",
        "// A distance d is the character 'A' + d; a key that is not seen a full stop.",
        f"constexpr uint32_t kMatrixTokens = {TOKENS};",
        "constexpr SchemeMatrix kSchemeMatrices[] = {",
    ]
    for scheme in SCHEMES:
        rows = scheme.relative_positions(TOKENS).tolist()
        lines.append(f"    {{{scheme.chunk_size}, {scheme.local_window}, {scheme.pretraining_length},")
        lines += [f'     "{"".join(chr(ord("A") + d) for d in row[: i + 1])}"' for i, row in enumerate(rows)]
        lines[-1] += "},"
    lines += ["};", "constexpr BorderMatrix kBorderMatrices[] = {"]
    for border in BORDERS:
        lines.append(f"    {{{border[0]}, {border[1]}, {border[2]},")
        for i, row in enumerate(border_distances(*border).tolist()):
            lines.append(f'     "{"".join("." if d < 0 else chr(ord("A") + d) for d in row[: i + 1])}"')
        lines[-1] += "},"
    return "\n".join([*lines, "};", ""])


def test_the_native_tests_read_what_the_numpy_scheme_gives():
    assert HEADER.read_text("utf-8") == rendered()


if __name__ == "__main__":
    HEADER.write_text(rendered(), "utf-8")
