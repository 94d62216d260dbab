"""Processes that share a card do not disturb each other, and one that is killed harms no other."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dca_runtime import Model

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

DEVICE = "cuda"
IDS = [i * 7 % 515 for i in range(150)]
STEPS = 40
SCHEME = (40, 24, 64)
PROGRAM = f"""
import sys
import numpy as np
from dca_runtime import Model
with Model(sys.argv[1], device={DEVICE!r}) as model, model.session(context=256, scheme={SCHEME}) as session:
    session.eval({IDS})
    print("ready", flush=True)
    sys.stdin.readline()
    rows = []
    for i in range(int(sys.argv[3])):
        rows.append(session.eval([i % 515]))
        if session.length == 256:
            session.truncate(150)
np.save(sys.argv[2], np.stack(rows))
"""


def start(model: Path, out: Path, steps: int) -> subprocess.Popen:
    """A process that has read the prompt, and goes on when it is told to."""
    words = [sys.executable, "-c", PROGRAM, str(model), str(out), str(steps)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture(scope="module")
def alone(variant_gguf):
    with Model(variant_gguf(), device=DEVICE) as model:
        with model.session(context=256, scheme=SCHEME) as session:
            session.eval(IDS)
            return np.stack([session.eval([i % 515]) for i in range(STEPS)])


def test_two_processes_give_what_one_gives(variant_gguf, tmp_path, alone):
    outs = [tmp_path / f"{i}.npy" for i in range(2)]
    processes = [start(variant_gguf(), out, STEPS) for out in outs]
    for process in processes:
        go(process)
    assert [process.wait(120) for process in processes] == [0, 0]
    for out in outs:
        np.testing.assert_array_equal(np.load(out), alone)


def test_a_killed_process_leaves_the_others_alone(variant_gguf, tmp_path, alone):
    out = tmp_path / "stays.npy"
    stays, dies = start(variant_gguf(), out, STEPS), start(variant_gguf(), tmp_path / "dies.npy", 1_000_000)
    go(dies)
    time.sleep(0.2)  # in the middle of its steps
    go(stays)
    dies.send_signal(signal.SIGKILL)
    assert dies.wait(60) == -signal.SIGKILL and stays.wait(120) == 0
    np.testing.assert_array_equal(np.load(out), alone)
