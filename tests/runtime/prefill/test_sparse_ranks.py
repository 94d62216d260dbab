"""Sparse prefill of a model that ranks share: each chooses for its heads or layers what one alone does."""

import numpy as np
import pytest

from dca_runtime import Model

SCHEME = (256, 64, 512)
PREFILL = "sparse:0.95:512"
IDS = np.random.default_rng(3).integers(0, 515, 1500).astype(np.int32)
DEVICES = ["cpu/2", "cpu/3", "cpu/3=1,1,4", "cpu/2/layers"]


@pytest.fixture(scope="module")
def path(variant_gguf):
    return variant_gguf(heads=12, kv_heads=6, head_dim=32, layers=3)


@pytest.fixture(scope="module")
def alone(path):
    return run(path, "cpu")


def run(path, device):
    options = {"context": 1600, "scheme": SCHEME, "cache_type": "f32", "record_selection": True}
    with Model(path, device=device) as model, model.session(**options, prefill=PREFILL) as session:
        session.append(IDS[:900])
        logits = session.eval(IDS[900:])
        chosen = [(each.layer, each.head, each.start, each.stop, each.pages) for each in session.selection()]
        return logits, np.array(session.info.density), chosen


@pytest.mark.parametrize("device", DEVICES)
def test_blocks_are_those_of_one_rank_in_its_order(path, alone, device):
    _, _, expected = alone
    _, _, chosen = run(path, device)
    blocks = [block[:4] for block in chosen]
    assert blocks == sorted(blocks) == [block[:4] for block in expected]
    assert {block[1] for block in blocks} == set(range(12))
    # The first layer reads the same bits; behind it sums run in another order, and weights near the limit may
    # fall on its other side.
    first = [block for block in expected if block[0] == 0]
    assert chosen[: len(first)] == first
    assert sum(a != b for a, b in zip(chosen, expected, strict=True)) <= 0.01 * len(expected)


@pytest.mark.parametrize("device", DEVICES)
def test_density_is_that_of_one_rank_by_layer_and_head(path, alone, device):
    _, expected, _ = alone
    _, density, _ = run(path, device)
    assert density.shape == expected.shape == (3, 12)
    assert len(set(np.ravel(density[0]))) > 6  # heads differ
    np.testing.assert_array_equal(density[0], expected[0])
    np.testing.assert_allclose(density, expected, atol=0.01)
    assert (density < 1).any()


@pytest.mark.parametrize("device", DEVICES)
def test_logits_are_close_to_those_of_one_rank(path, alone, device):
    logits, _, _ = run(path, device)
    assert np.abs(logits - alone[0]).max() < 3e-2  # where a page more or less was read


def test_keeping_everything_is_dense(path):
    with (
        Model(path, device="cpu/2") as model,
        model.session(context=1600, scheme=SCHEME) as dense,
        model.session(context=1600, scheme=SCHEME, prefill="sparse:0:512") as kept,
    ):
        assert np.array_equal(dense.score(IDS), kept.score(IDS))
        assert set(np.ravel(kept.info.density)) == {1.0}


@pytest.mark.parametrize(("saved", "loaded"), [("cpu", "cpu/2"), ("cpu/2", "cpu/2/layers")])
def test_a_saved_sequence_goes_on_with_any_number_of_ranks(path, tmp_path, saved, loaded):
    """Means of pages are not in the file: they are made again from the keys."""
    options = {"context": 1600, "scheme": SCHEME, "cache_type": "f32", "prefill": PREFILL}
    with Model(path, device=saved) as model, model.session(**options) as session:
        session.append(IDS[:1000])
        session.save(tmp_path / "kept")
        expected = session.eval(IDS[1000:])
    with Model(path, device=loaded) as model, model.session(**options) as session:
        session.load(tmp_path / "kept")
        assert np.abs(session.eval(IDS[1000:]) - expected).max() < 3e-2
