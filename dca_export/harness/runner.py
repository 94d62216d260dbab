"""Scores and continues many token sequences over one engine; what they share at their starts is read once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dca_export.harness import prefixes
from dca_runtime import Model, Sampling
from dca_runtime.engine import Engine, TokenSequence
from dca_runtime.options import PAGE_TOKENS
from dca_runtime.text.stop import StopTexts

Progress = Callable[[int], Any]
"""Called with how many more requests are done."""

_LIKELIEST = Sampling(temperature=0.0)

# A token with more than half of the probability is the likeliest; a little more, as floats are.
_SURELY_LIKELIEST = -np.log(0.501)


@dataclass(frozen=True)
class Scored:
    """Tokens whose probability is asked for, after a context of at least one token."""

    context: list[int]
    continuation: list[int]
    ask_likeliest: bool = True  # whether every token is the likeliest at its place


@dataclass(frozen=True)
class Continued:
    """A context to go on from, of at least one token."""

    context: list[int]
    tokens: int  # to generate at most
    stop: list[str]  # texts that end it
    sampling: Sampling


class Runner:
    """Runs requests in batches on one engine at a time, as large as the longest batch needs."""

    def __init__(self, model: Model, batch: int, pool: int, **options: Any) -> None:
        """batch: sequences of one step at most. pool: tokens that the engine has room for, unless a single
        request needs more. options: those of ``Model.engine``."""
        self._model = model
        self._batch = batch
        self._pool = pool
        self._options = options
        self._engine: Engine | None = None
        self.read = 0  # tokens of contexts and continuations that were evaluated, so far

    def score(self, requests: Sequence[Scored], progress: Progress) -> list[tuple[float, bool]]:
        """Sum of log p of the continuation's tokens (natural logarithm), and whether each is the likeliest;
        False where that was not asked for."""
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        starts = [request.context[:-1] for request in requests]
        more = [len(request.continuation) + 1 for request in requests]
        for batch in self._batches(starts, more):
            engine, sequences = self._opened([starts[index] for index in batch])
            chosen = [requests[index] for index in batch]
            fed = [[r.context[-1], *r.continuation] for r in chosen]
            scores = engine.score(list(zip(sequences, fed, strict=True)))
            self.read += sum(map(len, fed))
            likeliest = self._likeliest(engine, sequences, chosen, scores)
            for index, nll, greedy in zip(batch, scores, likeliest, strict=True):
                found[index] = (-float(nll.astype(np.float64).sum()), greedy)
            _close(sequences)
            progress(len(batch))
        return found

    def generate(self, requests: Sequence[Continued], progress: Progress) -> list[str]:
        """The text of each continuation."""
        texts = [""] * len(requests)
        starts = [request.context[:-1] for request in requests]
        more = [request.tokens + 1 for request in requests]
        for batch in self._batches(starts, more):
            engine, sequences = self._opened([starts[index] for index in batch])
            running = [
                _Text(sequence, requests[index], self._model)
                for sequence, index in zip(sequences, batch, strict=True)
            ]
            while active := [each for each in running if not each.finished]:
                chosen = engine.sample(
                    [(each.sequence, [each.last], each.request.sampling) for each in active]
                )
                for each, token in zip(active, chosen, strict=True):
                    each.take(token)
            for index, each in zip(batch, running, strict=True):
                texts[index] = each.text
            _close(sequences)
            progress(len(batch))
        return texts

    def close(self) -> None:
        """Frees the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _batches(self, starts: Sequence[list[int]], more: Sequence[int]) -> Any:
        longest = max((len(s) + m for s, m in zip(starts, more, strict=True)), default=0) + 3 * PAGE_TOKENS
        room = max(self._pool, longest)
        if self._engine is None or self._engine.info.tokens < room:
            self.close()
            self._engine = self._model.engine(tokens=room, **self._options)
        return prefixes.batches(starts, more, self._batch, room, PAGE_TOKENS)

    def _opened(self, starts: Sequence[list[int]]) -> tuple[Engine, list[TokenSequence]]:
        """Sequences that hold the starts; a stretch that several share is read once, and those of one level
        in the same steps."""
        engine = self._engine
        assert engine is not None
        stretches, ends = prefixes.tree(starts)
        held: dict[int, TokenSequence] = {}
        for level in range(max((each.level for each in stretches), default=-1) + 1):
            feeds = []
            for index, stretch in enumerate(stretches):
                if stretch.level == level:
                    above = stretch.parent
                    held[index] = engine.sequence() if above is None else held[above].fork()
                    feeds.append((held[index], list(stretch.tokens)))
            engine.eval(feeds, logits=False)
            self.read += sum(len(tokens) for _, tokens in feeds)
        sequences = [engine.sequence() if end is None else held[end].fork() for end in ends]
        _close(list(held.values()))
        return engine, sequences

    def _likeliest(
        self,
        engine: Engine,
        sequences: Sequence[TokenSequence],
        requests: Sequence[Scored],
        scores: Sequence[np.ndarray],
    ) -> list[bool]:
        """Asks the model only where a token's own probability does not tell, and only until one is not."""
        likeliest = [request.ask_likeliest for request in requests]
        doubtful = [list(np.flatnonzero(nll > _SURELY_LIKELIEST)) for nll in scores]
        asked: set[int] = set()  # whose sequences are cut back already
        while pending := [i for i, places in enumerate(doubtful) if places and likeliest[i]]:
            items = []
            for i in pending:
                request, place = requests[i], int(doubtful[i][0])
                before = [request.context[-1], *request.continuation[:place]]
                start = len(request.context) - 1
                if i not in asked:
                    sequences[i].truncate(start + len(before) - 1)
                    asked.add(i)
                items.append((sequences[i], before[sequences[i].length - start :], _LIKELIEST))
            for i, token in zip(pending, engine.sample(items), strict=True):
                likeliest[i] = token == requests[i].continuation[int(doubtful[i].pop(0))]
        return likeliest


class _Text:
    """One continuation as it grows."""

    def __init__(self, sequence: TokenSequence, request: Continued, model: Model) -> None:
        self.sequence, self.request = sequence, request
        self.last = request.context[-1]
        self.text = ""
        self.finished = request.tokens == 0
        self._ends = model.tokenizer.end_ids
        self._stream = model.tokenizer.stream(after=request.context)
        self._stops = StopTexts(request.stop)
        self._left = request.tokens

    def take(self, token: int) -> None:
        """The token that was chosen."""
        self.last = token
        self._left -= 1
        if token in self._ends:
            self._finish()
            return
        self.text += self._stops.push(self._stream.push(token))
        if self._stops.found is not None:
            self.finished = True
        elif self._left == 0:
            self._finish()

    def _finish(self) -> None:
        self.text += self._stops.push(self._stream.flush()) + self._stops.flush()
        self.finished = True


def _close(sequences: Sequence[TokenSequence]) -> None:
    for sequence in sequences:
        sequence.close()
