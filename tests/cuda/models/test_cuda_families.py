"""Every family's small random model on the CUDA backend, against the CPU backend.

The CPU runs the file in f32; what it computes is held to transformers' own classes elsewhere (tests/export,
tests/parity).
"""

import gguf
import numpy as np
import pytest
from comparison import in_pieces

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_families import GGUF_CASES, make, set_biases, tokens  # noqa: E402
from hf_to_gguf import write_gguf  # noqa: E402

from dca_runtime import Model  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

SCHEME = (40, 16, 64)
LENGTH = 170  # four chunk borders
# Of the root mean square of a position's errors, by that of its logits' distances from their mean.
# Activations of 11 bits move logits by up to 1e-2 of it in these small models; a wrong position or a
# scale left out by more than 1e-1.
LIMIT = 2e-2
MIXTURES = ("mixtral", "qwen2_moe", "qwen2_moe, weights normed", "qwen3_moe", "gpt-oss", "granitemoe")
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
def opened(tmp_path_factory):
    """A case's model on a device: opened("cuda", case, "f32", head_dim=64). Each is opened once."""
    directory = tmp_path_factory.mktemp("families")
    models: dict[str, Model] = {}

    def open_model(device: str, case: str, dtype: str, **changes: int) -> Model:
        name = f"{case}-{dtype}-{changes.get('head_dim')}"
        path = directory / f"{name}.gguf"
        if not path.exists():
            family, own, keys, extra = GGUF_CASES[case]
            model = make(family, torch.float32, **{**own, **changes})
            set_biases(model)
            write_gguf(path, model, keys, extra, gguf.GGMLQuantizationType[dtype.upper()])
        key = f"{device} {name}"
        if key not in models:
            models[key] = Model(path, device=device)
        return models[key]

    yield open_model
    for model in models.values():
        model.close()


def errors(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Of every position, relative to how far its logits lie from each other."""
    assert np.isfinite(found).all()
    apart = expected - expected.mean(axis=-1, keepdims=True)
    return np.sqrt(((found - expected) ** 2).mean(axis=-1) / (apart**2).mean(axis=-1))


def check(opened, case: str, dtype: str, attention: str, **changes: int) -> None:
    """Prefill in one go, token by token and in pieces.

    In a mixture a token whose experts are nearly equally likely may get others on the card, so that some
    positions may be far off.
    """
    ids = tokens(LENGTH)[0].numpy().astype(np.int32)
    options = {"attention": attention, "scheme": SCHEME}
    expected = in_pieces(opened("cpu", case, dtype, **changes), ids, None, cache_type="f32", **options)
    for pieces in (None, (1,), (37, 1, 1, 2)):
        found = errors(expected, in_pieces(opened("cuda", case, dtype, **changes), ids, pieces, **options))
        print(f"{case} {dtype} {attention} {pieces}: {np.median(found):.1e}, {found.max():.1e}")
        assert np.median(found) < LIMIT
        assert np.mean(found > 4 * LIMIT) <= (0.1 if case in MIXTURES else 0.02)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("attention", ["plain", "dca"])
@pytest.mark.parametrize("case", GGUF_CASES)
def test_a_family_is_the_cpus(opened, case, attention, dtype):
    check(opened, case, dtype, attention)


@pytest.mark.parametrize("attention", ["plain", "dca"])
@pytest.mark.parametrize("case", FAST)
def test_the_fast_attention_kernels_too(opened, case, attention):
    check(opened, case.split(", of ")[0], "f16", attention, head_dim=FAST[case])


@pytest.mark.parametrize("case", ["gemma2", "gpt-oss", "cohere2", "olmo3", "granitemoe"])
def test_sequences_step_together(opened, case):
    sequences = [tokens(LENGTH)[0].numpy().astype(np.int32)[first : first + 60] for first in (0, 30, 60)]
    dca = {"attention": "dca", "scheme": SCHEME}
    cpu = opened("cpu", case, "f16")
    alone = [in_pieces(cpu, ids, None, cache_type="f32", **dca) for ids in sequences]
    with opened("cuda", case, "f16").engine(tokens=512, **dca) as engine:
        together = [engine.sequence() for _ in sequences]
        found = []
        for at in range(60):
            ids_of = zip(together, sequences, strict=True)
            found.append(np.stack(engine.eval([(sequence, ids[at : at + 1]) for sequence, ids in ids_of])))
    assert np.median(errors(np.stack(alone, axis=1), np.stack(found))) < LIMIT
