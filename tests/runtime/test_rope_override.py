"""A session's RoPE scaling does what the same scaling written into the file does.

What a file's own scaling must come to is proved against transformers in tests/reference.
"""

import numpy as np
import pytest

import dca_runtime as dca

IDS = np.arange(90, dtype=np.int32) * 11 % 320
HEAD_DIM = 16
BASE = 10000.0


def logits(path, **options):
    with dca.Model(path, device="cpu", threads=1) as model:
        with model.session(context=len(IDS), cache_type="f32", **options) as session:
            return session.eval(IDS, all_logits=True)


@pytest.mark.parametrize("options", [{}, {"scheme": (24, 8, 32)}], ids=["plain", "dca"])
@pytest.mark.parametrize(
    "rope, fields",
    [
        ("linear:4", {"rope_scaling": ("linear", 4.0)}),
        ("yarn:4", {"rope_scaling": ("yarn", 4.0)}),
        ("ntk:4", {"rope_base": BASE * 4.0 ** (HEAD_DIM / (HEAD_DIM - 2))}),
    ],
)
def test_override_equals_the_files_own(tiny_gguf, rope, fields, options):
    written = logits(tiny_gguf(head_dim=HEAD_DIM, **fields), **options)
    overridden = logits(tiny_gguf(head_dim=HEAD_DIM), rope=rope, **options)
    untouched = logits(tiny_gguf(head_dim=HEAD_DIM), **options)
    assert np.abs(overridden - written).max() < 1e-4
    assert np.abs(overridden - untouched).max() > 1e-2


def test_override_replaces_the_files_scaling(tiny_gguf):
    scaled = tiny_gguf(head_dim=HEAD_DIM, rope_scaling=("linear", 4.0))
    assert np.array_equal(logits(scaled, rope="linear:1"), logits(tiny_gguf(head_dim=HEAD_DIM)))


@pytest.mark.parametrize(
    "rope, message",
    [
        ("yarn", "KIND:FACTOR"),
        ("cubic:4", "linear, ntk, yarn"),
        ("yarn:0.5", "at least 1"),
        ("ntk:nan", "at least 1"),
    ],
)
def test_bad_scaling_is_named(tiny_gguf, rope, message):
    with pytest.raises(dca.DcaError, match=message):
        logits(tiny_gguf(), rope=rope)
