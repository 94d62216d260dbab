"""Guessing ahead: what is found in the text, how much is guessed, and that the text stays what it was."""

import collections
import itertools
import pydoc_data.topics
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dca_runtime as dca
from dca_runtime.generation.speculation import (
    LONGEST_MATCH,
    MOST_GUESSES,
    Lookup,
    Pace,
    Speculator,
    beyond_one_row,
)


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16), threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf):
    with dca.Model(smollm2_gguf) as model:
        yield model


class Always:
    """A pace that guesses as much as it may, however bad the guesses are."""

    def __init__(self, device):
        pass

    def poor(self, known):
        return False

    def guesses(self, matched, most):
        return most

    def saw(self, matched, guessed, right):
        pass

    def took(self, guessed, seconds):
        pass


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr("dca_runtime.generation.speculation.Pace", Always)


# What is found.


def longest_end(text):
    """Oracle: (length, place) by trying every length and place."""
    best = (0, 0)
    for place in range(1, len(text)):
        length = 0
        while length < min(place, LONGEST_MATCH) and text[place - 1 - length] == text[-1 - length]:
            length += 1
        if length >= 2 and length >= best[0]:
            best = (length, place)
    return best


def test_the_longest_end_that_occurred_before_is_found_the_last_time_it_did():
    draw = random.Random(1)
    for alphabet in (1, 2, 3, 30):
        text, lookup = [], Lookup()
        for _ in range(200):
            more = [draw.randrange(alphabet) for _ in range(draw.randint(1, 3))]
            text += more
            lookup.see(more)
            assert lookup.match() == longest_end(text)


def test_guesses_are_what_followed_and_go_on_with_themselves():
    lookup = Lookup()
    lookup.see([1, 2, 3, 4, 1, 2])
    assert lookup.match() == (2, 2)
    assert lookup.guesses(2, 3) == [3, 4, 1]
    assert lookup.guesses(2, 10) == [3, 4, 1, 2, 3, 4, 1, 2, 3, 4]


# How much is guessed.


def settled(pace, chance, extra, steps=400):
    """Guesses of a pace after many steps in which each is right with that chance and costs that much."""
    draw = random.Random(2)
    pace.took(0, 1.0)
    for _ in range(steps):
        guessed = pace.guesses(20, MOST_GUESSES)
        right = next((i for i in range(guessed) if draw.random() >= chance), guessed)
        pace.saw(20, guessed, right)
        pace.took(guessed, 1.0 + extra * guessed)
    return pace.guesses(20, MOST_GUESSES)


def test_right_guesses_make_it_guess_as_much_as_it_may():
    assert settled(Pace(), 1.0, 0.15) == MOST_GUESSES


def test_wrong_guesses_make_it_stop():
    counts = [settled(Pace(), 0.0, 0.15, steps) for steps in range(100, 160)]
    assert counts.count(0) > 50  # it tries again now and then


def test_rows_that_cost_a_step_each_are_worth_no_guess():
    assert settled(Pace(), 0.9, 1.0) == 0


def test_what_is_worth_more_is_guessed_more():
    assert settled(Pace(), 0.95, 0.15) > settled(Pace(), 0.5, 0.15)


def test_short_matches_that_are_wrong_leave_long_ones_as_they_were():
    pace = Pace()
    for _ in range(50):
        pace.saw(2, 1, 0)
    assert pace.guesses(2, MOST_GUESSES) == 0
    assert pace.guesses(20, MOST_GUESSES) == Pace().guesses(20, MOST_GUESSES) > 0


def test_bad_guesses_cost_few_steps():
    """Where no guess is ever right, and each adds 0.3 of a step: under 2 % of 1,000 steps."""
    pace, cost = Pace(), 0.0
    pace.took(0, 1.0)
    for _ in range(1000):
        guessed = pace.guesses(3, MOST_GUESSES)
        pace.saw(3, guessed, 0)
        pace.took(guessed, 1.0 + 0.3 * guessed)
        cost += 0.3 * guessed
    assert cost < 20


