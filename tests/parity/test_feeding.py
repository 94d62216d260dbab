"""How tokens are fed, and how logits come back in order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dca_export.parity import feeding
from dca_export.parity.feeding import Feeder, Piece, chunk_borders, scheme_for, single, uneven, whole
from dca_export.scheme import Scheme

N_VOCAB = 3


@st.composite
def schemes(draw):
    s = draw(st.integers(1, 10_000))
    c = s + draw(st.integers(1, 5_000))
    scaled = draw(st.booleans())
    scale = (draw(st.floats(0.01, 1)), draw(st.integers(1, 10_000))) if scaled else ()
    return Scheme(s, draw(st.integers(0, c - s)), c, *scale)


class CountingSession:
    """A session whose logits say which token they follow."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def eval(self, ids, all_logits=False):
        assert all_logits
        self.tokens += ids
        first = len(self.tokens) - len(ids)
        return np.repeat(np.arange(first, len(self.tokens), dtype=np.float32)[:, None], N_VOCAB, axis=1)

    def append(self, ids) -> None:
        self.tokens += ids


@given(st.integers(1, 3000), st.lists(st.integers(1, 3000), max_size=9), st.integers(1, 3000))
def test_every_way_of_feeding_feeds_every_token_once(length, borders, budget):
    borders = sorted({border for border in borders if border < length})
    for pieces in (whole(length, N_VOCAB), uneven(length), single(length, borders, budget)):
        assert sum(piece.tokens for piece in pieces) == length
        assert all(piece.tokens > 0 for piece in pieces)


@given(st.integers(18, 3000), schemes())
def test_decoding_goes_one_by_one_over_at_least_three_borders(length, scheme):
    borders = chunk_borders(length, scheme_for(length, scheme))
    alone = [piece.tokens == 1 and piece.compared for piece in single(length, borders, 256)]
    starts = np.cumsum([0] + [piece.tokens for piece in single(length, borders, 256)])
    tokens_alone = {int(start) for start, is_alone in zip(starts, alone, strict=False) if is_alone}
    crossed = [border for border in borders if {border - 1, border} <= tokens_alone]
    assert len(crossed) >= 3


@given(st.integers(18, 100_000), schemes())
def test_the_scheme_is_shrunk_only_where_it_must_be(length, scheme):
    used = scheme_for(length, scheme)
    assert len(chunk_borders(length, used)) >= 3
    if used == scheme:
        assert length > 3 * scheme.chunk_size
    else:
        assert length <= 3 * scheme.chunk_size
        assert (used.local_window > 0) == (scheme.local_window > 0)
        assert used.logit_scale == scheme.logit_scale


def test_whole_prefill_is_one_call_while_its_logits_fit(monkeypatch):
    assert whole(1000, 50_000) == [Piece(1000)]
    monkeypatch.setattr(feeding, "WHOLE_BYTES", 4 * 50_000 * 300)
    assert whole(1000, 50_000) == [Piece(300), Piece(300), Piece(300), Piece(100)]


@given(st.data())
def test_logits_come_back_in_order(data):
    length = data.draw(st.integers(1, 60))
    pieces = []
    while (left := length - sum(piece.tokens for piece in pieces)) > 0:
        pieces.append(Piece(data.draw(st.integers(1, left)), data.draw(st.booleans())))
    session = CountingSession()
    feeder = Feeder(session, list(range(100, 100 + length)), pieces)
    found = []
    for stop in [*sorted(data.draw(st.lists(st.integers(1, length), max_size=5))), length]:
        positions, logits = feeder.take(stop)
        assert all(positions < stop)
        if len(positions):
            assert logits.shape == (len(positions), N_VOCAB)
            assert (logits == positions[:, None]).all()
        found += positions.tolist()
    starts = np.cumsum([0] + [piece.tokens for piece in pieces])
    expected = [
        token
        for start, piece in zip(starts, pieces, strict=False)
        for token in range(start, start + piece.tokens)
        if piece.compared
    ]
    assert found == expected
    assert session.tokens == list(range(100, 100 + length))


@pytest.mark.parametrize("logit_scale", [(), (0.1, 100)])
def test_a_shrunk_scheme_keeps_its_proportions(logit_scale):
    used = scheme_for(1000, Scheme(3000, 600, 4000, *logit_scale))
    assert (used.chunk_size, used.local_window, used.pretraining_length) == (222, 44, 296)
    assert used.logit_scale_length == (7 if logit_scale else 0)
