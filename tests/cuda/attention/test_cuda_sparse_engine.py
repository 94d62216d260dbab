"""Sparse prefill in sessions and engines on a card: what it reads, and that nothing but it changes."""

import math

import numpy as np
import pytest
from comparison import F16_KL, mean_kl

from dca_export.parity.sparse import check_sparse
from dca_export.parity.torch_reference import TorchReference
from dca_runtime import DcaError, Model

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

SCHEME = (300, 100, 512)  # borders lie inside pages
FROM = 512
SPARSE = f"sparse:0.5:{FROM}"
IDS = np.random.default_rng(7).integers(0, 515, 2000).astype(np.int32)

KINDS = {
    "head 64": {"head_dim": 64},
    "head 80": {"head_dim": 80},
    "head 96": {"head_dim": 96},
    "head 128": {"head_dim": 128, "heads": 8, "kv_heads": 2},
    "head 256": {"head_dim": 256},
    "quantised": {"types": (("", "Q8_0"),)},
    "bf16": {"types": (("", "BF16"),)},
    "mixture": {"experts": 8, "ff": 128, "ff_shared": 64, "shared_gate": True, "architecture": "qwen2moe"},
}


@pytest.fixture(scope="module")
def model(variant_gguf):
    with Model(variant_gguf(head_dim=128, scheme=SCHEME), device="cuda") as model:
        yield model


