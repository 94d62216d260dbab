"""Whether the runtime can run what a GGUF file holds, said when keys are added and not when it is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile
from dca_export.model.architectures import ARCHITECTURES
from dca_runtime import DcaError, blocks

_LAYER = re.compile(r"^blk\.\d+\.")
_KNOWN = {rule.target for architecture in ARCHITECTURES for rule in architecture.tensors}
_EXPERT_APART = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.\d+\.weight")


def check_runnable(parts: Sequence[GgufFile]) -> None:
    """Raises InputError, naming the first tensor that the runtime cannot use, if there is one.

    That is one of a block type it cannot decode, an expert stored as a tensor of its own, or a bias that no
    supported model has: the runtime would leave it out and answer wrongly.
    """
    for file in parts:
        for tensor in file.tensors:
            if _EXPERT_APART.fullmatch(tensor.name):
                raise InputError(
                    f"{file.path}: tensor {tensor.name} is one expert, as files of the first mixtures "
                    "hold them; all experts of a layer in one tensor are expected, so use a newer file "
                    "or export from the original model"
                )
            if tensor.name.endswith(".bias") and _LAYER.sub("blk.{layer}.", tensor.name) not in _KNOWN:
                raise InputError(
                    f"{file.path}: tensor {tensor.name} is a bias that dca-run does not know; without it the "
                    "model would give wrong results"
                )
            try:
                blocks.block_format(tensor.type)
            except DcaError:
                raise InputError(
                    f"{file.path}: tensor {tensor.name} is of type {tensor.type.name}, which dca-run cannot "
                    "run; use a file of another quantisation (such as Q4_K_M, Q6_K or Q8_0)"
                ) from None
