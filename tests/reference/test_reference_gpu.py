"""The reference on a GPU: flash kernels against exact attention, and a patched model."""

import pytest

from dca_export.scheme import Scheme

torch = pytest.importorskip("torch")

from hf_families import make, tokens  # noqa: E402

from dca_export.reference.attention import eager_attention, rotate_queries  # noqa: E402
from dca_export.reference.border_attention import (  # noqa: E402
    eager_border_attention,
    flash_border_attention,
    rotate,
)
from dca_export.reference.borders import SelfExtend, Streaming, String  # noqa: E402
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [2, 6])
@pytest.mark.parametrize("rule", [None, SelfExtend(4, 130), String(200, 60), Streaming(4, 150)])
def test_gradients_of_the_flash_kernels_are_those_of_the_dense_form(dtype, kv_heads, rule):
    """Within the rounding of 16 bits of what float64 gives of the same rounded inputs."""
    random = torch.Generator("cuda").manual_seed(0)
    shapes = [(6, 700, 64), (kv_heads, 700, 64), (kv_heads, 700, 64)]
    rounded = [torch.randn(s, generator=random, device="cuda").to(dtype) for s in shapes]
    weights = torch.randn(6, 700, 64, generator=random, device="cuda").to(dtype)
    rotary = Rotary(1 / 100 ** (torch.arange(32, dtype=torch.float64, device="cuda") / 32))
    scheme, indices = Scheme(150, 40, 200), torch.arange(700, device="cuda")

    def gradients(kind, flash):
        q, k, v = (each.to(kind).requires_grad_() for each in rounded)
        if rule is None:
            attend = flash_attention if flash else eager_attention
            keys = rotary.rotate(k, key_positions(indices, scheme))
            output = attend(rotate_queries(q, indices, scheme, "dca", rotary), keys, v, scheme)
        else:
            attend = flash_border_attention if flash else eager_border_attention
            output = attend(*rotate(q, k, rule, rotary), v, rule)
        return torch.autograd.grad((output * weights.to(kind)).sum(), (q, k, v))

    for exact, found in zip(gradients(torch.float64, False), gradients(dtype, True), strict=True):
        error = (found.double() - exact).norm() / exact.norm()
        assert error < 8 * torch.finfo(dtype).eps
