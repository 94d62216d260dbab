"""The PyTorch reference as an engine of the experiments: any method, on the CPU or a card.

It has what experiments use of ``dca_runtime.Model`` and ``Session``. Text, tokens and metadata are the
file's, by the runtime; nothing that is computed is.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dca_export.errors import InputError, MissingPackage
from dca_export.reference.borders import RULES, Border, named
from dca_export.scheme import Scheme
from dca_runtime import DcaError, Model, Status
from dca_runtime.options import Progress, TokenIds
from dca_runtime.sampling import Sampler, Sampling
from dca_runtime.session import SessionInfo

try:
    import torch
    from transformers import DynamicCache

    from dca_export.reference.hf import Patch, patch
    from dca_export.reference.load import load_reference
except ImportError as error:
    raise MissingPackage("--engine reference needs torch and transformers", "reference") from error

# Logits held at once, 64 MiB in float32, and the tokens of a step at most: longer ones are not faster.
_STEP_VALUES, _LONGEST_STEP = 1 << 24, 512

# By --cache-type, on a card; the CPU computes in float32 whatever is asked for.
_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class ReferenceModel:
    """A GGUF file's weights in PyTorch. A context manager; ``close`` frees them."""

    def __init__(self, path: str, device: str = "auto", cache_type: str = "f16") -> None:
        """device: "cpu", "cuda", "cuda:N" or "auto" (cuda if it can be had). Raises InputError."""
        if any(sign in device for sign in ",/="):
            raise InputError(f"--device {device}: the reference runs on one device; name one, as cuda:0")
        self._text = Model(path, device="cpu", repack=False)
        self.path, self.metadata, self.tokenizer = self._text.path, self._text.metadata, self._text.tokenizer
        self.scheme = self._text.scheme
        self.tokenize, self.detokenize = self._text.tokenize, self._text.detokenize
        self.apply_chat_template = self._text.apply_chat_template
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if chosen.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"--device {device}: PyTorch finds no CUDA device")
        if cache_type not in _DTYPES:
            raise InputError(f"--cache-type {cache_type}: the reference has {', '.join(_DTYPES)}")
        dtype = torch.float32 if chosen == "cpu" else _DTYPES[cache_type]
        self.kernel = "eager" if dtype == torch.float32 else "flash"
        module: Any = load_reference(path, dtype)
        self.module: Any = module.to(chosen)
        name = chosen if chosen == "cpu" else torch.cuda.get_device_name(chosen)
        about = f"reference ({name}, {str(dtype).removeprefix('torch.')}, {self.kernel})"
        self.info = dataclasses.replace(self._text.info, device=about)
        self._running: tuple[ReferenceSession, Patch] | None = None

    def session(
        self,
        context: int,
        attention: str | Border,
        scheme: Sequence[float] | None = None,
        cache_type: str = "f16",
        progress: Progress | None = None,
        rope: str | None = None,
    ) -> "ReferenceSession":
        """A new, empty session; the arguments are those of ``Model.session``, and ``attention`` may be a rule
        of borders.py. cache_type is what the model was loaded with."""
        if isinstance(attention, str) and attention.partition(":")[0] in RULES:
            attention = named(attention)
        if scheme is None and attention != "plain" and not isinstance(attention, Border):
            scheme = self.scheme
        chosen = None if scheme is None else Scheme(*scheme)  # type: ignore[arg-type]
        return ReferenceSession(self, context, attention, chosen, progress, rope)

    def run(self, session: "ReferenceSession") -> Any:
        """The module, patched to run what the session runs."""
        if self._running is None or self._running[0] is not session:
            self.release()
            session_patch = patch(
                self.module,
                session.scheme,
                session.method,  # type: ignore[arg-type]
                self.kernel,  # type: ignore[arg-type]
                ignore_sliding_window=True,
                rope_length=session.rope_length,
                rope=session.rope,
            )
            self._running = (session, session_patch)
        return self.module

    def release(self, session: "ReferenceSession | None" = None) -> None:
        """Gives the module back as it was; if a session is named, only where that one runs."""
        if self._running is not None and session in (None, self._running[0]):
            self._running[1].restore()
            self._running = None

    def close(self) -> None:
        """Frees the weights."""
        self.release()
        self.module = None
        self._text.close()

    def __enter__(self) -> "ReferenceModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ReferenceSession:
    """One sequence. A context manager; ``close`` frees its cache."""

    def __init__(
        self,
        model: ReferenceModel,
        context: int,
        attention: str | Border,
        scheme: Scheme | None,
        progress: Progress | None,
        rope: str | None,
    ) -> None:
        self.method, self.scheme, self.rope = attention, scheme, rope
        self.n_vocab = model.info.n_vocab
        self.device = model.info.device
        self.beyond = None  # what steps of several rows cost here is found by doing them
        self.rope_length = context if scheme is None else None  # None: that of the scheme
        self._model, self._context = model, context
        self._progress = progress or (lambda done, total: None)
        self._cache = DynamicCache()
        self._ids: list[int] = []
        self._cancel: threading.Event | None = None
        self._step = max(1, min(_LONGEST_STEP, _STEP_VALUES // self.n_vocab))

    def eval(self, ids: TokenIds, all_logits: bool = False) -> np.ndarray:
        """Appends tokens; float32 logits (n_vocab,) after the last, or (len(ids), n_vocab) after each."""
        blocks: list[torch.Tensor] = []
        for _, logits in self._feed(ids):
            blocks = [*blocks, logits] if all_logits else [logits[-1:]]
        found = torch.cat(blocks).float().cpu().numpy()
        return found if all_logits else found[0]

    def sample(self, ids: TokenIds, sampling: Sampling, every: bool = False) -> list[int]:
        """Appends tokens, then chooses the token that follows the last, or with ``every`` each of them."""
        before = [*self._ids, *map(int, ids)]
        logits = self.eval(ids, all_logits=True) if every else self.eval(ids)[None]
        chosen = []
        for seen, row in enumerate(logits, len(before) - len(logits) + 1):
            sampler = Sampler(sampling)
            sampler.see(before[:seen])
            chosen.append(sampler.pick(row))
        return chosen

    def append(self, ids: TokenIds) -> None:
        """Appends tokens."""
        for _ in self._feed(ids):
            pass

    def score(self, ids: TokenIds) -> np.ndarray:
        """Appends tokens; float32 (len(ids) - 1,): -log p(ids[i+1] | everything up to ids[i])."""
        tokens = np.asarray(ids, np.int64)
        scores = [np.empty(0, np.float32)]
        for start, logits in self._feed(ids):
            following = torch.tensor(tokens[start + 1 : start + 1 + len(logits)], device=logits.device)
            rows = logits[: len(following)].float()
            nll = rows.logsumexp(-1) - rows.gather(1, following[:, None])[:, 0]
            scores.append(nll.cpu().numpy())
        return np.concatenate(scores)

    def truncate(self, length: int) -> None:
        """Forgets every token from index ``length`` on."""
        if length < len(self._ids):
            if length == 0:
                self._cache = DynamicCache()
            else:
                self._cache.crop(length - len(self._ids))
            del self._ids[length:]

    def exact_prefix(self, other: "ReferenceSession") -> int:
        """Nothing is shared between sessions here."""
        return 2**31 if other is self else 0

    @property
    def ids(self) -> np.ndarray:
        """The tokens in the cache, int32 (length,)."""
        return np.array(self._ids, np.int32)

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return len(self._ids)

    @property
    def info(self) -> SessionInfo:
        """How full the session is. What the memory is, PyTorch does not say."""
        return SessionInfo(len(self._ids), self._context, 0, 0, None)

    @contextlib.contextmanager
    def cancelled_by(self, event: threading.Event) -> Iterator[None]:
        """Long calls in the block end once ``event`` is set."""
        before, self._cancel = self._cancel, event
        try:
            yield
        finally:
            self._cancel = before

    def close(self) -> None:
        """Frees the cache."""
        self._model.release(self)
        self._cache = DynamicCache()
        self._ids = []

    def __enter__(self) -> "ReferenceSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _feed(self, ids: TokenIds) -> Iterator[tuple[int, torch.Tensor]]:
        """(index in ``ids`` of the first, logits (rows, n_vocab)) of one step after another."""
        total = len(ids)
        if len(self._ids) + total > self._context:
            raise DcaError(
                f"the context has room for {self._context} tokens, {len(self._ids) + total} are needed",
                Status.CONTEXT,
            )
        module = self._model.run(self)
        for start in range(0, total, self._step):
            if self._cancel is not None and self._cancel.is_set():
                raise DcaError("cancelled", Status.CANCELLED)
            block = [int(token) for token in ids[start : start + self._step]]
            with torch.inference_mode():
                tokens = torch.tensor([block], device=module.device)
                logits = module(tokens, past_key_values=self._cache, use_cache=True).logits[0]
            self._ids += block
            self._progress(start + len(block), total)
            yield start, logits