@given(
    st.sampled_from(
        [("cpu", lambda guessed: 0.15 * guessed), ("cuda:0", lambda guessed: 0.65 + 0.05 * guessed)]
    ),
    st.lists(st.tuples(st.integers(2, 40), st.integers(0, MOST_GUESSES), st.booleans()), max_size=400),
)
def test_guessing_costs_a_step_and_two_per_cent_at_most(device, text):
    """Whatever the text: each place has so many tokens that occurred before it, and so many right guesses."""
    (name, beyond), lost = device, 0.0
    pace = Pace(name)
    for number, (matched, right, ends) in enumerate(text):
        guessed = pace.guesses(matched, 1 if ends else MOST_GUESSES)
        cost, right = beyond(guessed) if guessed else 0.0, min(right, guessed)
        pace.took(guessed, 1.0 + cost)
        pace.saw(matched, guessed, right)
        lost += cost - right
        assert lost <= 1.0 + 0.02 * (number + 1) + 1e-6


@pytest.mark.parametrize(
    ("device", "capital", "income"), [("cpu", 0.15, 0.02), ("cuda:0 (NVIDIA H100)", 0.0, 0.015)]
)
def test_a_short_answer_loses_to_short_matches_what_it_earned_before(device, capital, income):
    """So that no answer of 33 tokens is slowed by 3 %: the account starts with next to nothing."""
    beyond = {"cpu": lambda n: 0.15 * n}.get(device, lambda n: 0.65 + 0.05 * n)
    for matched in range(2, 16):
        pace, lost = Pace(device), 0.0
        for number in range(1, 400):
            guessed = pace.guesses(matched, MOST_GUESSES)
            pace.took(guessed, 1.0 + (beyond(guessed) if guessed else 0.0))
            pace.saw(matched, guessed, 0)
            lost += beyond(guessed) if guessed else 0.0
            assert lost <= capital + income * number + 1e-6


def test_small_models_in_16_bits_make_fewer_guesses_on_a_card():
    """There several rows take 3.5 times as long as one: a guess that a short match suggests is too dear."""
    small = beyond_one_row("cuda:0 (NVIDIA H100)", 30, 269_000_000, 134_500_000)
    large = beyond_one_row("cuda:0 (NVIDIA H100)", 32, 15_000_000_000, 7_500_000_000)
    assert small is not None and 2.3 < small[0] < 2.7
    assert large is not None and 0.2 < large[0] < 0.35
    assert beyond_one_row("cuda:0", 30, 84_000_000, 134_500_000) is None
    assert beyond_one_row("cpu", 30, 269_000_000, 134_500_000) is None
    pace = Pace("cuda:0 (NVIDIA H100)")
    pace.expect(*small)
    assert pace.guesses(15, MOST_GUESSES) == 0 < pace.guesses(16, MOST_GUESSES)


def test_the_first_look_excludes_no_guess():
    draw = random.Random(3)
    for device in ("cpu", "cuda:0"):
        speculator = Speculator(device)
        for _ in range(3000):
            speculator.see([draw.randrange(6)])
            first_look, found = speculator.may_guess(), speculator.guess(MOST_GUESSES)
            assert first_look or not found
            speculator.took(1.0)
            speculator.saw(0, min(len(found), 1))


def test_a_text_that_has_repeated_so_much_is_quoting_and_gets_credit_at_once():
    for device in ("cpu", "cuda:0"):
        assert Pace(device).guesses(16, MOST_GUESSES) >= 6


def test_a_card_guesses_only_what_pays_for_a_step_of_several_rows():
    """There two rows cost almost as much as eight: a likely guess or two are not worth it, eight are."""
    assert Pace("cuda:0 (NVIDIA H100)").guesses(2, MOST_GUESSES) == 0
    assert Pace("cuda:0 (NVIDIA H100)").guesses(20, 1) == 1
    assert Pace("cuda:0 (NVIDIA H100)").guesses(20, MOST_GUESSES) == MOST_GUESSES


