"""Writes docs/models.md from the table of architectures and the models that the tests make.

    .venv/bin/python tests/models_table.py

A row is an entry of dca_export/model/architectures.py; what was checked are the random models of
tests/hf_families.py, of transformers' own classes where it has them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from hf_families import EXPORTED, GGUF_CASES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dca_export.model.architectures import ARCHITECTURES
from dca_export.model.rules import Architecture

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "models.md"
LLAMA_CPP = ROOT / "tests" / "export" / "llama_cpp_families.json"

# Published models, as people call them, by class.
MODELS = {
    "LlamaForCausalLM": "Llama 1 to 3.3, SmolLM2, Yi, DeepSeek LLM",
    "MistralForCausalLM": "Mistral 7B, Nemo, Small",
    "MinistralForCausalLM": "Ministral 8B",
    "Mistral3ForConditionalGeneration": "the text of Mistral Small 3.1 and 3.2",
    "MixtralForCausalLM": "Mixtral 8x7B, 8x22B",
    "Qwen2ForCausalLM": "Qwen2, Qwen2.5, QwQ",
    "Qwen3ForCausalLM": "Qwen3",
    "Phi3ForCausalLM": "Phi-3, Phi-3.5, Phi-4, Phi-4-mini",
    "Qwen2MoeForCausalLM": "Qwen1.5-MoE, Qwen2-57B-A14B",
    "Qwen3MoeForCausalLM": "Qwen3-30B-A3B, 235B-A22B",
    "Gemma2ForCausalLM": "Gemma 2",
    "Gemma3ForCausalLM": "Gemma 3 1B, 270M",
    "Gemma3ForConditionalGeneration": "the text of Gemma 3 4B to 27B",
    "GptOssForCausalLM": "gpt-oss-20b, 120b",
    "SmolLM3ForCausalLM": "SmolLM3",
    "Olmo2ForCausalLM": "OLMo 2",
    "Olmo3ForCausalLM": "OLMo 3",
    "GraniteForCausalLM": "Granite 3.x",
    "GraniteMoeForCausalLM": "Granite 3.x MoE",
    "Glm4ForCausalLM": "GLM-4-0414",
    "CohereForCausalLM": "Command-R, R+, Aya 23",
    "Cohere2ForCausalLM": "Command R7B, Command A, Aya Expanse",
    "StableLmForCausalLM": "StableLM 2, StableLM 3B",
    "InternLM2ForCausalLM": "InternLM2, InternLM2.5",
    "InternLM3ForCausalLM": "InternLM3",
    "MiniCPMForCausalLM": "MiniCPM 1 and 2",
}
# Whose checkpoints name a class that transformers runs as another.
OWN_CLASSES = {
    "internlm2": "InternLM2ForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
    "minicpm": "MiniCPMForCausalLM",
}
# Classes that transformers lacks, and what stands in for them in tests/export/test_families_of_others.py.
STANDING_IN = {
    "InternLM2ForCausalLM": "a Llama of transformers under InternLM2's names",
    "MiniCPMForCausalLM": "a Granite of transformers with MiniCPM's scales",
}

# Where stock llama.cpp takes for granted what the test's model has otherwise: it runs another model.
OTHERWISE = {"qwen2_moe, normalised", "qwen3_moe, not normalised", "gemma3_text, other layers"}

INTRODUCTION = """# Models

Made by `tests/models_table.py` from the table of architectures and the models in the tests; a test says
whether it is current.

For each family small random models of transformers {version}'s own class, with every feature on that the
class has, were exported in f32 and run by the piece and by the token over five chunks: plain attention is
transformers' own to 2e-3 in logits, Dual Chunk Attention with the reference. "names" says that tensors
called and laid out as the package gguf and llama.cpp's converter have them gave the same, in the runtime and
in the reference. On a card "names"' models gave what the CPU gives, with weights and activations in 16 bits,
by the piece and by the token, plain and under Dual Chunk Attention
(`tests/cuda/models/test_cuda_families.py`).

"llama.cpp": "same file" says that the converter of llama.cpp (October 2026) makes a file with the same
tensors, to the byte, and the same keys but for a few that one of both leaves to defaults
(`tests/export/test_families_against_llama_cpp.py`). The number is the largest difference between the
log-probabilities of stock llama.cpp and of the runtime on the exported file, over 31 positions of a window of
64 tokens, both in f32 on a CPU; llama-perplexity writes them in steps of up to 2.4e-4, and llama.cpp looks
its GELU (Gemma's) up in a table of 16-bit floats. llama.cpp has no biases in SmolLM3, OLMo 2, Command-R and
Command R7B, norms of q and k in Command-R's models of 64 layers only, and takes for granted where Gemma 3's
windows lie and how the mixtures of Qwen normalise: the models compared are such. Its converter has no
Ministral and stops at StableLM's norms of q and k. With the DCA keys in the file (Llama, Qwen3, Gemma 3,
gpt-oss and Command R7B were tried) llama.cpp gave the same.

Layers with a window keep it and attend at their ordinary distances, in a text of any length; layers without
RoPE see everything; Dual Chunk Attention is for the rest. Windows of Mistral, Phi-3 and Qwen are not used, as
in llama.cpp: every layer sees everything, and the window is the distance that the model was trained for.

| `general.architecture` | class | models | checked | names | llama.cpp |
|---|---|---|---|---|---|
"""


def of_class(case: str) -> str | None:
    """The class that transformers has for a case's family (`family, variant`)."""
    family = case.split(",")[0]
    return OWN_CLASSES.get(family) or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)


def variants(cases: list[str]) -> str:
    """ "plain, tied, …": the cases of a class without its name."""
    return "; ".join(case.partition(", ")[2] or "all features" for case in cases)


def beside_llama_cpp(name: str) -> str:
    """What llama_cpp_families.json says of a class."""
    recorded = json.loads(LLAMA_CPP.read_text(encoding="utf-8"))
    found = [each for case, each in recorded.items() if of_class(case) == name and case not in OTHERWISE]
    if not found:
        return ""
    same = "same file, " if all("tensors" in each for each in found) else ""
    return f"{same}{max(each['logits'] for each in found):.0e}"


def rows(architecture: Architecture) -> list[str]:
    found = []
    for name in architecture.classes:
        exported = [case for case in EXPORTED if of_class(case) == name]
        named = any(of_class(family) == name for family, *_ in GGUF_CASES.values())
        checked = STANDING_IN.get(name) or variants(exported) or "as the class above"
        cells = (architecture.name, f"`{name}`", MODELS.get(name, ""), checked, "yes" if named else "")
        cells = (*cells, beside_llama_cpp(name))
        found.append(f"| {' | '.join(cells)} |")
    return found


def pinned_version() -> str:
    """transformers' in constraints.txt, which the tests run with."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    match = re.search(r"^transformers==(\S+)$", text, re.MULTILINE)
    assert match is not None
    return match[1]


def document() -> str:
    table = [row for architecture in ARCHITECTURES for row in rows(architecture)]
    return INTRODUCTION.format(version=pinned_version()) + "\n".join(table) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
