"""The stepper over a store whose disk hangs, is full or is slow: answers stay right, others do not wait."""

import errno
import threading
import time

import pytest
from test_stepper import SCHEME, Collected, alone, run, tokens

from dca_runtime import Model, PromptStore
from dca_runtime.prompt_store import loading, page_file
from dca_runtime.server import incoming
from dca_runtime.server.metrics import Metrics
from dca_runtime.server.requests import Finished, Loaded
from dca_runtime.server.settings import Settings
from dca_runtime.server.stepping.stepper import Stepper
from dca_runtime.server.stepping.stored import Stored


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with Model(tiny_gguf(), threads=1) as model:
        yield model


@pytest.fixture
def make(model, tmp_path):
    """``make(tokens)`` is (stepper, store): a server's life over the test's store until ``stop(stepper)``."""
    made = []

    def make(room=4096):
        engine = model.engine(tokens=room, cache_type="f32", scheme=SCHEME)
        store = PromptStore(tmp_path / "store", limit=10**8, warn=incoming.warn)

        def hand_over(delivery):
            for job, event in delivery:
                job.deliver(event)

        below = Stored(store.prompts(engine))
        stepper = Stepper(engine, Settings("tiny"), Metrics("tiny"), hand_over, below)
        stepper.start()
        made.append((stepper, engine))
        return stepper, below

    yield make
    for stepper, engine in made:
        stop(stepper)
        engine.close()


def stop(stepper):
    stepper.stop()
    stepper.join(60)
    assert not stepper.is_alive()


def asked(below, prompt, count=8, **options):
    return Collected(prompt, count, stored=below.find(prompt), **options)


def run_all(stepper, jobs):
    assert run(stepper, jobs) == [Finished("length")] * len(jobs)
    return jobs


@pytest.fixture
def document(make):
    """A prompt that an earlier server read."""
    stepper, below = make()
    prompt = tokens(1, 700)
    run(stepper, [asked(below, prompt)])
    stop(stepper)
    return prompt


def test_what_was_stored_is_not_read(model, make, document):
    stepper, below = make()
    (one,) = run_all(stepper, [asked(below, document)])
    assert one.cached == 640
    assert one.ids == alone(model, document, 8)


def test_an_answer_is_stored_too(make):
    stepper, below = make()
    (first,) = run_all(stepper, [asked(below, tokens(2, 120), 20)])
    stop(stepper)
    _, below = make()
    assert below.find([*first.job.prompt, *first.ids, 1]) == 128


def test_loading_tells_its_progress(make, document):
    stepper, below = make()
    (one,) = run_all(stepper, [asked(below, document, progress=True)])
    assert [event.tokens for event in one.events if isinstance(event, Loaded)][-1] == 640


def test_a_pool_that_cannot_hold_all_of_them_answers_all_the_same(model, make, document):
    stepper, below = make(room=1024)
    prompts = [[*document[:300], n] for n in range(3)] + [document]
    for one in run_all(stepper, [asked(below, prompt, 150) for prompt in prompts]):
        assert one.ids == alone(model, one.job.prompt, 150)


def test_a_disk_that_hangs_holds_up_nobody(model, make, document, monkeypatch, caplog):
    released = threading.Event()
    read = loading._read
    monkeypatch.setattr(loading, "_read", lambda *rest: released.wait(60) and read(*rest))
    monkeypatch.setattr(incoming, "_PATIENCE_SECONDS", 0.5)
    stepper, below = make()
    stream = asked(below, tokens(3, 20), 1500)
    stepper.submit(stream.job)
    held_up = asked(below, document)
    stepper.submit(held_up.job)
    before = len(stream.ids)
    time.sleep(0.2)
    assert len(stream.ids) > before
    try:
        assert held_up.wait() == Finished("length")
    finally:
        released.set()
    assert held_up.cached == 0
    assert held_up.ids == alone(model, document, 8)
    assert "no page came" in caplog.text


def test_a_client_that_leaves_while_its_prompt_is_loaded(make, document, monkeypatch):
    released = threading.Event()
    read = loading._read
    monkeypatch.setattr(loading, "_read", lambda *rest: released.wait(60) and read(*rest))
    stepper, below = make()
    gone = asked(below, document)
    stepper.submit(gone.job)
    while gone.job.incoming is None:
        time.sleep(0.01)
    gone.job.cancelled = True
    stepper.wake()
    run_all(stepper, [asked(below, tokens(4, 20))])
    released.set()
    assert stepper._scheduler.pages_used == 0


def test_a_full_disk_costs_a_line(model, make, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(page_file.PageFile, "append", full)
    stepper, below = make()
    for seed in range(3):
        (one,) = run_all(stepper, [asked(below, tokens(seed, 300))])
        assert one.ids == alone(model, one.job.prompt, 8)
    stop(stepper)
    assert caplog.text.count("No space left") == 1


def test_a_store_with_mistakes_in_it_costs_lines(model, make, document, monkeypatch, caplog):
    stepper, below = make()
    one = asked(below, document)

    def mistaken(*_, **__):
        raise RuntimeError("a mistake")

    for name in ("find", "loading", "save", "close"):
        monkeypatch.setattr(below._prompts, name, mistaken)
    assert below.find(document) == 0
    run_all(stepper, [one])
    assert one.ids == alone(model, document, 8)
    stop(stepper)
    assert caplog.text.count("a mistake") >= 4


def test_the_speed_of_reading_is_kept_for_later_servers(make):
    stepper, below = make()
    assert below._prompts.speed is None
    run_all(stepper, [asked(below, tokens(5, 2500))])
    stop(stepper)
    _, below = make()
    assert below._prompts.speed.seconds(0, 1000) > 0


def test_a_disk_slower_than_reading_is_left(model, make, monkeypatch):
    monkeypatch.setattr(loading, "_CHUNK_BYTES", 1)  # a page a step
    monkeypatch.setattr(loading, "_TELLING_SECONDS", 0.01)
    stepper, below = make()
    document = tokens(6, 2500)
    run_all(stepper, [asked(below, document)])
    stop(stepper)
    read = loading._read
    monkeypatch.setattr(loading, "_read", lambda *rest: (time.sleep(1.0), read(*rest))[1])
    stepper, below = make()
    (one,) = run_all(stepper, [asked(below, document)])
    assert 0 < one.cached < 2432
    assert one.ids == alone(model, document, 8)
