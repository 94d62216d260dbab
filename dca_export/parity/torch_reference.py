"""The reference in PyTorch: a model on a device, exact or flash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from dca_export.reference.borders import Border
from dca_export.reference.load import load_reference
from dca_export.reference.stream import stream_logits

if TYPE_CHECKING:
    from dca_export.parity.plan import Group
    from dca_export.reference.sparse import SparsePrefill
    from dca_export.reference.stated import StatedPrefill

_HALVES = {"f16": torch.float16, "bf16": torch.bfloat16}
_SMALLEST = 2.0**-24  # of f16: weights are thousands of times larger


class TorchReference:
    """A checkpoint or GGUF file in PyTorch.

    Exact groups run eager attention in float32. Where `device` is a GPU that PyTorch can use, flash groups
    run flash attention in the 16-bit type of `weights`.
    """

    def __init__(self, path: Path, device: str, weights: str) -> None:
        on_gpu = device.startswith("cuda") and torch.cuda.is_available()
        self._device = torch.device(device if on_gpu else "cpu")
        self._half = torch.bfloat16 if weights == "bf16" else torch.float16
        self.flash = on_gpu
        self.name = f"{path} in PyTorch {torch.__version__.split('+')[0]} on {self._device}, float32"
        if on_gpu:
            self.name += f" (exact) and {str(self._half).removeprefix('torch.')} (flash)"
        self._path = path
        self._precision = ""
        self._model: Any = None

    def stream(
        self,
        ids: Sequence[int],
        group: Group,
        sparse: SparsePrefill | StatedPrefill | None = None,
    ) -> Iterator[np.ndarray]:
        """Logits (rows, n_vocab) float32, block by block. Raises InputError if the model cannot be had."""
        self._load(group.precision)
        kernel: Literal["eager", "flash"] = "eager" if group.precision == "exact" else "flash"
        attention: Literal["plain", "dca"] | Border = "plain" if group.scheme is None else "dca"
        if group.border is not None:
            attention = group.border
        return stream_logits(self._model, ids, group.scheme, attention, kernel, sparse, group.rope)

    def fits(self, weights: str) -> bool:
        """Whether the type `weights` ("f16") holds the values of its matrices, but for differences below the
        smallest number of f16. False for types of blocks. Raises InputError if the model cannot be had."""
        if weights == "f32":
            return True
        if weights not in _HALVES:
            return False
        self._load("exact")
        matrices = (each.detach() for each in self._model.parameters() if each.dim() > 1)
        return all(bool(((each - each.to(_HALVES[weights])).abs() <= _SMALLEST).all()) for each in matrices)

    def _load(self, precision: Literal["exact", "flash"]) -> None:
        if self._precision == precision:
            return
        self._model = None  # before the next is loaded: both may not fit
        self._model = load_reference(self._path, torch.float32 if precision == "exact" else self._half)
        self._model.to(self._device)
        self._precision = precision
