"""The benchmark of streams while a prompt is read: what a round holds."""

import sys
from pathlib import Path

import numpy as np
import pytest

import dca_runtime as dca

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from prefill_while_decoding import Round, line, measure  # noqa: E402


def test_a_round_has_a_step_for_each_piece_and_leaves_the_engine_empty(tiny_gguf):
    with dca.Model(tiny_gguf()) as model, model.engine(tokens=1024) as engine:
        found = measure(engine, 20, 2, list(range(60)), 20)
        assert engine.info.tokens_used == 0
    assert len(found.decode) == len(found.pieces) == len(found.both) == 3
    assert found.both.min() > 0


def test_gaps_are_held_against_their_own_step_and_piece():
    found = Round(np.full(4, 0.5), np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 3.6))
    assert found.limit == pytest.approx(4.5, rel=0.01)
    assert found.ratio == pytest.approx(14.4 / 12)
    assert "1.20 of one after the other" in line(found)