@pytest.mark.parametrize(
    ("device", "beyond"), [("cpu", lambda guessed: 0.13 * guessed), ("cuda:0", lambda guessed: 0.66)]
)
def test_texts_that_quote_nothing_lose_less_than_three_per_cent(smollm2, device, beyond):
    """Documentation goes on after 225 tokens for 80 more; steps take what they were measured to take."""
    text = "\n".join(pydoc_data.topics.topics.values())[:200_000]
    ids, worst = smollm2.tokenize(text), 1.0
    for start in range(0, len(ids) - 305, 600):
        speculator, after = Speculator(device), ids[start + 225 : start + 305]
        speculator.see(ids[start : start + 225])
        at, seconds = 0, 0.0
        while at < len(after):
            speculator.see([after[at]])
            at += 1
            guesses = speculator.guess(len(after) - at)
            pairs = zip(guesses, after[at:], strict=False)
            right = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            step = 1.0 + (beyond(len(guesses)) if guesses else 0.0)
            seconds += step
            speculator.took(step)
            speculator.saw(right, min(right + 1, len(guesses)))
            speculator.see(after[at : at + right])
            at += right
        worst = min(worst, len(after) / seconds)
    assert worst > 0.97


def test_on_a_card_the_clock_changes_nothing_unless_steps_of_several_rows_are_far_too_slow():
    """So that texts come out the same every time, whatever else the machine does."""
    counts = []
    for slowness in (0.3, 1.0, 1.4):
        pace = Pace("cuda:0 (NVIDIA H100)")
        pace.took(0, 1.0)
        made = []
        for step in range(200):
            guessed = pace.guesses(5, MOST_GUESSES)
            made.append(guessed)
            pace.saw(5, guessed, min(guessed, step % 6))
            pace.took(guessed, 1.0 + slowness * (0.65 + 0.05 * guessed))
        counts.append(made)
    assert counts[0] == counts[1] == counts[2] and max(counts[0]) > 0
    for _ in range(100):
        pace.took(MOST_GUESSES, 6.0)
    assert pace.guesses(5, MOST_GUESSES) == 0


def test_bad_guesses_cost_few_steps_on_a_card():
    pace, cost = Pace("cuda:0"), 0.0
    pace.took(0, 1.0)
    for _ in range(1000):
        guessed = pace.guesses(3, MOST_GUESSES)
        pace.saw(3, guessed, 0)
        pace.took(guessed, 1.7 if guessed else 1.0)
        cost += 0.7 if guessed else 0.0
    assert cost < 10


# Steps of a few rows.


