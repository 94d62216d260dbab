"""From tokens to what a client is told: text, thoughts, calls of tools, and the counts."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from dca_runtime.server.answering.thinking import ThoughtReader
from dca_runtime.server.answering.tools import CallFormat, CallReader
from dca_runtime.server.exchange import Exchange
from dca_runtime.server.requests import Failed, Finished, Loaded, Read, Started, Token
from dca_runtime.text.stop import StopTexts
from dca_runtime.text.tokenizer import Tokenizer


@dataclass
class Delta:
    """What an answer grew by."""

    index: int  # which of the request's answers
    text: str = ""
    thought: str = ""
    call: str | None = None  # the name of a tool whose call begins
    arguments: str = ""  # of the call, more of them
    tokens: list[Token] = field(default_factory=list)  # where log-probabilities were asked for
    finish: str | None = None  # "stop", "length" or "tool_calls": it was the last
    read: Read | None = None  # progress of reading

    @property
    def only_text(self) -> bool:
        """Text is all there is."""
        others = self.thought or self.arguments or self.tokens or self.finish
        return bool(self.text) and not others and self.call is None and self.read is None


@dataclass(frozen=True)
class Reading:
    """How the tokens of an answer become what a client is told."""

    stop: tuple[str, ...] = ()
    thoughts: bool = False  # the model may write some
    thought_open: bool = False  # the prompt ended with the beginning of one
    calls: CallFormat | None = None
    skip_special: bool = True


class _Choice:
    """One of a request's answers."""

    def __init__(self, index: int, tokenizer: Tokenizer, prompt: list[int], reading: Reading) -> None:
        self.index = index
        self.stop_text: str | None = None
        self.called = False
        self.thought_tokens = 0
        self._stream = tokenizer.stream(after=prompt, skip_special=reading.skip_special)
        self._stops = StopTexts(reading.stop)
        self._thoughts = ThoughtReader(reading.thought_open) if reading.thoughts else None
        self._calls = None if reading.calls is None else CallReader(reading.calls)
        self._tokens: list[Token] = []

    def push(self, token: Token, ends: bool) -> list[Delta]:
        """Takes a token; one that ``ends`` the text shows nothing."""
        if token.logprob is not None:
            self._tokens.append(token)
        self.thought_tokens += self._thoughts is not None and self._thoughts.inside
        piece = "" if ends else self._stops.push(self._stream.push(token.id))
        self.stop_text = self._stops.found
        return self._with_tokens(self._parts(piece))

    def finish(self, reason: str) -> list[Delta]:
        """What was held back, and the end."""
        deltas: list[Delta] = []
        if self.stop_text is None:
            piece = self._stops.push(self._stream.flush())
            self.stop_text = self._stops.found
            deltas += self._parts(piece + self._stops.flush())
        thought, said = self._thoughts.flush() if self._thoughts is not None else ("", "")
        if thought:
            deltas.append(Delta(self.index, thought=thought))
        deltas += self._said(said)
        if self._calls is not None:
            deltas += [Delta(self.index, text=part.text) for part in self._calls.flush()]
        if self.stop_text is not None:
            reason = "stop"
        deltas.append(Delta(self.index, finish="tool_calls" if self.called and reason == "stop" else reason))
        return self._with_tokens(deltas)

    def _parts(self, piece: str) -> list[Delta]:
        if not piece:
            return []
        thought = ""
        if self._thoughts is not None:
            thought, piece = self._thoughts.push(piece)
        deltas = [Delta(self.index, thought=thought)] if thought else []
        return deltas + self._said(piece)

    def _said(self, piece: str) -> list[Delta]:
        if not piece:
            return []
        if self._calls is None:
            return [Delta(self.index, text=piece)]
        deltas = []
        for part in self._calls.push(piece):
            if part.kind == "text":
                deltas.append(Delta(self.index, text=part.text))
            elif part.kind == "call":
                self.called = True
                deltas.append(Delta(self.index, call=part.text))
            else:
                deltas.append(Delta(self.index, arguments=part.text))
        return deltas

    def _with_tokens(self, deltas: list[Delta]) -> list[Delta]:
        """The tokens that came since the last delta belong to the next one."""
        if deltas and self._tokens:
            deltas[0].tokens, self._tokens = self._tokens, []
        return deltas


