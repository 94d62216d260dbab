"""Caches of codes on a card against the CPU's: the same codes, the same pages read finely."""

import numpy as np
import pytest
from comparison import F16_KL, all_logits, mean_kl, tokens

from dca_runtime import DcaError, Model

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

SCHEME = (40, 24, 64)  # s divides no page
HEADS = {
    64: {"head_dim": 64},
    96: {"head_dim": 96},
    128: {"head_dim": 128, "heads": 8, "kv_heads": 2},
    256: {"head_dim": 256, "head_norm": True, "architecture": "qwen3", "tied": True},
    32: {"head_dim": 32},
}


@pytest.mark.parametrize("size", HEADS)
@pytest.mark.parametrize("pieces", [(1,), (150, *[1] * 250), (90, 2, 37), (129, 127, 144)])
def test_q4_gives_what_the_cpus_gives(variant_gguf, size, pieces):
    """Fed alike, so that the same pages are fresh: the devices differ by a little of what four bits lose, by
    codes that the rounding of activations moves to the next one."""
    path = variant_gguf(**HEADS[size])
    ids = tokens(path, 400)
    exact = all_logits(path, "cpu", ids, cache_type="f32", scheme=SCHEME)
    cpu, cuda = (
        all_logits(path, device, ids, pieces, cache_type="q4", scheme=SCHEME) for device in ("cpu", "cuda")
    )
    assert mean_kl(cpu, cuda) < mean_kl(exact, cpu) / 5 + F16_KL


def test_guesses_taken_back_leave_what_they_leave_on_the_cpu(variant_gguf):
    """Over the ends of pages, which were settled with the guesses in them: the devices differ by a little of
    what four bits lose."""
    path = variant_gguf(head_dim=64)
    held = tokens(path, 300)
    exact = all_logits(path, "cpu", held, cache_type="f32", scheme=SCHEME)[100:290]
    found = {}
    for device in ("cpu", "cuda"):
        with (
            Model(path, device=device) as model,
            model.session(context=512, cache_type="q4", scheme=SCHEME) as session,
        ):
            session.append(held[:100])
            rows = []
            for at in range(100, 290):
                session.eval([held[at], *held[:9]], all_logits=True)
                session.truncate(at)
                rows.append(session.eval(held[at : at + 1]))
            found[device] = np.stack(rows)
    assert mean_kl(found["cpu"], found["cuda"]) < mean_kl(exact, found["cpu"]) / 5 + F16_KL


def test_a_step_reads_its_own_pages_finely(variant_gguf):
    path = variant_gguf(head_dim=64)
    ids = tokens(path, 400)
    exact = all_logits(path, "cpu", ids, cache_type="f32", scheme=SCHEME)
    whole, single = (
        all_logits(path, "cuda", ids, pieces, cache_type="q4", scheme=SCHEME) for pieces in (None, (1,))
    )
    assert mean_kl(exact, whole) < mean_kl(exact, single) / 4
    assert mean_kl(exact[:128], single[:128]) < mean_kl(exact[128:], single[128:]) / 4


def test_bytes_of_a_token(variant_gguf):
    """4 bits a value, 64 for each head's key and value, a mean key a page; slots of fresh pages besides."""
    with Model(variant_gguf(head_dim=128, heads=8, kv_heads=2), device="cuda") as model:
        sizes = []
        for tokens_ in (2**17, 2**18):
            with model.engine(tokens=tokens_, cache_type="q4", max_rows=128) as engine:
                sizes.append(engine.info.cache_bytes)
        layers = model.info.n_layers
    assert sizes[1] - sizes[0] == 2**17 * layers * 2 * (2 * (128 // 2 + 8) + 2 * 128 // 128)


def test_two_sequences_and_a_fork_of_a_page_in_the_middle(variant_gguf):
    path = variant_gguf(head_dim=64)
    a_ids, b_ids = (np.random.default_rng(n).integers(0, 515, 200).tolist() for n in (1, 2))
    found = {}
    for device in ("cpu", "cuda"):
        with (
            Model(path, device=device) as model,
            model.engine(tokens=2048, cache_type="q4", scheme=SCHEME) as engine,
        ):
            a, b = engine.sequence(), engine.sequence()
            engine.eval([(a, a_ids), (b, b_ids)], logits=False)
            c = a.fork()
            engine.eval([(a, [5])], logits=False)  # writes to the shared page: a copy
            found[device] = np.stack(engine.eval([(a, [7]), (b, [7]), (c, [7])]))
    for row in range(3):  # four bits lose 0.04 here, a wrong page costs 1
        assert mean_kl(found["cpu"][row], found["cuda"][row]) < 1e-2


@pytest.mark.parametrize("size", [16, 80])
def test_head_sizes_that_q4_does_not_take(variant_gguf, size):
    with Model(variant_gguf(head_dim=size), device="cuda") as model:
        with pytest.raises(DcaError, match=f"multiples of 32, this model's is {size}; use cache_type q8"):
            model.session(cache_type="q4")
        with model.session(cache_type="q8", context=64) as session:
            session.eval([1, 2, 3])
