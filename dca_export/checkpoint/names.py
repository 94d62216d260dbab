"""Tensor names as transformers gives them to a causal language model, whatever wrapped it when it was saved.

`model.layers.…`, `model.embed_tokens.weight`, `model.norm.weight` and `lm_head.weight` is how the exporter
knows them. Compiled, parallel and adapted models carry their wrapper's name in front or between; a model
saved without its head lacks `model.`; the text half of a multimodal one lies below `language_model.`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from dca_export.errors import InputError

ROOT, HEAD = "model.", "lm_head."

# Modules that wrap one layer may stand anywhere in a name.
_WRAPPED = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
_ANCHOR = "layers.0.input_layernorm.weight"  # in every model that can be exported, once for each stack
_TEXT_HALF = re.compile(r"language_model|text_model|\bllm\b")
_LORA = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer)\.")


def plain_names(stored: Iterable[str], where: str) -> tuple[dict[str, str], list[str]]:
    """The name above for each stored one (those that are left out are missing), and notes for the user.

    Names that belong to no known part stay as they are, for the layout to judge. Raises InputError, with
    `where` the tensors are, if two would get one name, or some are an adapter's (LoRA) that was never merged.
    """
    unwrapped = {name: _WRAPPED.sub("", name) for name in stored}
    if adapted := next(filter(_LORA.search, unwrapped), None):
        raise InputError(
            f"{where}: tensor {adapted} belongs to an adapter (LoRA) that is not merged; merge it, save again"
        )
    prefix = _prefix(set(unwrapped.values()))
    head = _head(prefix, unwrapped.values())
    plain: dict[str, str] = {}
    from_plain: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for name, inner in unwrapped.items():
        if inner.startswith(head + HEAD):
            found = inner.removeprefix(head)
        elif inner.startswith(prefix):
            found = ROOT + inner.removeprefix(prefix)
        elif _TEXT_HALF.search(prefix):
            left_out[inner.split(".")[1 if inner.startswith(ROOT) else 0]] += 1
            continue
        else:
            found = inner
        if found in from_plain:
            raise InputError(f"{where}: tensors {from_plain[found]} and {name} are both {found}; remove one")
        plain[name], from_plain[found] = found, name
    return plain, _notes(prefix, unwrapped, left_out)


def _prefix(names: set[str]) -> str:
    """What stands before `layers.` in the stack of the language model."""
    found = [n.removesuffix(_ANCHOR) for n in names if n == _ANCHOR or n.endswith("." + _ANCHOR)]
    if not found or ROOT in found:
        return ROOT
    with_embedding = [prefix for prefix in found if f"{prefix}embed_tokens.weight" in names] or found
    text = [prefix for prefix in with_embedding if _TEXT_HALF.search(prefix)] or with_embedding
    return min(text, key=lambda prefix: (len(prefix), prefix))


def _head(prefix: str, names: Iterable[str]) -> str:
    """What stands before `lm_head.`: the prefix of the stack or of something that contains it."""
    heads = {name[: name.rindex(HEAD)] for name in names if re.search(r"(^|\.)lm_head\.[^.]+$", name)}
    return max((head for head in heads if prefix.startswith(head)), key=len, default="")


def _notes(prefix: str, unwrapped: Mapping[str, str], left_out: Counter[str]) -> list[str]:
    notes = []
    inner = next((name for name, plain in unwrapped.items() if name != plain), None)
    if inner is not None:
        wrapper = _WRAPPED.search(inner)
        assert wrapper is not None
        notes.append(f"tensor names contain {wrapper[0]}, a wrapper's of the saved model: read without it")
    if prefix == "":
        notes.append(f"tensor names lack {ROOT} (saved without the head): read as if they had it")
    elif prefix != ROOT:
        notes.append(f"tensor names begin with {prefix}: read as {ROOT}")
    if left_out:
        parts = ", ".join(f"{count} of {part}" for part, count in left_out.most_common())
        notes.append(f"tensors outside the language model are left out: {parts}")
    return notes
