"""A chat: turns of messages over one session, of which each reply evaluates only what is new."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dca_runtime.errors import DcaError, Status
from dca_runtime.generate import Generation
from dca_runtime.generation.prompt_cache import PromptCache
from dca_runtime.model import Model
from dca_runtime.sampling import Sampling
from dca_runtime.session import Session
from dca_runtime.text.tokenizer import Tokenizer

# Of the context, the share that is kept free for an answer: older turns are dropped for it. A longer answer
# takes what is left.
_ANSWER_SHARE = 4


@dataclass(frozen=True)
class Document:
    """A text that questions are about. To the tokenizer it is text, whatever it contains."""

    name: str
    text: str

    def tokens(self, tokenizer: Tokenizer) -> int:
        """How many tokens the text has."""
        return len(tokenizer.encode(self.text, add_special=False, parse_special=False))


@dataclass(frozen=True)
class Turn:
    """A question, the documents given with it, and the answer as far as it has been given."""

    question: str
    documents: tuple[Document, ...] = ()
    answer: str = ""


class Conversation:
    """Messages so far, in the file's chat template.

    When the context is full the oldest turns are dropped, never the system message nor a document.
    """

    def __init__(
        self, model: Model, session: Session, system: str | None = None, documents: Sequence[Document] = ()
    ) -> None:
        """``system`` is the first message, if there is to be one; an empty one is one.

        session: one of ``model``, used for nothing else while a reply is generated.
        documents: what the first question, and all others, are about.
        """
        self.model = model
        self.session = session
        self.system = system
        self.turns: list[Turn] = []
        self._opening = tuple(documents)
        self._documents = list(documents)  # that no question has been asked with yet
        self._asked = 0  # replies so far: an older one must not go on

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages that the template has been given for all that was said."""
        return _messages(self.system, self.turns)

    def add_document(self, document: Document) -> None:
        """Puts a document before the next question."""
        self._documents.append(document)

    def forget(self) -> int:
        """Starts over, with the documents it was made with; how many tokens the next prompt shares at least
        with those before: up to where a question would begin."""
        self.turns = []
        self._documents = list(self._opening)
        self._asked += 1
        one, other = (self._ids([Turn(question, self._opening)]) for question in ("a", "b"))
        return next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), 0)

    def reply(self, message: str, max_tokens: int | None, sampling: Sampling, **options: Any) -> "Reply":
        """The model's answer to a user's ``message``; iterate over it for pieces of text.

        options: of Generation (stop, skip_special, processors, logprobs).

        Raises DcaError (Status.CONTEXT): the message does not fit, even with no turn before it.
        """
        turns = [*self.turns, Turn(message, tuple(self._documents))]
        context = self.session.info.context
        unlimited = max_tokens is None or max_tokens == -1
        free = context // _ANSWER_SHARE if unlimited else min(max_tokens or 0, context // _ANSWER_SHARE)
        ids = self._ids(turns)
        while len(turns) > 1 and len(ids) + free > context:
            turns = _without_oldest(turns)
            ids = self._ids(turns)
        if len(ids) > context:
            raise DcaError(
                f"the question takes {len(ids)} tokens with what must come before it, and the context has "
                f"{context}; give it a larger one",
                Status.CONTEXT,
            )
        self.model.warn_if_untrained(self.session, len(ids))
        rest = PromptCache(self.session).rest(ids)
        # The end of the context ends the answer; the next question makes room.
        room = None if unlimited or len(ids) + (max_tokens or 0) > context else max_tokens
        generation = Generation(self.session, self.model.tokenizer, rest, room, sampling, **options)
        self._asked += 1
        return Reply(self, turns, generation, self._asked)

    def _ids(self, turns: list[Turn]) -> list[int]:
        prompt = self.model.apply_chat_template(_messages(self.system, turns))
        return self.model.tokenize(prompt, add_special=False)


class Reply(Iterator[str]):
    """One answer, as it is generated. Each piece, once given, is part of the conversation."""

    def __init__(
        self, conversation: Conversation, turns: list[Turn], generation: Generation, number: int
    ) -> None:
        """``turns`` are to be the conversation's, from the first piece on; the last is the question."""
        self.generation = generation
        self.dropped = len(conversation.turns) + 1 - len(turns)  # turns that no longer fit
        self._conversation = conversation
        self._turns = turns
        self._number = number

    def __next__(self) -> str:
        if self._conversation._asked != self._number:
            raise DcaError("this answer is over: another question has been asked since")
        piece = next(self.generation)
        question = self._turns[-1]
        self._turns = [*self._turns[:-1], dataclasses.replace(question, answer=question.answer + piece)]
        self._conversation.turns = self._turns
        waiting = self._conversation._documents
        self._conversation._documents = [one for one in waiting if one not in question.documents]
        return piece

    def cancel(self) -> None:
        """Ends the answer, from any thread."""
        self.generation.cancel()

    def close(self) -> None:
        """Ends the answer here."""
        self.generation.close()


def opening(system: str | None, documents: Sequence[Document], question: str) -> list[dict[str, str]]:
    """The messages of a conversation at its first question."""
    return _messages(system, [Turn(question, tuple(documents))])


def _without_oldest(turns: list[Turn]) -> list[Turn]:
    """The turns without the first; its documents go to the second."""
    oldest, second, *others = turns
    return [dataclasses.replace(second, documents=oldest.documents + second.documents), *others]


def _messages(system: str | None, turns: Sequence[Turn]) -> list[dict[str, str]]:
    """The messages of the turns, the last without an answer if it has none yet."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for turn in turns:
        documents = "".join(f"{document.name}:\n\n{document.text}\n\n" for document in turn.documents)
        messages.append({"role": "user", "content": documents + turn.question})
        if turn.answer:
            messages.append({"role": "assistant", "content": turn.answer})
    return messages
