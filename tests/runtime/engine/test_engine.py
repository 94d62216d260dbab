"""An engine of many sequences: each gets what it would get alone, whoever shares the step and the pages."""

import numpy as np
import pytest

from dca_runtime import DcaError, Model, Sampling, Status

# Rows of a batch go through products of panels where a lone row goes through products of vectors, so sums
# run in another order; logits here are of order 1.
CLOSE = 2e-3
SCHEME = (40, 24, 64)


def tokens(seed: int, count: int, n_vocab: int = 320) -> list[int]:
    return np.random.default_rng(seed).integers(0, n_vocab, count).tolist()


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with Model(tiny_gguf()) as model:
        yield model


@pytest.fixture
def engine(model):
    with model.engine(tokens=4096, cache_type="f32", scheme=SCHEME) as engine:
        yield engine


def alone(model, ids, cache_type="f32"):
    """Logits after ``ids`` of a session of their own."""
    with model.session(context=len(ids), cache_type=cache_type, scheme=SCHEME) as session:
        return session.eval(ids)


@pytest.mark.parametrize("cache_type", ["f32", "f16", "bf16", "q8"])
def test_prompts_of_every_length_get_what_they_get_alone(model, cache_type):
    # Around the sizes where something changes: a row, a panel of 32, a page of 128, a chunk of 40.
    lengths = [1, 2, 3, 4, 31, 33, 40, 41, 100, 128, 129, 300]
    prompts = [tokens(n, n) for n in lengths]
    expected = [alone(model, ids, cache_type) for ids in prompts]
    with model.engine(tokens=4096, cache_type=cache_type, scheme=SCHEME) as engine:
        together = engine.eval([(engine.sequence(), ids) for ids in prompts])
    for ids, logits, own in zip(prompts, together, expected, strict=True):
        # A rounded cache rounds what differs by 1e-6 to neighbours now and then.
        bound = CLOSE if cache_type == "f32" else 3e-2
        assert np.abs(logits - own).max() < bound, len(ids)


def test_decoding_mixes_with_prefill(model, engine):
    first, second = tokens(1, 90), tokens(2, 200)
    a, b = engine.sequence(), engine.sequence()
    engine.eval([(a, first[:-2])], logits=False)
    engine.eval([(a, first[-2:-1]), (b, second[:70])], logits=False)
    logits = engine.eval([(a, first[-1:]), (b, second[70:])])
    assert np.abs(logits[0] - alone(model, first)).max() < CLOSE
    assert np.abs(logits[1] - alone(model, second)).max() < CLOSE


def test_a_decode_step_does_not_depend_on_who_else_is_in_it(engine):
    """The same bits up to eight rows, and from nine up: from there products run in panels."""
    sequences = [engine.sequence() for _ in range(14)]
    for index, sequence in enumerate(sequences):
        engine.eval([(sequence, tokens(index, 50 + 7 * index))], logits=False)
    forks = [sequence.fork() for sequence in sequences]
    together = engine.eval([(sequence, [7]) for sequence in sequences])
    some = engine.eval([(fork, [7]) for fork in reversed(forks[2:12])])
    for logits, expected in zip(reversed(some), together[2:12], strict=True):
        assert np.array_equal(logits, expected)
    for fork in forks:
        fork.close()
    few = [sequence.fork() for sequence in sequences[:8]]
    for logits, sequence in zip(engine.eval([(one, [9]) for one in few]), sequences, strict=False):
        assert np.array_equal(logits, engine.eval([(sequence, [9])])[0])


def test_where_pages_lie_changes_nothing(model):
    """A sequence whose pages are scattered gives the same bits as one whose pages follow each other."""
    with model.engine(tokens=1024, scheme=SCHEME) as engine:
        ids = tokens(3, 400)
        whole = engine.sequence()
        expected = engine.eval([(whole, ids)])[0]
        whole.close()
        fillers = [engine.sequence() for _ in range(8)]
        for filler in fillers:
            engine.eval([(filler, tokens(4, 100))], logits=False)
        for filler in fillers[1::2]:
            filler.close()  # every second page is free
        scattered = engine.sequence()
        assert np.array_equal(engine.eval([(scattered, ids)])[0], expected)


def test_a_fork_shares_pages_until_somebody_writes(model, engine):
    ids = tokens(5, 200)
    a = engine.sequence()
    engine.eval([(a, ids)], logits=False)
    assert engine.info.tokens_used == 256
    b, c = a.fork(), a.fork()
    assert engine.info.tokens_used == 256
    one, other = engine.eval([(b, [1]), (c, [2])])
    # Two of three copied the last, partly filled page; the third keeps it.
    assert engine.info.tokens_used == 256 + 2 * 128
    mine = engine.eval([(a, [3])])[0]
    assert engine.info.tokens_used == 256 + 2 * 128
    for logits, last in [(one, 1), (other, 2), (mine, 3)]:
        assert np.abs(logits - alone(model, [*ids, last])).max() < CLOSE