class Answer:
    """The answers to a request, as they are written."""

    def __init__(self, exchange: Exchange, tokenizer: Tokenizer, reading: Reading) -> None:
        self.exchange = exchange
        self.prompt_tokens = len(exchange.jobs[0].prompt)
        self.prompt_text: str | None = None  # where it is to be logged
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.ping_seconds: float | None = None  # so long ``deltas`` may be silent
        self.stop_texts: dict[int, str] = {}  # the stop text that ended an answer
        self._choices = [
            _Choice(index, tokenizer, job.prompt, reading) for index, job in enumerate(exchange.jobs)
        ]
        self._held: list[Delta] = []
        self._open = set(range(len(self._choices)))

    @property
    def thought_tokens(self) -> int:
        """Tokens of the answers that were thoughts."""
        return sum(choice.thought_tokens for choice in self._choices)

    async def begin(self) -> None:
        """Waits until the prompt is being read. Raises ApiError: it will not be."""
        self._held = self._take(await self.exchange.next())

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """What the answers grow by, as often as the engine steps, or nothing after ``ping_seconds`` without.

        Raises ApiError, and Left: the client did.
        """
        if self._held:
            held, self._held = self._held, []
            yield held
        shown = time.monotonic()
        with self.exchange.broken(self.ping_seconds):
            while self._open:
                events = await self.exchange.next()
                deltas, now = self._take(events), time.monotonic()
                silent = self.ping_seconds is not None and now - shown >= self.ping_seconds
                if deltas or silent or not events:
                    shown = now
                    yield deltas

    def _take(self, events: list) -> list[Delta]:
        deltas: list[Delta] = []
        for index, event in events:
            if index not in self._open:
                continue
            choice = self._choices[index]
            if isinstance(event, Token):
                self.completion_tokens += 1
                deltas += choice.push(event, event.id in self.exchange.jobs[index].end_ids)
                if choice.stop_text is not None:
                    self.exchange.end(index, "stop")
                    deltas += self._finish(choice, "stop")
            elif isinstance(event, Finished):
                deltas += self._finish(choice, event.reason)
            elif isinstance(event, Failed):
                self.exchange.cancel()
                raise event.error
            elif isinstance(event, Started):
                if index == 0:
                    self.cached_tokens = event.cached_tokens
            elif isinstance(event, Loaded):
                if index == 0:
                    self.cached_tokens = event.tokens
                deltas.append(Delta(index, read=Read(event.tokens, event.seconds)))
            elif isinstance(event, Read):
                deltas.append(Delta(index, read=event))
        return _merged(deltas)

    def _finish(self, choice: _Choice, reason: str) -> list[Delta]:
        self._open.discard(choice.index)
        deltas = choice.finish(reason)
        if choice.stop_text is not None:
            self.stop_texts[choice.index] = choice.stop_text
        return deltas


def _merged(deltas: list[Delta]) -> list[Delta]:
    """Pieces of text that came together, because the reader is slower than the steps, in one."""
    merged = deltas[:1]
    for delta in deltas[1:]:
        last = merged[-1]
        if delta.only_text and last.only_text and delta.index == last.index:
            last.text += delta.text
        else:
            merged.append(delta)
    return merged


@dataclass
class Call:
    """A call of a tool, whole."""

    name: str
    arguments: str = ""


@dataclass
class Whole:
    """One answer, whole."""

    text: str = ""
    thought: str = ""
    calls: list[Call] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    finish: str = "stop"

    def add(self, delta: Delta) -> None:
        """Takes one more piece."""
        self.text += delta.text
        self.thought += delta.thought
        if delta.call is not None:
            self.calls.append(Call(delta.call))
        if delta.arguments:
            self.calls[-1].arguments += delta.arguments
        self.tokens += delta.tokens
        self.finish = delta.finish or self.finish


async def collected(answer: Answer) -> list[Whole]:
    """All answers to a request, once they are whole. Raises ApiError."""
    wholes = [Whole() for _ in answer.exchange.jobs]
    async for deltas in answer.deltas():
        for delta in deltas:
            wholes[delta.index].add(delta)
    return wholes
