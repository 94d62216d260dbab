"""An engine on a card: each sequence gets what it would get alone, as the CPU has it, and draws what core draws."""

import numpy as np
import pytest
from comparison import BF16_KL, F16_KL, mean_kl

from dca_runtime import DcaError, Model, Sampling, Status

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

Q8_KL = 1e-3  # as test_cuda_backend.py's
SCHEME = (40, 24, 64)  # s divides no page

MODELS = {
    "f16": {},
    "bf16": {"types": (("", "BF16"),)},
    "quantised": {"types": (("", "Q4_0"), ("attn_v", "Q8_0"))},
    "mixture": {"experts": 8, "ff": 128, "ff_shared": 64, "shared_gate": True, "architecture": "qwen2moe"},
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
    """Rows kept lie apart: the first piece of a long prompt is wanted for nothing, others for one row or all."""
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


@pytest.mark.parametrize("cache_type", ["f16", "bf16", "q8"])
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


# ---- sampling -----------------------------------------------------------------------

FILTERS = {
    "greedy": {"temperature": 0.0},
    "plain": {"temperature": 1.0, "min_p": 0.0},
    "top_k": {"temperature": 1.3, "min_p": 0.0, "top_k": 5},
    "top_k 1": {"temperature": 1.3, "min_p": 0.0, "top_k": 1},
    "top_p": {"temperature": 1.0, "min_p": 0.0, "top_p": 0.7},
    "tiny top_p": {"temperature": 2.0, "min_p": 0.0, "top_p": 1e-6},
    "min_p": {"temperature": 1.5, "min_p": 0.3},
    "all filters": {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
    "cold": {"temperature": 1e-6, "min_p": 0.0},
    "penalty": {"temperature": 0.0, "repeat_penalty": 1.7},
    "penalty, drawn": {"temperature": 1.0, "repeat_penalty": 1.3, "top_p": 0.95},
}


@pytest.fixture(scope="module")
def engines(variant_gguf):
    """The same model on both devices, its logits spread by a large norm so that rounding moves few draws."""
    path = variant_gguf(layers=1)
    with Model(path) as cpu, Model(path, device="cuda") as cuda:
        with (
            cpu.engine(tokens=2**15, cache_type="f32", scheme=SCHEME) as one,
            cuda.engine(tokens=2**15, scheme=SCHEME) as other,
        ):
            yield one, other


@pytest.mark.parametrize("kind", FILTERS)
def test_choices_are_those_of_the_cpu(engines, kind):
    """Of 300 draws only those whose two best values lie closer than f16's rounding of logits may differ."""
    cpu, cuda = engines
    prompts = [ids_of(n, 1 + n % 30) for n in range(100)]
    agreed = 0
    for seed in range(3):
        chosen = []
        for engine in (cpu, cuda):
            sequences = [engine.sequence() for _ in prompts]
            items = [
                (sequence, ids, Sampling(seed=1000 * seed + n, **FILTERS[kind]))
                for n, (sequence, ids) in enumerate(zip(sequences, prompts, strict=True))
            ]
            chosen.append(engine.sample(items))
            for sequence in sequences:
                sequence.close()
        agreed += sum(a == b for a, b in zip(*chosen, strict=True))
    # Logits differ by about 5e-3 (comparison.py), the two best of 515 Gumbel values by less than that once in 150.
    assert agreed >= 300 - 12


def test_draws_do_not_depend_on_the_batch(engines):
    cuda = engines[1]
    filled = [cuda.sequence() for _ in range(8)]
    cuda.eval([(sequence, ids_of(n, 30 + n)) for n, sequence in enumerate(filled)], logits=False)
    again = [sequence.fork() for sequence in filled]
    samplings = [Sampling(temperature=1.0, min_p=0, seed=n) for n in range(8)]
    together = cuda.sample([(s, [5], how) for s, how in zip(filled, samplings, strict=True)])
    order = (6, 1, 4, 3, 0)
    assert cuda.sample([(again[n], [5], samplings[n]) for n in order]) == [together[n] for n in order]
    assert len(set(together)) > 1


def test_draws_follow_the_distribution(engines):
    cuda = engines[1]
    a = cuda.sequence()
    cuda.eval([(a, ids_of(1, 20))], logits=False)
    logits = cuda.eval([(a.fork(), [3])])[0].astype(np.float64)
    kept = logits >= np.sort(logits)[-10]
    weights = np.where(kept, np.exp((logits - logits.max()) / 0.5), 0)
    expected = weights / weights.sum()
    counts = np.zeros(len(logits))
    forks = [a.fork() for _ in range(100)]
    for round_ in range(40):
        hows = [Sampling(temperature=0.5, top_k=10, min_p=0, seed=100 * round_ + n) for n in range(100)]
        for token in cuda.sample([(fork, [3], how) for fork, how in zip(forks, hows, strict=True)]):
            counts[token] += 1
        for fork in forks:
            fork.truncate(20)
    for sequence in (a, *forks):
        sequence.close()
    assert counts[~kept].sum() == 0
    deviation = np.sqrt(4000 * expected * (1 - expected)) + 1
    assert (np.abs(counts - 4000 * expected) < 5 * deviation).all()


def test_a_mask_allows_only_its_tokens(engines):
    cuda = engines[1]
    words = (515 + 31) // 32
    masks = []
    for token in (0, 17, 514):
        mask = np.zeros(words, np.uint32)
        mask[token // 32] |= np.uint32(1 << token % 32)
        masks.append(mask)
    hows = (
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=0.0),
        Sampling(temperature=1.0, top_p=0.5, seed=3),
    )
    items = [(cuda.sequence(), [3, 4], how, mask) for how, mask in zip(hows, masks, strict=True)]
    assert cuda.sample(items) == [0, 17, 514]
    with pytest.raises(DcaError, match="no token may be chosen"):
        cuda.sample([(cuda.sequence(), [5], Sampling(temperature=1.0), np.zeros(words, np.uint32))])


@pytest.mark.parametrize("top", [0, 3])
def test_log_probabilities_are_the_models_own(engines, top):
    """top 0 is answered on the card, others on the host."""
    cuda = engines[1]
    a = cuda.sequence()
    cuda.eval([(a, [3])], logits=False)
    logits = cuda.eval([(a.fork(), [4])])[0].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    for how in (Sampling(temperature=0, repeat_penalty=2.0), Sampling(temperature=1.0, min_p=0, seed=4)):
        [choice] = cuda.choose([(a.fork(), [4], how)], top_logprobs=top)
        assert choice.logprob == pytest.approx(expected[choice.token], abs=1e-4)
        order = np.argsort(-expected, kind="stable")[:top]
        assert [token for token, _ in choice.top] == order.tolist()
        assert [value for _, value in choice.top] == pytest.approx(expected[order], abs=1e-4)
