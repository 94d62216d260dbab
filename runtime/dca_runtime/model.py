"""A loaded model: what it is, its tokenizer, and the sessions that run it."""

import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_runtime import _ffi, process
from dca_runtime import attention as attentions
from dca_runtime._convert import c_path, scheme_of
from dca_runtime._ffi import ffi
from dca_runtime.engine import Engine
from dca_runtime.errors import DcaError, Status
from dca_runtime.generation.prompt import Marks, Prompt
from dca_runtime.generation.speculation import beyond_one_row
from dca_runtime.model_file.metadata import Metadata
from dca_runtime.model_file.model_path import check_path
from dca_runtime.model_file.trained import reach, warn_of_border, warn_of_length, warn_of_scheme
from dca_runtime.options import DEFAULT_CONTEXT, EngineOptions, Progress, Scheme, SessionOptions, TokenIds
from dca_runtime.session import Session

if TYPE_CHECKING:
    from dca_runtime.generate import Generation, Processor
    from dca_runtime.sampling import Sampling
    from dca_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelInfo:
    """What a model is and what it costs. Lengths count tokens; sizes are in bytes."""

    architecture: str
    device: str  # where it runs: "cpu (AVX-512, 2 threads)"
    n_vocab: int
    n_layers: int
    n_embd: int  # model width
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ff: int  # feed-forward width (of one expert in a mixture)
    n_experts: int  # 0: dense
    n_experts_used: int
    context_length: int  # tokens the model was trained on
    n_params: int
    n_params_used: int  # parameters that one token touches
    weight_bytes: int  # all tensors as stored
    weight_bytes_used: int  # what one decoded token reads
    scheme: Scheme | None  # the file's, with its logit scale; None: it has none
    repacked_bytes: int  # memory that copied and repacked weights take on the CPU; 0: all stay in the file
    border: str | None = None  # the file's in place of a scheme, "string:680/128"; None: it has none


