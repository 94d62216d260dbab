"""The protocols' types: what requests may hold. Unknown fields are ignored."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def _json(value: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for numbers that Python reads in JSON, and JSON does not have."""
    left: list[Any] = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list):
            left += one
        elif isinstance(one, float) and not math.isfinite(one):
            raise ValueError(f"JSON has no {one!r}")
    return value


def _few(value: Any) -> Any:
    """Raises ValueError for a mapping that is too long, before each of its entries is looked at."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise ValueError(f"at most {MOST_BIASES} entries")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_json)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Stops = Annotated[list[Stop], Field(max_length=64)]
ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# Bodies are read on the event loop: of a long list that is wrong the first fault is looked for, not millions.
Texts = Annotated[list[str], Field(fail_fast=True)]
Ids = Annotated[list[int], Field(fail_fast=True)]
MOST_MESSAGES = 20_000  # that are looked at; a server may allow fewer
MOST_BIASES = MOST_PROMPTS = 1024


class Strict(BaseModel):
    """A part of a request: types are as they stand, nothing is converted."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


class ErrorObject(Strict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Strict):
    """Every answer that is not the wanted one."""

    error: ErrorObject


# What sampling takes, in all of OpenAI's requests.


class SamplingFields(Strict):
    """How tokens are chosen; what is not given is as the model's file recommends, or as dca-run has it."""

    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(None, description="-1 or 0: all")
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[Finite, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[
        dict[str, Annotated[Finite, Field(ge=-100, le=100)]] | None, BeforeValidator(_few)
    ] = Field(None, max_length=MOST_BIASES)
    seed: Seed | None = None


class StreamOptions(Strict):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None


class GenerationFields(SamplingFields):
    """What /v1/completions and /v1/chat/completions have in common."""

    model: str | None = Field(None, description="The name in /v1/models; none: this server's model")
    n: Annotated[int, Field(ge=1, le=64)] | None = None
    stop: Stop | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = Field(None, description="Go on behind the end of the text, to max_tokens")
    cache_prompt: bool | None = Field(None, description="false: read all of the prompt, share nothing of it")
    return_progress: bool | None = Field(None, description="Chunks of a stream that tell how far reading is")


# Chats.


class TextPart(Strict):
    """A part of a message."""

    type: str
    text: str | None = None


class FunctionCall(Strict):
    """A call as the model wrote it."""

    name: ToolName
    arguments: str = "{}"


class ToolCall(Strict):
    """A call in an assistant's message."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Strict):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class FunctionTool(Strict):
    """A function that the model may call."""

    name: ToolName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ChatTool(Strict):
    """A tool."""

    type: Literal["function"]
    function: FunctionTool


class NamedFunction(Strict):
    """The name of a tool."""

    name: ToolName


class NamedTool(Strict):
    """A choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


class SchemaFormat(Strict):
    """A JSON schema with its name."""

    name: str | None = None
    schema_: JsonObject = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """What an answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class ChatRequest(GenerationFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[ChatTool] | None = Field(None, max_length=512)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: JsonObject | None = None


class CompletionRequest(GenerationFields):
    """POST /v1/completions."""

    prompt: str | Texts | Ids | Annotated[list[Ids], Field(max_length=MOST_PROMPTS, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(None, description="none: 16")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


# /v1/responses


class ResponsePart(Strict):
    """A part of an item's content."""

    type: str
    text: str | None = None


class ResponseItem(Strict):
    """An item of the input: a message, a call or its result, or thoughts (which are passed over)."""

    type: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[ResponsePart] | None = None
    call_id: str | None = None
    name: ToolName | None = None
    arguments: str | None = None
    output: str | list[ResponsePart] | None = None


class ResponseTool(Strict):
    """A tool."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ResponseNamedTool(Strict):
    """A choice of one tool."""

    type: Literal["function"]
    name: ToolName


class TextFormat(Strict):
    """What an answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(Strict):
    """How text is to be."""

    format: TextFormat | None = None


class ResponsesRequest(SamplingFields):
    """POST /v1/responses. Nothing is stored."""

    model: str | None = None
    input: str | Annotated[list[ResponseItem], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    stream: bool | None = None
    text: TextOptions | None = None
    tools: list[ResponseTool] | None = Field(None, max_length=512)
    tool_choice: Literal["none", "auto", "required"] | ResponseNamedTool | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = None


# /v1/messages


class MessageBlock(Strict):
    """A block of a message's content."""

    type: str
    text: str | None = None
    id: str | None = None
    name: ToolName | None = None
    input: JsonObject | None = None
    tool_use_id: str | None = None
    content: "str | list[MessageBlock] | None" = None


class Message(Strict):
    """A message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[MessageBlock]


class MessageTool(Strict):
    """A tool."""

    name: ToolName
    description: str | None = None
    input_schema: JsonObject | None = None
    type: str | None = None


class MessageToolChoice(Strict):
    """Which tools the model may or must call."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


class CountRequest(Strict):
    """POST /v1/messages/count_tokens."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    system: str | list[MessageBlock] | None = None
    tools: list[MessageTool] | None = Field(None, max_length=512)
    tool_choice: MessageToolChoice | None = None


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: Count
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop_sequences: Stops | None = None
    stream: bool | None = None


# Tokens.


class TokenizeRequest(Strict):
    """POST /tokenize: ``prompt`` (or ``content``), or ``messages`` through the chat template."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: Annotated[list[ChatMessage], Field(max_length=MOST_MESSAGES, fail_fast=True)] | None = None
    add_special_tokens: bool | None = Field(
        None, description="What begins and ends a text (true); not for messages"
    )
    parse_special: bool | None = Field(None, description="Spellings of control tokens become them (true)")


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: str | None = None
    tokens: Ids
