"""Conversations that sleep in host memory: answers are those of prompts alone, however often they sleep."""

import time

import numpy as np
import pytest
from test_stepper import SCHEME, Collected, alone, run, tokens

from dca_runtime import DcaError, Model, PromptStore, Status
from dca_runtime.engine import Engine, TokenSequence
from dca_runtime.server.metrics import Metrics
from dca_runtime.server.requests import Finished, Loaded, Stage
from dca_runtime.server.settings import Settings
from dca_runtime.server.stepping import waking
from dca_runtime.server.stepping.host_memory import HostMemory
from dca_runtime.server.stepping.sleepers import Sleepers
from dca_runtime.server.stepping.stepper import Stepper
from dca_runtime.server.stepping.stored import Stored

WHOLE = Finished("length")


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with Model(tiny_gguf(), threads=1) as model:
        yield model


@pytest.fixture
def make(model, tmp_path):
    """``make(room, slots)`` is a running stepper: a pool of so many tokens, host memory of so many pages."""
    made = []

    def make(room=1024, slots=64, store=False, **settings):
        engine = model.engine(tokens=room, cache_type="f32", scheme=SCHEME)
        page_bytes = engine.setup.page_bytes
        sleepers = Sleepers(HostMemory(engine, page_bytes, slots * page_bytes))
        below = Stored(PromptStore(tmp_path / "store", limit=10**8).prompts(engine)) if store else None

        def hand_over(delivery):
            for job, event in delivery:
                job.deliver(event)

        metrics = Metrics("tiny")
        stepper = Stepper(engine, Settings("tiny", **settings), metrics, hand_over, below, sleepers)
        stepper.start()
        stepper.metrics, stepper.below = metrics, below
        made.append((stepper, engine))
        return stepper

    yield make
    for stepper, engine in made:
        stepper.stop()
        stepper.join(60)
        assert not stepper.is_alive()
        engine.close()


def figure(stepper, name):
    text = stepper.metrics.text().decode()
    return float(next(line for line in text.splitlines() if line.startswith(f"{name}{{")).rpartition(" ")[2])


def ask(stepper, prompt, count=8, **options):
    one = Collected(prompt, count, **options)
    assert run(stepper, [one]) == [WHOLE]
    return one


def test_a_conversation_that_had_to_go_is_woken_not_read(model, make):
    stepper = make()
    ask(stepper, tokens(0, 700))
    for n in range(1, 4):
        ask(stepper, tokens(n, 700))  # the pool holds one of them
    again = ask(stepper, tokens(0, 700))
    assert again.cached == 640
    assert again.ids == alone(model, again.job.prompt, 8)
    assert figure(stepper, "dca:host_cache_hits_total") >= 512
    assert figure(stepper, "vllm:prefix_cache_hits_total") < 640


def test_a_conversation_is_copied_when_it_is_over_not_when_it_must_go(model, make):
    stepper = make()
    ask(stepper, tokens(0, 700))
    end = time.monotonic() + 20
    while stepper._scheduler.copying_ahead:
        assert time.monotonic() < end
        time.sleep(0.001)
    ask(stepper, tokens(1, 8))  # tells the metrics
    assert figure(stepper, "dca:host_cache_slept_tokens_total") == 640
    assert ask(stepper, tokens(0, 700)).cached == 640
    assert figure(stepper, "dca:host_cache_hits_total") == 0  # it is in the pool as well


def test_a_card_that_is_lost_while_pages_are_copied_is_told_of_once(model, make, monkeypatch, caplog):
    def lost(engine):
        raise DcaError("the device was lost", Status.DEVICE)

    monkeypatch.setattr(Sleepers, "copy_ahead", lambda self, entry: True)  # and there is more
    stepper = make()
    ask(stepper, tokens(0, 700))
    assert stepper._scheduler.copying_ahead
    monkeypatch.setattr(Engine, "room", property(lost))
    end = time.monotonic() + 20
    while stepper._scheduler.copying_ahead:
        assert time.monotonic() < end
        time.sleep(0.001)
    time.sleep(0.1)
    assert [record.message for record in caplog.records].count("a step failed") == 1


def test_conversations_take_turns_and_each_goes_on_where_it_was(model, make):
    stepper, talks = make(), [tokens(n, 400) for n in range(5)]
    for turn in range(3):
        for n, talk in enumerate(talks):
            answer = ask(stepper, talk, 12)
            assert answer.ids == alone(model, talk, 12)
            assert turn == 0 or answer.cached >= len(talk) - 12 - 3 - 128
            talks[n] = [*talk, *answer.ids, 1, 2, 3]


