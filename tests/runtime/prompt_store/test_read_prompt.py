"""A model reads through a store: the same answers, less work."""

import numpy as np
import pytest

import dca_runtime as dca
from dca_runtime import DcaError
from dca_runtime.prompt_store.reading import read_prompt

SCHEME = (40, 24, 64)
PAGE = 128
# A row alone and rows of a block sum in another order; logits here are of order 1, f32 keeps the rest.
CLOSE = 2e-3


def tokens(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 320, count).tolist()


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True)) as model:
        yield model


def session_of(model, cache_type="f32"):
    return model.session(context=4096, cache_type=cache_type, scheme=SCHEME)


def uncached(model, ids, cache_type="f32"):
    with session_of(model, cache_type) as session:
        return session.eval(ids)


@pytest.mark.parametrize("cache_type", ["f32", "f16", "bf16", "q8"])
def test_a_loaded_prompt_gives_the_logits_of_one_that_was_read(model, store, cache_type):
    ids = tokens(1, 1000)
    with session_of(model, cache_type) as session, store.prompts(session) as prompts:
        assert read_prompt(session, prompts, ids) == 0
        session.eval(ids[session.length :])
    with session_of(model, cache_type) as session, store.prompts(session) as prompts:
        assert read_prompt(session, prompts, ids) == 7 * PAGE == session.length
        logits = session.eval(ids[session.length :])
    # A rounded cache rounds what differs by 1e-6 to neighbours now and then.
    assert np.abs(logits - uncached(model, ids, cache_type)).max() < (CLOSE if cache_type == "f32" else 3e-2)


@pytest.mark.parametrize("held", [0, 100, 128, 300])
def test_what_a_session_holds_is_gone_on_from(model, store, held):
    ids = tokens(2, 700)
    with session_of(model) as session, store.prompts(session) as prompts:
        read_prompt(session, prompts, ids[:400])
    with session_of(model) as session, store.prompts(session) as prompts:
        if held:
            session.append(ids[:held])
        read_prompt(session, prompts, ids)
        assert session.length == 5 * PAGE
        logits = session.eval(ids[session.length :])
    assert np.abs(logits - uncached(model, ids)).max() < CLOSE


def test_an_interrupted_reading_goes_on_where_it_was(model, store):
    ids = tokens(3, 3000)

    class Stop(Exception):
        pass

    def progress(length: int) -> None:
        if length >= 1024:
            raise Stop

    with session_of(model) as session, store.prompts(session) as prompts, pytest.raises(Stop):
        read_prompt(session, prompts, ids, progress)
    with session_of(model) as session, store.prompts(session) as prompts:
        assert read_prompt(session, prompts, ids) >= 1024


@pytest.mark.parametrize(
    "other", [{"cache_type": "f16"}, {"scheme": (48, 16, 64)}, {"attention": "plain"}, {"rope": "linear:2"}]
)
def test_another_setup_reads_again(model, store, other):
    ids = tokens(4, 500)
    with session_of(model) as session, store.prompts(session) as prompts:
        read_prompt(session, prompts, ids)
    with (
        model.session(**({"context": 4096, "cache_type": "f32", "scheme": SCHEME} | other)) as session,
        store.prompts(session) as prompts,
    ):
        assert prompts.find(ids) == 0


def test_a_generation_reads_through_a_store_and_keeps_its_text(model, store):
    ids = tokens(5, 300)
    sampling = dca.Sampling(temperature=0)
    texts, stored = [], []
    for _ in range(2):
        with session_of(model) as session, store.prompts(session) as prompts:
            generation = dca.Generation(session, model.tokenizer, ids, 200, sampling, prompts=prompts)
            texts.append("".join(generation))
            stored.append(generation.stored_tokens)
            held = session.ids.tolist()
    with session_of(model) as session:
        texts.append("".join(dca.Generation(session, model.tokenizer, ids, 200, sampling)))
    assert texts[0] == texts[1] == texts[2]
    assert stored == [0, 2 * PAGE]
    with session_of(model) as session, store.prompts(session) as prompts:
        assert prompts.find(held) == (len(held) - 1) // PAGE * PAGE > 2 * PAGE


