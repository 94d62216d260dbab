"""A chat: turns of messages over one session, of which each reply evaluates only what is new."""

from collections.abc import Generator, Iterator

from dca_runtime.generate import Generation
from dca_runtime.model import Model
from dca_runtime.prompt_cache import PromptCache
from dca_runtime.sampling import Sampling
from dca_runtime.session import Session


class Conversation:
    """Messages so far, in the file's chat template."""

    def __init__(self, model: Model, session: Session, system: str | None = None) -> None:
        """``system`` is the first message, if there is to be one.

        session: one of ``model``, empty, and used for nothing else.
        """
        self.model = model
        self.messages = [{"role": "system", "content": system}] if system else []
        self._cache = PromptCache(session)

    def reply(self, message: str, max_tokens: int, sampling: Sampling) -> "Reply":
        """The model's answer to a user's ``message``; iterate over it for pieces of text."""
        return Reply(self, message, max_tokens, sampling)


class Reply(Iterator[str]):
    """One answer, as it is generated. What has been given when it stops becomes part of the conversation."""

    def __init__(self, conversation: Conversation, message: str, max_tokens: int, sampling: Sampling) -> None:
        session = conversation._cache.session
        model = conversation.model
        question = {"role": "user", "content": message}
        prompt = model.apply_chat_template([*conversation.messages, question])
        ids = model.tokenize(prompt, add_special=False)
        rest = conversation._cache.rest(ids)
        self.generation = Generation(session, model.tokenizer, rest, max_tokens, sampling)
        self._pieces = self._run(conversation, question, ids)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends the answer here."""
        self._pieces.close()

    def _run(self, conversation: Conversation, question: dict[str, str], ids: list[int]) -> Generator[str]:
        answer = ""
        try:
            for piece in self.generation:
                answer += piece
                yield piece
        finally:
            # Also after Ctrl-C and where the context is full: what was said was said.
            conversation._cache.record([*ids, *self.generation.ids])
            if answer:
                conversation.messages += [question, {"role": "assistant", "content": answer}]
