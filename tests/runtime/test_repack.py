"""Repacked weights give the logits that the file's own blocks give."""

import subprocess
import sys

import numpy as np
import pytest

import dca_runtime as dca

QUANTISED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
TOKENS = 70
EXPERTS = {"experts": 8, "experts_used": 2, "ff": 256}


def logits(path, repack, pieces):
    ids = np.random.default_rng(1).integers(0, 512, TOKENS, np.int32)
    with dca.Model(path, device="cpu", threads=2, repack=repack) as model:
        assert repack or model.info.repacked_bytes == 0
        with model.session(context=TOKENS, cache_type="f32") as session:
            found = [session.eval(part, all_logits=True) for part in np.split(ids, np.cumsum(pieces))]
    return np.concatenate(found)


def check(path, tolerance):
    unpacked = logits(path, False, ())
    # Whole panels, then the one, two and three tokens that are multiplied as plain vectors.
    for pieces in ((), (40, *[1] * 10, *[2] * 3, *[3] * 3)):
        assert np.abs(logits(path, True, pieces) - unpacked).max() < tolerance


# A product's input is rounded to 1 / 65534 of the largest of 32 values: an error of 2e-5 of the input's
# size where the values are normally distributed. A dozen of them in a row, and a softmax, make some 4e-5
# of the logits, whose standard deviation is 1, and ten times that for the worst of 36,000.
TOLERANCE = 1e-3


@pytest.mark.parametrize("dtype", QUANTISED)
def test_every_format(variant_gguf, dtype):
    check(variant_gguf(types=(("", dtype),), bias=True), TOLERANCE)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_floats_are_copied_as_they_are(variant_gguf, dtype):
    path = variant_gguf(types=(("", dtype),), bias=True)
    with dca.Model(path, device="cpu") as model:
        assert model.info.repacked_bytes > 0
    np.testing.assert_array_equal(logits(path, True, ()), logits(path, False, ()))


def test_quantised_weights_are_repacked_where_the_machine_has_the_kernels(variant_gguf):
    with dca.Model(variant_gguf(types=(("", "Q4_0"),), bias=True), device="cpu") as model:
        assert (model.info.repacked_bytes > 0) == ("AVX-512" in model.info.device)


@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_K"])
def test_experts(variant_gguf, dtype):
    # The router's channels are several times as large as the values beside them: so are the errors.
    check(variant_gguf(types=(("", dtype), ("token_embd", "F16")), **EXPERTS), 4 * TOLERANCE)


SHORT_OF_MEMORY = """
import resource, sys
import dca_runtime as dca

path, room = sys.argv[1], int(sys.argv[2])
dca.Model(path, device="cpu", threads=1, repack=False).close()  # what a model needs besides is mapped by now
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + room, resource.RLIM_INFINITY))
with dca.Model(path, device="cpu", threads=1) as model, model.session(context=8) as session:
    session.eval([1, 2, 3])
    print(model.info.repacked_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and their use are read from Linux's /proc")
@pytest.mark.parametrize(("sizes", "copied"), [(2.2, False), (3.0, True)])
def test_weights_stay_in_the_file_where_memory_is_short(variant_gguf, sizes, copied):
    """The mapped file takes one of its sizes; of what is left a copy may take three quarters."""
    path = variant_gguf(types=(("", "F32"),), layers=1, width=1024, ff=4096)
    room = int(sizes * path.stat().st_size)
    words = [sys.executable, "-c", SHORT_OF_MEMORY, str(path), str(room)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 0) == copied


def test_loading_can_be_cancelled_while_repacking(variant_gguf):
    class Stop(Exception):
        pass

    def stop(done, total):
        assert 0 < done <= total
        raise Stop

    path = variant_gguf(types=(("", "Q4_0"),), bias=True)
    with dca.Model(path, device="cpu") as model:
        if model.info.repacked_bytes == 0:
            pytest.skip("nothing is repacked on this machine")
    with pytest.raises(Stop):
        dca.Model(path, device="cpu", progress=stop)
