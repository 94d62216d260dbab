"""PEFT's LoRA: adapter_config.json, and adapter_model.safetensors (or .bin) with two thin matrices a module.

A linear module gets scale × B @ A, an embedding scale × (B @ A)ᵀ; scale = alpha / rank, or alpha / √rank with
rsLoRA, where rank_pattern and alpha_pattern may give a module its own. What else is stored (modules_to_save,
biases, resized embeddings) takes the place of the model's own tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from dca_export.adapters.changes import AdapterOption, Addition, Changes
from dca_export.adapters.patterns import matched
from dca_export.checkpoint.tensors import SourceTensor, read_safetensors, read_torch_file, values
from dca_export.checkpoint.weight_files import ADAPTER
from dca_export.config import MAX_FLOAT, Config
from dca_export.errors import InputError
from dca_export.small_files import is_there

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<which>A|B)(\.[^.]+)?\.(?P<part>weight|bias)")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<which>A|B)(\.[^.]+)?")
_WRAPPER = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")

_FLOATS = ("F64", "F32", "F16", "BF16")
# What an adapter's matrices begin as. Other ways take them out of the model's own weights first.
_BEGINNINGS = ("gaussian", "eva", "orthogonal")

# What changes the arithmetic in a way that is not read here: the key, what counts as not used, its name.
_REFUSED = {
    "use_dora": "DoRA",
    "layer_replication": "layer replication",
    "target_parameters": "LoRA of single parameters",
    "alora_invocation_tokens": "activated LoRA, which is not for every token",
    "trainable_token_indices": "trained tokens",
}


def read_peft(option: AdapterOption, known: Iterable[str]) -> Changes:
    """The adapter in a directory, for a model with tensors of the `known` names. Raises InputError."""
    config = Config.read(option.path / ADAPTER)
    _check_kind(config)
    stored = _tensors(option.path)
    base = config.values.get("base_model_name_or_path")
    changes = Changes(option.path, base if isinstance(base, str) and base else None)
    changes.tied = config.boolean("ensure_weight_tying", False)
    if config.boolean("fan_in_fan_out", False):
        changes.notes.append(f"{config.where}: fan_in_fan_out is for other kinds of module: not heeded")
    rename = _Names(set(known))
    factors: dict[tuple[str, str], dict[str, SourceTensor]] = {}
    for name, tensor in stored.items():
        if "lora_magnitude_vector" in name:
            raise tensor.error("is DoRA's, which cannot be merged here; merge it with PEFT")
        if (found := _FACTOR.fullmatch(name)) or (found := _EMBEDDING.fullmatch(name)):
            part = found.groupdict().get("part") or "embedding"
            pair = factors.setdefault((found["module"], part), {})
            if found["which"] in pair:
                raise tensor.error(f"and {pair[found['which']].name} are one matrix of one module")
            if part == "bias" and found["which"] == "A":
                raise tensor.error("is a bias of lora_A, which PEFT has not; it cannot be merged here")
            pair[found["which"]] = _of_floats(tensor)
        elif "lora_" in name:
            raise tensor.error("is of a kind of LoRA that cannot be merged here; merge it with PEFT")
        else:
            target = rename(_WRAPPER.sub("", name))
            if target in changes.replacements:
                raise tensor.error(f"and {changes.replacements[target].name} are both for {target}")
            changes.replacements[target] = _of_floats(tensor)
    scales = _Scales(config, [module.removeprefix(_PREFIX) for module, _ in factors])
    for (module, part), pair in factors.items():
        scale = scales.of(module.removeprefix(_PREFIX), _rank(pair, module, part, option.path, factors))
        target = rename(f"{module}.{'bias' if part == 'bias' else 'weight'}")
        changes.add(target, _addition(pair, part, scale * option.scale))
    return changes


def _check_kind(config: Config) -> None:
    kind = config.text("peft_type", "LORA")
    if kind != "LORA":
        raise config.error("peft_type", "must be LORA; other adapters are merged with PEFT")
    for key, method in _REFUSED.items():
        if config.values.get(key):
            raise config.error(key, f"that is {method}, which cannot be merged here; merge it with PEFT")

    start = config.values.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in _BEGINNINGS:
        raise config.error(
            "init_lora_weights",
            "that changes the model's own weights before it is trained; merge it with PEFT",
        )


def _tensors(directory: Path) -> dict[str, SourceTensor]:
    for name in _FILES:
        if is_there(path := directory / name):
            return read_torch_file(path) if path.suffix == ".bin" else read_safetensors(path)
    raise InputError(f"{directory}: no weights of an adapter ({' or '.join(_FILES)})")


class _Names:
    """From names in an adapter to those of the model's tensors."""

    def __init__(self, known: set[str]) -> None:
        self._known = known

    def __call__(self, stored: str) -> str:
        """The model's name; of wrapped models, what follows the wrapper."""
        name = stored.removeprefix(_PREFIX)
        if name in self._known:
            return name
        parts = name.split(".")
        for first, root in (("layers", "model."), ("embed_tokens", "model."), ("lm_head", "")):
            if first in parts:
                return root + ".".join(parts[parts.index(first) :])
        return name


