"""POST /v1/chat/completions: OpenAI's chat."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from dca_runtime.server.answering.answer import Answer, Delta, Whole
from dca_runtime.server.answering.streaming import EventStream, JsonAnswer, TextEvents, begun, event, whole
from dca_runtime.server.answering.structured import ANY_OBJECT
from dca_runtime.server.answering.tools import Tool
from dca_runtime.server.errors import ApiError, refuse
from dca_runtime.server.protocols.chat_prompt import Chat, prepare
from dca_runtime.server.protocols.documented import STREAM_OR_JSON, service_of
from dca_runtime.server.protocols.openai_parts import chat_logprobs, progress, sampling_of, stops, usage
from dca_runtime.server.schema import ChatMessage, ChatRequest, NamedTool, ResponseFormat, TextPart
from dca_runtime.server.service import Service, Wanted, new_id

router = APIRouter()


@router.post("/v1/chat/completions", **STREAM_OR_JSON)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """Answers a chat."""
    service = service_of(request)
    service.check_model(body.model)
    chat = _chat(service, body)
    work = _answer(service, body, chat)
    reply = _Reply(service, body)
    if body.stream:
        answer = await begun(request, work)
        return EventStream(reply.stream(answer), answer, service.settings)
    answer, wholes = await whole(request, work)
    return JsonAnswer(reply.whole(answer, wholes))


async def _answer(service: Service, body: ChatRequest, chat: Chat) -> Answer:
    prompt = await service.beside(prepare, service, chat, stops(body.stop))
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    wanted = Wanted(
        prompt=prompt.ids,
        sampling=sampling_of(service, body),
        max_tokens=limit,
        n=body.n or 1,
        reading=prompt.reading,
        grammar=prompt.grammar,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        cache_prompt=body.cache_prompt is not False,
        progress=bool(body.stream and body.return_progress),
        ignore_end=bool(body.ignore_eos),
    )
    return await service.answer(wanted, "messages")


def _chat(service: Service, body: ChatRequest) -> Chat:
    """The request in the server's terms. Raises ApiError for what contradicts itself."""
    many = service.settings.max_messages
    refuse(len(body.messages) > many, f"a chat has at most {many} messages here", "messages")
    both = None not in (body.max_tokens, body.max_completion_tokens)
    refuse(
        both and body.max_tokens != body.max_completion_tokens,
        "max_tokens and max_completion_tokens differ; give one",
        "max_completion_tokens",
    )
    refuse(bool(body.top_logprobs) and not body.logprobs, "top_logprobs needs logprobs: true", "top_logprobs")
    refuse(
        body.stream_options is not None and not body.stream,
        "stream_options needs stream: true",
        "stream_options",
    )
    choice = "auto"
    if isinstance(body.tool_choice, NamedTool):
        choice = f"={body.tool_choice.function.name}"
    elif body.tool_choice is not None:
        choice = body.tool_choice
    schema = response_schema(body.response_format)
    refuse(
        schema is not None and bool(body.tools) and choice not in ("auto", "none"),
        f"tool_choice {choice!r} and response_format cannot both be had",
        "response_format",
    )
    tools = [
        Tool(tool.function.name, tool.function.description or "", tool.function.parameters)
        for tool in body.tools or ()
    ]
    return Chat(
        messages=chat_messages(body.messages),
        tools=tools,
        choice=choice,
        several_calls=body.parallel_tool_calls,
        variables=body.chat_template_kwargs,
        schema=schema,
    )


