"""A GGUF file's tensors in other types: decoded, and encoded as an export would write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import gguf
import numpy as np
from gguf import GGUFValueType

from dca_export.export.convert import encoded_chunks, tensor_bytes
from dca_export.export.gguf_source import check_requantisable, keeps_f32, model_of, planned_of
from dca_export.export.recipes import Recipe, tensor_type
from dca_export.export.weighting import Weighting
from dca_export.gguf.copy import Copy
from dca_export.gguf.file import GgufFile, packed_value

FILE_TYPE, VERSION = "general.file_type", "general.quantization_version"


def requantised(
    copy: Copy, file: GgufFile, recipe: Recipe, weighting: Weighting, below_8_bits: bool
) -> tuple[Copy, list[str]]:
    """The copy with every tensor in the type that `recipe` gives it, and notes. `file` has the metadata.

    Raises InputError for a tensor below 8 bits that would change, unless `below_8_bits` allows it.
    """
    model = model_of(file, {tensor.name for _, tensor in copy.tensors})
    tensors, converted = [], dict[str, Callable[[], Iterable[np.ndarray]]]()
    for part, tensor in copy.tensors:
        chosen = tensor_type(recipe, model, tensor.name, tensor.shape, keeps_f32(part, tensor)).type
        if chosen == tensor.type or len(tensor.shape) < 2:
            tensors.append((part, tensor))
            continue
        if not below_8_bits:
            check_requantisable(part, tensor, chosen)
        planned = planned_of(part, tensor)
        sums = weighting.sums_of(planned, chosen)
        converted[tensor.name] = partial(encoded_chunks, planned, chosen, sums)
        tensors.append((part, replace(tensor, type=chosen, nbytes=tensor_bytes(tensor.shape, chosen))))
    entries = dict(copy.entries)
    entries[FILE_TYPE] = packed_value(GGUFValueType.UINT32, int(recipe.file_type))
    entries[VERSION] = packed_value(GGUFValueType.UINT32, gguf.GGML_QUANT_VERSION)
    for key, (kind, value) in weighting.entries().items():
        entries[key] = packed_value(kind, value)
    note = f"{len(converted)} of {len(tensors)} tensors are quantised anew from this file's own values"
    changed = replace(copy, entries=entries, tensors=tuple(tensors), converted=converted)
    return changed, [note, *weighting.notes()]
