"""Generation: what is evaluated, when it ends, what comes out as text."""

import gc
import threading
import warnings

import numpy as np
import pytest

import dca_runtime as dca


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16)) as model:
        yield model


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf):
    with dca.Model(smollm2_gguf) as model:
        yield model


def greedy(model, ids, count):
    """Oracle: evaluates the whole sequence anew for each token."""
    ids = list(ids)
    for _ in range(count):
        with model.session(context=len(ids), cache_type="f32") as session:
            ids.append(int(np.argmax(session.eval(ids))))
    return ids


def test_greedy_ids(model):
    prompt = model.tokenize("the in a the")
    wanted = greedy(model, prompt, 30)[len(prompt) :]
    end = next((index for index, id_ in enumerate(wanted) if id_ in model.tokenizer.end_ids), len(wanted) - 1)
    with model.session(cache_type="f32") as session:
        generation = model.generate(prompt, max_tokens=30, temperature=0.0, session=session)
        text = "".join(generation)
    assert generation.ids == wanted[: end + 1]
    assert text == model.detokenize(generation.ids, skip_special=True)


def test_the_last_token_is_not_evaluated(model):
    with model.session() as session:
        generation = model.generate([5, 6, 7], max_tokens=4, seed=1, session=session)
        list(generation)
        assert len(generation.ids) == 4
        assert session.length == 3 + 3
        assert generation.prompt_tokens == 3 and generation.decoded_tokens == 3
        assert generation.prompt_seconds > 0 and generation.decode_seconds > 0


def test_nothing_runs_before_it_is_asked_for(model):
    with model.session() as session:
        generation = model.generate([5, 6, 7], session=session)
        assert session.length == 0
        next(generation)
        assert session.length >= 3


def test_no_tokens_wanted_none_given(model):
    generation = model.generate([5], max_tokens=0)
    assert list(generation) == [] and generation.session.length == 0


def test_a_session_continues(model):
    with model.session(cache_type="f32") as whole, model.session(cache_type="f32") as parts:
        one = model.generate([5, 6, 7, 8], max_tokens=8, temperature=0.0, session=whole)
        list(one)
        parts.append([5, 6])
        two = model.generate([7, 8], max_tokens=8, temperature=0.0, session=parts)
        list(two)
    assert one.ids == two.ids


def test_seed_repeats(model):
    def text(seed):
        return "".join(model.generate("the", max_tokens=20, temperature=1.5, min_p=0.0, seed=seed))

    assert text(3) == text(3) != text(4)


def test_a_full_context_is_said(model):
    with model.session(context=6) as session:
        generation = model.generate([5, 6, 7], max_tokens=10, temperature=0.0, session=session)
        with pytest.raises(dca.DcaError, match="context of 6 tokens is full after 4") as caught:
            list(generation)
    assert caught.value.status == dca.Status.CONTEXT
    assert len(generation.ids) == 4


def test_a_prompt_that_does_not_fit_is_said(model):
    with model.session(context=6) as session, pytest.raises(dca.DcaError) as caught:
        list(model.generate([5] * 7, session=session))
    assert caught.value.status == dca.Status.CONTEXT


def test_wrong_sampling_is_said_at_once(model):
    with pytest.raises(dca.DcaError, match="top_p"):
        model.generate("the", top_p=2.0)


def test_a_file_without_a_tokenizer_generates_no_text(tiny_gguf):
    with dca.Model(tiny_gguf()) as model, pytest.raises(dca.DcaError, match="no tokenizer"):
        model.generate([1, 2])


def test_real_model_answers_and_ends_its_turn(smollm2):
    prompt = smollm2.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}])
    ids = smollm2.tokenize(prompt, add_special=False)
    generation = smollm2.generate(ids, max_tokens=40, temperature=0.0)
    text = "".join(generation)
    assert "Paris" in text and "<|im_end|>" not in text
    assert generation.ended and generation.ids[-1] == 2


