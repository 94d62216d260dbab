"""Gradients of the merged form, where every call's backward has the merged output and log-sum-exp, against
those that PyTorch derives of the dense form."""

import pytest

torch = pytest.importorskip("torch")

from dca_export.reference import kernels  # noqa: E402
from dca_export.reference.attention import Queries, eager_attention, rotate_queries  # noqa: E402
from dca_export.reference.border_attention import (  # noqa: E402
    eager_border_attention,
    flash_border_attention,
    rotate,
)
from dca_export.reference.borders import RULES  # noqa: E402
from dca_export.reference.flash import flash_attention  # noqa: E402
from dca_export.reference.merged import Call, merged_attention  # noqa: E402
from dca_export.reference.positions import key_positions  # noqa: E402
from dca_export.reference.rotary import Rotary  # noqa: E402
from dca_export.scheme import Scheme  # noqa: E402

SCHEMES = [Scheme(7, 3, 10), Scheme(12, 4, 16, 0.2, 9), Scheme(50, 9, 60)]
ROTARY = Rotary(torch.tensor([1.0, 0.1], dtype=torch.float64))
N, M = 33, 40


def tensors(seed=0):
    random = torch.Generator().manual_seed(seed)
    shapes = [(4, N, 6), (2, M, 6), (2, M, 5)]
    return [torch.randn(s, generator=random, dtype=torch.float64).requires_grad_() for s in shapes]


def gradients(function):
    """Of a sum that weighs every output differently, with respect to un-rotated q, k and v."""
    q, k, v = tensors()
    output = function(q, k, v)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return torch.autograd.grad((output * weights).sum(), (q, k, v))


def chunked(attend, scheme, attention):
    def function(q, k, v):
        indices = torch.arange(M)
        keys = ROTARY.rotate(k, key_positions(indices, None if attention == "plain" else scheme))
        queries = rotate_queries(q, indices[-N:], scheme, attention, ROTARY)
        return attend(queries, keys, v, scheme, attention)

    return function


def agree(one, other, tolerance=1e-9):
    assert all((a - b).abs().max() < tolerance for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("attention", ["plain", "dca", "intra", "intra+inter"])
def test_dual_chunk_attention(scheme, attention, monkeypatch):
    monkeypatch.setattr(kernels, "QUERY_BLOCK", 5)
    agree(*(gradients(chunked(each, scheme, attention)) for each in (flash_attention, eager_attention)))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("rerope", (9,)),
        ("self-extend", (3, 8)),
        ("string", (11, 4)),
        ("streaming", (3, 10)),
        ("lm-infinite", (2, 6)),
    ],
)
def test_borders_that_move(name, numbers):
    rule = RULES[name][0](*numbers)

    def form(attend):
        return lambda q, k, v: attend(*rotate(q, k, rule, ROTARY), v, rule)

    agree(gradients(form(flash_border_attention)), gradients(form(eager_border_attention)))


def test_against_differences():
    calls = [
        Call(0, (0, 4), 0, (0, 3), "full"),
        Call(1, (0, 4), 1, (3, 7), "causal"),
        Call(0, (0, 3), 1, (2, 5), "anticausal"),
    ]
    random = torch.Generator().manual_seed(2)
    q, r, k, p, v = (
        torch.randn(s, generator=random, dtype=torch.float64).requires_grad_()
        for s in [(2, 4, 3)] * 2 + [(1, 7, 3)] * 2 + [(1, 7, 2)]
    )

    def attend(*given):
        return merged_attention(given[:2], given[2:4], given[4], calls, 0.7)

    assert torch.autograd.gradcheck(attend, (q, r, k, p, v), atol=1e-9)


def test_nothing_of_the_scores_is_kept():
    """What a backward pass needs grows with the length, not with its square."""

    def kept(n):
        q, k, v = (torch.randn(2, n, 8).requires_grad_() for _ in range(3))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            flash_attention(Queries(q, q, q), k, v, Scheme(64, 16, 80))
        return sum(sizes)

    assert kept(1024) == pytest.approx(2 * kept(512), rel=0.01)
