"""Stated budgets: what a file's columns and diagonals let its heads read."""

import numpy as np
import pytest
from tiny import Tiny, write_tiny_gguf

import dca_runtime as dca

SCHEME = (300, 100, 512)
LAYERS, HEADS, TOKENS, THRESHOLD = 2, 4, 1500, 512
IDS = np.random.default_rng(7).integers(0, 320, TOKENS).astype(np.int32)
ALL = 1 << 20
KEYS = "llama.attention.budget."


def write(path, columns, diagonals):
    """A model whose heads all have this budget."""
    keys = {
        "columns": [columns] * LAYERS * HEADS,
        "diagonals": [diagonals] * LAYERS * HEADS,
        "threshold": THRESHOLD,
        "last_queries": 64,
    }
    tiny = Tiny(scheme=SCHEME, head_dim=32, context_length=512)
    write_tiny_gguf(path, tiny, extra={KEYS + key: value for key, value in keys.items()})
    return dca.Model(path, threads=1)


def scores(model, prefill, **options):
    with model.session(context=TOKENS, prefill=prefill, **options) as session:
        return session.score(IDS), session.info.density


@pytest.mark.parametrize("attention", ["plain", "dca", "intra", "intra+inter"])
@pytest.mark.parametrize("cache_type", ["f32", "f16", "q8", "q4"])
def test_all_diagonals_are_dense_to_the_bit(tmp_path, attention, cache_type):
    with write(tmp_path / "m.gguf", 8, ALL) as model:
        options = {"attention": attention, "cache_type": cache_type}
        dense, stated = scores(model, "dense", **options), scores(model, "stated", **options)
    assert np.array_equal(dense[0], stated[0])
    assert dense[1] is None and set(np.ravel(stated[1])) == {1.0}


@pytest.mark.parametrize("cache_type", ["f32", "bf16", "q8", "q4"])
def test_all_columns_are_dense_but_for_the_order_of_sums(tmp_path, cache_type):
    with write(tmp_path / "m.gguf", ALL, 1) as model:
        (dense, _), (stated, density) = (
            scores(model, mode, cache_type=cache_type) for mode in ("dense", "stated")
        )
    assert set(np.ravel(density)) == {1.0}
    # Single keys go through the kernel for f32; rounding them once more is what a smaller cache amplifies.
    assert np.abs(dense - stated).mean() < (1e-5 if cache_type == "f32" else 0.01)


def test_larger_budgets_read_more(tmp_path):
    found = []
    for number, (columns, diagonals) in enumerate([(30, 100), (60, 100), (60, 200), (200, 400)]):
        with write(tmp_path / f"{number}.gguf", columns, diagonals) as model:
            found.append(np.mean(scores(model, "stated")[1]))
    assert found == sorted(found) and found[0] < 0.75 and found[-1] < 1


def test_tokens_before_the_threshold_read_everything(tmp_path):
    with write(tmp_path / "m.gguf", 30, 100) as model:
        dense, stated = scores(model, "dense")[0], scores(model, "stated")[0]
    assert np.array_equal(dense[: THRESHOLD - 1], stated[: THRESHOLD - 1])
    assert not np.array_equal(dense, stated)


def test_what_is_chosen(tmp_path):
    with (
        write(tmp_path / "m.gguf", 50, 120) as model,
        model.session(context=TOKENS, prefill="stated", record_selection=True) as session,
    ):
        session.score(IDS)
        chosen = session.line_selection()
    assert {(each.layer, each.head) for each in chosen} == {
        (i, j) for i in range(LAYERS) for j in range(HEADS)
    }
    units = sorted({(each.start, each.stop) for each in chosen})
    assert units == [
        (512, 600),
        (600, 900),
        (900, 1024),
        (1024, 1200),
        (1200, 1500),
    ]  # steps of 512, chunks of 300
    for each in chosen:
        assert len(each.columns) == 50 and len(each.diagonals) == 120
        assert set(range(30)) <= set(each.columns) and max(each.columns) < each.stop
        assert set(range(100)) <= set(each.diagonals) and max(each.diagonals) < each.stop


def test_a_sequence_among_others_reads_what_it_reads_alone(tmp_path):
    with write(tmp_path / "m.gguf", 40, 110) as model:
        with model.engine(tokens=8192, prefill="stated") as engine:
            a, b = engine.sequence(), engine.sequence()
            for at in range(0, 1500, 250):
                engine.eval([(a, IDS[at : at + 250]), (b, IDS[::-1][at : at + 250])], logits=False)
            (together,) = engine.eval([(a, IDS[:40])])
        with model.session(context=2048, prefill="stated") as session:
            for at in range(0, 1500, 250):
                session.append(IDS[at : at + 250])
            assert np.array_equal(together, session.eval(IDS[:40]))


