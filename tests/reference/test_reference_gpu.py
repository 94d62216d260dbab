"""The reference on a GPU: flash kernels against exact attention, and a patched model."""

import pytest

from dca_export.scheme import Scheme

torch = pytest.importorskip("torch")

from hf_families import make, tokens  # noqa: E402

from dca_export.reference.attention import eager_attention, rotate_queries  # noqa: E402
from dca_export.reference.flash import flash_attention  # noqa: E402
from dca_export.reference.hf import patch  # noqa: E402
from dca_export.reference.kernels import _torch_flash_forward  # noqa: E402
from dca_export.reference.positions import key_positions  # noqa: E402
from dca_export.reference.rotary import Rotary  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256, 20])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize(("n", "m"), [(700, 700), (1, 700), (133, 700), (1, 1)])
@pytest.mark.parametrize("attention", ["dca", "plain", "intra", "intra+inter"])
def test_flash_is_exact_attention_to_the_dtypes_precision(dtype, head_dim, kv_heads, n, m, attention):
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(heads, length, head_dim, device="cuda", dtype=torch.float64, generator=generator)
        for heads, length in ((6, n), (kv_heads, m), (kv_heads, m))
    )
    scheme = Scheme(150, 40, 210, 0.1, 100)
    rotary = Rotary(10000 ** -torch.linspace(0, 1, head_dim // 2, dtype=torch.float64).cuda())
    indices = torch.arange(m, device="cuda")
    queries = rotate_queries(q, indices[m - n :], scheme, attention, rotary)
    keys = rotary.rotate(k, key_positions(indices, None if attention == "plain" else scheme))
    expected = eager_attention(queries, keys, v, scheme, attention)
    rounded = type(queries)(*(each.to(dtype) for each in queries))
    found = flash_attention(rounded, keys.to(dtype), v.to(dtype), scheme, attention)
    assert found.dtype == dtype
    # Inputs, probabilities and the merged outputs are rounded; logits of size 4 carry the inputs' error.
    assert (found - expected).abs().max() < 24 * torch.finfo(dtype).eps


@pytest.mark.parametrize("causal", [False, True])
def test_pytorchs_kernel_gives_the_log_sum_exp(causal):
    q, k, v = (torch.randn(4, 37, 64, device="cuda", dtype=torch.float16) for _ in range(3))
    output, lse = _torch_flash_forward(q, k, v, causal, 0.125)
    logits = q.double() @ k.double().transpose(1, 2) * 0.125
    if causal:
        logits = logits.masked_fill(torch.ones(37, 37, dtype=torch.bool, device="cuda").triu(1), -torch.inf)
    assert lse.shape == (4, 37)
    assert (lse - logits.logsumexp(-1)).abs().max() < 1e-4
    assert (output - logits.softmax(-1) @ v.double()).abs().max() < 1e-2


@pytest.mark.parametrize("family", ["llama", "llama, yarn", "qwen3, head_dim apart from width", "phi3"])
def test_a_patched_model_gives_what_it_gives_on_the_cpu(family):
    scheme, ids = Scheme(5, 3, 11), tokens(40)
    model = make(family, torch.float32)
    with patch(model, scheme):
        expected = model(ids).logits
    model.cuda()
    for kernel in ("eager", "flash"):
        with patch(model, scheme, kernel=kernel):
            found = model(ids.cuda(), use_cache=True)
            assert (found.logits.cpu() - expected).abs().max() < 1e-4 * expected.abs().max()
            generated = model.generate(ids.cuda(), max_new_tokens=4, do_sample=False)
            assert generated.shape[1] > 40