def test_a_beginning_that_sleeps_is_shared(model, make):
    stepper, document = make(room=2048), tokens(1, 900)
    ask(stepper, document)
    ask(stepper, tokens(2, 1900))  # the document sleeps
    jobs = [Collected([*document, n], 4) for n in range(4)]
    assert run(stepper, jobs) == [WHOLE] * 4
    for one in jobs:
        assert one.cached == 896
        assert one.ids == alone(model, one.job.prompt, 4)
    assert figure(stepper, "dca:host_cache_hits_total") <= 896  # woken once


def test_an_answer_that_was_set_aside_sleeps_meanwhile(model, make):
    stepper = make(room=768)
    jobs = [Collected(tokens(n, 120), 200) for n in range(4)]
    assert run(stepper, jobs) == [WHOLE] * 4
    assert stepper._scheduler.set_aside > 0
    assert figure(stepper, "dca:host_cache_hits_total") > 0
    for one in jobs:
        assert one.ids == alone(model, one.job.prompt, 200)


def test_the_oldest_is_dropped_where_host_memory_is_full(model, make):
    stepper = make(slots=6)
    for n in range(4):
        ask(stepper, tokens(n, 700))
    again = ask(stepper, tokens(0, 700))
    assert again.cached == 0
    assert again.ids == alone(model, again.job.prompt, 8)
    stepper._report(False)
    assert figure(stepper, "dca:host_cache_dropped_tokens_total") > 0
    limit = figure(stepper, "dca:host_cache_limit_bytes")
    assert 0 < figure(stepper, "dca:host_cache_bytes") <= limit == 6 * stepper._sleepers.memory.page_bytes


def test_without_cache_prompt_nothing_is_woken(make):
    stepper = make()
    ask(stepper, tokens(0, 700))
    ask(stepper, tokens(1, 900))
    assert ask(stepper, tokens(0, 700), cache_prompt=False).cached == 0


def test_waking_tells_its_progress(make, monkeypatch):
    monkeypatch.setattr(waking, "_MOST", 2)
    stepper = make()
    ask(stepper, tokens(0, 700))
    ask(stepper, tokens(1, 900))
    one = ask(stepper, tokens(0, 700), progress=True)
    told = [event.tokens for event in one.events if isinstance(event, Loaded)]
    assert told[-1] == 640 and len(told) >= 2


def test_what_host_memory_does_not_hold_comes_from_the_disk(model, make):
    stepper = make(slots=2, store=True)
    prompt = tokens(0, 700)
    ask(stepper, prompt)
    while stepper._scheduler.saving:
        time.sleep(0.01)
    for n in range(1, 3):
        ask(stepper, tokens(n, 900))
    deadline = time.monotonic() + 30
    while stepper.below.find(prompt) < 640 and time.monotonic() < deadline:
        time.sleep(0.01)
    again = ask(stepper, prompt, stored=stepper.below.find(prompt))
    assert again.cached == 640
    assert again.ids == alone(model, prompt, 8)


# What a card does: copies that take their time.


@pytest.fixture
def slow_copies(monkeypatch):
    """Every copy takes a while: pages are free, and in place, later. ``slow_copies(seconds)``."""
    leaving: list[tuple[float, int]] = []
    coming: dict[int, float] = {}
    seconds = [0.0]
    park, unpark, truncate = TokenSequence.park_pages, TokenSequence.unpark_pages, TokenSequence.truncate
    in_place, room = TokenSequence.in_place.fget, Engine.room.fget

    def slow_park(self, first, slots):
        park(self, first, slots)
        leaving.append((time.monotonic() + seconds[0], len(slots)))

    def slow_unpark(self, ids, slots):
        unpark(self, ids, slots)
        coming[id(self)] = time.monotonic() + seconds[0]

    def slow_in_place(self):
        return in_place(self) and coming.get(id(self), 0.0) <= time.monotonic()

    def slow_room(self):
        free, _ = room(self)
        late = sum(count for when, count in leaving if when > time.monotonic())
        return free - min(late, free), min(late, free)

    def use(duration):
        seconds[0] = duration
        monkeypatch.setattr(TokenSequence, "park_pages", slow_park)
        monkeypatch.setattr(TokenSequence, "unpark_pages", slow_unpark)
        monkeypatch.setattr(TokenSequence, "in_place", property(slow_in_place))
        monkeypatch.setattr(Engine, "room", property(slow_room))

    assert truncate is TokenSequence.truncate
    return use


