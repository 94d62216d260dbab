"""The aarch64 wheel under qemu-user: logits of tiny models beside those of the PyTorch reference.

    python release/test_aarch64.py dist/dca_export-0.2.0-py3-none-manylinux_2_28_aarch64.whl

Every kind of kernel (DCA_ISA) reads every model, in one call and token by token, and must meet what
dca-parity demands. qemu says nothing of speed, so nothing is timed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from arm64 import Arm64Python

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from tiny import Tiny, write_tiny_gguf  # noqa: E402

from dca_export.parity.agreement import Comparison  # noqa: E402
from dca_export.parity.tolerance import tolerance_for  # noqa: E402
from dca_export.reference.load import load_reference  # noqa: E402
from dca_export.reference.stream import stream_logits  # noqa: E402
from dca_export.scheme import Scheme  # noqa: E402

KERNELS = {"generic": "portable", "dotprod": "NEON, dot products", "i8mm": "NEON, matrix products"}
DTYPES = ("f32", "f16", "q8_0", "q4_0", "q4_1")
TOKENS, PROMPT = 70, 60  # read in one call, and then one by one
SCHEME = Scheme(24, 8, 32)
ON_ARM = """
import sys
import numpy as np
import dca_runtime as dca
path, out = sys.argv[1:]
with dca.Model(path, device="cpu", threads=2) as model:
    print(model.info.device)
    ids = np.arange(70, dtype=np.int32) * 7 % model.info.n_vocab
    with model.session(context=128, cache_type="f32") as session:
        rows = [session.eval(ids[:60], all_logits=True)]
        rows += [session.eval(ids[i : i + 1])[None] for i in range(60, 70)]
np.save(out, np.concatenate(rows))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    arguments = parser.parse_args()
    python = Arm64Python(ROOT / "build" / "arm64")
    python.install(arguments.wheel, ROOT / "constraints.txt")
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        for dtype in DTYPES:
            failures += sum(judge(python, dtype, isa, Path(scratch)) for isa in KERNELS)
    cases = len(DTYPES) * len(KERNELS)
    print(f"{cases - failures} passed, {failures} failed")
    sys.exit(failures > 0)


def judge(python: Arm64Python, dtype: str, isa: str, scratch: Path) -> bool:
    """Whether one model under one kind of kernel is not as the reference has it."""
    path, out = scratch / f"{dtype}.gguf", scratch / "logits.npy"
    if not path.exists():
        tiny = Tiny(dtype=dtype, head_dim=32, width=96, ff=160, scheme=(24, 8, 32), context_length=32, seed=3)
        write_tiny_gguf(path, tiny)
    done = python.run("-c", ON_ARM, str(path), str(out), DCA_ISA=isa)
    if done.returncode != 0 or KERNELS[isa] not in done.stdout:
        print(f"FAILED {dtype} {isa}: {done.stdout} {done.stderr}")
        return True
    logits = np.load(out)
    ids = [i * 7 % logits.shape[1] for i in range(TOKENS)]
    expected = np.concatenate(list(stream_logits(load_reference(path), ids, SCHEME)))
    comparison = Comparison()
    comparison.add(np.arange(TOKENS), expected, logits, np.array([*ids[1:], -1]))
    agreement = comparison.result()
    failures = tolerance_for(dtype, "cpu", "f32").failures(agreement)
    verdict = f"FAILED, {failures}" if failures else "ok"
    print(f"{dtype} {isa}: largest difference {agreement.relative_difference:.2g} σ, {verdict}")
    return bool(failures)


if __name__ == "__main__":
    main()
