"""The thread that steps: every answer is what it would be alone, whatever happens to the others."""

import threading
import time

import numpy as np
import pytest

from dca_runtime import Model, Sampling
from dca_runtime.server.errors import ApiError
from dca_runtime.server.metrics import Metrics
from dca_runtime.server.requests import Failed, Finished, Job, Started, Token
from dca_runtime.server.settings import Settings
from dca_runtime.server.stepping.stepper import Stepper

GREEDY = Sampling(temperature=0)
SCHEME = (40, 24, 64)


def tokens(seed, count):
    return np.random.default_rng(seed).integers(0, 320, count).tolist()


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with Model(tiny_gguf(), threads=1) as model:
        yield model


class Collected:
    """A job, and what came for it."""

    def __init__(self, prompt, max_tokens=8, **options):
        self.events = []
        self.over = threading.Event()
        options = {"sampling": GREEDY} | options
        self.job = Job(prompt=prompt, max_tokens=max_tokens, deliver=self.take, **options)

    def take(self, event):
        self.events.append(event)
        if isinstance(event, Finished | Failed):
            self.over.set()

    @property
    def ids(self):
        return [event.id for event in self.events if isinstance(event, Token)]

    @property
    def cached(self):
        return next(event.cached_tokens for event in self.events if isinstance(event, Started))

    def wait(self):
        assert self.over.wait(60)
        return self.events[-1]