class Model:
    """A GGUF model, loaded. Threads may share it; each needs a session of its own.

    A context manager; ``close`` frees the model and its sessions. Afterwards every use raises DcaError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "cpu",
        context: int | None = None,
        threads: int = 0,
        progress: Progress | None = None,
        repack: bool = True,
    ) -> None:
        """Maps and checks the file, and makes it ready on the device.

        device: "cpu", "cuda", "cuda:N", "auto" (cuda if it can be had), or several cards of one host that
            share the model: "cuda:0,1".
        context: capacity of the sessions made without one of their own, tokens; None: 4096, or in
            ``generate`` and ``score`` what the call needs.
        threads: CPU threads; 0: the physical cores this process may use.
        progress: called with (bytes done, bytes in all) while loading; to cancel, raise.
        repack: let the CPU copy the weights into large pages while loading, repacked where quantised and the
            CPU has AVX-512 VNNI: faster. Left out where it would take over three quarters of the available
            memory; without effect on other devices.

        Raises DcaError: the file cannot be read, is damaged, or is not something libdca runs.
        """
        self.path = os.fspath(path)
        self.context = context
        self._lock = threading.Lock()  # one thread at a time makes sessions or closes the model
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        lib, callback = _ffi.lib(), _ffi.Callback(progress)
        device_name = ffi.new("char[]", device.encode())
        options = _ffi.options("dca_model_options")
        options.device = device_name
        options.threads = _ffi.integer(threads, 0, "threads", most=2**31 - 1)
        options.progress = callback.function
        options.repack = bool(repack)
        model = ffi.new("dca_model **")
        check_path(self.path)
        self._home = process.Home()
        with process.calling():
            status = lib.dca_model_load(c_path(self.path), options, model)
        if status == Status.OK:
            # A session holds this handle too, so that the native model outlives it in any order of
            # collection.
            free = functools.partial(_free, lib, self._home, process.may_free)
            self._native = ffi.gc(model[0], free)
        callback.reraise()
        _ffi.check(status)
        self._closed = False
        self.info = _model_info(self._native)
        self.metadata: Mapping[str, Any] = Metadata(self._handle)

    def close(self) -> None:
        """Frees the model and its sessions. Does nothing the second time, nor in a forked child.

        Raises DcaError, and frees nothing of the model, while a session is busy in another thread.
        """
        if self._home.left():
            return
        with self._lock:
            if self._closed:
                return
            users: list[Session | Engine] = [*self._sessions, *self._engines]
            for user in users:
                user.close()
            self._closed = True
            ffi.release(self._native)

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({self.path!r}, device={self.info.device!r})"

    @property
    def scheme(self) -> tuple[int, int, int] | tuple[int, int, int, float, int] | None:
        """The file's scheme as ``session`` takes one; None: plain attention.

        (chunk_size, local_window, pretraining_length), and where the file scales logits also
        logit_scale and logit_scale_length.
        """
        if self.info.scheme is None:
            return None
        s, w, c, logit_scale, logit_scale_length = self.info.scheme
        return (s, w, c, logit_scale, logit_scale_length) if logit_scale else (s, w, c)

    # Running.

    def session(
        self,
        context: int | None = None,
        attention: str = "auto",
        scheme: Sequence[float] | None = None,
        cache_type: str = "f16",
        prefill_block: int = 0,
        progress: Progress | None = None,
        rope: str | None = None,
        prefill: str = "dense",
        record_selection: bool = False,
    ) -> Session:
        """A new, empty session.

        context: capacity of its KV cache, tokens; None: the model's ``context``, else 4096.
        attention: "auto" (the scheme given here, else the file's scheme or border, else plain), "plain",
            "dca", or for ablations "intra" (only the query's own chunk) and "intra+inter" (every earlier
            chunk at the inter-chunk position); with a border that moves with the query "string:S/W" (STRING:
            distances m from S on become m - S + W; "string": the file's), and of methods that see the first
            tokens and the last only "streaming:SINKS/WINDOW" (StreamingLLM) and "lm-infinite:SINKS/WINDOW".
        scheme: (chunk_size, local_window, pretraining_length[, logit_scale, logit_scale_length]) to use
            instead of the file's.
        cache_type: what keys and values are kept in: "f16", "f32", "bf16", "q8" or "q4".
        prefill_block: tokens evaluated together in prefill; 0: the backend's choice.
        progress: called with (tokens done, tokens in all) during long calls; to cancel a call, raise.
        rope: another RoPE scaling in place of the model's: "linear:F" (position interpolation), "ntk:F"
            (NTK-aware base) or "yarn:F" (from the trained context), F at least 1; "dynamic:F" is ntk with
            the factor F n / L - (F - 1), n being the positions that ``context`` uses, L the trained context.
            Keys are rotated once, when they are stored, so n does not follow the text.
        prefill: how a prompt's tokens attend: "dense", to all keys; "sparse" or "sparse:ALPHA", each
            block to the pages of keys whose weight is at least ALPHA of the heaviest page's
            (docs/sparse.md); "sparse:ALPHA:FROM", from token FROM on instead of 4,096; "stated", each head
            as many columns and diagonals as the file states for it. ``info.density`` says what it came to.
        record_selection: keep what prefill chooses, for ``Session.selection`` and ``line_selection``.
        """
        if context is None:
            context = DEFAULT_CONTEXT if self.context is None else self.context
        options = SessionOptions(
            context=context,
            attention=attention,
            scheme=scheme,
            cache_type=cache_type,
            prefill_block=prefill_block,
            progress=progress,
            rope=rope,
            prefill=prefill,
            record_selection=record_selection,
        )
        self._home.check()
        with self._lock:
            info = self.info
            session = Session(self._handle(), info.n_vocab, info.device, options, self._heads)
            session.beyond = beyond_one_row(
                info.device, info.n_layers, info.weight_bytes_used, info.n_params_used
            )
            self._sessions.add(session)
        warn_of_scheme(session.info.scheme, self._reach(session.rope))
        return session

    def engine(
        self,
        tokens: int = 65536,
        cache_type: str = "f16",
        attention: str = "auto",
        scheme: Sequence[float] | None = None,
        rope: str | None = None,
        progress: Progress | None = None,
        max_rows: int = 0,
        prefill: str = "dense",
    ) -> Engine:
        """A new engine: many sequences in one step over one pool of keys and values.

        tokens: room of the pool, all sequences together. max_rows: tokens of one step at most, 0 for the
        library's choice; a smaller step bounds how long the others wait for a long prompt's next piece. The
        rest is as in ``session``; its sequences have no length that rope "dynamic:F" could go by.
        """
        options = EngineOptions(
            tokens=tokens,
            attention=attention,
            scheme=scheme,
            cache_type=cache_type,
            progress=progress,
            rope=rope,
            max_rows=max_rows,
            prefill=prefill,
        )
        self._home.check()
        with self._lock:
            engine = Engine(self._handle(), self.info.n_vocab, options, self._heads)
            self._engines.add(engine)
        warn_of_scheme(engine.info.scheme, self._reach(rope))
        return engine

    def score(self, ids: TokenIds, **options: Any) -> np.ndarray:
        """-log p(ids[i+1] | ids[:i+1]) for every i, natural logarithm: float32 (len(ids) - 1,).

        ``options`` are those of ``session``.
        """
        options.setdefault("context", self._context_for(len(ids)))
        with self.session(**options) as session:
            return session.score(ids)

    # Text.

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The file's tokenizer. Raises DcaError if it has none, or one of a kind not known here."""
        from dca_runtime.text.tokenizer import Tokenizer

        return Tokenizer(self.metadata)

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``; see ``Tokenizer.encode``."""
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: TokenIds, skip_special: bool = False) -> str:
        """The text of ``ids``; see ``Tokenizer.decode``."""
        return self.tokenizer.decode(ids, skip_special=skip_special)

    def apply_chat_template(
        self, /, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> Prompt:
        """The prompt that the file's chat template makes of ``messages`` ({"role": …, "content": …}).

        It contains its special tokens, the beginning of the text too, and knows which they are: control
        tokens' spellings in the messages stay text when it is tokenized or generated from. Raises DcaError
        if the file has no template or the template fails.
        """
        from dca_runtime.text import chat

        template = self.metadata.get(chat.TEMPLATE_KEY)
        if not isinstance(template, str):
            raise DcaError(f"{self.path}: no chat template ({chat.TEMPLATE_KEY})", Status.UNSUPPORTED)
        try:
            marks = Marks(self.tokenizer.special_spellings, [messages, variables])
            # Variables such as bos_token hold control tokens on purpose.
            marked = {name: v if name.endswith("_token") else marks.mark(v) for name, v in variables.items()}
            messages = marks.mark(messages)
        except RecursionError:
            raise DcaError("the messages are nested too deep for a chat template") from None
        rendered = chat.render(
            template,
            messages,
            add_generation_prompt=add_generation_prompt,
            **(self.tokenizer.special_texts | marked),
        )
        return marks.unmark(rendered)

    def sampling(self, **fields: Any) -> "Sampling":
        """What the file recommends (general.sampling.*), with ``fields`` of Sampling in its place."""
        from dca_runtime.sampling import Sampling

        return Sampling.recommended(self.metadata, **fields)

    def generate(
        self,
        prompt: str | TokenIds,
        max_tokens: int | None = 256,
        session: Session | None = None,
        *,
        stop: str | Sequence[str] = (),
        skip_special: bool = True,
        processors: "Sequence[Processor]" = (),
        logprobs: int | None = None,
        speculate: str = "auto",
        **sampling: Any,
    ) -> "Generation":
        """Continues ``prompt`` (text or token ids); iterate over the result for pieces of text.

        max_tokens: tokens to generate at most; None or -1: until the context is full.
        session: where to append; by default a new one, large enough (4096 tokens more than the prompt where
            ``max_tokens`` does not say).
        stop, skip_special, processors, logprobs, speculate: see ``Generation``.
        sampling: the fields of ``Sampling`` (temperature, top_k, top_p, min_p, repeat_penalty, seed, …); the
            others are those that the file recommends.

        Text begins as the model's texts do, unless the session holds something already or the text says so
        itself, and is left open at its end.
        """
        from dca_runtime.generate import Generation, token_limit

        limit = token_limit(max_tokens)
        begins = session is None or session.length == 0
        ids = self.tokenizer.prompt_ids(prompt, begins) if isinstance(prompt, str) else prompt
        chosen = self.sampling(**sampling)
        owned = session is None
        if session is None:
            more = DEFAULT_CONTEXT if limit is None else limit
            session = self.session(context=self._context_for(len(ids) + more))
        self.warn_if_untrained(session, session.length + len(ids))
        return Generation(
            session,
            self.tokenizer,
            ids,
            limit,
            chosen,
            stop=stop,
            skip_special=skip_special,
            processors=processors,
            logprobs=logprobs,
            speculate=speculate,
            own_session=owned,
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = 256,
        session: Session | None = None,
        **options: Any,
    ) -> "Generation":
        """Answers ``messages`` ({"role": …, "content": …}) in the file's chat template, as ``generate`` does.

        session: one whose tokens are used as far as the messages begin with the same ones, and otherwise
            replaced; by default a new one, large enough.
        options: those of ``generate``.
        """
        from dca_runtime.generation.prompt_cache import PromptCache

        ids = self.tokenize(self.apply_chat_template(messages))
        rest = ids if session is None else PromptCache(session).rest(ids)
        return self.generate(rest, max_tokens, session, **options)

    def warn_if_untrained(self, session: Session, tokens: int) -> None:
        """DcaWarning where that many tokens are too many for the attention of ``session``."""
        info, known = session.info, self._reach(session.rope)
        if info.border is not None:
            warn_of_border(info.border, tokens, attentions.parse(info.border).distances(tokens), known)
        elif info.scheme is None:
            warn_of_length(tokens, known, self.info.scheme is not None or self.info.border is not None)

    @property
    def _heads(self) -> tuple[int, int]:
        return self.info.n_layers, self.info.n_heads

    def _reach(self, rope: str | None) -> int:
        return reach(self.info.context_length, self.info.architecture, self.metadata, rope)

    def _context_for(self, tokens: int) -> int:
        return max(tokens, 1) if self.context is None else self.context

    def _handle(self) -> Any:
        if self._closed:
            raise DcaError(f"{self.path}: the model is closed")
        return self._native


def _free(lib: Any, home: process.Home, may_free: Callable[[process.Home], bool], native: Any) -> None:
    # All it needs is given to it: it may run when modules are gone already.
    if may_free(home):
        lib.dca_model_free(native)


def _model_info(native: Any) -> ModelInfo:
    info = ffi.new("dca_model_info *")
    info.size = ffi.sizeof("dca_model_info")
    _ffi.check(_ffi.lib().dca_model_get_info(native, info))
    names = [name for name in ModelInfo.__dataclass_fields__ if name != "border"]
    fields = {name: getattr(info, name) for name in names}
    fields |= {"architecture": _ffi.text(info.architecture), "device": _ffi.text(info.device)}
    fields["scheme"] = scheme_of(info.scheme)
    if info.border.window:
        fields["border"] = attentions.Attention("string", info.border.window, info.border.beyond).name
    return ModelInfo(**fields)
