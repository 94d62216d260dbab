"""POST /v1/responses: OpenAI's newer protocol, text in and out. Nothing is stored."""

import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from dca_runtime.server.answering.answer import Answer, Delta, Whole
from dca_runtime.server.answering.streaming import EventStream, JsonAnswer, begun, event, whole
from dca_runtime.server.answering.structured import ANY_OBJECT
from dca_runtime.server.answering.tools import Tool
from dca_runtime.server.errors import ApiError, refuse
from dca_runtime.server.protocols.chat import arguments_object
from dca_runtime.server.protocols.chat_prompt import Chat, prepare
from dca_runtime.server.protocols.documented import STREAM_OR_JSON, service_of
from dca_runtime.server.protocols.openai_parts import sampling_of
from dca_runtime.server.schema import ResponseItem, ResponseNamedTool, ResponsePart, ResponsesRequest
from dca_runtime.server.service import Service, Wanted, new_id

router = APIRouter()


@router.post("/v1/responses", **STREAM_OR_JSON)
async def responses(request: Request, body: ResponsesRequest) -> Response:
    """Answers."""
    service = service_of(request)
    service.check_model(body.model)
    refuse(
        body.previous_response_id is not None,
        "responses are not stored here: send the whole conversation as input",
        "previous_response_id",
    )
    work = _answer(service, body, _chat(service, body))
    reply = _Reply(service, body)
    if body.stream:
        answer = await begun(request, work)
        return EventStream(reply.stream(answer), answer, service.settings)
    answer, wholes = await whole(request, work)
    return JsonAnswer(reply.whole(answer, wholes[0]))


async def _answer(service: Service, body: ResponsesRequest, chat: Chat) -> Answer:
    prompt = await service.beside(prepare, service, chat, ())
    wanted = Wanted(
        prompt=prompt.ids,
        sampling=sampling_of(service, body),
        max_tokens=body.max_output_tokens,
        reading=prompt.reading,
        grammar=prompt.grammar,
    )
    return await service.answer(wanted, "input")


def _chat(service: Service, body: ResponsesRequest) -> Chat:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        many = service.settings.max_messages
        refuse(len(body.input) > many, f"an input has at most {many} items here", "input")
        for index, item in enumerate(body.input):
            _add_item(messages, item, f"input.{index}")
    refuse(not messages, "there is no message in the input", "input")
    form = body.text.format if body.text is not None else None
    schema = None
    if form is not None and form.type == "json_object":
        schema = ANY_OBJECT
    elif form is not None and form.type == "json_schema":
        refuse(form.schema_ is None, "text.format json_schema needs schema", "text.format.schema")
        schema = form.schema_
    choice = "auto"
    if isinstance(body.tool_choice, ResponseNamedTool):
        choice = f"={body.tool_choice.name}"
    elif body.tool_choice is not None:
        choice = body.tool_choice
    tools = [Tool(tool.name, tool.description or "", tool.parameters) for tool in body.tools or ()]
    return Chat(messages, tools, choice, body.parallel_tool_calls, schema=schema, param="input")


def _add_item(messages: list[dict[str, Any]], item: ResponseItem, param: str) -> None:
    kind = item.type or "message"
    if kind == "message":
        refuse(item.role is None or item.content is None, "a message needs role and content", param)
        role = "system" if item.role == "developer" else item.role
        messages.append({"role": role, "content": _text(item.content, param)})
    elif kind == "function_call":
        refuse(item.name is None or item.arguments is None, "a function_call needs name and arguments", param)
        function = {"name": item.name, "arguments": arguments_object(item.arguments or "", param)}
        call = {"id": item.call_id, "type": "function", "function": function}
        last = messages[-1] if messages else {}
        if last.get("role") == "assistant" and "tool_calls" in last:
            last["tool_calls"].append(call)
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    elif kind == "function_call_output":
        refuse(item.output is None, "a function_call_output needs output", param)
        content = _text(item.output, param)
        messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
    else:
        refuse(kind != "reasoning", f"items of type {kind[:50]!r} cannot be read here", param)