def logits_after(session, *parts):
    for part in parts[:-1]:
        session.append(part)
    return session.eval(parts[-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8", "q4"])
def test_keeping_everything_is_dense_to_the_bit(variant_gguf, kind, cache_type):
    if cache_type == "q4" and kind == "head 80":
        pytest.skip("a q4 cache takes head sizes that are multiples of 32")
    options = {"context": 1300, "cache_type": cache_type, "scheme": SCHEME}
    with (
        Model(variant_gguf(**KINDS[kind]), device="cuda") as model,
        model.session(**options) as dense,
        model.session(**options, prefill=f"sparse:0:{FROM}") as kept,
    ):
        assert np.array_equal(dense.score(IDS[:1300]), kept.score(IDS[:1300]))
        assert dense.info.density is None
        assert set(np.ravel(kept.info.density)) == {1.0}


@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
def test_the_cpu_chooses_alike(variant_gguf, cache_type):
    """The first layer's input is the same on both but for rounding: nearly all pages are."""
    path = variant_gguf(**KINDS["head 64"], scheme=SCHEME)
    found = []
    for device in ("cpu", "cuda"):
        with (
            Model(path, device=device) as model,
            model.session(
                context=2000, cache_type=cache_type, prefill="sparse:0.7:512", record_selection=True
            ) as session,
        ):
            session.append(IDS)
            first = [each for each in session.selection() if each.layer == 0]
            found.append({(each.head, each.start, each.stop): set(each.pages) for each in first})
    expected, chosen = found
    assert expected.keys() == chosen.keys()
    differing = sum(len(expected[block] ^ pages) for block, pages in chosen.items())
    assert differing <= 0.01 * sum(map(len, expected.values())), differing
    assert any(len(pages) < block[1] // 128 + 1 for block, pages in expected.items())


def test_a_larger_alpha_reads_less(model):
    densities = []
    for alpha in (0.0, 0.3, 0.9, 1.0):
        with model.session(context=2000, prefill=f"sparse:{alpha}:{FROM}") as session:
            session.append(IDS)
            densities.append(float(np.mean(session.info.density[0])))
            # Nothing was asked of the last layer.
            assert all(math.isnan(value) for value in session.info.density[1])
    assert densities == sorted(densities, reverse=True)
    assert densities[0] == 1.0 > densities[2] > densities[3]


def test_the_density_is_that_of_what_was_chosen(model):
    with model.session(context=2000, prefill=f"sparse:0.9:{FROM}", record_selection=True) as session:
        session.append(IDS)
        chosen, density = session.selection(), session.info.density[0]
    kinds = ("intra", "successive", "inter")
    for head in (0, 3):
        unread = 0
        for each in chosen:
            if (each.layer, each.head) != (0, head):
                continue
            keys = np.arange(each.stop)
            gap = np.minimum(each.start // SCHEME[0] - keys // SCHEME[0], 2)
            read = np.zeros(each.stop, bool)
            for page, kind in each.pages:
                read |= (keys // 128 == page) & (gap == kinds.index(kind))
            unread += sum(int((~read[: query + 1]).sum()) for query in range(each.start, each.stop))
        assert density[head] == pytest.approx(1 - unread / (2000 * 2001 / 2), abs=1e-6)


def test_sinks_and_neighbours_are_read_and_the_end_of_a_prompt_reads_everything(model):
    with model.session(context=2000, prefill=f"sparse:1:{FROM}", record_selection=True) as session:
        session.score(IDS)
        chosen = session.selection()
    starts = [each.start for each in chosen]
    assert min(starts) == FROM and max(each.stop for each in chosen) <= 2000 - 256
    for each in chosen:
        assert each.stop - each.start <= 32 and each.start // 300 == (each.stop - 1) // 300
        own = each.start // 128
        pages = {page for page, _ in each.pages}
        assert {0, 1, *range(own - 4, own + 1)} <= pages <= set(range(own + 1))
    assert any(len({page for page, _ in each.pages}) < each.start // 128 + 1 for each in chosen)


def test_what_was_cut_off_leaves_no_trace_in_the_means(model):
    with (
        model.session(context=2000, prefill=SPARSE) as first,
        model.session(context=2000, prefill=SPARSE) as second,
    ):
        first.append(IDS[:1000])
        first.append(IDS[::-1][:700])
        first.truncate(1000)
        assert np.array_equal(
            logits_after(first, IDS[1000:1600], IDS[1600:1700]),
            logits_after(second, IDS[:1000], IDS[1000:1600], IDS[1600:1700]),
        )


def test_tokens_fed_one_by_one_are_in_the_means(model):
    """Steps of one token fill pages too, and those have their means when a prompt chooses."""
    with model.session(context=2000, prefill=f"sparse:0.3:{FROM}", record_selection=True) as session:
        session.append(IDS[:1000])
        for id_ in IDS[1000:1200]:
            session.eval([id_])
        session.append(IDS[1200:1800])
        one_by_one = {(e.head, e.start): set(e.pages) for e in session.selection() if e.layer == 0}
    with model.session(context=2000, prefill=f"sparse:0.3:{FROM}", record_selection=True) as session:
        session.append(IDS[:1200])
        session.append(IDS[1200:1800])
        at_once = {(e.head, e.start): set(e.pages) for e in session.selection() if e.layer == 0}
    for block, pages in one_by_one.items():
        assert len(pages ^ at_once[block]) <= 1, block


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
    few = f"sparse:0.05:{FROM}"  # a tie that falls the other way matters little
    with model.engine(tokens=8192, prefill=few, max_rows=512) as engine:
        a, b = engine.sequence(), engine.sequence()
        for at in range(0, 1500, 250):
            engine.eval([(a, IDS[at : at + 250]), (b, IDS[::-1][at : at + 250])], logits=False)
        found = engine.eval([(a, IDS[1500:1600]), (b, IDS[::-1][1500:1600])])
    for ids, together in ((IDS, found[0]), (IDS[::-1], found[1])):
        with model.session(context=1600, prefill=few) as alone:
            for at in range(0, 1500, 250):
                alone.append(ids[at : at + 250])
            assert mean_kl(alone.eval(ids[1500:1600])[None], together[None]) < 20 * F16_KL


def test_a_saved_sequence_belongs_to_its_mode(model, tmp_path):
    path = tmp_path / "a.kv"
    with model.session(context=2000, prefill=SPARSE) as session:
        session.append(IDS[:1100])
        session.save(path)
        expected = logits_after(session, IDS[1100:1600], IDS[1600:1700])
    with model.session(context=2000, prefill=SPARSE) as session:
        session.load(path)
        assert np.array_equal(logits_after(session, IDS[1100:1600], IDS[1600:1700]), expected)
    with model.session(context=2000) as session, pytest.raises(DcaError, match="saved under another setup"):
        session.load(path)


def test_head_sizes_without_kernels_are_refused(variant_gguf):
    path = variant_gguf(head_dim=48, heads=4, kv_heads=1)
    with Model(path, device="cuda") as model, pytest.raises(DcaError, match=r"sizes of 64, .* is 48"):
        model.session(context=1000, prefill="sparse")


@pytest.mark.parametrize("kind", ["head 64", "head 128", "bf16"])
@pytest.mark.parametrize("cache_type", ["f16", "q8"])
def test_parity_given_what_was_chosen(variant_gguf, kind, cache_type):
    path = variant_gguf(**KINDS[kind], scheme=SCHEME)
    with Model(path, device="cuda") as model:
        report = check_sparse(
            model,
            TorchReference(path, "cuda", "f32"),
            1600,
            f"sparse:0.7:{FROM}",
            weights="bf16" if kind == "bf16" else "f16",
            cache_type=cache_type,
        )
    assert report.passed, [part.failures for part in report.parts]
    assert {part.cache_type for part in report.parts} == {"f16", cache_type}  # choices are judged over f16
    assert any(part.chosen.density < 1 for part in report.parts)
