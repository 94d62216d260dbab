"""Engines and sessions of one model in several threads of one card."""

import contextlib
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from comparison import tokens

from dca_runtime import Model, Sampling

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

THREADS = 8
STEPS = 200
SCHEME = (48, 16, 64)

# Matrices of several sizes in one kernel: the threads' launches want different amounts of shared memory.
MODELS = {
    "f16": {"width": 512, "ff": 1280},
    "q4_0": {"width": 512, "ff": 1280, "types": (("", "Q4_0"),)},
    "mixture": {"width": 256, "ff": 128, "experts": 4},
}


def in_threads(work: Callable[[int], np.ndarray]) -> list[np.ndarray]:
    """What ``work(number)`` gives in THREADS threads at once; an exception in one is raised here."""
    found: list[np.ndarray | BaseException] = [AssertionError("did not run")] * THREADS
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        try:
            start.wait()
            found[number] = work(number)
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_sessions_of_eight_threads_answer_as_those_of_one(variant_gguf, kind):
    path = variant_gguf(scheme=SCHEME, **MODELS[kind])
    with Model(path, device="cuda") as model:
        prompts = [tokens(path, STEPS, seed) for seed in range(THREADS)]

        def work(number: int) -> np.ndarray:
            with model.session(context=STEPS) as session:
                return np.stack([session.eval([int(id_)]) for id_ in prompts[number]])

        alone = [work(number) for number in range(THREADS)]
        for expected, found in zip(alone, in_threads(work), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", MODELS)
def test_engines_of_eight_threads_answer_as_those_of_one(variant_gguf, kind):
    """Batches of three, drawn tokens: graphs are recorded while others launch."""
    path = variant_gguf(scheme=SCHEME, **MODELS[kind])
    with Model(path, device="cuda") as model:

        def work(number: int) -> np.ndarray:
            with model.engine(tokens=3 * (STEPS + 256)) as engine:
                sequences = [engine.sequence() for _ in range(3)]
                samplings = [Sampling(temperature=0.8, seed=10 * number + n) for n in range(3)]
                fed = [tokens(path, 20 + 30 * n, number).tolist() for n in range(3)]
                drawn = []
                for _ in range(STEPS):
                    fed = [[id_] for id_ in engine.sample(list(zip(sequences, fed, samplings, strict=True)))]
                    drawn.append([ids[0] for ids in fed])
                return np.array(drawn)

        alone = [work(number) for number in range(THREADS)]
        for expected, found in zip(alone, in_threads(work), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_engines_come_and_go_while_others_run(variant_gguf):
    """Memory is allocated and freed in one thread while another records or plays its graphs."""
    path = variant_gguf(scheme=SCHEME)
    ids = tokens(path, 60)
    with Model(path, device="cuda") as model:

        def work(number: int) -> np.ndarray:
            rows = []
            for _ in range(10):
                with model.session(context=100 + number) as session:
                    rows.append(np.stack([session.eval([int(id_)]) for id_ in ids[:20]]))
            return np.stack(rows)

        expected = work(0)[0]
        for found in in_threads(work):
            for rows in found:
                np.testing.assert_array_equal(rows, expected)


@pytest.mark.alone
def test_steps_beside_a_thread_that_waits_for_the_whole_card(variant_gguf):
    """That voids graphs that are being recorded, whoever does it: the steps are then issued without."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs PyTorch with CUDA")
    path = variant_gguf(scheme=SCHEME)
    ids = tokens(path, 60)
    over = threading.Event()

    def wait_for_the_card() -> None:
        while not over.is_set():
            with contextlib.suppress(RuntimeError):  # refused while someone records
                torch.cuda.synchronize()
            time.sleep(0.0005)  # without a pause the driver (580.159) itself dies now and then

    with Model(path, device="cuda") as model:

        def work(number: int) -> np.ndarray:
            rows = []
            for _ in range(10):
                with model.engine(tokens=1024) as engine:
                    sequences = [engine.sequence() for _ in range(3)]
                    rows.append(
                        [engine.eval([(sequence, [int(id_)]) for sequence in sequences]) for id_ in ids]
                    )
            return np.array(rows)

        expected = work(0)[0]
        waiting = threading.Thread(target=wait_for_the_card)
        waiting.start()
        try:
            for found in in_threads(work):
                for rows in found:
                    np.testing.assert_array_equal(rows, expected)
        finally:
            over.set()
            waiting.join()
