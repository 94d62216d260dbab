"""Caches of codes, q8 and q4: what they lose, and that they behave as the others do."""

import numpy as np
import pytest

import dca_runtime as dca

SCHEME = (100, 30, 160)
IDS = np.random.default_rng(11).integers(0, 320, 400).astype(np.int32)


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(
        tiny_gguf(scheme=SCHEME, head_dim=64, kv_heads=1, heads=2, context_length=160), threads=1
    ) as model:
        yield model


def logits(model, cache_type, pieces=(400,)):
    with model.session(context=400, cache_type=cache_type) as session:
        parts = np.split(IDS, np.cumsum(pieces)[:-1])
        return np.concatenate([session.eval(part, all_logits=True) for part in parts])


def test_fewer_bits_lose_more_and_each_a_little(model):
    exact = logits(model, "f32")
    pieces = (50,) * 8  # of which each reads the pages before its own at the cache's own bits
    loss = {kind: np.abs(logits(model, kind, pieces) - exact).mean() for kind in ("f16", "q8", "q4")}
    assert 0 < loss["f16"] < loss["q8"] < loss["q4"]
    # A step of q4 is 17 of q8's, but not in the pages that a piece writes to; both are small beside what
    # logits differ by among themselves.
    assert 4 < loss["q4"] / loss["q8"] < 35
    assert loss["q8"] < 0.02 * exact.std()


@pytest.mark.parametrize("cache_type", ["q8", "q4"])
def test_prefill_and_single_tokens_read_the_same_cache(model, cache_type):
    whole = logits(model, cache_type, pieces=(300, 84, 16))  # 384 begins a page
    single = logits(model, cache_type, pieces=(300, *[1] * 100))
    # They multiply in other ways; the codes of a token may then differ by one here and there.
    assert np.abs(whole - single).max() < 0.5 * np.abs(whole - logits(model, "f32")).max()


def test_q4_reads_the_pages_that_a_step_writes_to_at_eight_bits(model):
    exact = logits(model, "f32")
    lost = {pieces: np.abs(logits(model, "q4", pieces) - exact) for pieces in ((400,), (1,) * 400)}
    at_once, single = lost.values()
    assert at_once.mean() < single[128:].mean() / 4
    assert single[:128].mean() < single[128:].mean() / 4
    # Only how a page is read differs, not what it holds.
    with model.session(context=400, cache_type="q4") as session:
        session.append(IDS[:128])
        rest = [session.eval(IDS[i : i + 1]) for i in range(128, 133)]
    assert np.array_equal(rest, logits(model, "q4", (128, *[1] * 272))[128:133])


def test_guesses_taken_back_over_a_pages_end_cost_no_more_than_four_bits_do(model):
    """A page that was full of them was coded anew about their mean; it is filled and coded once more."""
    exact, plain = (logits(model, kind, (120, *[1] * 81)) for kind in ("f32", "q4"))
    with model.session(context=400, cache_type="q4") as session:
        session.append(IDS[:120])
        rows = []
        for at in range(120, 200):
            session.eval([IDS[at], *IDS[300:316]])
            session.truncate(at)
            rows.append(session.eval(IDS[at : at + 1]))
    lost, guessing = (np.abs(each - exact[120:200]).mean() for each in (plain[120:200], np.array(rows)))
    assert guessing < 1.5 * lost


def test_a_page_of_a_sequence_that_pauses_stays_fine(model):
    """Others run meanwhile, over more pages than any step has."""
    with model.engine(tokens=8192, cache_type="q4", max_rows=64) as engine:
        a = engine.sequence()
        engine.eval([(a, IDS[:40])], logits=False)
        twin = a.fork()
        (expected,) = engine.eval([(twin, IDS[40:42])])
        for n in range(10):
            with engine.sequence() as other:
                engine.eval([(other, np.roll(IDS, n)[:300])], logits=False)
        (found,) = engine.eval([(a, IDS[40:42])])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("cache_type", ["q8", "q4"])
def test_a_saved_cache_goes_on_as_it_was(model, cache_type, tmp_path):
    with model.session(context=400, cache_type=cache_type) as session:
        session.append(IDS[:150])
        session.save(tmp_path / "a.kv")
        expected = session.eval(IDS[150:200])
    with model.session(context=400, cache_type=cache_type) as session:
        session.load(tmp_path / "a.kv")
        assert np.array_equal(session.eval(IDS[150:200]), expected)
    assert (
        f"layout cpu, {cache_type} in groups of 32 with f16 scale and offset".encode()
        in (tmp_path / "a.kv").read_bytes()
    )


def test_equal_sequences_make_equal_files(model, tmp_path):
    """What lies past the last token is written as zeros, in codes and in what goes with them."""
    for name, before in (("a", 0), ("b", 200)):
        with model.session(context=400, cache_type="q4") as session:
            if before:
                session.append(IDS[::-1][:before])
                session.truncate(0)
            session.append(IDS[:150])
            session.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("cache_type", ["q8", "q4"])
def test_forks_and_copied_starts(model, cache_type):
    with model.engine(tokens=1024, cache_type=cache_type) as engine:
        a = engine.sequence()
        engine.eval([(a, IDS[:150])], logits=False)
        b = a.fork()
        engine.eval([(a, IDS[::-1][:60])], logits=False)
        (forked,) = engine.eval([(b, IDS[150:200])])
    with (
        model.session(context=400, cache_type=cache_type) as one,
        model.session(context=400, cache_type=cache_type) as other,
    ):
        one.append(IDS[:150])
        other.copy_prefix(one, 150)
        assert np.array_equal(other.eval(IDS[150:200]), forked)


def test_bytes_a_value(model):
    with model.session(context=128, cache_type="f16") as whole:
        sixteen = whole.info.cache_bytes
    for cache_type, bits in (("q8", 9), ("q4", 5 + 1 / 16)):  # a mean key for 128 tokens
        with model.session(context=128, cache_type=cache_type) as session:
            assert session.info.cache_bytes * 16 == sixteen * bits


@pytest.mark.parametrize("size", [16, 80])
def test_q4_says_which_heads_it_takes(tiny_gguf, size):
    with dca.Model(tiny_gguf(head_dim=size)) as model:
        with pytest.raises(
            dca.DcaError, match=rf"q4 cache takes head sizes that are multiples of 32, this model's is {size}"
        ):
            model.session(cache_type="q4")
        with model.session(cache_type="q8", context=64) as session:
            session.eval(IDS[:40])