def test_truncating_a_fork_leaves_the_other_alone(model, engine):
    ids = tokens(6, 300)
    a = engine.sequence()
    engine.eval([(a, ids)], logits=False)
    b = a.fork()
    b.truncate(150)
    assert (a.length, b.length) == (300, 150)
    logits = engine.eval([(b, [9, 8]), (a, [4])])
    assert np.abs(logits[0] - alone(model, [*ids[:150], 9, 8])).max() < CLOSE
    assert np.abs(logits[1] - alone(model, [*ids, 4])).max() < CLOSE
    assert b.ids.tolist() == [*ids[:150], 9, 8]


def test_pages_come_back(engine):
    sequences = [engine.sequence() for _ in range(3)]
    for sequence in sequences:
        engine.eval([(sequence, tokens(1, 300))], logits=False)
    fork = sequences[0].fork()
    for sequence in sequences:
        sequence.close()
    assert engine.info.tokens_used == 384
    fork.truncate(0)
    assert engine.info.tokens_used == 0


def test_a_full_pool_says_so_and_changes_nothing(model):
    with model.engine(tokens=512, scheme=SCHEME) as engine:
        a, b = engine.sequence(), engine.sequence()
        engine.eval([(a, tokens(1, 300))], logits=False)
        with pytest.raises(DcaError, match="holds 512 tokens, 384 are in use and room for 256 more") as error:
            engine.eval([(a, [1]), (b, tokens(2, 200))])
        assert error.value.status == Status.CONTEXT
        assert (a.length, b.length, engine.info.tokens_used) == (300, 0, 384)
        engine.eval([(b, tokens(2, 128))])


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (lambda a, b: [(a, [1]), (a, [2])], "once"),
        (lambda a, b: [(a, [1]), (b, [])], "at least 1"),
        (lambda a, b: [(a, [1]), (b, [320])], "not in the vocabulary of 320"),
        (lambda a, b: [(a, [1]), (b, [2**40])], "not in the vocabulary of 320"),
        (lambda a, b: [(a, [1]), (b, [0.5])], "integers"),
    ],
)
def test_wrong_batches_are_refused_whole(engine, items, message):
    a, b = engine.sequence(), engine.sequence()
    with pytest.raises(DcaError, match=message):
        engine.eval(items(a, b))
    assert (a.length, b.length) == (0, 0)


def test_an_empty_batch_does_nothing(engine):
    assert engine.eval([]) == []


def test_cancelling_leaves_every_sequence_as_it_was(model):
    class Stop(Exception):
        pass

    stop = False

    def progress(done: int, total: int) -> None:
        if stop:
            raise Stop

    with model.engine(tokens=2048, cache_type="f32", scheme=SCHEME, progress=progress) as engine:
        ids = tokens(1, 140)
        a, b = engine.sequence(), engine.sequence()
        engine.eval([(a, ids)], logits=False)
        fork = a.fork()
        stop = True
        with pytest.raises(Stop):
            engine.eval([(a, tokens(2, 700)), (b, tokens(3, 9))])
        stop = False
        assert (a.length, b.length, engine.info.tokens_used) == (140, 0, 256)
        assert np.abs(engine.eval([(fork, [1])])[0] - alone(model, [*ids, 1])).max() < CLOSE


def test_scores_are_those_of_sessions(model, engine):
    prompts = [tokens(1, 700), tokens(2, 2), tokens(3, 90)]
    for ids, nll in zip(prompts, engine.score([(engine.sequence(), ids) for ids in prompts]), strict=True):
        own = model.score(ids, cache_type="f32", scheme=SCHEME)
        assert nll.shape == own.shape
        assert np.abs(nll - own).max() < CLOSE


def test_greedy_is_the_largest_logit(engine):
    a = engine.sequence()
    b = a.fork()
    ids = tokens(1, 50)
    logits = engine.eval([(a, ids)])[0]
    assert engine.sample([(b, ids, Sampling(temperature=0))]) == [int(np.argmax(logits))]
    assert b.length == 50


