"""Random models for timing: whole files that load, every tensor of which is filled."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from dca_runtime import Model
from dca_runtime.blocks import decode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import random_gguf  # noqa: E402

DENSE = random_gguf.Shape(2, 256, 512, 4, 2, 64, 640, 128, 1e4)
MIXTURE = random_gguf.Shape(1, 256, 256, 4, 2, 64, 640, 128, 1e4, "qwen3moe", False, True, 4, 2)


@pytest.mark.parametrize("shape", [DENSE, MIXTURE], ids=["dense", "mixture"])
@pytest.mark.parametrize("dtype", ["F16", "Q4_0", "Q6_K"])
def test_every_tensor_is_filled_with_random_blocks(tmp_path, monkeypatch, shape, dtype):
    monkeypatch.setattr(random_gguf, "POOL_VALUES", 1 << 16)  # smaller than most tensors: it goes round
    path = tmp_path / "random.gguf"
    random_gguf.write_random_gguf(path, shape, gguf.GGMLQuantizationType[dtype], (32, 8, 64))
    tensors = gguf.GGUFReader(path).tensors
    assert {tensor.name: tuple(map(int, reversed(tensor.shape))) for tensor in tensors} == dict(
        random_gguf._tensors(shape)
    )
    for tensor in tensors:
        values = np.asarray(tensor.data)
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32:
            values = decode(int(tensor.tensor_type), values.view(np.uint8).reshape(values.shape[0], -1))
        if "norm" in tensor.name:
            assert (values == 1).all(), tensor.name
        else:
            assert values.std() == pytest.approx(random_gguf.STANDARD_DEVIATION, rel=0.1), tensor.name
    with Model(path) as model, model.session(context=100) as session:
        assert model.info.scheme[:3] == (32, 8, 64)
        assert np.isfinite(session.eval([1, 2, 3])).all()


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(random_gguf.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(SystemExit, match=r"has 0.0 GB free"):
        random_gguf.write_random_gguf(tmp_path / "random.gguf", DENSE, gguf.GGMLQuantizationType.F16)
