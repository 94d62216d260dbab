"""The class that lm-evaluation-harness makes of `--model dca`."""

from collections.abc import Sequence
from typing import Any

from dca_export.errors import InputError, MissingPackage
from dca_export.harness.runner import Continued, Runner, Scored
from dca_runtime import Model, ModelInfo, Sampling
from dca_runtime.attention import parse

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
    from tqdm import tqdm
except ImportError as error:
    raise MissingPackage("the model dca of lm-evaluation-harness needs it", "lm-eval") from error

POOL = 65536  # tokens
BATCH = 32  # sequences
TEMPLATE_KEY = "tokenizer.chat_template"
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")  # what tasks set and Sampling has under the same name

# Of a file with a scheme, how many times the trained length a context may have unless `max_length` says.
_REACH = 16


class DcaLM(TemplateLM):
    """A GGUF file run by the library: `--model dca --model_args path=M.gguf,device=cuda`."""

    def __init__(
        self,
        path: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        *,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        attention: str = "auto",
        scheme: str | None = None,
        rope: str | None = None,
        cache_type: str = "f16",
        cache_tokens: int = POOL,
        threads: int = 0,
        seed: int = 0,
        tokenizer: str | None = None,
    ) -> None:
        """path: the GGUF file. device: cpu, cuda, cuda:N or auto (the default).

        batch_size: sequences of one step, at most (auto: 32). max_length: tokens of a context with what
        follows; longer ones lose their beginning (default: what the model was trained to, 16 times that for
        a file with a scheme). attention, rope, cache_type: those of ``Model.engine``; scheme as S/W/C.
        cache_tokens: room of the pool. seed: of sampling, where a task samples. tokenizer: not read here,
        where the file's own serves; tasks that make their texts by length, such as RULER, read it.
        """
        super().__init__()
        if path is None:
            raise InputError("--model dca needs --model_args path=MODEL.gguf")
        self.model = Model(path, device=device or "auto", threads=int(threads))
        self._max_length = int(max_length) if max_length else _reach(self.model.info, attention, scheme)
        self._max_gen_toks = int(max_gen_toks)
        self._seed = int(seed)
        self._device = self.model.info.device
        options: dict[str, Any] = {"attention": attention, "rope": rope, "cache_type": cache_type}
        if scheme is not None:
            options["scheme"] = _numbers(scheme)
        self.runner = Runner(self.model, _batch(batch_size, max_batch_size), int(cache_tokens), **options)

    # What the harness asks about the model.

    @property
    def max_length(self) -> int:
        """Tokens of a context with what follows it."""
        return self._max_length

    @property
    def max_gen_toks(self) -> int:
        """Tokens that are generated at most where a task does not say."""
        return self._max_gen_toks

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        eos = self.model.tokenizer.eos_id
        if eos is None:
            raise InputError(f"{self.model.path}: its tokenizer names no token that ends a text")
        return eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: the token that begins texts, else the one that ends
        them."""
        bos = self.model.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Names the file: the harness keeps rendered requests by it."""
        return self.model.path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The file's template; it has one at most, so a name chooses nothing."""
        return self.model.metadata.get(TEMPLATE_KEY) if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt that the file's template makes; without a generation prompt the last message is left
        open, to be gone on with."""
        prompt = str(
            self.model.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)
        )
        if add_generation_prompt or not chat_history:
            return prompt
        last = chat_history[-1]["content"].strip()
        return prompt[: prompt.rindex(last) + len(last)] if last and last in prompt else prompt

    def get_model_info(self) -> dict[str, Any]:
        """What was run, for the harness's results."""
        info = self.model.info
        return {
            "model_num_parameters": info.n_params,
            "model_architecture": info.architecture,
            "model_device": info.device,
            "model_scheme": None if info.scheme is None else list(info.scheme),
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text, with what begins the model's texts once, unless that is told not to be."""
        tokenizer = self.model.tokenizer
        if add_special_tokens is False:
            return tokenizer.encode(string, add_special=False)
        return tokenizer.prompt_ids(string)

    # What it asks of the model.

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        scored = [self._scored(context, continuation) for _, context, continuation in requests]
        with tqdm(total=len(scored), desc="log-likelihoods", disable=disable_tqdm) as bar:
            found = self.runner.score(scored, bar.update)
        for (texts, *_), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts; those longer than ``max_length`` in pieces, as the harness cuts
        them."""
        windows: list[Scored] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            cut = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(utils.make_disjoint_window, cut):
                windows.append(Scored(window[0], window[1], ask_likeliest=False))
                owners.append(index)
        sums = [0.0] * len(requests)
        with tqdm(total=len(windows), desc="texts", disable=disable_tqdm) as bar:
            for owner, (score, _) in zip(owners, self.runner.score(windows, bar.update), strict=True):
                sums[owner] += score
        for request, found in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations, up to a stop text, the model's own end, or as many tokens as the task allows."""
        continued = [self._continued(*request.args) for request in requests]
        with tqdm(total=len(continued), desc="texts generated", disable=disable_tqdm) as bar:
            texts = self.runner.generate(continued, bar.update)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _scored(self, context: list[int], continuation: list[int]) -> Scored:
        """Cut at its beginning to what the context has room for; its last token predicts nothing."""
        if len(continuation) > self.max_length:
            raise InputError(
                f"a continuation has {len(continuation)} tokens, max_length is {self.max_length}"
            )
        room = self.max_length + 1 - len(continuation)
        return Scored(list(context[-room:]), list(continuation))

    def _continued(self, context: str, gen_kwargs: dict[str, Any]) -> Continued:
        wanted = normalize_gen_kwargs(gen_kwargs, self.max_gen_toks)
        tokens = int(wanted["max_gen_toks"])
        room = self.max_length - tokens
        if room <= 0:
            raise InputError(f"a task generates {tokens} tokens, max_length is {self.max_length}")
        ids = self.tok_encode(context)[-room:] or [self.prefix_token_id]
        fields = {name: wanted[name] for name in _SAMPLING if wanted.get(name) is not None}
        sampling = Sampling(**({"min_p": 0.0, "temperature": 0.0, "seed": self._seed} | fields))
        return Continued(ids, tokens, [text for text in wanted["until"] if text], sampling)


def _batch(batch_size: int | str | None, most: int | None) -> int:
    """The harness passes "auto", "auto:N", a number, or 1 where nothing was said."""
    text = str(batch_size or "auto")
    chosen = BATCH if text.startswith("auto") or text == "1" else int(text)
    return min(chosen, int(most)) if most else chosen


def _reach(info: ModelInfo, attention: str, scheme: str | None) -> int:
    """Tokens of a context where nobody says: the trained length, as far as the attention takes it."""
    rule = parse(info.border or "plain" if attention in ("auto", "string") else attention)
    trained = info.context_length
    if rule.kind == "string":  # distances above the border are so much smaller
        return trained + rule.window - rule.beyond
    chunks = attention != "plain" and (scheme is not None or info.scheme is not None)
    return trained * (_REACH if chunks or rule.window else 1)


def _numbers(scheme: str) -> tuple[int, ...]:
    """S/W/C, as dca-eval writes a scheme. Raises InputError."""
    parts = str(scheme).split("/")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise InputError(f"scheme={scheme}: expected CHUNK/WINDOW/LENGTH, as in scheme=3072/1024/4096")
    return tuple(map(int, parts))
