"""An engine on a card: each sequence gets what it would get alone, as the CPU has it."""

import numpy as np
import pytest
from comparison import BF16_KL, F16_KL, mean_kl

from dca_runtime import DcaError, Model, Status

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

Q8_KL = 1e-3  # as test_cuda_backend.py's
SCHEME = (40, 24, 64)  # s divides no page

MODELS = {
    "f16": {},
    "bf16": {"types": (("", "BF16"),)},
    "quantised": {"types": (("", "Q4_0"), ("attn_v", "Q8_0"))},
    "mixture": {"experts": 8, "ff": 128, "ff_shared": 64, "shared_gate": True, "architecture": "qwen2moe"},
    "head 64": {"head_dim": 64},
    "head 96": {"head_dim": 96},
    "head 128": {"head_dim": 128, "heads": 8, "kv_heads": 2},
    "head 80, biases": {"head_dim": 80, "bias": True, "architecture": "qwen2"},
    "head 48": {"head_dim": 48, "heads": 4, "kv_heads": 1},
    "head 256, norms": {"head_dim": 256, "head_norm": True, "architecture": "qwen3", "tied": True},
}


def ids_of(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 515, count).tolist()


class Oracle:
    """Logits of the CPU in f32 for every token of a sequence of its own."""

    def __init__(self, path, **options) -> None:
        self.model = Model(path)
        self.options = {"cache_type": "f32", "scheme": SCHEME} | options

    def last(self, ids: list[int]) -> np.ndarray:
        with self.model.session(context=len(ids), **self.options) as session:
            return session.eval(ids)


def check(oracle: Oracle, held: list[list[int]], found: list[np.ndarray], limit: float) -> None:
    expected = np.stack([oracle.last(ids) for ids in held])
    assert mean_kl(expected, np.stack(found)) < limit
    # A wrong row hides in no mean: single positions stay within a few times it (comparison.py).
    for ids, one, other in zip(held, expected, found, strict=True):
        assert mean_kl(one, other) < 20 * limit, len(ids)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8"])
def test_prompts_of_every_length_then_decoding(variant_gguf, kind, cache_type):
    path = variant_gguf(**MODELS[kind])
    limit = Q8_KL if cache_type == "q8" else F16_KL
    if "bf16" in (kind, cache_type):
        limit = BF16_KL
    # Around the sizes where something changes: a row, a chunk of 40, a tile, a page of 128.
    held = [ids_of(n, n) for n in (1, 2, 39, 40, 41, 63, 65, 127, 128, 129, 300)]
    oracle = Oracle(path)
    with (
        Model(path, device="cuda") as model,
        model.engine(tokens=8192, cache_type=cache_type, scheme=SCHEME) as engine,
    ):
        sequences = [engine.sequence() for _ in held]
        check(oracle, held, engine.eval(list(zip(sequences, held, strict=True))), limit)
        for step in range(3):  # issued, recorded, played
            new = [(7 * step + 11 * n) % 515 for n in range(len(held))]
            found = engine.eval([(sequence, [id_]) for sequence, id_ in zip(sequences, new, strict=True)])
            held = [[*ids, id_] for ids, id_ in zip(held, new, strict=True)]
            check(oracle, held, found, limit)


@pytest.mark.parametrize("kind", ["head 64", "head 128"])
def test_long_prompts_beside_each_other(variant_gguf, kind):
    """More blocks of queries than the card has multiprocessors: each draws several, one after the other."""
    path = variant_gguf(**MODELS[kind])
    held = [ids_of(n, n) for n in (1500, 1, 2000, 700)]
    with Model(path, device="cuda") as model, model.engine(tokens=8192, scheme=SCHEME) as engine:
        found = engine.eval([(engine.sequence(), ids) for ids in held])
        check(Oracle(path), held, found, F16_KL)