@pytest.mark.parametrize("cache_type", ["f16", "f32", "bf16", "q8"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"])
def test_a_step_of_a_few_rows_gives_the_bits_of_steps_of_one(tiny_gguf, dtype, cache_type):
    """Logits and, by what follows, keys and values; over chunks' borders, and keys cut in pieces."""
    ids = np.random.default_rng(3).integers(0, 320, 700)
    path = tiny_gguf(dtype=dtype, head_dim=32, width=128, ff=192, scheme=(150, 40, 200), context_length=200)
    with dca.Model(path, threads=1) as model, model.session(1024, cache_type=cache_type) as one:
        with model.session(1024, cache_type=cache_type) as few:
            for session in (one, few):
                session.append(ids[:40])
            at, sizes = 40, itertools.cycle([8, 1, 2, 3, 7, 4, 5, 6, 8, 8])
            while at + 8 <= len(ids):
                size = next(sizes)
                single = [one.eval([id_]) for id_ in ids[at : at + size]]
                assert np.array_equal(few.eval(ids[at : at + size], all_logits=True), single), (at, size)
                at += size


def test_experts_and_biases_get_the_same_bits_too(variant_gguf):
    ids = np.random.default_rng(4).integers(0, 64, 60)
    for fields in (
        {"experts": 8},
        {"architecture": "qwen2", "bias": True},
        {"architecture": "qwen3", "head_norm": True},
    ):
        with (
            dca.Model(variant_gguf(**fields), threads=1) as model,
            model.session() as one,
            model.session() as few,
        ):
            for at in range(0, 56, 7):
                single = [one.eval([id_]) for id_ in ids[at : at + 7]]
                assert np.array_equal(few.eval(ids[at : at + 7], all_logits=True), single)


def test_real_weights_get_the_same_bits(smollm2):
    ids = smollm2.tokenize("It is a truth universally acknowledged, that a single man in possession. " * 40)
    with smollm2.session(1024) as one, smollm2.session(1024) as few:
        for session in (one, few):
            session.append(ids[:500])
        for at in range(500, 540, 8):
            single = [one.eval([id_]) for id_ in ids[at : at + 8]]
            assert np.array_equal(few.eval(ids[at : at + 8], all_logits=True), single)


# The text.


def both(model, prompt, **options):
    """Generations without and with guesses, to their ends."""
    made = [model.generate(prompt, speculate=speculate, **options) for speculate in ("off", "lookup")]
    for generation in made:
        list(generation)
    return made


def same(plain, guessing):
    keys = ("ids", "text", "finish_reason", "ended", "stop_text", "logprobs", "prompt_tokens")
    for key in (*keys, "decoded_tokens"):
        assert getattr(guessing, key) == getattr(plain, key), key
    assert np.array_equal(guessing.session.ids, plain.session.ids)


REPEATING = [5, 6, 7, 8, 9, 10] * 4


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 1.3, "min_p": 0.0, "seed": 7},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 8},
        {"repeat_penalty": 1.4, "presence_penalty": 0.3, "frequency_penalty": 0.2, "seed": 9},
        {"temperature": 0.0, "repeat_penalty": 1.2, "logit_bias": {7: 2.0}},
        {"temperature": 0.0, "logprobs": 3},
        {"temperature": 1.0, "logprobs": 0, "seed": 10},
        {"temperature": 0.0, "stop": ["the", "q"]},
    ],
    ids=str,
)  # fmt: skip
def test_the_text_is_the_same(model, always, options):
    for limit in (1, 2, 9, 60):
        plain, guessing = both(model, REPEATING, max_tokens=limit, **options)
        same(plain, guessing)


def test_guesses_are_right_where_the_text_repeats(model):
    """A processor makes the model quote its prompt; most tokens then come from guesses."""
    text = [9, 30, 12, 80, 44, 21, 17, 60, 90, 33] * 3

    def quote(history, logits):
        logits[text[len(history) % 10]] += 1000.0

    plain, guessing = both(model, text, max_tokens=60, temperature=0.0, processors=[quote])
    same(plain, guessing)
    assert plain.guesses is None
    assert guessing.guesses.right > 40 and guessing.guesses.right <= guessing.guesses.guessed
    assert guessing.guesses.steps < 20


def test_a_processor_meets_the_same_histories(model, always):
    seen = []

    def watch(history, logits):
        seen.append((tuple(history), logits.tobytes()))

    plain, guessing = both(model, REPEATING, max_tokens=40, temperature=0.0, processors=[watch])
    same(plain, guessing)
    assert seen[:40] == seen[40:]


def test_between_pieces_the_session_holds_no_guess(model, always):
    with model.session() as session:
        generation = model.generate(REPEATING, 40, session, temperature=0.0, speculate="lookup")
        for _ in generation:
            assert session.ids.tolist() == REPEATING + generation.ids[:-1]


def test_a_failing_processor_leaves_the_session_at_what_was_chosen(model, always):
    """The next piece is asked for again, and the text goes on."""
    calls = itertools.count()

    def fail(history, logits):
        if next(calls) % 5 == 4:
            raise RuntimeError("not now")

    with model.session() as session:
        generation = model.generate(
            REPEATING, 30, session, temperature=0.0, processors=[fail], speculate="lookup"
        )
        for _ in range(200):
            try:
                next(generation)
            except StopIteration:
                break
            except RuntimeError:
                assert session.ids.tolist() == REPEATING + generation.ids
    plain = model.generate(REPEATING, 30, temperature=0.0, speculate="off")
    assert "".join(plain) == generation.text and plain.ids == generation.ids