def _text(content: str | list[ResponsePart] | None, param: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        known = part.type in ("input_text", "output_text", "text")
        refuse(not known or part.text is None, f"parts must be text, not {part.type[:50]!r}", param)
    return "".join(part.text or "" for part in content)


class _Reply:
    """What goes back."""

    def __init__(self, service: Service, body: ResponsesRequest) -> None:
        self._body = body
        self._base: dict[str, Any] = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": service.settings.name,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": sampling_of(service, body).temperature,
            "text": {"format": {"type": "text"}}
            if body.text is None
            else body.text.model_dump(by_alias=True, exclude_none=True),
            "tool_choice": "auto"
            if body.tool_choice is None
            else (body.tool_choice if isinstance(body.tool_choice, str) else body.tool_choice.model_dump()),
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_p": sampling_of(service, body).top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def whole(self, answer: Answer, one: Whole) -> dict[str, Any]:
        output = []
        if one.thought:
            output.append(_finished(_thought_item(), one.thought))
        if one.text or not one.calls:
            output.append(_finished(_message_item(), one.text))
        output += [_finished(_call_item(call.name), call.arguments) for call in one.calls]
        return self._done(answer, output, one.finish)

    def _done(self, answer: Answer, output: list[dict[str, Any]], finish: str) -> dict[str, Any]:
        cut = finish == "length"
        return self._base | {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
            "usage": {
                "input_tokens": answer.prompt_tokens,
                "input_tokens_details": {"cached_tokens": answer.cached_tokens},
                "output_tokens": answer.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": answer.thought_tokens},
                "total_tokens": answer.prompt_tokens + answer.completion_tokens,
            },
        }

    async def stream(self, answer: Answer) -> AsyncGenerator[bytes]:
        events = _Events()
        yield events.one("response.created", response=self._base)
        yield events.one("response.in_progress", response=self._base)
        finish = "stop"
        try:
            async for deltas in answer.deltas():
                yield b"".join(piece for delta in deltas for piece in events.delta(delta))
                finish = (deltas[-1].finish if deltas else None) or finish
        except ApiError as error:
            code = error.code or "server_error"
            failed = self._base | {"status": "failed", "error": {"code": code, "message": error.message}}
            yield events.one("response.failed", response=failed)
            return
        yield b"".join(events.close())
        if not events.output:
            yield b"".join([*events.open(_message_item()), *events.close()])
        done = self._done(answer, events.output, finish)
        name = "response.incomplete" if finish == "length" else "response.completed"
        yield events.one(name, response=done)


def _message_item() -> dict[str, Any]:
    return {
        "id": new_id("msg_"),
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def _thought_item() -> dict[str, Any]:
    return {"id": new_id("rs_"), "type": "reasoning", "status": "in_progress", "summary": [], "content": []}


def _call_item(name: str) -> dict[str, Any]:
    return {
        "id": new_id("fc_"),
        "type": "function_call",
        "status": "in_progress",
        "call_id": new_id("call_"),
        "name": name,
        "arguments": "",
    }


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _finished(item: dict[str, Any], text: str) -> dict[str, Any]:
    """The item with all of its text."""
    if item["type"] == "function_call":
        return item | {"status": "completed", "arguments": text}
    return item | {"status": "completed", "content": [_part(item["type"], text)]}


class _Events:
    """The events of a stream: items are opened, grow, and are closed in turn."""

    def __init__(self) -> None:
        self.output: list[dict[str, Any]] = []  # items that are closed
        self._number = 0
        self._item: dict[str, Any] | None = None
        self._text = ""

    def one(self, kind: str, /, **fields: Any) -> bytes:
        """An event."""
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1} | fields, kind)

    def delta(self, delta: Delta) -> Iterator[bytes]:
        """What a piece of the answer amounts to."""
        if delta.thought:
            yield from self._grow(_thought_item, "reasoning", delta.thought)
        if delta.text:
            yield from self._grow(_message_item, "message", delta.text)
        if delta.call is not None:
            yield from self.close()
            yield from self.open(_call_item(delta.call))
        if delta.arguments:
            yield from self._more(delta.arguments)

    def open(self, item: dict[str, Any]) -> Iterator[bytes]:
        """Opens an item."""
        self._item, self._text = item, ""
        yield self.one("response.output_item.added", output_index=len(self.output), item=item)
        if item["type"] != "function_call":
            yield self.one("response.content_part.added", **self._place(), part=_part(item["type"], ""))

    def close(self) -> Iterator[bytes]:
        """Closes the item that is open."""
        if self._item is None:
            return
        item, kind = _finished(self._item, self._text), self._item["type"]
        if kind == "function_call":
            place = {"item_id": item["id"], "output_index": len(self.output), "name": item["name"]}
            yield self.one("response.function_call_arguments.done", **place, arguments=self._text)
        else:
            name = "response.reasoning_text.done" if kind == "reasoning" else "response.output_text.done"
            more: dict[str, Any] = {} if kind == "reasoning" else {"logprobs": []}
            yield self.one(name, **self._place(), text=self._text, **more)
            yield self.one("response.content_part.done", **self._place(), part=item["content"][0])
        yield self.one("response.output_item.done", output_index=len(self.output), item=item)
        self.output.append(item)
        self._item = None

    def _grow(self, make: Any, kind: str, text: str) -> Iterator[bytes]:
        if self._item is None or self._item["type"] != kind:
            yield from self.close()
            yield from self.open(make())
        yield from self._more(text)

    def _more(self, text: str) -> Iterator[bytes]:
        assert self._item is not None
        self._text += text
        kind = self._item["type"]
        if kind == "function_call":
            place = {"item_id": self._item["id"], "output_index": len(self.output)}
            yield self.one("response.function_call_arguments.delta", **place, delta=text)
        elif kind == "reasoning":
            yield self.one("response.reasoning_text.delta", **self._place(), delta=text)
        else:
            yield self.one("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def _place(self) -> dict[str, Any]:
        assert self._item is not None
        return {"item_id": self._item["id"], "output_index": len(self.output), "content_index": 0}
