"""STRING, StreamingLLM, LM-Infinite and dynamic NTK on a card, as the CPU has them."""

import numpy as np
import pytest
from comparison import BF16_KL, F16_KL, check, mean_kl

from dca_runtime import DcaError, Model

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

ATTENTIONS = ["string:40/8", "string:130/0", "streaming:4/40", "streaming:0/129", "lm-infinite:5/40"]
HEADS = {
    "64": {"head_dim": 64},
    "96": {"head_dim": 96},
    "128": {"head_dim": 128, "heads": 8, "kv_heads": 2},
    "48": {"head_dim": 48, "heads": 4, "kv_heads": 1},
    "256": {"head_dim": 256, "head_norm": True, "architecture": "qwen3", "tied": True},
}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("heads", HEADS)
def test_prefill_and_decoding(variant_gguf, heads, attention):
    check(variant_gguf(**HEADS[heads]), F16_KL, count=300, attention=attention)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("cache_type", ["bf16", "q8"])
def test_caches(variant_gguf, cache_type, attention):
    limit = BF16_KL if cache_type == "bf16" else 1e-3
    check(variant_gguf(head_dim=64), limit, count=300, attention=attention, cache_type=cache_type)


@pytest.mark.parametrize("rope", ["dynamic:2", "dynamic:1.5"])
def test_dynamic_ntk(variant_gguf, rope):
    check(variant_gguf(head_dim=64), F16_KL, count=300, attention="plain", rope=rope)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_forks_and_pieces_of_an_engine(variant_gguf, attention):
    path = variant_gguf(head_dim=64)
    ids = np.random.default_rng(4).integers(0, 515, 1400)
    texts = [np.append(ids[:1200], np.roll(ids, n)[: 3 + 40 * n]) for n in range(5)]
    with Model(path, device="cuda") as model, model.engine(tokens=16384, attention=attention) as engine:
        start = engine.sequence()
        engine.eval([(start, ids[:1200])], logits=False)
        forks = [start.fork() for _ in texts]
        first = engine.eval([(fork, text[1200:]) for fork, text in zip(forks, texts, strict=True)])
        found = [engine.eval([(fork, [token]) for fork in forks]) for token in (7, 9)]
    with Model(path) as model:
        for row, text in enumerate(texts):
            with model.session(context=2048, attention=attention, cache_type="f32") as session:
                expected = [session.eval(text), session.eval([7]), session.eval([9])]
            for wanted, other in zip(expected, (first[row], found[0][row], found[1][row]), strict=True):
                assert mean_kl(wanted, other) < 20 * F16_KL


def test_an_engine_has_no_length_for_dynamic_ntk(variant_gguf):
    with Model(variant_gguf(head_dim=64), device="cuda") as model:
        with pytest.raises(DcaError, match="use rope ntk"):
            model.engine(rope="dynamic:2")