def test_chat_template_knows_the_special_tokens(model):
    prompt = model.apply_chat_template([{"role": "user", "content": "the"}])
    assert prompt == "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"
    assert model.tokenizer.special_texts == {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}


def test_no_chat_template_is_said(tiny_gguf):
    with dca.Model(tiny_gguf()) as model, pytest.raises(dca.DcaError, match="tokenizer.chat_template"):
        model.apply_chat_template([])


# Where it ends.


def steered(*ids):
    """A processor that makes the generated ids these, whatever the model says."""
    waiting = list(ids)

    def process(history, logits):
        logits[:] = -np.inf
        logits[waiting.pop(0)] = 0.0

    return process


def test_an_unlimited_text_ends_with_the_context(model):
    for limit in (None, -1):
        with model.session(context=20) as session:
            generation = model.generate([5, 6, 7], limit, session, processors=[steered(*[8] * 30)])
            list(generation)
            assert generation.finish_reason == "length" and session.length == 20
            assert len(generation.ids) == 20 - 3 + 1  # the last one is not evaluated


@pytest.mark.parametrize("limit", [-2, 2.5, "3"])
def test_a_wrong_limit_is_said_at_once(model, limit):
    with pytest.raises(dca.DcaError, match="max_tokens must be an integer"):
        model.generate("the", limit)


def test_finish_reasons(model):
    letter = model.tokenize("a")[0]

    def reason(*ids, **options):
        generation = model.generate("the", 3, processors=[steered(*ids)], **options)
        return "".join(generation), generation.finish_reason, generation.ended, generation.stop_text

    assert reason(letter, letter, letter) == ("aaa", "length", False, None)
    assert reason(letter, 2) == ("a", "stop", True, None)
    assert reason(letter, letter, letter, stop="aa") == ("", "stop", False, "aa")
    assert reason(letter, letter, letter, stop=["x", "aaaa"]) == ("aaa", "length", False, None)


def test_control_tokens_are_shown_if_wanted(model):
    texts = [
        "".join(model.generate("the", 3, processors=[steered(1, 5, 2)], skip_special=skip))
        for skip in (True, False)
    ]
    assert "<|im_start|>" not in texts[0] and texts[1].startswith("<|im_start|>")


def test_an_abandoned_generation_frees_its_session_at_once(model):
    gc.collect()
    gc.disable()
    try:
        for piece in model.generate("the", 20, min_p=0.0, temperature=2.0):
            if piece:
                break
        assert [session for session in model._sessions if session.length] == []
    finally:
        gc.enable()


def test_another_thread_can_cancel_the_reading_of_a_prompt(smollm2):
    with smollm2.session(context=8192) as session:
        generation = smollm2.generate([5] * 8000, 10, session)
        threading.Timer(0.3, generation.cancel).start()
        assert list(generation) == []
        assert generation.finish_reason == "cancelled" and session.length == 0
        assert session.eval([5, 6]).shape == (smollm2.info.n_vocab,)  # no later call is cancelled


def test_cancelled_between_pieces_it_gives_no_more(model):
    generation = model.generate("the", 20, temperature=0.0)
    next(generation)
    generation.cancel()
    list(generation)
    assert generation.finish_reason == "cancelled" and len(generation.ids) < 20


# What is chosen from.


def test_processors_see_all_ids_and_change_the_choice(model):
    seen = []

    def watch(ids, logits):
        seen.append(list(ids))
        return np.where(np.arange(len(logits)) == 9, 1.0, -np.inf).astype(np.float32)

    with model.session() as session:
        session.append([5, 6])
        generation = model.generate([7], 2, session, processors=[watch])
        list(generation)
    assert generation.ids == [9, 9] and seen == [[5, 6, 7], [5, 6, 7, 9]]


def test_a_processor_that_returns_something_else_is_told(model):
    with pytest.raises(dca.DcaError, match="processor"):
        list(model.generate("the", 2, processors=[lambda ids, logits: logits[:3]]))