def _rank(
    pair: dict[str, SourceTensor],
    module: str,
    part: str,
    directory: Path,
    factors: dict[tuple[str, str], dict[str, SourceTensor]],
) -> int:
    if part == "bias":  # of lora_B: the module's own pair tells
        pair, part = factors.get((module, "weight"), {}), "weight"
    if "A" not in pair or "B" not in pair:
        which = "lora_A" if "A" not in pair else "lora_B"
        raise InputError(f"{directory}: {module} has no {which}, expected two matrices a module")
    a, b = pair["A"], pair["B"]
    for tensor in (a, b):
        if len(tensor.shape) != 2:
            raise tensor.error(f"has shape {list(tensor.shape)}, expected a matrix")
    if a.shape[0] != b.shape[1] or not a.shape[0]:
        raise a.error(f"has shape {list(a.shape)}, {b.name} has {list(b.shape)}: their ranks differ")
    return a.shape[0]


class _Scales:
    """alpha / rank of each module, as PEFT computes it."""

    def __init__(self, config: Config, modules: list[str]) -> None:
        self._config = config
        self._ranks = matched(config, "rank_pattern", modules)
        self._alphas = matched(config, "alpha_pattern", modules)
        self._root = config.boolean("use_rslora", False)

    def of(self, module: str, rank: int) -> float:
        """For a module whose matrices have `rank`, which must be the one that the configuration gives it."""
        config = self._config
        wanted = self._ranks.get(module) if module in self._ranks else config.integer("r", 8)
        if isinstance(wanted, bool) or wanted != rank:
            raise InputError(
                f"{config.where}: the rank of {module} is {str(wanted)[:20]}, its matrices have {rank}"
            )
        alpha = self._alphas[module] if module in self._alphas else config.values.get("lora_alpha", 8)
        key = "alpha_pattern" if module in self._alphas else "lora_alpha"
        if (
            isinstance(alpha, bool)
            or not isinstance(alpha, int | float)
            or not -MAX_FLOAT <= alpha <= MAX_FLOAT
        ):
            raise config.error(key, "must be a finite number")
        return alpha / (math.sqrt(rank) if self._root else rank)


def _of_floats(tensor: SourceTensor) -> SourceTensor:
    if tensor.dtype not in _FLOATS:
        raise tensor.error(f"is {tensor.dtype}, expected one of {', '.join(_FLOATS)}")
    return tensor


def _addition(pair: dict[str, SourceTensor], part: str, scale: float) -> Addition:
    if part == "bias":
        bias = pair["B"]
        row = (1, bias.columns)
        return Addition(row, 1, scale, lambda: np.ones((1, 1), np.float32), _reader(bias, row), _place(bias))
    a, b = pair["A"], pair["B"]
    rank = a.shape[0]
    read_a, read_b = _reader(a, a.shape), _reader(b, b.shape)
    if part == "embedding":
        shape = (a.shape[1], b.shape[0])
        return Addition(shape, rank, scale, lambda: read_a().T, lambda: read_b().T, _place(a))
    return Addition((b.shape[0], a.shape[1]), rank, scale, read_b, read_a, _place(a))


def _reader(tensor: SourceTensor, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    return lambda: values(tensor, 0, tensor.rows).reshape(shape)


def _place(tensor: SourceTensor) -> str:
    return f"{tensor.file}: tensor {tensor.name}"
