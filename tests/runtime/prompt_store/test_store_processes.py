"""Several processes on one store, killed at any time (a short soak; `make soak` runs the long one)."""

import soak


def test_processes_that_are_killed_leave_right_answers_and_nothing_that_grows(tiny_gguf, tmp_path):
    figures = soak.soak(tiny_gguf(scheme=(40, 24, 64)), tmp_path, rounds=5)
    assert figures["rounds"] == 5 and figures["answers"] > 0
