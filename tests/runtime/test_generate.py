"""Generation: what is evaluated, when it ends, what comes out as text."""

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
