"""What OpenAI's requests and answers have in common."""

from collections.abc import Sequence
from typing import Any

from dca_runtime.sampling import Sampling
from dca_runtime.server.answering.answer import Answer
from dca_runtime.server.requests import Read, Token
from dca_runtime.server.schema import SamplingFields
from dca_runtime.server.service import Service

LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI says this instead


def sampling_of(service: Service, body: SamplingFields) -> Sampling:
    """How tokens are to be chosen. Raises ApiError."""
    return service.sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        min_p=body.min_p,
        repeat_penalty=body.repeat_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=service.biases(body.logit_bias),
        seed=None if body.seed is None else body.seed % 2**64,
    )


def stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The stop texts."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def usage(answer: Answer) -> dict[str, Any]:
    """The counts of tokens."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": answer.thought_tokens},
    }


def progress(answer: Answer, read: Read) -> dict[str, Any]:
    """How far reading is: tokens of the prompt in all, from the cache and so far, and seconds."""
    return {
        "total": answer.prompt_tokens,
        "cached": answer.cached_tokens,
        "processed": read.tokens,
        "seconds": round(read.seconds, 3),
    }


def chat_logprobs(service: Service, tokens: Sequence[Token]) -> dict[str, Any]:
    """Log-probabilities as chats have them."""

    def one(id_: int, logprob: float) -> dict[str, Any]:
        text = service.tokenizer.decode([id_])
        # A part of a character has no text of its own; its bytes are not told either.
        data = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": data}

    content = [
        one(token.id, token.logprob or 0.0) | {"top_logprobs": [one(*likely) for likely in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}
