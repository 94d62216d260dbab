"""What the routes stand on: one model, its engine with the thread that steps it, and work beside the loop."""

import asyncio
import functools
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from dca_runtime.engine import Engine
from dca_runtime.errors import DcaError
from dca_runtime.model import Model
from dca_runtime.options import PAGE_TOKENS
from dca_runtime.prompt_store import Prompts
from dca_runtime.sampling import Sampling, drawn_seed
from dca_runtime.server.answering.answer import Answer, Reading
from dca_runtime.server.answering.structured import Grammars
from dca_runtime.server.errors import CONTEXT_CODE, ApiError, refuse
from dca_runtime.server.exchange import Exchange
from dca_runtime.server.incoming import warn
from dca_runtime.server.metrics import Metrics
from dca_runtime.server.requests import Constraint, Job
from dca_runtime.server.settings import Settings
from dca_runtime.server.stepping.host_memory import HostMemory
from dca_runtime.server.stepping.sleepers import Sleepers
from dca_runtime.server.stepping.stepper import Delivery, Stepper, busy_error, stopping_error
from dca_runtime.server.stepping.stored import Stored
from dca_runtime.text.chat import TEMPLATE_KEY

_Result = TypeVar("_Result")
_THREADS = 4  # for templates, tokens and grammars
_FIND_SECONDS = 2.0  # to look for a prompt in the store; then it is read as if it were not there


@dataclass
class Wanted:
    """A request in the server's own terms, whichever protocol it came by."""

    prompt: list[int]
    sampling: Sampling
    max_tokens: int | None = None  # None: to the end of the context
    n: int = 1
    reading: Reading = field(default_factory=Reading)
    grammar: tuple[str, str] | None = None  # Lark, and the field of the request that asked for it
    top_logprobs: int | None = None
    cache_prompt: bool = True
    progress: bool = False
    ignore_end: bool = False


