"""Which type each tensor of an export gets.

The conventions are those users know from llama.cpp: vectors, norms and routers stay F32; a row length that
no block of the wanted type divides falls back to a type that fits.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

T = GGMLQuantizationType


@dataclass(frozen=True)
class Recipe:
    """An --outtype: the type of matrices, of the output matrix, and what general.file_type says of it.

    A tied embedding is the output matrix too and gets that type.
    """

    name: str
    file_type: LlamaFileType
    matrix: GGMLQuantizationType
    output: GGMLQuantizationType


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("f32", LlamaFileType.ALL_F32, T.F32, T.F32),
        Recipe("f16", LlamaFileType.MOSTLY_F16, T.F16, T.F16),
        Recipe("bf16", LlamaFileType.MOSTLY_BF16, T.BF16, T.BF16),
        Recipe("q8_0", LlamaFileType.MOSTLY_Q8_0, T.Q8_0, T.Q8_0),
        Recipe("q4_0", LlamaFileType.MOSTLY_Q4_0, T.Q4_0, T.Q8_0),
        Recipe("q4_1", LlamaFileType.MOSTLY_Q4_1, T.Q4_1, T.Q8_0),
    )
}

# Where a row is no multiple of the block: the next type to try.
FALLBACKS = {T.Q8_0: T.F16, T.Q4_0: T.F16, T.Q4_1: T.F16}


@dataclass(frozen=True)
class TypeChoice:
    """The type of a tensor, and the one it stands in for where that one's blocks do not fit."""

    type: GGMLQuantizationType
    instead_of: GGMLQuantizationType | None = None


def tensor_type(recipe: Recipe, name: str, shape: tuple[int, ...], tied: bool, keep_f32: bool) -> TypeChoice:
    """The type `recipe` gives to the GGUF tensor `name`; `tied`: there is no separate output matrix."""
    if keep_f32 or len(shape) < 2 or name.endswith("_norm.weight"):
        return TypeChoice(T.F32)
    is_output = name == "output.weight" or (tied and name == "token_embd.weight")
    wanted = chosen = recipe.output if is_output else recipe.matrix
    while shape[-1] % GGML_QUANT_SIZES[chosen][0]:
        chosen = FALLBACKS[chosen]
    return TypeChoice(chosen, wanted if chosen != wanted else None)
