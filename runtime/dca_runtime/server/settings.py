"""What a server is started with."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """Limits and names. Lengths count tokens, times are seconds."""

    name: str  # what clients call the model
    context: int | None = None  # of one request, prompt and answer; None: what the model is good for
    max_sequences: int = 64  # that are read or written at once
    api_key: str | None = field(default=None, repr=False)
    log_prompts: bool = False  # their texts, in the access log
    cors_origins: tuple[str, ...] = ()  # web pages from these may speak to the server
    max_body: int = 64 << 20  # bytes of a request
    max_messages: int = 10_000  # of one chat
    max_queue: int = 512  # requests that wait for their first row
    queue_seconds: float = 300.0  # a request that would wait longer is told to come back
    request_seconds: float = 3600.0  # a request that takes longer ends
    slow_reader_seconds: float = 60.0  # a client that takes nothing for so long is let go
    ping_seconds: float = (
        15.0  # of silence, then a stream gets a comment, which keeps proxies from closing it
    )
    stop_seconds: float = 10.0  # streams may go on so long after the server was told to stop