@pytest.mark.parametrize("context", [25, 26, 30, 33])
def test_a_full_context_ends_it_at_the_same_token(model, always, context):
    made = []
    for speculate in ("off", "lookup"):
        with model.session(context) as session:
            generation = model.generate(REPEATING, -1, session, temperature=0.0, speculate=speculate)
            list(generation)
            made.append((generation.ids, generation.finish_reason, session.length))
    assert made[0] == made[1]


def test_it_can_be_cancelled(model, always):
    generation = model.generate(REPEATING, 1000, temperature=0.0, speculate="lookup")
    next(generation)
    generation.cancel()
    list(generation)
    assert generation.finish_reason == "cancelled"
    assert generation.session.ids.tolist() == REPEATING + generation.ids[:-1]


def test_sampled_texts_have_the_distribution_of_the_model(model, always):
    """3,000 texts of four tokens out of three: expected frequencies from logits alone."""
    few = (5, 6, 7)
    prompt = [5, 6, 7, 5, 5, 6, 6, 7, 7, 5, 7, 6, 5]  # every pair occurs, so that there is always a guess
    draws, texts = 3000, list(itertools.product(few, repeat=4))
    expected = dict.fromkeys(texts, 1.0)
    with model.session(64) as session:
        for text in texts:
            for at in range(4):
                session.truncate(0)
                logits = session.eval([*prompt, *text[:at]])[list(few)].astype(np.float64)
                weights = np.exp(logits - logits.max())
                expected[text] *= weights[few.index(text[at])] / weights.sum()
        counts, guessed, right = collections.Counter(), 0, 0
        for seed in range(draws):
            session.truncate(min(session.length, len(prompt) - 1))
            generation = model.generate(
                prompt[session.length :],
                4,
                session,
                temperature=1.0,
                min_p=0.0,
                logit_bias=dict.fromkeys(few, 1000.0),
                seed=seed,
                speculate="lookup",
            )
            list(generation)
            counts[tuple(generation.ids)] += 1
            guessed += generation.guesses.guessed
            right += generation.guesses.right
    assert draws < guessed and 0 < right < guessed
    square = sum((counts[text] - draws * p) ** 2 / (draws * p) for text, p in expected.items())
    # The chi-square distribution's mean is its degrees of freedom n, its deviation sqrt(2n).
    freedom = len(texts) - 1
    assert square < freedom + 4 * np.sqrt(2 * freedom)


def test_guessing_is_on_unless_it_is_turned_off(model):
    assert model.generate([5]).guesses is not None
    assert model.generate([5], speculate="off").guesses is None
    with pytest.raises(dca.DcaError, match="speculate must be one of auto, off, lookup, got 'draft'"):
        model.generate([5], speculate="draft")


def test_a_speculator_guesses_no_more_than_it_may():
    speculator = Speculator()
    speculator.see(REPEATING)
    assert speculator.guess(0) == [] and speculator.guess(-1) == []
    assert len(speculator.guess(3)) == 3 and 3 < len(speculator.guess(100)) <= MOST_GUESSES


def test_fifty_prompts_give_the_same_text(smollm2):
    """Greedy, real weights: questions about texts, of which some answers quote."""
    topics = ("rain", "bread", "ships", "clocks", "owls", "iron", "maps", "tea", "bees", "salt")
    asks = (
        "Write one sentence about {0}.",
        "Repeat exactly: the {0} of the north is not the {0} of the south.",
        "List three facts about {0}, numbered.",
        "Say {0} five times.",
        "Write a Python function named {0} that returns its argument.",
    )
    same_texts = 0
    for topic, ask in itertools.product(topics, asks):
        prompt = smollm2.apply_chat_template([{"role": "user", "content": ask.format(topic)}])
        plain, guessing = both(smollm2, prompt, max_tokens=16, temperature=0.0)
        same_texts += plain.ids == guessing.ids
    assert same_texts == 50
