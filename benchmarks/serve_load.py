"""Loads a server that speaks OpenAI's protocol, and says what its clients see.

    dca-serve model.gguf --port 8080 &
    python benchmarks/serve_load.py http://127.0.0.1:8080

Loads: many questions on one document that was just read, as many documents that nobody has read yet, a
long document beside people who are being answered, a question after many clients left while their prompts
were read, and, only where it is named (``--load many``), as many clients as fill a card. Times include the
network, which is this machine's own unless the address is another's. Prompts are made of numbers, so their
lengths in tokens are measured by a request before the loads. Many clients are several processes, as one
that reads 64 streams of a card has no time left and would measure itself.
"""

import argparse
import asyncio
import concurrent.futures
import json
import random
import re
import statistics
import time
from dataclasses import dataclass, field

import httpx

from dca_export.cli.shared.display import print_table


@dataclass
class Stream:
    """What one client saw. Times are seconds."""

    started: float
    tokens: list[float] = field(default_factory=list)  # when each came
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0  # more than came as text where tokens are pieces of characters

    @property
    def first(self) -> float:
        """Until the first token."""
        return self.tokens[0] - self.started if self.tokens else float("nan")

    @property
    def gaps(self) -> list[float]:
        """Between tokens."""
        return [after - before for before, after in zip(self.tokens, self.tokens[1:], strict=False)]


