"""The library as a guest in another program: files that change, handles freed too early, little memory."""

import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from tiny import Tiny, tiny_weights, write_tiny_gguf

import dca_runtime as dca
from dca_runtime.errors import Status

SCHEME = (12, 4, 32)


@pytest.fixture
def own_file(tiny_gguf, tmp_path):
    """A model's file that the test may spoil."""
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_gguf(tokenizer=True).read_bytes())
    return path


def cut(path):
    os.truncate(path, 1000)


def write_over(path):
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))


# A file that changes while it is open


@pytest.mark.parametrize("repack", [True, False])
@pytest.mark.parametrize("spoil", [cut, write_over])
def test_a_file_spoilt_while_open_is_an_error_in_every_call_that_computes(own_file, spoil, repack):
    with dca.Model(own_file, repack=repack) as model, model.session(context=64) as session:
        session.eval([1, 2, 3])
        spoil(own_file)
        for call in (
            lambda: session.eval([4]),
            lambda: session.score([4, 5]),
            lambda: session.save(own_file.with_suffix(".kv")),
            lambda: model.session(context=16),
        ):
            with pytest.raises(dca.DcaError, match=r"model\.gguf: .*load the model again") as failure:
                call()
            assert failure.value.status is Status.IO
        assert session.length == 3


def test_metadata_stays_what_was_loaded(own_file):
    with dca.Model(own_file) as model:
        cut(own_file)
        assert len(model.metadata["tokenizer.ggml.tokens"]) == 320


def test_a_file_that_another_takes_the_place_of_goes_on(own_file, tiny_gguf):
    with dca.Model(own_file) as model, model.session(context=64) as session:
        before = session.eval([1, 2, 3])
        session.truncate(0)
        other = own_file.with_name("other.gguf")
        other.write_bytes(tiny_gguf(seed=5).read_bytes())
        other.replace(own_file)
        assert np.array_equal(session.eval([1, 2, 3]), before)


def test_a_pipe_as_a_model_does_not_wait(tmp_path):
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(dca.DcaError, match="no regular file"):
        dca.Model(pipe)


def test_an_endless_device_as_a_model_is_refused():
    with pytest.raises(dca.DcaError, match="no regular file"):
        dca.Model("/dev/zero")


# Memory


@pytest.mark.parametrize("scheme", [None, SCHEME])
def test_a_session_beyond_memory_is_refused_at_once_with_what_would_fit(tiny_gguf, scheme):
    with dca.Model(tiny_gguf(layers=40)) as model:
        begin = time.monotonic()
        with pytest.raises(dca.DcaError, match=r"room for \d+ tokens, or \d+ with cache_type q8") as failure:
            model.session(context=2**30, cache_type="f32", scheme=scheme)
        assert time.monotonic() - begin < 5
        assert failure.value.status is Status.MEMORY


def test_memory_that_the_process_may_map_is_the_limit(tiny_gguf):
    """Under `ulimit -v` the context that the refusal names fits, and twice as much does not."""
    program = """
import re, resource, sys, dca_runtime as dca
model = dca.Model(sys.argv[1], threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
try:
    model.session(context=2**26, scheme=(12, 4, 32))
except dca.DcaError as error:
    room = int(re.search(r"room for (\\d+) tokens", str(error))[1])
model.session(context=room * 9 // 10, scheme=(12, 4, 32)).close()
try:
    model.session(context=2 * room, scheme=(12, 4, 32))
except dca.DcaError as error:
    print("refused", error.status.name)
"""
    run = [sys.executable, "-c", program, str(tiny_gguf(context_length=64))]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["refused", "MEMORY"], done.stderr


def test_positions_that_no_token_reaches_take_no_memory(tiny_gguf):
    with dca.Model(tiny_gguf(context_length=2**28)) as model:
        near, far = (
            model.session(context=512, scheme=(64, 16, length)).info.scratch_bytes for length in (128, 2**27)
        )
    assert near == far


@pytest.mark.parametrize("scheme", [SCHEME, (12, 20, 32), (12, 0, 13)])
def test_the_context_that_is_reserved_changes_no_answer(tiny_gguf, scheme):
    ids = np.random.default_rng(3).integers(0, 320, 40).tolist()
    with dca.Model(tiny_gguf()) as model:
        for n in (10, 13, 25, 40):
            with (
                model.session(context=n, scheme=scheme) as tight,
                model.session(context=500, scheme=scheme) as wide,
            ):
                assert np.array_equal(tight.eval(ids[:n]), wide.eval(ids[:n]))


# Tensors that belong together

PAIRS = {
    "attn_q_norm.weight": "attn_k_norm.weight",
    "attn_k_norm.weight": "attn_q_norm.weight",
    "attn_q.bias": "attn_k.bias",
    "attn_v.bias": "attn_q.bias",
    "ffn_gate.bias": "ffn_up.bias",
    "ffn_down.bias": "ffn_gate.bias",
}


@pytest.mark.parametrize(("there", "missing"), PAIRS.items())
def test_half_of_what_belongs_together_is_refused_by_name(tmp_path, there, missing):
    tiny = Tiny()
    lengths = {"attn_q": 64, "attn_k": 32, "attn_v": 32, "ffn_gate": 96, "ffn_up": 96, "ffn_down": 64}
    length = lengths.get(there.split(".")[0], tiny.head_dim)
    write_tiny_gguf(
        tmp_path / "m.gguf", tiny, tiny_weights(tiny) | {f"blk.1.{there}": np.ones(length, np.float32)}
    )
    wanted = rf"blk\.1\.{re.escape(there)} is there but blk\.1\.{re.escape(missing)} is missing"
    with pytest.raises(dca.DcaError, match=wanted):
        dca.Model(tmp_path / "m.gguf")


@pytest.mark.parametrize("name", ["blk.0.attn_sinkers.weight", "blk.2.attn_norm.weight", "output.bias"])
def test_a_tensor_that_would_be_ignored_is_refused(tmp_path, name):
    tiny = Tiny()
    write_tiny_gguf(tmp_path / "m.gguf", tiny, tiny_weights(tiny) | {name: np.ones(64, np.float32)})
    with pytest.raises(
        dca.DcaError, match=f"tensor {re.escape(name)} is none that this version computes with"
    ):
        dca.Model(tmp_path / "m.gguf")


def test_a_value_that_is_no_number_stays_none_in_a_q8_cache(tmp_path):
    tiny = Tiny()
    weights = tiny_weights(tiny)
    weights["token_embd.weight"][7, 3] = np.nan
    write_tiny_gguf(tmp_path / "m.gguf", tiny, weights)
    with dca.Model(tmp_path / "m.gguf") as model, model.session(context=16, cache_type="q8") as session:
        assert np.isfinite(session.eval([1, 2, 3])).all()
        assert np.isnan(session.eval([7])).all()
        assert np.isnan(session.eval([1])).all()  # it sees token 7's key and value
