"""Every instruction set of this machine computes the same logits; DCA_ISA chooses one, for everything."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# What Linux says the machine has, and what each set's kernels are compiled for.
NEEDED = {
    "generic": set(),
    "avx2": {"avx2", "fma", "f16c", "bmi2"},
    "avx512": {"avx2", "fma", "f16c", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "dotprod": {"asimddp"},
    "i8mm": {"asimddp", "i8mm"},
}
NAMES = {
    "generic": "portable",
    "avx2": "AVX2",
    "avx512": "AVX-512",
    "dotprod": "NEON, dot products",
    "i8mm": "NEON, matrix products",
}
IN_INTEGERS = ("avx512", "dotprod", "i8mm")  # have kernels for quantised weights as they are repacked
FLAGS = {
    flag
    for line in Path("/proc/cpuinfo").read_text().splitlines()
    if line.startswith(("flags", "Features"))
    for flag in line.partition(":")[2].split()
}
HERE = [isa for isa, needed in NEEDED.items() if needed <= FLAGS]
MISSING = [isa for isa in NEEDED if isa not in HERE]

LOGITS = """
import sys
import numpy as np
import dca_runtime as dca
path, cache, repack, out = sys.argv[1:]
with dca.Model(path, device="cpu", threads=2, repack=repack == "True") as model:
    print(model.info.device, model.info.repacked_bytes)
    ids = np.arange(70, dtype=np.int32) * 7 % model.info.n_vocab
    with model.session(context=128, scheme=(24, 8, 32), cache_type=cache) as session:
        prefill = session.eval(ids[:60], all_logits=True)
        decode = [session.eval(ids[i : i + 1]) for i in range(60, 70)]
np.save(out, np.concatenate([prefill, np.stack(decode)]))
"""

BLOCKS = """
import numpy as np
from dca_runtime.blocks import decode, encode
Q8_0 = 8
print(decode(Q8_0, encode(Q8_0, np.full((1, 32), 127, np.float32))).sum())
"""


def run(isa, script, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "DCA_ISA"}
    if isa is not None:
        environment["DCA_ISA"] = isa
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def logits(isa, path, cache, repack, out):
    """The device's description, bytes repacked and logits of 60 tokens at once and ten one by one."""
    done = run(isa, LOGITS, path, cache, repack, out)
    assert done.returncode == 0, done.stderr
    device, repacked = done.stdout.rsplit(maxsplit=1)
    return device, int(repacked), np.load(out)


@pytest.fixture(scope="module")
def generic(tiny_gguf, tmp_path_factory):
    """``generic(dtype, cache)``: path and the portable kernels' logits, from the file's own blocks."""
    made = {}

    def make(dtype, cache):
        if (dtype, cache) not in made:
            path = tiny_gguf(dtype=dtype, head_dim=32, width=96, ff=160, seed=3)
            out = tmp_path_factory.mktemp("generic") / "logits.npy"
            device, repacked, values = logits("generic", path, cache, False, out)
            assert "portable" in device and repacked == 0
            made[dtype, cache] = path, values
        return made[dtype, cache]

    return make


# Root mean squares of differences; logits have a standard deviation of 1.
EXACT = 1e-5  # the same f32 arithmetic in another order
# A product's input in 16-bit integers is off by 2e-5 (tests/runtime/test_repack.py): so are queries and keys,
# whose scores have a standard deviation of 4 here (tiny.py's gains), in two layers: sqrt(2 · 2 · 4²) of it,
# and twice that.
REPACKED = 3.2e-4
# What lies on a rounding border of the cache's type may fall either way: half of what that rounding costs in
# all (tests/runtime/test_session.py derives it: 5.8 times 2.1e-4, 1.7e-3 and 4.8e-3).
ROUNDED = {"f32": 0.0, "f16": 6e-4, "bf16": 5e-3, "q8": 1.4e-2}


@pytest.mark.parametrize("repack", [False, True])
@pytest.mark.parametrize(
    "dtype, cache", [("f32", "f32"), ("q4_1", "f32"), ("f16", "f16"), ("q8_0", "q8"), ("q4_0", "bf16")]
)
@pytest.mark.parametrize("isa", HERE)
def test_instruction_sets_agree(generic, tmp_path, isa, dtype, cache, repack):
    path, wanted = generic(dtype, cache)
    device, repacked, values = logits(isa, path, cache, repack, tmp_path / "logits.npy")
    assert f"({NAMES[isa]}," in device
    in_integers = repack and dtype.startswith("q") and isa in IN_INTEGERS
    # Matrices in floats are always copied, quantised ones where there are kernels for them.
    assert (repacked > 0) == (in_integers or (repack and not dtype.startswith("q")))
    assert np.sqrt(np.mean((values - wanted) ** 2)) < (REPACKED if in_integers else EXACT) + ROUNDED[cache]


def test_the_fastest_is_the_default(generic, tmp_path):
    path, _ = generic("q4_1", "f32")
    device, _, values = logits(None, path, "f32", True, tmp_path / "default.npy")
    assert f"({NAMES[HERE[-1]]}," in device
    np.testing.assert_array_equal(values, logits(HERE[-1], path, "f32", True, tmp_path / "named.npy")[2])


@pytest.mark.parametrize("isa", ["mmx", "AVX2", *MISSING])
def test_what_the_machine_has_not_is_refused_by_models_and_block_formats(tiny_gguf, tmp_path, isa):
    for script in (LOGITS, BLOCKS):
        done = run(isa, script, tiny_gguf(), "f16", False, tmp_path / "x.npy")
        assert done.returncode != 0
        assert f"DCA_ISA is {isa}, this machine runs {', '.join(HERE)}" in done.stderr


@pytest.mark.parametrize("isa", HERE)
def test_block_formats_run_with_what_the_machine_has(isa):
    assert run(isa, BLOCKS).stdout.strip() == str(127.0 * 32)