class Stuck(Collected):
    """One whose client stops reading at the third token; it is told in ``stopped``."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.stopped = threading.Event()

    def take(self, event):
        super().take(event)
        if len(self.ids) == 3 and not self.stopped.is_set():
            self.job.paused = True
            self.stopped.set()


@pytest.fixture
def make(model):
    """``make(tokens, **settings)`` is a running stepper over a pool of that size."""
    made = []

    def make(room=4096, **settings):
        engine = model.engine(tokens=room, cache_type="f32", scheme=SCHEME)

        def hand_over(delivery):
            for job, event in delivery:
                job.deliver(event)

        stepper = Stepper(engine, Settings("tiny", **settings), Metrics("tiny"), hand_over)
        stepper.start()
        made.append((stepper, engine))
        return stepper

    yield make
    for stepper, engine in made:
        stepper.stop()
        stepper.join(60)
        engine.close()


def alone(model, prompt, count):
    """The likeliest continuation, from a session of its own."""
    ids = []
    with model.session(context=len(prompt) + count, cache_type="f32", scheme=SCHEME) as session:
        logits = session.eval(prompt)
        for _ in range(count):
            ids.append(int(np.argmax(logits)))
            logits = session.eval(ids[-1:])
    return ids


def run(stepper, jobs):
    for one in jobs:
        stepper.submit(one.job)
    return [one.wait() for one in jobs]


def test_answers_are_those_of_prompts_alone(model, make):
    jobs = [Collected(tokens(n, length), 12) for n, length in enumerate([1, 5, 127, 128, 129, 600])]
    assert run(make(), jobs) == [Finished("length")] * 6
    for one in jobs:
        assert one.ids == alone(model, one.job.prompt, 12)


def test_a_prompt_that_was_read_is_not_read_again(model, make):
    stepper, document = make(), tokens(1, 500)
    first, second = Collected(document + [1, 2], 4), Collected(document + [3], 4)
    run(stepper, [first])
    run(stepper, [second])
    assert (first.cached, second.cached) == (0, 384)
    assert second.ids == alone(model, second.job.prompt, 4)


def test_a_prompt_that_is_being_read_is_waited_for(model, make):
    document = tokens(2, 1000)
    jobs = [Collected([*document, n], 4) for n in range(4)]
    run(make(), jobs)
    assert sorted(one.cached for one in jobs) == [0, 896, 896, 896]
    for one in jobs:
        assert one.ids == alone(model, one.job.prompt, 4)


def test_an_answer_is_found_as_a_prefix_too(make):
    stepper, first = make(), Collected(tokens(3, 120), 20)
    run(stepper, [first])
    second = Collected(first.job.prompt + first.ids + [1], 1)
    run(stepper, [second])
    assert second.cached == 128


def test_without_cache_prompt_nothing_is_shared(make):
    stepper, document = make(), tokens(4, 300)
    run(stepper, [Collected(document, 1, cache_prompt=False)])
    after = Collected(document, 1)
    run(stepper, [after])
    assert after.cached == 0
    own = Collected(document, 1, cache_prompt=False)
    run(stepper, [own])
    assert own.cached == 0


def test_when_the_pool_is_full_the_youngest_waits_and_all_answers_stay_right(model, make):
    stepper = make(room=768)  # six pages: four answers of up to three pages each do not fit
    jobs = [Collected(tokens(n, 120), 200) for n in range(4)]
    assert run(stepper, jobs) == [Finished("length")] * 4
    assert stepper._scheduler.set_aside > 0
    for one in jobs:
        assert one.ids == alone(model, one.job.prompt, 200)


def test_idle_pages_make_room(make):
    stepper = make(room=1024)
    for n in range(6):
        assert run(stepper, [Collected(tokens(n, 700), 2)]) == [Finished("length")]


def test_more_answers_than_places_take_turns(make):
    jobs = [Collected(tokens(n, 20), 5) for n in range(7)]
    assert run(make(max_sequences=2), jobs) == [Finished("length")] * 7


def test_a_cancelled_job_frees_its_place_and_harms_nobody(model, make):
    stepper = make(max_sequences=1)
    endless, next_one = Collected(tokens(1, 50), 3000), Collected(tokens(2, 60), 6)
    stepper.submit(endless.job)
    while len(endless.ids) < 3:
        time.sleep(0.01)
    stepper.submit(next_one.job)
    endless.job.cancelled = True
    stepper.wake()
    assert next_one.wait() == Finished("length")
    assert next_one.ids == alone(model, next_one.job.prompt, 6)
    assert not endless.over.is_set()


def test_a_job_cancelled_while_its_prompt_is_read_gives_its_pages_back(make):
    stepper = make(room=2048, max_sequences=1)
    long, short = Collected(tokens(1, 1900), 2), Collected(tokens(2, 1900), 2)
    stepper.submit(long.job)
    long.job.cancelled = True
    stepper.submit(short.job)
    assert short.wait() == Finished("length")
    assert stepper._scheduler.pages_used == 0


def test_a_paused_job_writes_nothing_until_it_goes_on(make):
    stepper, slow = make(), Collected(tokens(1, 20), 2000)
    stepper.submit(slow.job)
    while not slow.ids:
        time.sleep(0.01)
    slow.job.paused = True
    time.sleep(0.3)
    count = len(slow.ids)
    run(stepper, [Collected(tokens(2, 20), 5)])
    assert len(slow.ids) == count
    slow.job.paused = False
    stepper.wake()
    assert slow.wait() == Finished("length")
    assert len(slow.ids) == 2000


def test_those_that_do_not_read_leave_their_places_to_others(model, make):
    stepper = make(max_sequences=2)
    slow = [Collected(tokens(n, 150), 400) for n in range(2)]
    for one in slow:
        stepper.submit(one.job)
    while not all(one.ids for one in slow):
        time.sleep(0.01)
    for one in slow:
        one.job.paused = True
    assert run(stepper, [Collected(tokens(9, 20), 5)]) == [Finished("length")]
    for one in slow:
        one.job.paused = False
    stepper.wake()
    assert [one.wait() for one in slow] == [Finished("length")] * 2
    for one in slow:
        assert one.ids == alone(model, one.job.prompt, 400)


def test_those_that_do_not_read_leave_their_pages_to_others(model, make):
    stepper = make(room=768)  # six pages
    slow = [Stuck(tokens(n, 250), 100) for n in range(2)]  # three pages each
    for one in slow:
        stepper.submit(one.job)
    assert all(one.stopped.wait(60) for one in slow)
    reader = Collected(tokens(9, 600), 20)  # five
    assert run(stepper, [reader]) == [Finished("length")]
    assert not any(one.over.is_set() for one in slow)
    for one in slow:
        one.job.paused = False
    stepper.wake()
    assert [one.wait() for one in slow] == [Finished("length")] * 2
    for one in [reader, *slow]:
        assert one.ids == alone(model, one.job.prompt, len(one.ids))


def test_when_the_pool_is_full_those_that_do_not_read_go_before_the_youngest(model, make):
    stepper = make(room=768)
    slow, reader = Stuck(tokens(1, 250), 300), Collected(tokens(2, 100), 600)
    stepper.submit(slow.job)
    assert slow.stopped.wait(60)
    assert run(stepper, [reader]) == [Finished("length")]  # in the end it takes all six pages
    assert reader.job.started is not None and slow.job.sequence is None
    assert stepper._scheduler.set_aside == 1
    assert reader.ids == alone(model, reader.job.prompt, 600)


class Wrong:
    """A constraint that allows nothing after some tokens."""

    def __init__(self, after):
        self.after = after

    def mask(self):
        self.after -= 1
        return np.full(10, 0 if self.after < 0 else 2**32 - 1, np.uint32)

    def accept(self, token):
        return False


def test_a_job_that_cannot_go_on_ends_alone(model, make):
    others = [Collected(tokens(n, 30), 20) for n in range(3)]
    wrong = Collected(tokens(9, 30), 20, constraint=Wrong(after=4))
    run(make(), [wrong, *others])
    assert isinstance(wrong.events[-1], Failed)
    assert len(wrong.ids) == 4
    for one in others:
        assert one.events[-1] == Finished("length")
        assert one.ids == alone(model, one.job.prompt, 20)


class Broken(Wrong):
    """One that has a mistake in it."""

    def accept(self, token):
        raise RuntimeError("a mistake")


def test_a_mistake_ends_the_request_not_the_server(make):
    stepper = make()
    failed = run(stepper, [Collected(tokens(1, 30), 20, constraint=Broken(after=9))])[0]
    assert isinstance(failed.error, ApiError) and failed.error.status == 500
    assert run(stepper, [Collected(tokens(1, 30), 2)]) == [Finished("length")]


def test_an_end_token_ends_an_answer(model, make):
    prompt = tokens(5, 40)
    expected = alone(model, prompt, 10)
    end = expected[3]
    one = Collected(prompt, 10, end_ids=frozenset({end}))
    assert run(make(), [one]) == [Finished("stop")]
    assert one.ids == expected[: expected.index(end) + 1]


def test_who_waits_too_long_is_told_so(make):
    stepper = make(max_sequences=1, queue_seconds=0.2)
    endless, late = Collected(tokens(1, 20), 4000), Collected(tokens(2, 20), 1)
    stepper.submit(endless.job)
    while not endless.ids:
        time.sleep(0.01)
    stepper.submit(late.job)
    error = late.wait().error
    assert error.status == 429 and error.retry_after >= 1


def test_log_probabilities_come_to_those_who_asked(make):
    asked, other = Collected(tokens(1, 20), 3, top_logprobs=2), Collected(tokens(2, 20), 3)
    run(make(), [asked, other])
    given = [event for event in asked.events if isinstance(event, Token)]
    assert all(len(token.top) == 2 and token.top[0] == (token.id, token.logprob) for token in given)
    assert all(event.logprob is None for event in other.events if isinstance(event, Token))


def test_penalties_of_an_answer_look_at_the_answer_alone(make):
    ids = [7] * 30
    free = Collected(ids, 1)
    run(make(), [free])
    bias = {free.ids[0]: 5.0}
    held = Collected(ids, 3, sampling=Sampling(temperature=0, presence_penalty=2.0, logit_bias=bias))
    assert held.job.choosing()[2] == 0
    run(make(), [held])
    assert held.ids[0] == free.ids[0]


def test_whoever_stops_it_ends_what_runs_and_what_comes_later(make):
    stepper = make()
    runs = Stuck(tokens(1, 10), 2000)
    stepper.submit(runs.job)
    assert runs.stopped.wait(60)
    stepper.stop()
    stepper.join(60)
    late = Collected(tokens(2, 10))
    stepper.submit(late.job)
    for ended in (runs.wait(), late.wait()):
        assert ended.error.code == "stopping"