def test_a_seed_gives_the_same_token_in_any_company(engine):
    prompts = [tokens(n, 30 + n) for n in range(8)]
    filled = [engine.sequence() for _ in prompts]
    engine.eval([(s, ids) for s, ids in zip(filled, prompts, strict=True)], logits=False)
    again = [sequence.fork() for sequence in filled]
    samplings = [Sampling(temperature=1.0, min_p=0, seed=n) for n in range(8)]
    together = engine.sample([(s, [5], how) for s, how in zip(filled, samplings, strict=True)])
    fewer = engine.sample([(again[n], [5], samplings[n]) for n in (6, 1, 4, 3)])
    assert fewer == [together[n] for n in (6, 1, 4, 3)]
    assert len(set(together)) > 1


def test_draws_follow_the_distribution(model):
    """4,000 draws against softmax(logits / temperature) of what the filters keep."""
    engine = model.engine(tokens=2**14)
    a = engine.sequence()
    engine.eval([(a, tokens(1, 20))], logits=False)
    logits = engine.eval([(a.fork(), [3])])[0].astype(np.float64)
    kept = logits >= np.sort(logits)[-10]
    weights = np.where(kept, np.exp((logits - logits.max()) / 0.5), 0)
    expected = weights / weights.sum()
    forks = [a.fork() for _ in range(100)]
    counts = np.zeros(len(logits))
    for round_ in range(40):
        hows = [Sampling(temperature=0.5, top_k=10, min_p=0, seed=100 * round_ + n) for n in range(100)]
        for token in engine.sample([(fork, [3], how) for fork, how in zip(forks, hows, strict=True)]):
            counts[token] += 1
        for fork in forks:
            fork.truncate(20)
    assert counts[~kept].sum() == 0
    # Each count is binomial: five standard deviations, and there are ten of them.
    deviation = np.sqrt(4000 * expected * (1 - expected)) + 1
    assert (np.abs(counts - 4000 * expected) < 5 * deviation).all()