@pytest.mark.parametrize("kind", ["f16", "quantised", "mixture"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 17, 33, 100, 128])
def test_numbers_of_sequences(variant_gguf, kind, count):
    """Padded to the sizes that have a graph; a second round is another number of rows of the same engine."""
    path = variant_gguf(**MODELS[kind])
    held = [ids_of(n, 1 + 3 * n % 50) for n in range(count)]
    oracle = Oracle(path)
    with Model(path, device="cuda") as model, model.engine(tokens=128 * 128, scheme=SCHEME) as engine:
        sequences = [engine.sequence() for _ in held]
        engine.eval(list(zip(sequences, held, strict=True)), logits=False)
        for some in (count, count, count, (count + 1) // 2, count):
            found = engine.eval([(sequence, [some]) for sequence in sequences[:some]])
            held = [[*ids, some] if n < some else ids for n, ids in enumerate(held)]
        shown = sorted({0, count // 2, count - 1})
        check(oracle, [held[n] for n in shown], [found[n] for n in shown], F16_KL)


@pytest.mark.parametrize("kind", ["f16", "quantised", "mixture"])
@pytest.mark.parametrize("seed", range(4))
def test_any_interleaving_of_prompts_forks_and_truncations(variant_gguf, kind, seed):
    path = variant_gguf(**MODELS[kind])
    oracle = Oracle(path)
    random = np.random.default_rng(seed)
    with (
        Model(path, device="cuda") as model,
        model.engine(tokens=6000, cache_type="f16", scheme=SCHEME, max_rows=200) as engine,
    ):
        held = {engine.sequence(): [] for _ in range(3)}
        for _ in range(25):
            action = random.choice(["feed", "feed", "feed", "fork", "truncate", "close"])
            chosen = list(held)[random.integers(len(held))]
            if action == "fork" and len(held) < 8:
                held[chosen.fork()] = list(held[chosen])
            elif action == "truncate" and held[chosen]:
                length = int(random.integers(len(held[chosen])))
                chosen.truncate(length)
                held[chosen] = held[chosen][:length]
            elif action == "close" and len(held) > 3:
                chosen.close()
                del held[chosen]
            else:
                fed = []
                for sequence in held:
                    count = int(random.choice([0, 1, 1, 2, 60, 129]))
                    if count and len(held[sequence]) + count < 600:
                        fed.append((sequence, random.integers(0, 515, count).tolist()))
                if not fed:
                    continue
                found = engine.eval(fed)
                for sequence, new in fed:
                    held[sequence] = held[sequence] + new
                check(oracle, [held[sequence] for sequence, _ in fed], found, F16_KL)


def test_a_batch_that_mixes_wanted_and_unwanted_rows(variant_gguf):
    """Rows kept lie apart: of a long prompt's first piece none is wanted, of others one row or all."""
    path = variant_gguf()
    oracle = Oracle(path)
    with (
        Model(path, device="cuda") as model,
        model.engine(tokens=4096, scheme=SCHEME, max_rows=128) as engine,
    ):
        prompts = [ids_of(1, 3), ids_of(2, 300), ids_of(3, 1), ids_of(4, 90), ids_of(5, 1)]
        scored = engine.score([(engine.sequence(), ids) for ids in prompts if len(ids) > 1])
        for ids, nll in zip([ids for ids in prompts if len(ids) > 1], scored, strict=True):
            np.testing.assert_allclose(
                nll, oracle.model.score(ids, cache_type="f32", scheme=SCHEME), atol=0.05
            )
        check(oracle, prompts, engine.eval([(engine.sequence(), ids) for ids in prompts]), F16_KL)


def test_forks_share_pages_and_write_to_copies(variant_gguf):
    path = variant_gguf()
    oracle = Oracle(path)
    ids = ids_of(1, 200)
    with Model(path, device="cuda") as model, model.engine(tokens=4096, scheme=SCHEME) as engine:
        a = engine.sequence()
        engine.eval([(a, ids)], logits=False)
        forks = [a.fork() for _ in range(5)]
        assert engine.info.tokens_used == 256
        found = engine.eval([(fork, [n]) for n, fork in enumerate([*forks, a])])
        assert engine.info.tokens_used == 128 + 6 * 128
        check(oracle, [[*ids, n] for n in range(6)], found, F16_KL)


@pytest.mark.parametrize("kind", ["f16", "quantised", "head 96", "head 128", "head 256, norms"])
@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
def test_forks_of_a_long_prompt_read_it_together(variant_gguf, kind, cache_type):
    """Groups of them in one chunk, another fork ahead in the next, and a sequence of its own.

    Over an 8-bit cache a random model's 1,300 tokens stray further from the oracle than a few hundred do, so
    each row is also held against the same tokens in a step of its own.
    """
    path = variant_gguf(**MODELS[kind])
    oracle = Oracle(path)
    prompt = ids_of(1, 1300)
    with (
        Model(path, device="cuda") as model,
        model.engine(tokens=8192, cache_type=cache_type, scheme=SCHEME) as engine,
    ):
        first, other = engine.sequence(), engine.sequence()
        engine.eval([(first, prompt), (other, ids_of(2, 1200))], logits=False)
        forks = [first.fork() for _ in range(6)]
        engine.eval([(forks[3], ids_of(3, 45))], logits=False)
        sequences = [first, *forks[:3], other, *forks[3:]]
        held = [prompt, *[prompt] * 3, ids_of(2, 1200), [*prompt, *ids_of(3, 45)], prompt, prompt]
        for step in range(4):  # issued, recorded, played
            new = [(7 * step + 11 * n) % 515 for n in range(len(held))]
            alone = []
            for sequence, id_ in zip(sequences, new, strict=True):
                with sequence.fork() as twin:
                    alone += engine.eval([(twin, [id_])])
            found = engine.eval([(sequence, [id_]) for sequence, id_ in zip(sequences, new, strict=True)])
            held = [[*ids, id_] for ids, id_ in zip(held, new, strict=True)]
            assert mean_kl(np.stack(alone), np.stack(found)) < F16_KL
            if cache_type != "q4":  # which is held against the CPU's in test_cuda_caches.py
                check(oracle, held, found, 3 * Q8_KL if cache_type == "q8" else F16_KL)


def test_freed_pages_are_used_again_without_a_trace(variant_gguf):
    """What a page held before, here of another sequence at other positions, never reaches a result."""
    path = variant_gguf()
    oracle = Oracle(path)
    with Model(path, device="cuda") as model, model.engine(tokens=1024, scheme=SCHEME) as engine:
        for round_ in range(4):
            sequences = [engine.sequence() for _ in range(4)]
            held = [ids_of(10 * round_ + n, 60 + 50 * n) for n in range(4)]
            check(oracle, held, engine.eval(list(zip(sequences, held, strict=True))), F16_KL)
            for sequence in sequences[:: 1 if round_ % 2 else -1]:
                sequence.close()


def test_a_rows_bits_do_not_depend_on_its_neighbours(variant_gguf):
    """Steps of one size of graph: the same kernels, each row summed by itself."""
    path = variant_gguf()
    with Model(path, device="cuda") as model, model.engine(tokens=16384, scheme=SCHEME) as engine:
        sequences = [engine.sequence() for _ in range(8)]
        for n, sequence in enumerate(sequences):
            engine.eval([(sequence, ids_of(n, 30 + 60 * n))], logits=False)
        forks = [sequence.fork() for sequence in sequences]
        together = engine.eval([(sequence, [7]) for sequence in sequences])
        others = [forks[n] for n in (6, 2, 0, 7, 4)]
        for logits, n in zip(engine.eval([(fork, [7]) for fork in others]), (6, 2, 0, 7, 4), strict=True):
            np.testing.assert_array_equal(logits, together[n])


@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8", "q4"])
def test_a_saved_sequence_goes_on_with_the_same_bits(variant_gguf, tmp_path, cache_type):
    path = variant_gguf()
    with Model(path, device="cuda") as model:
        with model.engine(tokens=2048, cache_type=cache_type, scheme=SCHEME) as engine:
            filler, a = engine.sequence(), engine.sequence()
            engine.eval([(filler, ids_of(9, 70)), (a, ids_of(1, 333))], logits=False)
            a.save(tmp_path / "a.kv")
            expected = engine.eval([(a, [1, 2])])[0]
        with model.engine(tokens=1024, cache_type=cache_type, scheme=SCHEME) as other:
            b = other.load(tmp_path / "a.kv")
            assert b.ids.tolist() == ids_of(1, 333)
            np.testing.assert_array_equal(other.eval([(b, [1, 2])])[0], expected)


def test_the_tail_of_a_saved_page_is_zero(variant_gguf, tmp_path):
    path = variant_gguf()
    with Model(path, device="cuda") as model, model.engine(tokens=128, scheme=SCHEME) as engine:
        secret = engine.sequence()
        engine.eval([(secret, ids_of(9, 128))], logits=False)
        secret.close()
        a = engine.sequence()
        engine.eval([(a, ids_of(1, 3))], logits=False)
        a.save(tmp_path / "reused.kv")
        saved = (tmp_path / "reused.kv").read_bytes()
        assert saved.count(0) > 0.9 * len(saved)  # 3 tokens of a page of 128


def test_a_file_of_the_cpu_is_refused(variant_gguf, tmp_path):
    path = variant_gguf()
    with Model(path) as model, model.engine(tokens=256, scheme=SCHEME) as engine:
        a = engine.sequence()
        engine.eval([(a, [1, 2, 3])], logits=False)
        a.save(tmp_path / "a.kv")
    with Model(path, device="cuda") as model, model.engine(tokens=256, scheme=SCHEME) as engine:
        with pytest.raises(DcaError, match="another setup"):
            engine.load(tmp_path / "a.kv")


def test_a_full_pool_says_so_and_changes_nothing(variant_gguf):
    path = variant_gguf()
    oracle = Oracle(path)
    with Model(path, device="cuda") as model, model.engine(tokens=512, scheme=SCHEME) as engine:
        a, b = engine.sequence(), engine.sequence()
        engine.eval([(a, ids_of(1, 300))], logits=False)
        with pytest.raises(DcaError, match="holds 512 tokens, 384 are in use and room for 256 more") as error:
            engine.eval([(a, [1]), (b, ids_of(2, 200))])
        assert error.value.status == Status.CONTEXT
        assert (a.length, b.length, engine.info.tokens_used) == (300, 0, 384)
        found = engine.eval([(a, [5]), (b, ids_of(2, 128))])
        check(oracle, [[*ids_of(1, 300), 5], ids_of(2, 128)], found, F16_KL)
