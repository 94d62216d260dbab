"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's protocol, text and tools."""

import json
import sys
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from dca_runtime.server.answering.answer import Answer, Delta, Whole
from dca_runtime.server.answering.streaming import EventStream, JsonAnswer, begun, event, whole
from dca_runtime.server.answering.tools import Tool
from dca_runtime.server.errors import ApiError, refuse
from dca_runtime.server.protocols.chat_prompt import Chat, prepare
from dca_runtime.server.protocols.documented import JSON, STREAM_OR_JSON, service_of
from dca_runtime.server.schema import CountRequest, Message, MessageBlock, MessagesRequest
from dca_runtime.server.service import Service, Wanted, new_id

router = APIRouter()
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


@router.post("/v1/messages", **STREAM_OR_JSON)
async def messages(request: Request, body: MessagesRequest) -> Response:
    """Answers a chat."""
    service = service_of(request)
    service.check_model(body.model)
    work = _answer(service, body, _chat(service, body))
    reply = _Reply(service)
    if body.stream:
        answer = await begun(request, work)
        return EventStream(reply.stream(answer), answer, service.settings)
    answer, wholes = await whole(request, work)
    return JsonAnswer(reply.whole(answer, wholes[0]))


@router.post("/v1/messages/count_tokens", **JSON)
async def count_tokens(request: Request, body: CountRequest) -> Response:
    """How many tokens a chat's prompt has."""
    service = service_of(request)
    service.check_model(body.model)
    prompt = await service.beside(prepare, service, _chat(service, body), (), True)
    return JsonAnswer({"input_tokens": len(prompt.ids)})


async def _answer(service: Service, body: MessagesRequest, chat: Chat) -> Answer:
    prompt = await service.beside(prepare, service, chat, body.stop_sequences or ())
    sampling = service.sampling(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k)
    wanted = Wanted(prompt.ids, sampling, body.max_tokens, reading=prompt.reading, grammar=prompt.grammar)
    return await service.answer(wanted, "messages")


def _chat(service: Service, body: CountRequest) -> Chat:
    many = service.settings.max_messages
    refuse(len(body.messages) > many, f"a chat has at most {many} messages here", "messages")
    made: list[dict[str, Any]] = []
    if body.system:
        made.append({"role": "system", "content": _text(body.system, "system")})
    for index, message in enumerate(body.messages):
        made += _message(message, f"messages.{index}")
    refuse(not made, "there is no message", "messages")
    # A last message of the assistant's is the beginning of the answer.
    continued = ""
    if made[-1]["role"] == "assistant" and "tool_calls" not in made[-1]:
        continued = made.pop()["content"]
        refuse(not made, "the first message must not be the assistant's", "messages")
    for index, tool in enumerate(body.tools or ()):
        refuse(
            tool.type not in (None, "custom") or tool.input_schema is None,
            "tools must be functions of the client's, with an input_schema",
            f"tools.{index}",
        )
    choice, several = "auto", None
    if body.tool_choice is not None:
        asked = body.tool_choice
        refuse(asked.type == "tool" and asked.name is None, "tool_choice tool needs name", "tool_choice")
        choice = f"={asked.name}" if asked.type == "tool" else _CHOICES[asked.type]
        several = None if asked.disable_parallel_tool_use is None else not asked.disable_parallel_tool_use
    tools = [Tool(tool.name, tool.description or "", tool.input_schema) for tool in body.tools or ()]
    return Chat(made, tools, choice, several, continued=continued)


