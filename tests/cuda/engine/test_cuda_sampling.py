"""Choosing tokens on a card: what core chooses (the CPU engine), and what the filters and penalties say."""

import math

import numpy as np
import pytest

from dca_runtime import DcaError, Model, Sampling

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

SCHEME = (40, 24, 64)


def ids_of(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 515, count).tolist()


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
    "other penalties": {"temperature": 0.0, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    "biases": {"temperature": 1.0, "logit_bias": {5: 3.0, 77: -2.0, 300: 4.0, 514: 5.0}},
    "biases and penalties": {"temperature": 0.0, "logit_bias": {5: 8.0}, "repeat_penalty": 3.0},
    "a token out of the question": {"temperature": 1.0, "logit_bias": dict.fromkeys(range(400), -math.inf)},
    "two certain tokens": {"temperature": 1.0, "logit_bias": {7: math.inf, 9: math.inf}},
}


@pytest.fixture(scope="module", params=[515, 516], ids=["rows begin anywhere", "rows of whole fours"])
def engines(variant_gguf, request):
    """The same model on both devices, its logits spread by a large norm so that rounding moves few draws."""
    path = variant_gguf(layers=1, vocab=request.param)
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
    # Logits differ by about 5e-3 (comparison.py), the two best draws by less than that once in 150.
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


@pytest.mark.parametrize("kind", FILTERS)
def test_choices_after_guesses_are_those_of_steps_of_one(variant_gguf, kind):
    """Each number of rows three times: issued, recorded, played."""
    sampling = Sampling(**FILTERS[kind], seed=7)
    with Model(variant_gguf(layers=1), device="cuda") as model:
        with (
            model.session(context=512, scheme=SCHEME) as one,
            model.session(context=512, scheme=SCHEME) as few,
        ):
            agreed, held = 0, 0
            for count in (1, 2, 2, 2, 5, 5, 5, 8, 8, 8, 1, 3):
                new = ids_of(held + 1, count)
                single = [choice for id_ in new for choice in one.sample([id_], sampling)]
                agreed += sum(
                    a == b for a, b in zip(single, few.sample(new, sampling, every=True), strict=True)
                )
                held += count
            assert one.length == few.length == held
            assert agreed >= held - 3  # only rounding may part them
