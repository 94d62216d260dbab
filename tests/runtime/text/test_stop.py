"""Stop texts: what is given ends before the first of them, and nothing of it is given early."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dca_runtime as dca
from dca_runtime.text.stop import StopTexts


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_the_text_ends_where_the_first_stop_text_begins(pieces, stops):
    filtered, given_ = StopTexts(stops), ""
    for piece in pieces:
        given_ += filtered.push(piece)
        if filtered.found:
            break
    given_ += filtered.flush()
    # Oracle: piece by piece, the first moment at which any stop text is complete.
    text = ""
    for piece in pieces:
        text += piece
        places = [text.find(stop) for stop in stops if stop in text]
        if places:
            text = text[: min(places)]
            break
    assert given_ == text
    assert (filtered.found is not None) == any(stop in "".join(pieces) for stop in stops)


def test_a_partial_match_is_held_back_until_it_is_none():
    stops = StopTexts("END")
    assert [stops.push(piece) for piece in ["a E", "N", "x", "E", "ND b"]] == ["a ", "", "ENx", "", ""]
    assert stops.found == "END" and stops.flush() == ""


@pytest.mark.parametrize("stop", ["", ["a", ""], [1]])
def test_a_stop_text_must_be_one(stop):
    with pytest.raises(dca.DcaError, match="stop text"):
        StopTexts(stop)
