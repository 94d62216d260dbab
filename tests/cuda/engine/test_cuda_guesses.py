"""Steps of a few rows whose logits are all wanted, as guessing ahead takes them, and more forks than
a warp has columns for: each row gets what it would get alone."""

import numpy as np
import pytest
from comparison import BF16_KL, F16_KL, mean_kl

from dca_runtime import Model

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

SCHEME = (40, 24, 64)  # s divides no page
# Of single positions after 1,300 tokens of a random model; a wrong position costs more than 1e-2.
Q8_KL = 6e-3
MODELS = {
    "f16": {},
    "quantised": {"types": (("", "Q4_0"), ("attn_v", "Q8_0"))},
    "mixture": {"experts": 8, "ff": 128, "ff_shared": 64, "shared_gate": True, "architecture": "qwen2moe"},
    "head 128": {"head_dim": 128, "heads": 8, "kv_heads": 2},
    "head 256, norms": {"head_dim": 256, "head_norm": True, "architecture": "qwen3", "tied": True},
}


def ids_of(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 515, count).tolist()


def all_logits(path, ids: list[int], last: int) -> np.ndarray:
    """Of the last tokens, by the CPU in f32."""
    with Model(path).session(context=len(ids), cache_type="f32", scheme=SCHEME) as session:
        session.append(ids[:-last])
        return session.eval(ids[-last:], all_logits=True)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("cache_type", ["f16", "q8"])
@pytest.mark.parametrize("start", [3, 1270])  # alone; with pages that its rows share
def test_rows_of_a_few_guesses(variant_gguf, kind, cache_type, start):
    """Each number three times: issued, recorded, played. They cross ends of pages and of chunks."""
    path = variant_gguf(**MODELS[kind])
    held = ids_of(1, start)
    limit = Q8_KL if cache_type == "q8" else F16_KL
    with (
        Model(path, device="cuda") as model,
        model.session(context=1536, cache_type=cache_type, scheme=SCHEME) as session,
    ):
        session.append(held)
        for count in (2, 3, 3, 3, 1, 4, 4, 4, 8, 8, 8, 5, 2, 2):
            new = ids_of(len(held), count)
            found = session.eval(new, all_logits=True)
            held += new
            assert mean_kl(all_logits(path, held, count), found) < limit, (count, len(held))


def test_guesses_taken_back_leave_no_trace(variant_gguf):
    path = variant_gguf()
    held = ids_of(1, 125)
    with Model(path, device="cuda") as model, model.session(context=512, scheme=SCHEME) as session:
        session.append(held)
        for step in range(8):
            new = ids_of(step, 6)
            session.eval(new, all_logits=True)
            session.truncate(len(held) + 1 + step % 6)
            held += new[: 1 + step % 6]
        found = session.eval([7, 8, 9], all_logits=True)
    assert mean_kl(all_logits(path, [*held, 7, 8, 9], 3), found) < F16_KL


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8"])
def test_many_forks_of_a_long_prompt_read_it_together(variant_gguf, kind, cache_type):
    """Eighteen: more than one group, and more columns than one warp has; one is in the next chunk. The pool's
    other pages held another sequence before."""
    path = variant_gguf(**MODELS[kind])
    prompt = ids_of(1, 1290)  # ten pages and a bit, its chunk ends at 1,320
    with (
        Model(path, device="cuda") as model,
        model.engine(tokens=16384, cache_type=cache_type, scheme=SCHEME) as engine,
    ):
        with engine.sequence() as before:
            engine.eval([(before, ids_of(9, 12000))], logits=False)
        first = engine.sequence()
        engine.eval([(first, prompt)], logits=False)
        forks = [first.fork() for _ in range(18)]
        engine.eval([(forks[7], ids_of(3, 45))], logits=False)
        for step in range(3):  # issued, recorded, played
            new = [(7 * step + 11 * n) % 515 for n in range(len(forks))]
            alone = []
            for fork, id_ in zip(forks, new, strict=True):
                with fork.fork() as twin:
                    alone += engine.eval([(twin, [id_])])
            found = engine.eval([(fork, [id_]) for fork, id_ in zip(forks, new, strict=True)])
            for n, (one, other) in enumerate(zip(alone, found, strict=True)):
                assert mean_kl(one, other) < (BF16_KL if cache_type == "bf16" else 5 * F16_KL), (step, n)
