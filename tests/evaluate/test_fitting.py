"""As many units as fit, found in few tries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dca_export.evaluate.tasks.fitting import most_units


@given(
    frame=st.integers(0, 100),
    per_unit=st.sampled_from([0.05, 0.2, 1.0, 3.3, 22.3, 100.0]),
    joint=st.integers(0, 20),
    length=st.integers(1, 20_000),
    most=st.sampled_from([1, 10, 4096, 1 << 20]),
)
def test_it_fits_and_one_more_does_not(frame, per_unit, joint, length, most):
    """joint: every seventh unit begins with more tokens."""

    def tokens(units):
        return frame + int(per_unit * units) + joint * (units // 7)

    units = most_units(tokens, length, most)
    assert 0 <= units <= most
    assert units == 0 or tokens(units) <= length
    assert units == most or tokens(units + 1) > length


@pytest.mark.parametrize(("length", "tries"), [(4096, 6), (131_072, 6)])
def test_few_tries_are_enough(length, tries):
    """Of text in which a unit has about 22.3 tokens."""
    tried = []

    def tokens(units):
        tried.append(units)
        return 75 + int(22.3 * units)

    assert tokens(most_units(tokens, length, 1 << 20)) <= length
    assert len(tried) <= tries + 1
