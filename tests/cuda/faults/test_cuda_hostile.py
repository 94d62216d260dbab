"""Damaged models on a card: an answer or one line, and the card goes on working."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from dca_export.cli.run import main
from dca_runtime import DcaError, Model, Sampling
from dca_runtime.errors import Status

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

DEVICE = "cuda"
KINDS = {
    "f16": {"scheme": (40, 16, 64)},
    "quantised": {"types": (("", "Q4_0"), ("attn", "Q8_0"), ("down", "Q6_K"))},
    "grids": {"types": (("", "IQ4_XS"), ("attn", "IQ3_S"), ("down", "MXFP4"))},
    "mixture": {"types": (("", "Q8_0"),), "experts": 4, "router": "dense", "ff": 256},
}
FILLINGS = (0xFF, 0x7C, 0x00, 0x80)  # NaN, infinities, nothing, what is most negative


def damaged(path: Path, seed: int) -> bytes:
    """The file with some of its values, its header or its end spoilt."""
    rng = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    start = gguf.GGUFReader(path).data_offset
    match seed % 3:
        case 0:
            for _ in range(4):
                at = int(rng.integers(start, len(data)))
                length = min(int(rng.integers(1, 20_000)), len(data) - at)
                data[at : at + length] = bytes([FILLINGS[rng.integers(len(FILLINGS))]]) * length
        case 1:
            data[start:] = rng.integers(0, 256, len(data) - start, dtype=np.uint8).tobytes()
        case _:
            for at in rng.integers(24, start, 3):
                data[at] = int(rng.integers(256))
            del data[len(data) - int(rng.integers(0, 2)) * int(rng.integers(1, len(data) - start)) :]
    return bytes(data)


def use(model: Model) -> None:
    ids = [1, 2, 3, 4, 5] * 15
    for cache_type in ("f16", "q8"):
        with model.session(context=128, cache_type=cache_type) as session:
            session.eval(ids)
            session.eval([1])
    engine = model.engine(tokens=1024)
    a = engine.sequence()
    engine.eval([(a, ids)], logits=False)
    b = a.fork()
    engine.sample([(a, [5], Sampling(temperature=1.0, top_k=7)), (b, [7], Sampling(temperature=0.0))])


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_an_answer_or_a_line(variant_gguf, tmp_path, kind, seed):
    whole = variant_gguf(**KINDS[kind])
    with Model(whole, device=DEVICE) as model, model.session(context=64) as session:
        before = session.eval([1, 2, 3])
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged(whole, seed))
    try:
        with Model(path, device=DEVICE) as model:
            use(model)
    except DcaError as error:
        assert error.status not in (Status.DEVICE, Status.INTERNAL), error
        assert len(str(error).splitlines()) == 1
    with Model(whole, device=DEVICE) as model, model.session(context=64) as session:
        np.testing.assert_array_equal(session.eval([1, 2, 3]), before)


@pytest.mark.parametrize("left", [0, 10, 1000, -40])
def test_the_command_says_what_is_wrong_in_a_line(tiny_gguf, tmp_path, capsys, left):
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf(tokenizer=True).read_bytes()[:left])
    assert main([str(path), "-p", "hello", "--device", DEVICE]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and "cut.gguf" in said.err
