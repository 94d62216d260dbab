"""POST /v1/completions: OpenAI's continuation of a text."""

import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from dca_runtime.server.answering.answer import Answer, Delta, Reading, Whole
from dca_runtime.server.answering.streaming import EventStream, JsonAnswer, TextEvents, begun, event, whole
from dca_runtime.server.errors import ApiError, refuse
from dca_runtime.server.protocols.documented import STREAM_OR_JSON, service_of
from dca_runtime.server.protocols.openai_parts import LEAST_LOGPROB, progress, sampling_of, stops, usage
from dca_runtime.server.requests import Token
from dca_runtime.server.schema import CompletionRequest
from dca_runtime.server.service import Service, Wanted, new_id

router = APIRouter()
_DEFAULT_TOKENS = 16  # OpenAI's


@router.post("/v1/completions", **STREAM_OR_JSON)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continues a text or token ids."""
    service = service_of(request)
    service.check_model(body.model)
    _check(body)
    work = _answer(service, body)
    reply = _Reply(service, body)
    if body.stream:
        answer = await begun(request, work)
        return EventStream(reply.stream(answer), answer, service.settings)
    answer, wholes = await whole(request, work)
    return JsonAnswer(reply.whole(answer, wholes))


def _check(body: CompletionRequest) -> None:
    refuse(
        body.suffix is not None and body.suffix != "", "a text cannot be filled in from both sides", "suffix"
    )
    refuse(
        body.best_of is not None and body.best_of != (body.n or 1), "best_of must be n, if given", "best_of"
    )
    refuse(bool(body.echo) and body.logprobs is not None, "echo with logprobs is not to be had here", "echo")
    refuse(body.max_tokens == 0, "max_tokens must be at least 1", "max_tokens")
    refuse(
        body.stream_options is not None and not body.stream,
        "stream_options needs stream: true",
        "stream_options",
    )


async def _answer(service: Service, body: CompletionRequest) -> Answer:
    wanted = Wanted(
        prompt=await _prompt(service, body),
        sampling=sampling_of(service, body),
        max_tokens=_DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens,
        n=body.n or 1,
        reading=Reading(stops(body.stop)),
        top_logprobs=body.logprobs,
        cache_prompt=body.cache_prompt is not False,
        progress=bool(body.stream and body.return_progress),
        ignore_end=bool(body.ignore_eos),
    )
    return await service.answer(wanted, "prompt")


async def _prompt(service: Service, body: CompletionRequest) -> list[int]:
    """The prompt's ids. Raises ApiError."""
    prompt = body.prompt
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        refuse(len(prompt) > 1, "one prompt a request; send the others in requests of their own", "prompt")
        prompt = prompt[0]
    if isinstance(prompt, str):
        service.check_text(prompt, "prompt")
        return await service.beside(service.tokenizer.prompt_ids, prompt)
    ids: list[int] = prompt  # type: ignore[assignment]
    service.check_length(ids, "prompt")  # before each of them is looked at
    service.check_ids(ids, "prompt")
    return ids


class _Reply:
    """What goes back."""

    def __init__(self, service: Service, body: CompletionRequest) -> None:
        self._service = service
        self._body = body
        self._head = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.settings.name,
        }
        self._offsets: dict[int, int] = {}  # characters given before, for text_offset

    def whole(self, answer: Answer, wholes: list[Whole]) -> dict[str, Any]:
        before = self._echo(answer)
        choices = [
            {
                "index": index,
                "text": before + one.text,
                "logprobs": self._logprobs(index, one.tokens) if self._body.logprobs is not None else None,
                "finish_reason": one.finish,
            }
            for index, one in enumerate(wholes)
        ]
        return self._head | {"choices": choices, "usage": usage(answer)}

    async def stream(self, answer: Answer) -> AsyncGenerator[bytes]:
        with_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        if before := self._echo(answer):
            for index in range(len(answer.exchange.jobs)):
                yield event(self._head | {"choices": [self._choice(Delta(index, text=before))]})

        def chunk(delta: Delta) -> dict[str, Any]:
            return self._head | self._chunk(delta, answer)

        texts = TextEvents(lambda index, text: chunk(Delta(index, text=text)))
        try:
            async for deltas in answer.deltas():
                yield b"".join(
                    texts.of(delta.index, delta.text) if delta.only_text else event(chunk(delta))
                    for delta in deltas
                )
        except ApiError as error:
            yield event(error.body())
            return
        if with_usage:
            yield event(self._head | {"choices": [], "usage": usage(answer)})
        yield b"data: [DONE]\n\n"

    def _echo(self, answer: Answer) -> str:
        if not self._body.echo:
            return ""
        return self._service.tokenizer.decode(answer.exchange.jobs[0].prompt, skip_special=True)

    def _chunk(self, delta: Delta, answer: Answer) -> dict[str, Any]:
        if delta.read is not None:
            return {"choices": [], "prompt_progress": progress(answer, delta.read)}
        return {"choices": [self._choice(delta)]}

    def _choice(self, delta: Delta) -> dict[str, Any]:
        return {
            "index": delta.index,
            "text": delta.text,
            "logprobs": self._logprobs(delta.index, delta.tokens) if delta.tokens else None,
            "finish_reason": delta.finish,
        }

    def _logprobs(self, index: int, tokens: list[Token]) -> dict[str, Any]:
        """Log-probabilities as OpenAI's completions have them, of all that came since the last."""
        decode = self._service.tokenizer.decode
        texts = [decode([token.id]) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": texts,
            "token_logprobs": [max(token.logprob or 0.0, LEAST_LOGPROB) for token in tokens],
            "top_logprobs": [
                {decode([id_]): max(logprob, LEAST_LOGPROB) for id_, logprob in token.top} for token in tokens
            ],
            "text_offset": offsets,
        }