def test_others_go_on_while_pages_leave_and_come(model, make, slow_copies):
    slow_copies(0.5)
    stepper = make(room=2048)
    ask(stepper, tokens(0, 900))
    ask(stepper, tokens(1, 1500))
    stream = Collected(tokens(2, 20), 400)
    stepper.submit(stream.job)
    while not stream.ids:
        time.sleep(0.001)
    woken = Collected(tokens(0, 900), 4)
    begin, before = time.monotonic(), len(stream.ids)
    stepper.submit(woken.job)
    assert woken.wait() == WHOLE
    took, wrote = time.monotonic() - begin, len(stream.ids) - before
    assert took >= 0.5
    assert wrote > 20 or stream.over.is_set()
    assert woken.cached == 896
    assert woken.ids == alone(model, woken.job.prompt, 4)
    assert stream.wait() == WHOLE
    assert stream.ids == alone(model, stream.job.prompt, 400)


def test_a_client_that_leaves_while_its_prompt_wakes(model, make, slow_copies):
    slow_copies(1.0)
    stepper = make(room=1024)
    ask(stepper, tokens(0, 900))
    ask(stepper, tokens(1, 900))
    gone = Collected(tokens(0, 900), 4)
    stepper.submit(gone.job)
    while gone.job.stage is not Stage.WAKING:
        time.sleep(0.001)
    gone.job.cancelled = True
    stepper.wake()
    while gone.job.stage is not Stage.OVER:
        time.sleep(0.001)
    assert ask(stepper, tokens(2, 900)).ids == alone(model, tokens(2, 900), 8)
    assert stepper._scheduler.pages_used == 0


# What goes wrong.


def test_where_no_host_memory_can_be_had_conversations_are_dropped(model, make, monkeypatch, caplog):
    def refused(self, count):
        raise DcaError("cudaHostAlloc: out of memory", Status.MEMORY)

    monkeypatch.setattr(Engine, "add_slots", refused)
    stepper = make()
    for n in [0, 1, 2, 0]:
        one = ask(stepper, tokens(n, 700))
        assert one.cached == 0
        assert one.ids == alone(model, one.job.prompt, 8)
    assert caplog.text.count("no more can be had") == 1


@pytest.mark.parametrize("call", ["park_pages", "unpark_pages"])
def test_where_copying_fails_prompts_are_read(model, make, monkeypatch, caplog, call):
    def failing(*_):
        raise DcaError("a copy failed")

    monkeypatch.setattr(TokenSequence, call, failing)
    stepper = make()
    for n in [0, 1, 2, 0]:
        one = ask(stepper, tokens(n, 700))
        assert one.ids == alone(model, one.job.prompt, 8)
    assert "a copy failed" in caplog.text


@pytest.mark.parametrize("slots", [1, 5, 40])
@pytest.mark.parametrize("late", [0.0, 0.01])
def test_any_history_gives_the_answers_of_prompts_alone(model, make, monkeypatch, slow_copies, slots, late):
    """Requests over a tree of prompts, some of whose clients leave or stop reading, in too small a pool."""
    if late:
        slow_copies(late)
    monkeypatch.setattr(waking, "_MOST", 2)
    random = np.random.default_rng(slots)
    stepper = make(room=1024, slots=slots, max_sequences=6)
    parts = [tokens(seed, 150) for seed in range(3)]
    expected: dict[tuple, list[int]] = {}
    jobs = []
    for n in range(60):
        choice = tuple(int(one) for one in random.integers(3, size=random.integers(1, 5)))
        prompt = [token for part in choice for token in parts[part]] + [int(random.integers(2))]
        count = int(random.choice([2, 5, 30, 200]))
        one = Collected(prompt, count, cache_prompt=bool(random.integers(8)))
        jobs.append((one, count))
        stepper.submit(one.job)
        if random.integers(6) == 0:
            one.job.cancelled = True
        if random.integers(6) == 0:
            one.job.paused = True
        if n % 5 == 4:
            time.sleep(float(random.random()) * 0.1)
            for other, _ in jobs:
                other.job.paused = False
            stepper.wake()
    for other, _ in jobs:
        other.job.paused = False
    stepper.wake()
    for one, count in jobs:
        if one.job.cancelled:
            continue
        assert one.wait() == WHOLE
        key = tuple(one.job.prompt)
        if len(expected.get(key, [])) < count:
            expected[key] = alone(model, one.job.prompt, max(count, 30))
        assert one.ids == expected[key][:count]
    stepper.wake()
    deadline = time.monotonic() + 20
    while stepper._scheduler.pages_used and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stepper._scheduler.pages_used == 0
    assert figure(stepper, "dca:host_cache_hits_total") > 0