class Service:
    """Answers requests; made on the event loop that it serves. Raises DcaError if the settings do not fit."""

    def __init__(
        self,
        model: Model,
        engine: Engine,
        settings: Settings,
        metrics: Metrics,
        prompts: Prompts | None = None,
        host_bytes: int = 0,
    ) -> None:
        """prompts: of the engine's setup, to be closed with the service; None: none are kept on disk.
        host_bytes: host memory for pages that sleep; less than a page's: none."""
        self.model = model
        self.engine = engine
        self.context = _context(model, engine, settings.context)
        self.settings = settings
        self.metrics = metrics
        self.tokenizer = model.tokenizer
        template = model.metadata.get(TEMPLATE_KEY)
        self.template = template if isinstance(template, str) else None
        self.stopping = False
        self._grammars = Grammars(model)
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="prepare")
        self._stored = None if prompts is None else Stored(prompts)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="prompt-store-find")
        self.engine_info = engine.info  # of its making: from here on the engine is the stepper's
        page_bytes = engine.setup.page_bytes
        self.host_memory = HostMemory(engine, page_bytes, host_bytes) if host_bytes >= page_bytes else None
        sleepers = None if self.host_memory is None else Sleepers(self.host_memory)
        self._stepper = Stepper(engine, settings, metrics, self._hand_over, self._stored, sleepers)
        self._stepper.start()

    def end_answers(self) -> None:
        """Ends all that is being answered: the server stops."""
        self._stepper.refuse_all(stopping_error())

    async def close(self) -> None:
        """Stops stepping and frees the engine and the model."""
        self.stopping = True
        self._stepper.stop()
        await asyncio.to_thread(self._stepper.join)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._disk.shutdown(wait=False, cancel_futures=True)
        self.engine.close()
        self.model.close()

    async def beside(self, function: Callable[..., _Result], *arguments: Any, **named: Any) -> _Result:
        """Runs what takes long in a thread of the pool. Failures of the runtime become ApiError."""
        call = functools.partial(function, *arguments, **named)
        try:
            return await self._loop.run_in_executor(self._pool, call)
        except ApiError:
            raise
        except Exception as error:
            raise ApiError.of(error) from error

    def check_model(self, name: str | None) -> None:
        """Raises ApiError (404) if a request names another model."""
        if name is not None and name != self.settings.name:
            raise ApiError(
                404,
                f"there is no model {name[:200]!r} here; this server has {self.settings.name!r}",
                param="model",
                code="model_not_found",
            )

    def sampling(self, **fields: Any) -> Sampling:
        """What the file recommends with the fields that are not None in its place. Raises ApiError."""
        given = {name: value for name, value in fields.items() if value is not None}
        try:
            return self.model.sampling(**given)
        except Exception as error:
            raise ApiError.of(error) from error

    def biases(self, logit_bias: dict[str, float] | None) -> dict[int, float]:
        """A request's logit_bias by token ids. Raises ApiError."""
        found: dict[int, float] = {}
        for name, value in (logit_bias or {}).items():
            refuse(
                not name.isascii() or not name.isdigit() or len(name) > 10,
                f"{name[:50]!r} is no token id",
                "logit_bias",
            )
            found[int(name)] = value
        self.check_ids(list(found), "logit_bias")
        return found

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Raises ApiError if one of ``ids`` is not in the vocabulary."""
        n_vocab = self.model.info.n_vocab
        wrong = next((id_ for id_ in ids if not 0 <= id_ < n_vocab), None)
        refuse(
            wrong is not None,
            f"{wrong} is no token id of this model: they are from 0 to {n_vocab - 1}",
            param,
        )

    def check_length(self, prompt: Sequence[int], param: str) -> None:
        """Raises ApiError if a prompt is empty or leaves no room for an answer."""
        refuse(not prompt, "the prompt has no tokens", param)
        if len(prompt) >= self.context:
            raise self._too_long(f"{len(prompt)}", param)

    def check_text(self, text: str, param: str) -> None:
        """Raises ApiError for a text so long that it need not be encoded to know that it does not fit."""
        least = self.tokenizer.least_tokens(text)
        if least >= self.context:
            raise self._too_long(f"at least {least}", param)

    def _too_long(self, tokens: str, param: str) -> ApiError:
        return ApiError(
            400,
            f"this server's context is {self.context} tokens, the prompt has {tokens}: shorten it",
            param=param,
            code=CONTEXT_CODE,
        )

    async def answer(self, wanted: Wanted, param: str) -> Answer:
        """Starts to answer; returns when the prompt is being read. Raises ApiError.

        param: the field of the request that holds the prompt.
        """
        self.check_length(wanted.prompt, param)
        room = self.context - len(wanted.prompt)
        limit = room if wanted.max_tokens is None else min(wanted.max_tokens, room)
        self._check_queue()
        stored = await self._find(wanted)
        constraints: Sequence[Constraint | None] = [None] * wanted.n
        if wanted.grammar is not None:
            constraints = await self.beside(self._grammars.constraints, wanted.n, *wanted.grammar)
        logged = None
        if self.settings.log_prompts:
            logged = await self.beside(self.tokenizer.decode, wanted.prompt)
        # From here on nothing is waited for until the jobs run: whoever leaves leaves nothing behind.
        exchange = Exchange(self.metrics, self._stepper.wake)
        seed = drawn_seed(wanted.sampling)
        for index, constraint in enumerate(constraints):
            exchange.add(
                Job(
                    prompt=wanted.prompt,
                    max_tokens=limit,
                    sampling=replace(wanted.sampling, seed=seed + index),
                    deliver=functools.partial(exchange.deliver, index),
                    end_ids=frozenset() if wanted.ignore_end else self.tokenizer.end_ids,
                    constraint=constraint,
                    top_logprobs=wanted.top_logprobs,
                    cache_prompt=wanted.cache_prompt,
                    progress=wanted.progress,
                    stored=stored,
                )
            )
        answer = Answer(exchange, self.tokenizer, wanted.reading)
        answer.prompt_text = logged
        for job in exchange.jobs:
            self._stepper.submit(job)
        try:
            await answer.begin()
        except BaseException:  # the client left while it waited
            exchange.cancel()
            raise
        return answer

    async def _find(self, wanted: Wanted) -> int:
        """How many tokens of the prompt are in the store."""
        if self._stored is None or not wanted.cache_prompt or len(wanted.prompt) <= PAGE_TOKENS:
            return 0
        self.metrics.looked_up(len(wanted.prompt))
        found = self._loop.run_in_executor(self._disk, self._stored.find, wanted.prompt)
        # Not asyncio.wait_for: before Python 3.12 it lets a cancelling go unheard that comes with the result.
        await asyncio.wait({found}, timeout=_FIND_SECONDS)
        if found.done():
            return found.result()
        warn(f"the prompt store did not answer within {_FIND_SECONDS:g} s, so a prompt is read")
        return 0

    def _check_queue(self) -> None:
        if self.stopping:
            raise stopping_error()
        full = self._stepper.unstarted >= self.settings.max_queue
        if full or self._stepper.wait > self.settings.queue_seconds:
            raise busy_error(self._stepper.wait)

    def _hand_over(self, delivery: Delivery) -> None:
        """From the stepper's thread: one call of the loop a step."""
        try:
            self._loop.call_soon_threadsafe(_deliver, delivery)
        except RuntimeError:  # the loop is closed: nobody is there to tell
            self._stepper.stop()


def _deliver(delivery: Delivery) -> None:
    for job, event in delivery:
        job.deliver(event)


def _context(model: Model, engine: Engine, wanted: int | None) -> int:
    """Tokens of a request. Raises DcaError if the engine has no room for so many."""
    room = engine.info.tokens
    if wanted is None:
        reaches = engine.info.scheme is not None or engine.info.border is not None
        return room if reaches else min(room, model.info.context_length or room)
    if wanted > room:
        raise DcaError(
            f"--context {wanted} does not fit in --cache-tokens {room}: lower the one or raise the other"
        )
    return wanted


def new_id(prefix: str) -> str:
    """An id as the protocols have them."""
    return f"{prefix}{uuid.uuid4().hex}"
