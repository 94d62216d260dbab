"""Generation: evaluates a prompt, then picks, decodes and evaluates one token after another."""

import time
from collections.abc import Iterator

import numpy as np

from dca_runtime.errors import DcaError, Status
from dca_runtime.options import TokenIds
from dca_runtime.sampling import Sampler, Sampling
from dca_runtime.session import Session
from dca_runtime.tokenizer import Tokenizer


class Generation(Iterator[str]):
    """Pieces of generated text, each evaluated when it is asked for.

    Ends at an end-of-text or end-of-turn token or after ``max_tokens``; ``ended`` tells which. Raises
    DcaError (Status.CONTEXT) when the session has no room for the next token.
    """

    def __init__(
        self, session: Session, tokenizer: Tokenizer, prompt: TokenIds, max_tokens: int, sampling: Sampling
    ) -> None:
        """``prompt`` is appended to what the session holds already, when the first piece is asked for."""
        self.session = session
        self.ids: list[int] = []  # generated so far, with the end token if there was one
        self.ended = False  # the model ended its text itself
        self.prompt_tokens = len(prompt)
        self.prompt_seconds = 0.0
        self.decode_seconds = 0.0  # evaluating generated tokens
        self.decoded_tokens = 0  # generated tokens that were evaluated; the last one is not
        self._pieces = self._run(tokenizer, prompt, max_tokens, sampling)

    def __next__(self) -> str:
        return next(self._pieces)

    def _run(
        self, tokenizer: Tokenizer, prompt: TokenIds, max_tokens: int, sampling: Sampling
    ) -> Iterator[str]:
        sampler = Sampler(sampling)
        sampler.see(prompt)
        stream = tokenizer.stream(after=prompt)
        if max_tokens > 0:
            start = time.perf_counter()
            logits = self.session.eval(prompt)
            self.prompt_seconds = time.perf_counter() - start
        while len(self.ids) < max_tokens:
            id_ = sampler.pick(logits)
            self.ids.append(id_)
            if id_ in tokenizer.end_ids:
                self.ended = True
                break
            if piece := stream.push(id_):
                yield piece
            if len(self.ids) < max_tokens:
                logits = self._decode(id_)
        if rest := stream.flush():
            yield rest

    def _decode(self, id_: int) -> np.ndarray:
        start = time.perf_counter()
        try:
            logits = self.session.eval([id_])
        except DcaError as error:
            if error.status == Status.CONTEXT:
                raise DcaError(
                    f"the context of {self.session.info.context} tokens is full after {len(self.ids)} "
                    "generated tokens; give the session a larger context",
                    Status.CONTEXT,
                ) from error
            raise
        self.decode_seconds += time.perf_counter() - start
        self.decoded_tokens += 1
        return logits
