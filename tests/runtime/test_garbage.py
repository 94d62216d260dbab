"""What is dropped instead of closed: it is freed at any moment, in any thread, and never under a step."""

import gc
import subprocess
import sys
import threading

import pytest

import dca_runtime as dca

IN_CFFI = """
import gc, sys
import dca_runtime as dca
from dca_runtime import _ffi

model = dca.Model(sys.argv[1], repack=False)
held = [model.session(context=64), model.engine(tokens=256)]
held.append(held[1].sequence())
del model
with _ffi.ffi._lock:  # as while cffi reads the declaration of a type or finds a function
    held.clear()
    gc.collect()
print("freed")
"""


def test_a_collection_while_cffi_holds_its_lock_waits_for_nothing(tiny_gguf):
    done = subprocess.run(
        [sys.executable, "-c", IN_CFFI, tiny_gguf()], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "freed\n", done.stderr


class _Watched:
    """The library, telling when sequences are freed."""

    def __init__(self, lib, told):
        self._lib, self._told = lib, told

    def dca_sequence_free(self, native):
        self._told()
        self._lib.dca_sequence_free(native)


@pytest.mark.parametrize("thread", ["the step's", "another"])
def test_a_sequence_that_is_dropped_during_a_step_is_freed_after_it(tiny_gguf, thread):
    dropped, freed, running = [], [], []

    def progress(done, total):
        running.append(True)
        if dropped:
            if thread == "another":
                other = threading.Thread(target=dropped.clear)
                other.start()
                other.join()
            else:
                dropped.clear()
            gc.collect()
        running.pop()

    with dca.Model(tiny_gguf()) as model, model.engine(tokens=1024, progress=progress) as engine:
        engine._keep._lib = _Watched(engine._keep._lib, lambda: freed.append(bool(running)))
        stays, goes = engine.sequence(), engine.sequence()
        engine.eval([(goes, [1] * 300)], logits=False)
        dropped.append(goes)
        del goes
        engine.eval([(stays, [1] * 300)], logits=False)
        assert freed == [False]
        assert engine.info.tokens_used == 384  # three pages: the other sequence's are free


def test_a_sequence_that_is_dropped_is_freed_at_once(tiny_gguf):
    with dca.Model(tiny_gguf()) as model, model.engine(tokens=1024) as engine:
        sequence = engine.sequence()
        engine.eval([(sequence, [1] * 300)], logits=False)
        del sequence
        assert engine.info.tokens_used == 0
