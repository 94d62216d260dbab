"""Every instruction set computes the same logits; the override that tests use names its mistakes."""

import os
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import sys
import numpy as np
import dca_runtime as dca
with dca.Model(sys.argv[1], device="cpu", threads=2, repack=False) as model:
    print(model.info.device, file=sys.stderr)
    ids = np.arange(70, dtype=np.int32) * 7 % model.info.n_vocab
    with model.session(context=128, scheme=(24, 8, 32), cache_type=sys.argv[2]) as session:
        prefill = session.eval(ids[:60], all_logits=True)
        decode = [session.eval(ids[i : i + 1]) for i in range(60, 70)]
np.save(sys.argv[3], np.concatenate([prefill, np.stack(decode)]))
"""


def logits(isa, path, cache, out):
    environment = os.environ | {"DCA_ISA": isa}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), cache, str(out)],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("dtype, cache", [("f32", "f32"), ("f16", "f16"), ("q8_0", "q8"), ("q4_0", "bf16")])
def test_instruction_sets_agree(tiny_gguf, tmp_path, dtype, cache):
    path = tiny_gguf(dtype=dtype, head_dim=32, width=96, ff=160, seed=3)
    found = {}
    for isa in ("generic", "avx2", "avx512"):
        out = tmp_path / f"{isa}.npy"
        done = logits(isa, path, cache, out)
        if done.returncode == 0:
            found[isa] = np.load(out)
        else:
            assert "known to this machine" in done.stderr
    assert "generic" in found
    for isa, values in found.items():
        # A value that lies on a rounding border of the cache's type may fall either way.
        tolerance = 1e-4 if cache == "f32" else 2e-2
        assert np.abs(values - found["generic"]).max() < tolerance, isa


def test_unknown_instruction_set_is_named(tiny_gguf, tmp_path):
    done = logits("mmx", tiny_gguf(), "f16", tmp_path / "x.npy")
    assert done.returncode != 0
    assert "DCA_ISA is mmx, must be generic, avx2 or avx512" in done.stderr