class Client:
    """Asks one server."""

    def __init__(self, http: httpx.AsyncClient, model: str | None) -> None:
        self._http = http
        self._model = model

    async def ask_all(self, prompts: list[str], tokens: int) -> list[Stream]:
        """``ask`` for all prompts at once."""
        return await asyncio.gather(*(self.ask(prompt, tokens) for prompt in prompts))

    async def ask_from_processes(self, prompts: list[str], tokens: int, processes: int) -> list[Stream]:
        """The same, each process with its share of the prompts."""
        loop = asyncio.get_running_loop()
        headers, model, url = dict(self._http.headers), self._model, str(self._http.base_url)
        with concurrent.futures.ProcessPoolExecutor(processes) as pool:
            await asyncio.gather(*(loop.run_in_executor(pool, time.sleep, 0.1) for _ in range(processes)))
            asked = [
                loop.run_in_executor(pool, ask_apart, url, headers, model, prompts[first::processes], tokens)
                for first in range(processes)
            ]
            return [stream for streams in await asyncio.gather(*asked) for stream in streams]

    async def stepping(self) -> dict[str, float]:
        """The server's own counts of its steps, where it has such metrics."""
        text = (await self._http.get("/metrics")).text
        return {
            name: float(value) for name, value in re.findall(r"^(dca:\w+)_total\{.*\} (\S+)$", text, re.M)
        }

    async def ask(self, prompt: str, tokens: int, seen: Stream | None = None) -> Stream:
        """Streams a completion of ``tokens`` tokens."""
        seen = seen or Stream(time.perf_counter())
        body = {
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        if self._model is not None:
            body["model"] = self._model
        async with self._http.stream("POST", "/v1/completions", json=body) as reply:
            if reply.status_code != 200:
                raise SystemExit(f"the server says {reply.status_code}: {(await reply.aread())[:300]!r}")
            async for line in reply.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if usage := chunk.get("usage"):
                    seen.prompt_tokens = usage["prompt_tokens"]
                    seen.completion_tokens = usage["completion_tokens"]
                    details = usage.get("prompt_tokens_details") or {}
                    seen.cached_tokens = details.get("cached_tokens") or 0
                if chunk.get("choices") and chunk["choices"][0].get("text"):
                    seen.tokens.append(time.perf_counter())
        return seen


def connect(url: str, headers: dict[str, str]) -> httpx.AsyncClient:
    """As many connections as there are requests, without a limit on time."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=None, limits=limits)


def ask_apart(
    url: str, headers: dict[str, str], model: str | None, prompts: list[str], tokens: int
) -> list[Stream]:
    """``Client.ask_all`` in a process of its own. Times of processes compare: they are the machine's."""

    async def ask() -> list[Stream]:
        async with connect(url, headers) as http:
            return await Client(http, model).ask_all(prompts, tokens)

    return asyncio.run(ask())


def document(seed: int, words: int) -> str:
    """Text that no other seed gives."""
    numbers = random.Random(seed)
    return " ".join(str(numbers.randrange(10, 99)) for _ in range(words))


def quantile(values: list[float], share: float) -> float:
    """The value that this share of ``values`` stays below."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def summary(streams: list[Stream], seconds: float) -> str:
    """Tokens/s in all and the times to first tokens."""
    rate = sum(len(stream.tokens) for stream in streams) / seconds
    first = [stream.first for stream in streams]
    found = sum(stream.cached_tokens > stream.prompt_tokens / 2 for stream in streams)
    return (
        f"{rate:.1f} tokens/s in all, first token p50 {statistics.median(first):.2f} s, "
        f"p99 {quantile(first, 0.99):.2f} s, {found} of {len(streams)} found most of their prompt"
    )


async def questions(client: Client, words: dict[int, int]) -> str:
    """Eight questions on one document of 4,055 tokens that was just read, 64 tokens each."""
    text = document(1, words[4055])
    await client.ask(text, 1)
    start = time.perf_counter()
    streams = await asyncio.gather(*(client.ask(f"{text}\nQuestion {n}:", 64) for n in range(8)))
    return summary(streams, time.perf_counter() - start)


async def cold(client: Client, words: dict[int, int]) -> str:
    """Eight documents of 2,000 tokens that nobody has read, 64 tokens each."""
    start = time.perf_counter()
    streams = await asyncio.gather(*(client.ask(document(10 + n, words[2000]), 64) for n in range(8)))
    return summary(streams, time.perf_counter() - start)


async def beside(client: Client, words: dict[int, int]) -> str:
    """A document of 19,000 tokens beside seven streams."""
    seen = [Stream(time.perf_counter()) for _ in range(7)]
    running = [asyncio.create_task(client.ask(f"Story {n}:", 2000, seen[n])) for n in range(7)]
    while not all(len(stream.tokens) > 20 for stream in seen):
        await asyncio.sleep(0.05)
    quiet = statistics.median(gap for stream in seen for gap in stream.gaps)
    start = time.perf_counter()
    try:
        long = await client.ask(document(30, words[19000]), 1)
    finally:
        end = time.perf_counter()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    gaps = []
    for stream in seen:
        times = [start, *(at for at in stream.tokens if start < at < end), end]
        gaps += [after - before for before, after in zip(times, times[1:], strict=False)]
    return (
        f"its first token after {long.first:.1f} s; gaps in the streams p50 {statistics.median(gaps):.2f} s, "
        f"longest {max(gaps):.2f} s ({quiet:.3f} s before)"
    )


async def gone(client: Client, words: dict[int, int]) -> str:
    """A short question after 40 clients left while their prompts of 2,000 tokens were read."""
    idle = await client.ask("Hello", 1)
    leaving = [asyncio.create_task(client.ask(document(100 + n, words[2000]), 64)) for n in range(40)]
    await asyncio.sleep(1.5)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    after = await client.ask("Hello you", 1)
    return f"first token after {after.first:.3f} s ({idle.first:.3f} s idle)"


async def many(client: Client, words: dict[int, int]) -> str:
    """64 clients, prompts of 1,024 tokens that nobody has read, 128 tokens each."""
    prompts = [document(200 + n, words[1024]) for n in range(64)]
    before = await client.stepping()
    streams = await client.ask_from_processes(prompts, 128, processes=8)
    own = between(before, await client.stepping())
    start = min(stream.started for stream in streams)
    end = max(stream.tokens[-1] for stream in streams)
    # From the last first token to the first last one all write: before and after it steps are of fewer.
    read = max(stream.tokens[0] for stream in streams)
    full = min(stream.tokens[-1] for stream in streams)
    # Tokens that end inside a character come without a text: scaled to the server's own count.
    whole = sum(stream.completion_tokens for stream in streams) / sum(
        len(stream.tokens) for stream in streams
    )
    written = whole * sum(read < at <= full for stream in streams for at in stream.tokens)
    tokens = sum(stream.prompt_tokens + stream.completion_tokens for stream in streams)
    return (
        f"{tokens / (end - start):.0f} tokens/s in all, read and written; last first token after "
        f"{read - start:.2f} s; {written / (full - read):.0f} tokens/s written while all write{own}"
    )


def between(before: dict[str, float], after: dict[str, float]) -> str:
    """What a server that counts its steps did beside them, as dca-serve does; else nothing."""
    steps, inside, outside = (
        after.get(name, 0.0) - before.get(name, 0.0)
        for name in ("dca:steps", "dca:step_seconds", "dca:between_steps_seconds")
    )
    if not steps:
        return ""
    share = outside / (inside + outside)
    return f"; between steps {1e3 * outside / steps:.3f} ms, {share:.1%} of their time ({steps:.0f} steps)"


LOADS = {"questions": questions, "cold": cold, "beside": beside, "gone": gone, "many": many}
SMALL = ("questions", "cold", "beside", "gone")


async def words_for(client: Client, lengths: list[int]) -> dict[int, int]:
    """How many words make prompts of these lengths in tokens."""
    tokens = (await client.ask(document(0, 400), 1)).prompt_tokens
    return {length: round(length * 400 / tokens) for length in lengths}


async def run(arguments: argparse.Namespace) -> None:
    headers = {"Authorization": f"Bearer {arguments.api_key}"} if arguments.api_key else {}
    async with connect(arguments.url, headers) as http:
        client = Client(http, arguments.model)
        words = await words_for(client, [1024, 2000, 4055, 19000])
        rows = []
        for name in arguments.load or SMALL:
            rows.append([" ".join((LOADS[name].__doc__ or "").split()), await LOADS[name](client, words)])
            print_table(["load", arguments.url], rows[-1:])
    print_table(["load", arguments.url], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="the server's address, without /v1")
    parser.add_argument("--model", help="the model's name (default: leave it out of requests)")
    parser.add_argument("--api-key", help="the key, where one is needed")
    parser.add_argument("--load", action="append", choices=LOADS, help="only this one (may be repeated)")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