def response_schema(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    """The JSON schema that answers must keep to; None: any text will do."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None:
        raise ApiError(
            400, "response_format json_schema needs json_schema", param="response_format.json_schema"
        )
    return wanted.json_schema.schema_


def chat_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as templates expect them. Raises ApiError for parts that are no text."""
    made: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        one: dict[str, Any] = {"role": role, "content": _text(message.content, f"messages.{index}.content")}
        if message.name is not None:
            one["name"] = message.name
        if message.tool_call_id is not None:
            one["tool_call_id"] = message.tool_call_id
        if message.reasoning_content is not None:
            one["reasoning_content"] = message.reasoning_content
        if message.tool_calls:
            one["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": arguments_object(
                            call.function.arguments, f"messages.{index}.tool_calls"
                        ),
                    },
                }
                for call in message.tool_calls
            ]
        made.append(one)
    return made


def arguments_object(text: str, param: str) -> dict[str, Any]:
    """The arguments of a call, which protocols carry as text and templates want as an object."""
    try:
        value = json.loads(text or "{}", parse_constant=_no_json)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ApiError(400, "the arguments of a tool call must be a JSON object", param=param)
    return value


def _no_json(constant: str) -> None:
    raise ValueError(constant)


def _text(content: str | list[TextPart] | None, param: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        refuse(
            part.type != "text" or part.text is None,
            f"parts of a message must be text, not {part.type[:50]!r}: this model reads nothing else",
            param,
        )
    return "".join(part.text or "" for part in content)


class _Reply:
    """What goes back."""

    def __init__(self, service: Service, body: ChatRequest) -> None:
        self._service = service
        self._body = body
        self._id = new_id("chatcmpl-")
        self._created = int(time.time())
        self._calls: dict[int, int] = {}  # how many calls each answer has made

    def whole(self, answer: Answer, wholes: list[Whole]) -> dict[str, Any]:
        choices = []
        for index, one in enumerate(wholes):
            message: dict[str, Any] = {"role": "assistant", "content": one.text}
            if one.thought:
                message["reasoning_content"] = one.thought
            if one.calls:
                message["content"] = one.text or None
                message["tool_calls"] = [
                    {
                        "id": new_id("call_"),
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                    for call in one.calls
                ]
            logprobs = chat_logprobs(self._service, one.tokens) if self._body.logprobs else None
            choices.append(
                {"index": index, "message": message, "logprobs": logprobs, "finish_reason": one.finish}
            )
        return self._head("chat.completion") | {"choices": choices, "usage": usage(answer)}

    async def stream(self, answer: Answer) -> AsyncGenerator[bytes]:
        with_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        head = self._head("chat.completion.chunk")
        for index in range(len(answer.exchange.jobs)):
            yield event(head | {"choices": [self._choice(index, {"role": "assistant", "content": ""})]})

        def chunk(delta: Delta) -> dict[str, Any]:
            return head | self._chunk(delta, answer)

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
            yield event(head | {"choices": [], "usage": usage(answer)})
        yield b"data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._service.settings.name,
            "system_fingerprint": None,
        }

    def _chunk(self, delta: Delta, answer: Answer) -> dict[str, Any]:
        if delta.read is not None:
            return {"choices": [], "prompt_progress": progress(answer, delta.read)}
        change: dict[str, Any] = {}
        if delta.text:
            change["content"] = delta.text
        if delta.thought:
            change["reasoning_content"] = delta.thought
        if delta.call is not None:
            number = self._calls[delta.index] = self._calls.get(delta.index, -1) + 1
            function = {"name": delta.call, "arguments": ""}
            change["tool_calls"] = [
                {"index": number, "id": new_id("call_"), "type": "function", "function": function}
            ]
        elif delta.arguments:
            number = self._calls[delta.index]
            change["tool_calls"] = [{"index": number, "function": {"arguments": delta.arguments}}]
        return {"choices": [self._choice(delta.index, change, delta)]}

    def _choice(self, index: int, change: dict[str, Any], delta: Delta | None = None) -> dict[str, Any]:
        tokens = [] if delta is None else delta.tokens
        return {
            "index": index,
            "delta": change,
            "logprobs": chat_logprobs(self._service, tokens) if tokens else None,
            "finish_reason": None if delta is None else delta.finish,
        }
