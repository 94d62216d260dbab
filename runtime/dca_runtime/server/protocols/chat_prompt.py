"""From a chat's messages to the ids of its prompt, through the model's own template."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dca_runtime.server.answering.answer import Reading
from dca_runtime.server.answering.structured import json_grammar
from dca_runtime.server.answering.thinking import BEGIN, thinks
from dca_runtime.server.answering.tools import (
    HERMES,
    CallFormat,
    Tool,
    call_format,
    call_grammar,
    description,
)
from dca_runtime.server.errors import ApiError, refuse
from dca_runtime.server.service import Service

_RESERVED = (
    "messages",
    "tools",
    "add_generation_prompt",
)  # variables of a template that a request may not set


@dataclass(frozen=True)
class Chat:
    """A chat in the server's own terms, whichever protocol it came by.

    A message is {"role", "content": text} with "tool_calls" (OpenAI's, their arguments as objects) or
    "tool_call_id".
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Tool] = ()
    choice: str = "auto"  # "auto", "none", "required", or the name of a tool after "="
    several_calls: bool | None = None  # whether an answer may call more than one; None: not said
    variables: Mapping[str, Any] | None = None  # more, for the template
    schema: dict[str, Any] | None = None  # of the JSON to be answered with
    continued: str = ""  # the beginning of the answer, put into the model's mouth
    param: str = "messages"  # the field of the request that holds it


@dataclass(frozen=True)
class ChatPrompt:
    """What a chat becomes."""

    ids: list[int]
    reading: Reading
    grammar: tuple[str, str] | None


def prepare(service: Service, chat: Chat, stop: Sequence[str], counts_only: bool = False) -> ChatPrompt:
    """Renders and tokenizes. Takes as long as a template does: not for the event loop. Raises ApiError.

    counts_only: its tokens are only to be counted, however many they are.
    """
    if service.template is None:
        raise ApiError(400, "this model has no chat template: use /v1/completions", code="no_chat_template")
    form, described = call_format(service.template)
    offered = _offered(chat)
    messages = list(chat.messages)
    variables = dict(chat.variables or {})
    for name in _RESERVED:
        refuse(name in variables, f"chat_template_kwargs may not hold {name!r}", "chat_template_kwargs")
    for name in variables:
        refuse(not name.isidentifier(), f"{name[:50]!r} is no name of a variable", "chat_template_kwargs")
    if described:
        variables["tools"] = [tool.for_template() for tool in offered] or None
    else:
        messages = _without_tool_messages(messages, offered)
    prompt = service.model.apply_chat_template(messages, **variables)
    if not counts_only:
        service.check_text(prompt, chat.param)
    ids = service.model.tokenize(prompt)
    if chat.continued:
        ids += service.model.tokenize(chat.continued, add_special=False, parse_special=False)
    thoughts = thinks(service.template) and not chat.continued
    thought_open = thoughts and prompt.rstrip().endswith(BEGIN)
    calls = form if offered else None
    return ChatPrompt(
        ids=ids,
        reading=Reading(tuple(stop), thoughts, thought_open, calls),
        grammar=_grammar(chat, offered, form, thought_open),
    )


def _offered(chat: Chat) -> list[Tool]:
    """The tools that the model may call. Raises ApiError if the choice among them makes no sense."""
    name = chat.choice.removeprefix("=") if chat.choice.startswith("=") else None
    refuse(
        chat.choice == "required" and not chat.tools,
        "tool_choice asks for a tool, none are given",
        "tool_choice",
    )
    if name is not None:
        chosen = [tool for tool in chat.tools if tool.name == name]
        refuse(not chosen, f"tool_choice names {name[:100]!r}, which is none of the tools", "tool_choice")
        return chosen
    return [] if chat.choice == "none" else list(chat.tools)


def _grammar(chat: Chat, offered: list[Tool], form: CallFormat, thought_open: bool) -> tuple[str, str] | None:
    required = chat.choice == "required" or chat.choice.startswith("=")
    if offered and (required or chat.schema is None):
        # A call that must be made is one call, unless the request says that there may be more.
        several = chat.several_calls is True if required else chat.several_calls is not False
        lark = call_grammar(
            offered, form, required=required, several=several, after_thinking=thought_open and required
        )
        return lark, "tools"
    if chat.schema is not None:
        return json_grammar(chat.schema, thought_open), "response_format"
    return None


def _without_tool_messages(
    messages: Sequence[Mapping[str, Any]], offered: list[Tool]
) -> list[Mapping[str, Any]]:
    """The messages for a template that knows no tools: all that concerns them is written out."""
    plain: list[Mapping[str, Any]] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "tool":
            plain.append({"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"})
            continue
        for call in message.get("tool_calls", ()):
            function = call["function"]
            spelled = HERMES.spelled(function["name"], json.dumps(function["arguments"], ensure_ascii=False))
            content = f"{content}\n{spelled}" if content else spelled
        plain.append({"role": message["role"], "content": content})
    if offered:
        if plain and plain[0]["role"] == "system":
            content = f"{plain[0]['content']}\n\n{description(offered)}"
            plain[0] = {"role": "system", "content": content}
        else:
            plain.insert(0, {"role": "system", "content": description(offered)})
    return plain