def test_an_engine_sequence_takes_what_a_session_read(model, store):
    ids = tokens(6, 500)
    with session_of(model) as session, store.prompts(session) as prompts:
        read_prompt(session, prompts, ids)
    with model.engine(tokens=2048, cache_type="f32", scheme=SCHEME) as engine:
        sequence = engine.sequence()
        with store.prompts(engine) as prompts:
            assert prompts.load_into(sequence, ids) == 3 * PAGE
        [logits] = engine.eval([(sequence, ids[sequence.length :])])
    assert np.abs(logits - uncached(model, ids)).max() < CLOSE


# Pages to and from memory.


@pytest.fixture
def engine(model):
    with model.engine(tokens=1024, cache_type="f32", scheme=SCHEME) as engine:
        yield engine


def pages_of(sequence, first: int, count: int) -> np.ndarray:
    pages = np.empty(count * sequence.setup.page_bytes, np.uint8)
    sequence.read_pages(first, count, pages)
    return pages


def test_pages_go_from_sequence_to_sequence(model, engine):
    ids = tokens(7, 400)
    one, other = engine.sequence(), engine.sequence()
    engine.eval([(one, ids)], logits=False)
    other.append_pages(ids[:PAGE], pages_of(one, 0, 1))
    other.append_pages(ids[PAGE : 3 * PAGE], pages_of(one, 1, 2))
    [logits] = engine.eval([(other, ids[3 * PAGE :])])
    assert np.abs(logits - uncached(model, ids)).max() < CLOSE


def test_a_page_shared_by_forks_is_not_changed_by_appending(engine):
    ids = tokens(8, 256)
    one = engine.sequence()
    engine.eval([(one, ids[:PAGE])], logits=False)
    other, third = one.fork(), one.fork()
    engine.eval([(third, ids[PAGE:])], logits=False)
    before = pages_of(one, 0, 1)
    other.append_pages(ids[PAGE:], pages_of(third, 1, 1))
    assert (pages_of(one, 0, 1) == before).all() and (pages_of(other, 0, 1) == before).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one, ids, pages: one.append_pages(ids[: PAGE - 1], pages), "whole pages"),
        (lambda one, ids, pages: one.append_pages(ids[:PAGE], pages[:-1]), "bytes"),
        (lambda one, ids, pages: one.append_pages([*ids[: PAGE - 1], 5000], pages), "5000"),
        (lambda one, ids, pages: one.append_pages(ids[:PAGE] * 8, np.tile(pages, 8)), "more do not fit"),
        (lambda one, ids, pages: one.read_pages(1, 1, pages), "whole ones"),
        (lambda one, ids, pages: one.read_pages(0, 1, pages[1:]), "bytes"),
        (lambda one, ids, pages: one.read_pages(2**32 - 1, 2, pages), "whole ones"),
    ],
)
def test_pages_that_do_not_fit_are_refused_and_change_nothing(engine, change, says):
    ids = tokens(9, PAGE)
    one = engine.sequence()
    engine.eval([(one, ids)], logits=False)
    pages = pages_of(one, 0, 1)
    with pytest.raises(DcaError, match=says):
        change(one, ids, pages)
    assert one.ids.tolist() == ids


def test_a_sequence_that_ends_inside_a_page_takes_none(engine):
    one = engine.sequence()
    engine.eval([(one, tokens(9, PAGE + 1))], logits=False)
    with pytest.raises(DcaError, match="whole pages"):
        one.append_pages(tokens(9, PAGE), pages_of(one, 0, 1))


def test_setups_name_what_keys_and_values_depend_on(model, engine):
    with session_of(model) as session:
        assert session.setup == engine.setup
    with session_of(model, "f16") as session:
        assert session.setup.text != engine.setup.text
        assert session.setup.page_bytes * 2 == engine.setup.page_bytes
