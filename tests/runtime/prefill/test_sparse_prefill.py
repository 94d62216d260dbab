"""Sparse prefill: what it reads, and that nothing but it changes."""

import math

import numpy as np
import pytest

import dca_runtime as dca
from dca_runtime.prefill import parse

SCHEME = (300, 100, 512)  # borders lie inside pages
FROM = 512
SPARSE = f"sparse:0.5:{FROM}"
IDS = np.random.default_rng(7).integers(0, 320, 2000).astype(np.int32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tiny import Tiny, write_tiny_gguf

    path = tmp_path_factory.mktemp("sparse") / "m.gguf"
    write_tiny_gguf(path, Tiny(scheme=SCHEME, head_dim=32, context_length=512))
    with dca.Model(path, threads=1) as model:
        yield model


def logits_after(session, *parts):
    for part in parts[:-1]:
        session.append(part)
    return session.eval(parts[-1])


@pytest.mark.parametrize("attention", ["plain", "dca", "intra", "intra+inter"])
@pytest.mark.parametrize("cache_type", ["f32", "f16", "q8", "q4"])
def test_keeping_everything_is_dense_to_the_bit(model, attention, cache_type):
    options = {"context": 1300, "attention": attention, "cache_type": cache_type}
    with model.session(**options) as dense, model.session(**options, prefill=f"sparse:0:{FROM}") as kept:
        assert np.array_equal(dense.score(IDS[:1300]), kept.score(IDS[:1300]))
        assert dense.info.density is None
        assert set(np.ravel(kept.info.density)) == {1.0}


def test_a_larger_alpha_reads_less(model):
    densities = []
    for alpha in (0.0, 0.3, 0.9, 1.0):
        with model.session(context=2000, prefill=f"sparse:{alpha}:{FROM}") as session:
            session.append(IDS)
            first_layer = session.info.density[0]  # of the last nothing was asked
            densities.append(float(np.mean(first_layer)))
            assert all(math.isnan(value) for value in session.info.density[1])
    assert densities == sorted(densities, reverse=True)
    assert densities[0] == 1.0 > densities[2] > densities[3]


def test_sinks_and_neighbours_are_read_and_the_end_of_a_prompt_reads_everything(model):
    with model.session(context=2000, prefill=f"sparse:1:{FROM}", record_selection=True) as session:
        session.score(IDS)
        chosen = session.selection()
    assert {each.layer for each in chosen} == {0, 1} and {each.head for each in chosen} == set(range(4))
    starts = [each.start for each in chosen]
    assert min(starts) == FROM and max(each.stop for each in chosen) <= 2000 - 256
    for each in chosen:
        assert each.stop - each.start <= 32 and each.start // 300 == (each.stop - 1) // 300
        own = each.start // 128
        pages = {page for page, _ in each.pages}
        assert {0, 1, *range(own - 4, own + 1)} <= pages <= set(range(own + 1))
    assert any(len({page for page, _ in each.pages}) < each.start // 128 + 1 for each in chosen)


def test_a_prompts_pieces_before_the_last_have_no_dense_end(model):
    with model.session(context=2000, prefill=SPARSE, record_selection=True) as session:
        session.append(IDS[:1024])
        assert max(each.stop for each in session.selection()) == 1024


def test_what_was_cut_off_leaves_no_trace_in_the_means(model):
    other = IDS[::-1]
    with (
        model.session(context=2000, prefill=SPARSE) as first,
        model.session(context=2000, prefill=SPARSE) as second,
    ):
        first.append(IDS[:1000])
        first.append(other[:700])
        first.truncate(1000)
        assert np.array_equal(
            logits_after(first, IDS[1000:1600], IDS[1600:1700]),
            logits_after(second, IDS[:1000], IDS[1000:1600], IDS[1600:1700]),
        )


def test_a_forks_copied_page_gets_means_of_its_own(model):
    with model.engine(tokens=6144, prefill=SPARSE) as engine:
        a = engine.sequence()
        engine.eval([(a, IDS[:1000])], logits=False)
        b = a.fork()
        engine.eval([(a, IDS[::-1][:600])], logits=False)
        engine.eval([(b, IDS[1000:1600])], logits=False)
        (forked,) = engine.eval([(b, IDS[1600:1700])])
        assert engine.info.density is not None
    with model.session(context=2000, prefill=SPARSE) as alone:
        assert np.array_equal(forked, logits_after(alone, IDS[:1000], IDS[1000:1600], IDS[1600:1700]))


def test_sequences_of_one_step_choose_for_themselves(model):
    with model.engine(tokens=8192, prefill=SPARSE, max_rows=512) as engine:
        a, b = engine.sequence(), engine.sequence()
        for at in range(0, 1500, 250):
            engine.eval([(a, IDS[at : at + 250]), (b, IDS[::-1][at : at + 250])], logits=False)
        together = engine.eval([(a, IDS[1500:1600])])[0]
    with model.session(context=1600, prefill=SPARSE) as alone:
        for at in range(0, 1500, 250):
            alone.append(IDS[at : at + 250])
        assert np.array_equal(together, alone.eval(IDS[1500:1600]))


def test_dense_and_sparse_share_what_is_dense_in_both(model):
    with model.session(context=2000) as dense, model.session(context=2000, prefill=SPARSE) as sparse:
        assert sparse.exact_prefix(dense) == dense.exact_prefix(sparse) == FROM
        dense.append(IDS[:FROM])
        sparse.copy_prefix(dense, FROM)
        copied = logits_after(sparse, IDS[FROM:1600], IDS[1600:1700])
        with pytest.raises(dca.DcaError, match="only the first 512"):
            dense.append(IDS[FROM:600])
            sparse.copy_prefix(dense, 600)
    with model.session(context=2000, prefill=SPARSE) as fresh:
        assert np.array_equal(copied, logits_after(fresh, IDS[:FROM], IDS[FROM:1600], IDS[1600:1700]))


def test_a_saved_sequence_belongs_to_its_mode(model, tmp_path):
    path = tmp_path / "a.kv"
    with model.session(context=2000, prefill=SPARSE) as session:
        session.append(IDS[:1100])
        session.save(path)
        expected = logits_after(session, IDS[1100:1600], IDS[1600:1700])
    with model.session(context=2000, prefill=SPARSE) as session:
        session.load(path)
        assert np.array_equal(logits_after(session, IDS[1100:1600], IDS[1600:1700]), expected)
    for other in ("dense", f"sparse:0.4:{FROM}", "sparse:0.5:640"):
        with model.session(context=2000, prefill=other) as session:
            with pytest.raises(dca.DcaError, match="saved under another setup: expected prefill"):
                session.load(path)


def test_chunks_shorter_than_a_page_are_refused(model):
    with pytest.raises(dca.DcaError, match=r"chunks of at least 128 tokens .* chunk_size is 100"):
        model.session(scheme=(100, 20, 200), attention="dca", prefill="sparse")


@pytest.mark.parametrize(
    ("text", "name"),
    [("dense", "dense"), ("sparse:0.25", "sparse:0.25"), ("sparse:0.5:1024", "sparse:0.5:1024")],
)
def test_modes_read_and_written(text, name):
    assert parse(text).name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sparse",
        "sparse:",
        "sparse:1.5",
        "sparse:-1",
        "sparse:nan",
        "sparse:0.1:x",
        "sparse:0.1:1:1",
        "dense:0.1",
    ],
)
def test_modes_that_are_none(model, text):
    with pytest.raises(dca.DcaError, match="as in sparse:0.1"):
        model.session(prefill=text)