def test_logprobs_are_the_models_own(model):
    prompt = [5, 6, 7]
    generation = model.generate(prompt, 3, temperature=0.0, repeat_penalty=5.0, logprobs=2)
    list(generation)
    with model.session() as session:
        nll = session.score([*prompt, *generation.ids])[len(prompt) - 1 :]
    with model.session() as session:
        first = session.eval(prompt).astype(np.float64)
    assert [each.id for each in generation.logprobs] == generation.ids
    np.testing.assert_allclose([each.logprob for each in generation.logprobs], -nll, atol=1e-4)
    best = np.argsort(-first)[:2]
    assert [id_ for id_, _ in generation.logprobs[0].top] == best.tolist()
    wanted = first[best] - np.log(np.exp(first).sum())
    np.testing.assert_allclose([value for _, value in generation.logprobs[0].top], wanted, atol=1e-5)


def test_penalties_see_what_the_session_held(model):
    """The same text in one piece and in two."""
    options = {"temperature": 0.0, "repeat_penalty": 3.0, "repeat_window": 100}
    whole = model.generate([5, 6, 7, 8], 12, model.session(cache_type="f32"), **options)
    list(whole)
    session = model.session(cache_type="f32")
    session.append([5, 6, 7])
    parts = model.generate([8], 12, session, **options)
    list(parts)
    assert whole.ids == parts.ids


def test_chat_answers_in_one_call(smollm2):
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    with smollm2.session(context=512) as session:
        first = smollm2.chat(messages, 30, session, temperature=0.0)
        assert "Paris" in "".join(first) and first.text.startswith("The capital")
        messages += [
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "And of Italy?"},
        ]
        second = smollm2.chat(messages, 30, session, temperature=0.0)
        assert second.prompt_tokens < first.prompt_tokens  # only what is new
        assert "".join(second) == "".join(smollm2.chat(messages, 30, temperature=0.0))


def test_the_files_recommendations_are_where_generate_starts(model):
    recommended = {
        "general.sampling.temp": 0.25,
        "general.sampling.top_k": -1,
        "general.sampling.penalty_last_n": -1,
        "general.sampling.top_p": 0.5,
    }
    sampling = dca.Sampling.recommended(recommended, top_p=0.75)
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.25, 0, 0.75)
    assert sampling.repeat_window > 10**6 and sampling.min_p == dca.Sampling().min_p
    with pytest.raises(dca.DcaError, match="general.sampling.temp"):
        dca.Sampling.recommended({"general.sampling.temp": float("nan")})
    with pytest.raises(dca.DcaError, match="no sampling option 'temp'"):
        model.generate("the", temp=0.5)


# Lengths the model does not know.


def test_a_prompt_that_is_too_long_for_plain_attention_is_warned_of(model):
    prompt = [5] * 17  # one more than the tiny model's trained length
    with pytest.warns(dca.DcaWarning, match="dca-export") as caught:
        model.generate(prompt, 1, model.session(attention="plain"))
    assert caught[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        model.generate(prompt[:16], 1, model.session(attention="plain"))
        model.generate(prompt, 1, model.session(attention="dca"))
        model.generate(prompt, 1, model.session(attention="plain", rope="ntk:2"))


def test_a_scheme_with_new_distances_is_warned_of(tiny_gguf):
    stretched = tiny_gguf(context_length=16, rope_scaling=("linear", 2.0))
    with dca.Model(tiny_gguf(context_length=16)) as plain, dca.Model(stretched) as scaled:
        with pytest.warns(dca.DcaWarning, match="pretraining_length 18 is above the 16 tokens") as caught:
            plain.session(scheme=(12, 4, 18))
        assert caught[0].filename == __file__
        with warnings.catch_warnings(action="error"):
            plain.session(scheme=(12, 4, 17))
            scaled.session(scheme=(12, 4, 32))
            plain.session(scheme=(12, 4, 32), rope="yarn:2")
