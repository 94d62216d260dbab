"""Conversations: each reply continues the whole chat but evaluates only what is new."""

import pytest

import dca_runtime as dca
from dca_runtime.conversation import Conversation

GREEDY = dca.Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with dca.Model(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16)) as model:
        yield model


def whole_prompt_answer(model, messages) -> str:
    """Oracle: the answer to all messages, in a session of its own."""
    ids = model.tokenize(model.apply_chat_template(messages), add_special=False)
    with model.session(cache_type="f32") as session:
        return "".join(model.generate(ids, 12, session, temperature=0.0))


@pytest.mark.parametrize("system", [None, "in the a"])
def test_replies_are_those_of_the_whole_chat(model, system):
    messages = [{"role": "system", "content": system}] if system else []
    with model.session(cache_type="f32") as session:
        conversation = Conversation(model, session, system)
        for question in ["the", "in the", "a the in"]:
            messages.append({"role": "user", "content": question})
            answer = "".join(conversation.reply(question, 12, GREEDY))
            assert answer == whole_prompt_answer(model, messages)
            messages.append({"role": "assistant", "content": answer})
    assert conversation.messages == messages


def test_the_shared_start_is_not_evaluated_again(model):
    with model.session() as session:
        conversation = Conversation(model, session)
        first = conversation.reply("the " * 40, 4, GREEDY)
        list(first)
        second = conversation.reply("the", 4, GREEDY)
        assert first.generation.prompt_tokens > 40 > second.generation.prompt_tokens


def test_an_answer_cut_short_is_kept_as_it_was_given(model):
    with model.session() as session:
        conversation = Conversation(model, session)
        reply = conversation.reply("the", 12, GREEDY)
        given = next(reply) + next(reply)
        reply.close()
        assert [message["content"] for message in conversation.messages] == ["the", given]
        assert "".join(conversation.reply("in", 5, GREEDY))


def test_a_question_that_does_not_fit_is_not_kept(model):
    with model.session(context=60) as session:
        conversation = Conversation(model, session)
        with pytest.raises(dca.DcaError) as caught:
            list(conversation.reply("the " * 80, 5, GREEDY))
        assert caught.value.status == dca.Status.CONTEXT
        assert conversation.messages == []
        assert "".join(conversation.reply("the", 5, GREEDY))
