"""Every family's small random model on the CUDA backend, against the CPU backend.

The CPU runs the file in f32; what it computes is held to transformers' own classes elsewhere (tests/export,
tests/parity).
"""

import gguf
import numpy as np
import pytest
from comparison import all_logits

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_families import GGUF_CASES, make, set_biases, tokens  # noqa: E402
from hf_to_gguf import write_gguf  # noqa: E402

from dca_runtime import Model  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

SCHEME = (40, 16, 64)
LENGTH = 170  # four chunk borders
# Of the root mean square of a position's errors, by that of its logits' deviations from their mean. Activations rounded to
# 11 bits move logits by about 5e-3 of it in models of two layers; a wrong position or a scale left out by more than 1e-1.
LIMIT = 2e-2
# Head sizes for which the fast attention kernels are compiled; the cases' own one runs in the simple kernel.
FAST = {
    "llama": 64,
    "gemma2": 256,
    "gemma2, of 128": 128,
    "gemma3": 256,
    "gemma3, other layers": 128,
    "gpt-oss": 64,
    "olmo3": 128,
    "cohere2": 128,
    "smollm3": 64,
}


@pytest.fixture(scope="module")
def family_gguf(tmp_path_factory):
    """A case's model as a GGUF file: family_gguf(case, "f32", head_dim=64)."""
    directory = tmp_path_factory.mktemp("families")

    def write(case: str, dtype: str, **changes):
        path = directory / f"{case}-{dtype}-{changes.get('head_dim')}.gguf"
        if not path.exists():
            family, own, keys, extra = GGUF_CASES[case]
            model = make(family, torch.float32, **{**own, **changes})
            set_biases(model)
            write_gguf(path, model, keys, extra, gguf.GGMLQuantizationType[dtype.upper()])
        return path

    return write


def errors(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Of every position, relative to how far its logits lie from each other."""
    assert np.isfinite(found).all()
    apart = expected - expected.mean(axis=-1, keepdims=True)
    return np.sqrt(((found - expected) ** 2).mean(axis=-1) / (apart**2).mean(axis=-1))


def check(path, **options) -> None:
    """Prefill in one go, in pieces and token by token. In a mixture a token whose experts are nearly equally likely may
    get others on the card: so the middle position counts."""
    ids = tokens(LENGTH)[0].numpy().astype(np.int32)
    expected = all_logits(path, "cpu", ids, cache_type="f32", **options)
    for pieces in (None, (1,), (37, 1, 1, 2)):
        found = errors(expected, all_logits(path, "cuda", ids, pieces, **options))
        print(f"{path.stem} {options['attention']} {pieces}: {np.median(found):.1e}, {found.max():.1e}")
        assert np.median(found) < LIMIT
        assert np.mean(found > 4 * LIMIT) < 0.05


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("attention", ["plain", "dca"])
@pytest.mark.parametrize("case", GGUF_CASES)
def test_a_family_is_the_cpus(family_gguf, case, attention, dtype):
    check(family_gguf(case, dtype), attention=attention, scheme=SCHEME)


@pytest.mark.parametrize("attention", ["plain", "dca"])
@pytest.mark.parametrize("case", FAST)
def test_the_fast_attention_kernels_too(family_gguf, case, attention):
    path = family_gguf(case.split(", of ")[0], "f16", head_dim=FAST[case])
    check(path, attention=attention, scheme=SCHEME)


@pytest.mark.parametrize("case", ["gemma2", "gpt-oss", "cohere2", "olmo3", "granitemoe"])
def test_sequences_step_together(family_gguf, case):
    path = family_gguf(case, "f16")
    sequences = [tokens(LENGTH)[0].numpy().astype(np.int32)[first : first + 60] for first in (0, 30, 60)]
    alone = [all_logits(path, "cpu", ids, cache_type="f32", attention="dca", scheme=SCHEME) for ids in sequences]
    with Model(path, device="cuda") as model, model.engine(tokens=512, attention="dca", scheme=SCHEME) as engine:
        together = [engine.sequence() for _ in sequences]
        for at in range(60):
            step = [
                (sequence, ids[at : at + 1].tolist())
                for sequence, ids in zip(together, sequences, strict=True)
            ]
            for wanted, found in zip(alone, engine.eval(step), strict=True):
                assert errors(wanted[at], np.asarray(found)) < 4 * LIMIT