def _message(message: Message, param: str) -> Iterator[dict[str, Any]]:
    """A message as templates expect it; results of tools are messages of their own there."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    texts: list[MessageBlock] = []
    calls = []
    for block in message.content:
        if block.type == "tool_use":
            refuse(block.name is None, "a tool_use needs name", param)
            function = {"name": block.name, "arguments": block.input or {}}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif block.type == "tool_result":
            content = _text(block.content or "", param)
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
        elif block.type not in ("thinking", "redacted_thinking"):
            texts.append(block)
    if texts or calls or not message.content:
        made: dict[str, Any] = {"role": message.role, "content": _text(texts, param)}
        yield made | ({"tool_calls": calls} if calls else {})


def _text(content: str | list[MessageBlock], param: str) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        refuse(
            block.type != "text" or block.text is None,
            f"blocks must be text, not {block.type[:50]!r}: this model reads nothing else",
            param,
        )
    return "".join(block.text or "" for block in content)


class _Reply:
    """What goes back."""

    def __init__(self, service: Service) -> None:
        self._head: dict[str, Any] = {
            "id": new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": service.settings.name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def whole(self, answer: Answer, one: Whole) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if one.thought:
            content.append({"type": "thinking", "thinking": one.thought, "signature": ""})
        if one.text or not one.calls:
            content.append({"type": "text", "text": one.text})
        for call in one.calls:
            content.append(_tool_use(call.name) | {"input": _object(call.arguments)})
        return self._head | {"content": content} | _stop(answer, one.finish) | {"usage": _usage(answer)}

    async def stream(self, answer: Answer) -> AsyncGenerator[bytes]:
        usage = _usage(answer) | {"output_tokens": 0}
        yield _event("message_start", message=self._head | {"usage": usage})
        blocks = _Blocks()
        finish = "stop"
        try:
            async for deltas in answer.deltas():
                yield b"".join(piece for delta in deltas for piece in blocks.delta(delta))
                finish = (deltas[-1].finish if deltas else None) or finish
        except ApiError as error:
            yield event(error.body() | {"type": "error"}, "error")
            return
        yield b"".join(blocks.close())
        yield _event("message_delta", delta=_stop(answer, finish), usage=_usage(answer))
        yield _event("message_stop")


def _event(kind: str, /, **fields: Any) -> bytes:
    return event({"type": kind} | fields, kind)


def _tool_use(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": new_id("toolu_"), "name": name, "input": {}}


def _object(arguments: str) -> dict[str, Any]:
    """The arguments of a call; of one that a limit cut nothing can be said."""
    try:
        value = json.loads(arguments, parse_float=_float)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _float(text: str) -> float:
    """The nearest number that JSON can say: a model may well write 1e999."""
    return max(min(float(text), sys.float_info.max), -sys.float_info.max)


def _stop(answer: Answer, finish: str) -> dict[str, Any]:
    text = answer.stop_texts.get(0)
    reason = {"length": "max_tokens", "tool_calls": "tool_use"}.get(finish, "end_turn")
    return {"stop_reason": "stop_sequence" if text is not None else reason, "stop_sequence": text}


def _usage(answer: Answer) -> dict[str, int]:
    """Counts as Anthropic has them: what came from the cache is not among the input."""
    return {
        "input_tokens": answer.prompt_tokens - answer.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.cached_tokens,
        "output_tokens": answer.completion_tokens,
    }


class _Blocks:
    """The blocks of a stream: opened, grown and closed in turn."""

    _EMPTY = {
        "text": {"type": "text", "text": ""},
        "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    }

    def __init__(self) -> None:
        self._index = -1
        self._kind: str | None = None  # of the block that is open

    def delta(self, delta: Delta) -> Iterator[bytes]:
        """What a piece of the answer amounts to."""
        if delta.thought:
            yield from self._open("thinking", self._EMPTY["thinking"])
            yield self._more({"type": "thinking_delta", "thinking": delta.thought})
        if delta.text:
            yield from self._open("text", self._EMPTY["text"])
            yield self._more({"type": "text_delta", "text": delta.text})
        if delta.call is not None:
            yield from self.close()
            yield from self._open("tool_use", _tool_use(delta.call))
        if delta.arguments:
            yield self._more({"type": "input_json_delta", "partial_json": delta.arguments})

    def close(self) -> Iterator[bytes]:
        """Closes the block that is open."""
        if self._kind is not None:
            self._kind = None
            yield _event("content_block_stop", index=self._index)

    def _open(self, kind: str, block: dict[str, Any]) -> Iterator[bytes]:
        if self._kind != kind:
            yield from self.close()
            self._kind = kind
            self._index += 1
            yield _event("content_block_start", index=self._index, content_block=block)

    def _more(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)