def test_a_mask_allows_only_its_tokens(engine):
    mask = np.zeros(10, np.uint32)
    mask[17 // 32] |= 1 << (17 % 32)
    a = engine.sequence()
    assert engine.sample([(a, [3, 4], Sampling(temperature=1.0, seed=1), mask)]) == [17]
    with pytest.raises(DcaError, match="no token may be chosen"):
        engine.sample([(a, [5], Sampling(), np.zeros(10, np.uint32))])
    with pytest.raises(DcaError, match="10 words"):
        engine.sample([(a, [5], Sampling(), np.zeros(9, np.uint32))])


def test_log_probabilities_are_the_models_own(engine):
    a = engine.sequence()
    b = a.fork()
    logits = engine.eval([(a, [3, 4])])[0].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    [choice] = engine.choose([(b, [3, 4], Sampling(temperature=0, repeat_penalty=2.0))], top_logprobs=3)
    assert choice.logprob == pytest.approx(expected[choice.token], abs=1e-4)
    order = np.argsort(-expected, kind="stable")[:3]
    assert [token for token, _ in choice.top] == order.tolist()
    assert [value for _, value in choice.top] == pytest.approx(expected[order], abs=1e-4)


def test_a_penalty_looks_at_the_sequences_last_tokens(engine):
    a = engine.sequence()
    likeliest = engine.sample([(a.fork(), [3, 4], Sampling(temperature=0))])[0]
    forbid = Sampling(temperature=0, repeat_penalty=1e9)
    seen = engine.sequence()
    engine.eval([(seen, [likeliest])], logits=False)
    with_history = engine.sample([(seen, [3, 4], forbid)])[0]
    assert with_history != likeliest


def test_a_saved_sequence_goes_on_with_the_same_bits(model, engine, tmp_path):
    a = engine.sequence()
    engine.eval([(a, tokens(1, 333))], logits=False)
    a.save(tmp_path / "a.kv")
    expected = engine.eval([(a, [1, 2])])[0]
    with model.engine(tokens=1024, cache_type="f32", scheme=SCHEME) as other:
        b = other.load(tmp_path / "a.kv")
        assert b.ids.tolist() == tokens(1, 333)
        assert np.array_equal(other.eval([(b, [1, 2])])[0], expected)
    with model.session(context=400, cache_type="f32", scheme=SCHEME) as session:
        session.load(tmp_path / "a.kv")
        assert np.array_equal(session.eval([1, 2]), expected)
        session.save(tmp_path / "b.kv")
    assert engine.load(tmp_path / "b.kv").length == 335


def test_nothing_of_other_sequences_is_in_a_file(engine, tmp_path):
    """The tail of the last page may hold what another user wrote there."""
    secret = engine.sequence()
    engine.eval([(secret, tokens(9, 128))], logits=False)
    secret.close()
    a = engine.sequence()
    engine.eval([(a, tokens(1, 3))], logits=False)
    a.save(tmp_path / "reused.kv")
    saved = (tmp_path / "reused.kv").read_bytes()
    assert saved.count(0) > 0.9 * len(saved)  # 3 tokens of a page of 128


@pytest.mark.parametrize("where", [0, 3, 8, 40, 200, 400, 900, -1, -9, -5000])
def test_a_damaged_byte_anywhere_is_noticed(engine, tmp_path, where):
    a = engine.sequence()
    engine.eval([(a, tokens(1, 130))], logits=False)
    path = tmp_path / "a.kv"
    a.save(path)
    damaged = bytearray(path.read_bytes())
    damaged[where] ^= 0x40
    path.write_bytes(damaged)
    used = engine.info.tokens_used
    with pytest.raises(DcaError, match="a.kv"):
        engine.load(path)
    assert engine.info.tokens_used == used


@pytest.mark.parametrize(
    "options", [{"cache_type": "f16"}, {"scheme": (40, 23, 64)}, {"rope": "linear:2"}, {"attention": "plain"}]
)
def test_another_setup_is_refused_by_name(model, engine, tmp_path, options):
    a = engine.sequence()
    engine.eval([(a, tokens(1, 30))], logits=False)
    a.save(tmp_path / "a.kv")
    with model.engine(**({"tokens": 256, "cache_type": "f32", "scheme": SCHEME} | options)) as other:
        with pytest.raises(DcaError, match="another setup") as error:
            other.load(tmp_path / "a.kv")
    assert error.value.status == Status.FORMAT


def test_another_models_sequence_is_refused(tiny_gguf, engine, tmp_path):
    a = engine.sequence()
    engine.eval([(a, tokens(1, 30))], logits=False)
    a.save(tmp_path / "a.kv")
    with (
        Model(tiny_gguf(seed=5)) as other,
        other.engine(tokens=256, cache_type="f32", scheme=SCHEME) as elsewhere,
    ):
        with pytest.raises(DcaError, match="expected model"):
            elsewhere.load(tmp_path / "a.kv")


@pytest.mark.parametrize("cut", [1, 9, 4000])
def test_a_file_cut_short_or_longer_is_refused(engine, tmp_path, cut):
    a = engine.sequence()
    engine.eval([(a, tokens(1, 30))], logits=False)
    path = tmp_path / "a.kv"
    a.save(path)
    whole = path.read_bytes()
    for content in (whole[:-cut], whole + b"\0" * cut, whole[:cut]):
        path.write_bytes(content)
        with pytest.raises(DcaError):
            engine.load(path)


def test_what_is_closed_says_so(model):
    engine = model.engine(tokens=256)
    a = engine.sequence()
    a.close()
    a.close()
    with pytest.raises(DcaError, match="sequence is closed"):
        a.truncate(0)
    engine.close()
    with pytest.raises(DcaError, match="engine is closed"):
        engine.sequence()
    with model.engine(tokens=256) as one, model.engine(tokens=256) as other:
        with pytest.raises(DcaError, match="another engine"):
            one.eval([(other.sequence(), [1])])


def test_closing_the_model_closes_engines(tiny_gguf):
    model = Model(tiny_gguf())
    engine = model.engine(tokens=256)
    sequence = engine.sequence()
    model.close()
    with pytest.raises(DcaError, match="closed"):
        engine.eval([(sequence, [1])])


def test_small_steps_give_what_large_ones_do(model):
    ids = tokens(3, 90)
    with model.engine(tokens=1024, cache_type="f32", scheme=SCHEME, max_rows=7) as engine:
        assert engine.info.max_rows == 7
        a, b = engine.sequence(), engine.sequence()
        logits = engine.eval([(a, ids), (b, ids[:20])])
    assert np.abs(logits[0] - alone(model, ids)).max() < CLOSE
    assert np.abs(logits[1] - alone(model, ids[:20])).max() < CLOSE


def test_items_that_share_a_sampling_choose_each_for_itself(engine):
    """One object of settings: without a seed every item draws its own."""
    warm, greedy = Sampling(temperature=5.0, min_p=0), Sampling(temperature=0)
    drawn = engine.sample([(engine.sequence(), [3], warm) for _ in range(12)])
    assert len(set(drawn)) > 1
    prompts = [tokens(n, 20) for n in range(6)]
    logits = engine.eval([(engine.sequence(), ids) for ids in prompts])
    chosen = engine.sample([(engine.sequence(), ids, greedy) for ids in prompts])
    assert chosen == [int(np.argmax(row)) for row in logits]
