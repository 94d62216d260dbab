"""dca-parity of stated budgets: it passes, and notices what is wrong."""

import dataclasses

import numpy as np
import pytest
from tiny import Tiny, write_tiny_gguf

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.parity import sparse as sparse_parity
from dca_export.parity.sparse import check_sparse
from dca_export.parity.torch_reference import TorchReference

LENGTH, THRESHOLD = 1400, 300
TINY = Tiny(scheme=(300, 100, 512, 0.2, 400), context_length=512, head_dim=32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Every head has a budget of its own."""
    random = np.random.default_rng(1)
    heads = TINY.layers * TINY.heads
    keys = {
        "columns": random.integers(0, 90, heads).tolist(),
        "diagonals": random.integers(80, 220, heads).tolist(),
        "threshold": THRESHOLD,
        "last_queries": 48,
    }
    path = tmp_path_factory.mktemp("stated") / "m.gguf"
    write_tiny_gguf(path, TINY, extra={f"llama.attention.budget.{key}": each for key, each in keys.items()})
    return path


def report(path, length=LENGTH, **options):
    with dca.Model(path, threads=1) as model:
        reference = TorchReference(path, "cpu", "f32")
        return check_sparse(model, reference, length, "stated", weights="f32", **options)


@pytest.fixture(scope="module")
def clean(path):
    return report(path, cache_type="q8")


def test_it_passes(clean):
    assert clean.passed, [part.failures for part in clean.parts]
    assert {part.cache_type for part in clean.parts} == {"f32", "q8"}
    assert all(0 < part.chosen.density < 0.9 for part in clean.parts if part.fed == "whole prefill")


def test_every_attention_and_two_ways_of_feeding_choose(clean):
    assert len({part.group for part in clean.parts}) == 2
    assert {part.fed for part in clean.parts} == {"whole prefill", "uneven pieces"}
    assert all(part.chosen.pages > 0 for part in clean.parts)


def damaged(monkeypatch, path, change):
    """The failures where the reference is told other lines than the runtime read."""
    given = sparse_parity.lines_by_layer
    monkeypatch.setattr(
        sparse_parity, "lines_by_layer", lambda found, layers: given(list(map(change, found)), layers)
    )
    return [failure for part in report(path).parts for failure in part.failures]


def test_other_columns_than_the_references_are_no_ties(path, monkeypatch):
    def change(each):
        return dataclasses.replace(each, columns=tuple(column for column in each.columns if column != 7))

    failures = damaged(monkeypatch, path, change)
    assert any("read by one side only" in failure for failure in failures)
    assert any("largest difference" in failure for failure in failures)


def test_other_diagonals_than_the_references_are_no_ties(path, monkeypatch):
    def change(each):
        return dataclasses.replace(each, diagonals=each.diagonals[:-1])

    assert any("read by one side only" in failure for failure in damaged(monkeypatch, path, change))


def test_a_length_before_they_set_in(path):
    with pytest.raises(InputError, match="--length is 400, must be at least 428: the file's budgets"):
        report(path, 400)


def test_a_file_without_budgets(tiny_gguf):
    with pytest.raises(InputError, match="states no budgets"):
        report(tiny_gguf(scheme=(300, 100, 512), context_length=512))