def test_a_saved_sequence_belongs_to_its_mode(tmp_path):
    with write(tmp_path / "m.gguf", 40, 110) as model:
        with model.session(context=TOKENS, prefill="stated") as session:
            session.append(IDS[:1000])
            session.save(tmp_path / "a.kv")
        with model.session(context=TOKENS, prefill="stated") as session:
            session.load(tmp_path / "a.kv")
            assert session.length == 1000
        with model.session(context=TOKENS) as session, pytest.raises(dca.DcaError, match="prefill"):
            session.load(tmp_path / "a.kv")


def test_dense_and_stated_share_what_is_dense_in_both(tmp_path):
    with (
        write(tmp_path / "m.gguf", 40, 110) as model,
        model.session(context=TOKENS) as dense,
        model.session(context=TOKENS, prefill="stated") as stated,
    ):
        assert stated.exact_prefix(dense) == dense.exact_prefix(stated) == THRESHOLD


def test_a_file_that_states_none_is_refused(tmp_path):
    write_tiny_gguf(tmp_path / "m.gguf", Tiny())
    with (
        dca.Model(tmp_path / "m.gguf") as model,
        pytest.raises(dca.DcaError, match=r"llama\.attention\.budget\.columns"),
    ):
        model.session(prefill="stated")


def test_a_budget_is_no_number_of_the_mode(tmp_path):
    with write(tmp_path / "m.gguf", 40, 110) as model, pytest.raises(dca.DcaError, match="prefill must be"):
        model.session(prefill="stated:0.1")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A model whose heads each have a budget of their own."""
    path = tmp_path_factory.mktemp("uneven") / "m.gguf"
    random = np.random.default_rng(1)
    heads = LAYERS * HEADS
    keys = {
        "columns": random.integers(0, 90, heads).tolist(),
        "diagonals": random.integers(80, 220, heads).tolist(),
        "threshold": THRESHOLD,
        "last_queries": 64,
    }
    tiny = Tiny(scheme=SCHEME, head_dim=32, context_length=512)
    write_tiny_gguf(path, tiny, extra={KEYS + key: value for key, value in keys.items()})
    return path


@pytest.mark.parametrize("cache_type", ["f32", "q4"])
@pytest.mark.parametrize("device", ["cpu/2", "cpu/2=1,1", "cpu/2/layers"])
def test_ranks_choose_for_their_heads_and_layers(uneven, device, cache_type):
    found = []
    for each in ("cpu", device):
        with (
            dca.Model(uneven, device=each) as model,
            model.session(
                context=TOKENS, prefill="stated", cache_type=cache_type, record_selection=True
            ) as session,
        ):
            session.append(IDS[:1000])
            logits = session.eval(IDS[1000:], all_logits=True)
            found.append((logits, np.array(session.info.density), session.line_selection()))
    (alone, expected, lines), (logits, density, of_ranks) = found
    assert [(e.layer, e.head, e.start, e.stop) for e in of_ranks] == [
        (e.layer, e.head, e.start, e.stop) for e in lines
    ]
    assert len({len(e.columns) for e in lines}) > 4  # heads differ
    # The first layer reads the same bits; behind it sums run in another order.
    first = [e for e in lines if e.layer == 0]
    assert of_ranks[: len(first)] == first
    np.testing.assert_array_equal(density[0], expected[0])
    np.testing.assert_allclose(density[1], expected[1], atol=0.01)
    assert np.abs(logits - alone).mean() < 1e-3  # a code of q4, or a line, may fall the other way


@pytest.mark.parametrize("device", ["cpu/2", "cpu/2/layers"])
def test_ranks_choose_so_over_a_q4_cache_too(uneven, device):
    found = []
    for each in ("cpu", device):
        with (
            dca.Model(uneven, device=each) as model,
            model.session(context=TOKENS, prefill="stated", cache_type="q4") as session,
        ):
            session.append(IDS[:1000])
            found.append((session.eval(IDS[1000:], all_logits=True), np.array(session.info.density)))
    (alone, expected), (logits, density) = found
    np.testing.assert_allclose(density, expected, atol=0.01)
    assert np.abs(logits - alone).mean() < 0.02 * alone.std()  # codes of four bits flip now and then


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("columns", [5] * 7, r"columns has 7 values, must have 8"),
        ("diagonals", [0] * 8, r"diagonals holds 0, must be 1 to"),
        ("columns", [2**30 + 1] * 8, r"columns holds 1073741825, must be 0 to"),
        ("last_queries", 0, r"last_queries is 0, must be 1 to 1024"),
        ("threshold", None, r"threshold is missing"),
        ("diagonals", None, r"diagonals is missing"),
    ],
)
def test_a_file_with_other_budgets_is_refused(tmp_path, name, value, message):
    path = tmp_path / "m.gguf"
    keys = {"columns": [5] * 8, "diagonals": [5] * 8, "threshold": 32, "last_queries": 16} | {name: value}
    write_tiny_gguf(path, Tiny(), extra={KEYS + key: each for key, each in keys.items() if each is not None})
    with pytest.raises(dca.DcaError, match=message):
        dca.Model(path)
