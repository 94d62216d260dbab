"""POST /tokenize and /detokenize."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from dca_runtime.server.answering.streaming import JsonAnswer
from dca_runtime.server.errors import refuse
from dca_runtime.server.protocols.chat import chat_messages
from dca_runtime.server.protocols.chat_prompt import Chat, prepare
from dca_runtime.server.protocols.documented import JSON, service_of
from dca_runtime.server.schema import DetokenizeRequest, TokenizeRequest

router = APIRouter()


@router.post("/tokenize", **JSON)
async def tokenize(request: Request, body: TokenizeRequest) -> Response:
    """The token ids of a text, or of a chat's prompt."""
    service = service_of(request)
    service.check_model(body.model)
    given = [field for field in (body.prompt, body.content, body.messages) if field is not None]
    refuse(len(given) != 1, "give one of prompt, content and messages", "prompt")
    if body.messages is not None:
        refuse(not body.messages, "there is no message", "messages")
        ids = (await service.beside(prepare, service, Chat(chat_messages(body.messages)), (), True)).ids
    else:
        text = body.prompt if body.prompt is not None else body.content
        special, parse = body.add_special_tokens is not False, body.parse_special is not False
        ids = await service.beside(service.tokenizer.encode, text, special, parse)
    return JsonAnswer({"tokens": ids, "count": len(ids), "max_model_len": service.context})


@router.post("/detokenize", **JSON)
async def detokenize(request: Request, body: DetokenizeRequest) -> Response:
    """The text of token ids."""
    service = service_of(request)
    service.check_model(body.model)
    await service.beside(service.check_ids, body.tokens, "tokens")
    text = await service.beside(service.tokenizer.decode, body.tokens)
    return JsonAnswer({"prompt": text, "content": text})
