"""What GGUF can store under a key, and that an error names it."""

import pytest
from gguf import GGUFValueType as V

from dca_export.errors import InputError
from dca_export.gguf.packing import check_packable

FITS = [
    (V.UINT32, 2**32 - 1),
    (V.INT32, -(2**31)),
    (V.FLOAT32, 1e-45),
    (V.FLOAT32, 0.0),
    (V.BOOL, True),
    (V.STRING, "é"),
    (V.STRING, b"\xff"),
    (V.ARRAY, [1, 2]),
    (V.ARRAY, [b"\xff", "a"]),
]
DOES_NOT = [
    (V.UINT32, 2**32),
    (V.UINT32, -1),
    (V.UINT32, 1.5),
    (V.INT32, 2**31),
    (V.FLOAT32, 1e39),
    (V.FLOAT32, 10**400),
    (V.FLOAT32, 1e-46),
    (V.FLOAT32, "1"),
    (V.STRING, "\ud800"),
    (V.STRING, 5),
    (V.ARRAY, []),
    (V.ARRAY, 5),
    (V.ARRAY, ["a", "\udc80"]),
    (V.ARRAY, [1, 2**40]),
    (V.ARRAY, [None]),
]


@pytest.mark.parametrize(("kind", "value"), FITS)
def test_fits(kind, value):
    check_packable("config.json", "some.key", kind, value)


@pytest.mark.parametrize(("kind", "value"), DOES_NOT)
def test_does_not_fit(kind, value):
    with pytest.raises(InputError, match="^config.json: some.key cannot be ") as caught:
        check_packable("config.json", "some.key", kind, value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
