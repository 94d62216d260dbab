"""The type of every tensor, for every recipe and kind of model, against llama.cpp's own choice.

Its choices (October 2026) lie in llama_cpp_types.json. ``python`` with this file, the path of llama.cpp's
llama-quantize and perhaps names of models writes the file anew (only those models' choices).
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from dca_export.export.recipes import RECIPES, Model, tensor_type
from dca_export.importance.file import Importance, Sums, write_importance
from dca_export.model.rules import Dimensions

RECORDED = Path(__file__).with_name("llama_cpp_types.json")
RECORDS: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
QUANTISED = [name for name in RECIPES if name not in ("f32", "f16", "bf16", "mxfp4")]  # mxfp4: not recorded


def tensors(model: dict[str, Any]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Each matrix: its name with {layer} for the layer, its own name, its shape."""
    layers = range(model["dimensions"]["layers"])
    found = []
    for pattern, shape in model["shapes"].items():
        names = [pattern.format(layer=layer) for layer in layers] if "{layer}" in pattern else [pattern]
        found += [(pattern, f"{name}.weight", tuple(shape)) for name in names]
    return found


def spread(recorded: dict[str, str], pattern: str, layers: int) -> list[str]:
    """ "A*2 B" as [A, A, B]; a single type is every layer's."""
    runs = [run.partition("*") for run in recorded.get(pattern, recorded["others"]).split()]
    if len(runs) == 1:
        return [runs[0][0]] * layers
    return [kind for kind, _, count in runs for _ in range(int(count or 1))]


@pytest.mark.parametrize("imatrix", [False, True])
@pytest.mark.parametrize("recipe", QUANTISED)
@pytest.mark.parametrize("model", RECORDS)
def test_types_are_those_of_llama_cpp(model, recipe, imatrix):
    description = RECORDS[model]
    dimensions = Dimensions(**description["dimensions"])
    judged = Model(description["architecture"], dimensions, tied="output" not in description["shapes"])
    recorded = description["types"][recipe]
    if imatrix:  # recorded where it makes a difference
        recorded = description["with an imatrix"].get(recipe, recorded)
    for pattern, name, shape in tensors(description):
        layer = re.match(r"blk\.(\d+)", name)
        expected = spread(recorded, pattern, dimensions.layers)[int(layer[1]) if layer else 0]
        chosen = tensor_type(RECIPES[recipe].heeding(imatrix), judged, name, shape, keep_f32=False)
        assert (name, chosen.type.name) == (name, expected)


def _write_model(path: Path, model: dict[str, Any]) -> None:
    size = model["dimensions"]
    architecture = model["architecture"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(size["vocab"])
    writer.add_block_count(size["layers"])
    writer.add_context_length(64)
    writer.add_embedding_length(size["width"])
    writer.add_feed_forward_length(size["ff"])
    writer.add_head_count(size["heads"])
    writer.add_head_count_kv(size["kv_heads"])
    writer.add_rope_dimension_count(size["head_dim"])
    writer.add_layer_norm_rms_eps(1e-5)
    if size["experts"]:
        writer.add_expert_count(size["experts"])
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(size["expert_ff"])
        writer.add_expert_shared_feed_forward_length(size["shared_ff"])
    for _, name, shape in tensors(model):
        writer.add_tensor(name, np.full(shape, 0.5, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# A line of a dry run: "[ 3/ 272] NAME - [shape], type = f16, size = … -> … (q4_0)"; what stays has no end.
_PLANNED = re.compile(r"\[[\d/ ]+\]\s+(\S+)\s+-.*type =\s*(\w+), size[^(]*(?:\((\w+)\))?\s*")


def _types_of(
    model: dict[str, Any], recipe: str, llama_quantize: str, directory: Path, imatrix: bool = False
) -> dict[str, str]:
    source = directory / "model.gguf"
    if not source.exists():
        _write_model(source, model)
    command = [llama_quantize, "--dry-run"]
    if imatrix:
        sums = {"of.another": Sums(np.ones((1, 32), np.float32), np.ones(1, np.float32))}
        write_importance(directory / "imatrix.gguf", Importance(sums, ("text",), 1, 512))
        command += ["--imatrix", str(directory / "imatrix.gguf")]
    command += [str(source), str(directory / "quantised.gguf"), recipe.upper()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    planned = filter(None, map(_PLANNED.fullmatch, (done.stdout + done.stderr).splitlines()))
    kinds = {found[1]: (found[3] or found[2]).upper() for found in planned}
    by_pattern: dict[str, list[str]] = {}
    for pattern, name, _ in tensors(model):
        by_pattern.setdefault(pattern, []).append(kinds[name])
    others = Counter(kind for layers in by_pattern.values() for kind in layers).most_common(1)[0][0]
    runs = {
        pattern: [(kind, len(list(run))) for kind, run in groupby(k)] for pattern, k in by_pattern.items()
    }
    written = {
        pattern: run[0][0] if len(run) == 1 else " ".join(f"{k}*{n}" if n > 1 else k for k, n in run)
        for pattern, run in runs.items()
    }
    return {"others": others} | {pattern: kinds for pattern, kinds in written.items() if kinds != others}


if __name__ == "__main__":
    for described in [RECORDS[name] for name in sys.argv[2:] or RECORDS]:
        with tempfile.TemporaryDirectory() as scratch:
            described["types"] = {
                recipe: _types_of(described, recipe, sys.argv[1], Path(scratch)) for recipe in QUANTISED
            }
            with_one = {
                recipe: _types_of(described, recipe, sys.argv[1], Path(scratch), imatrix=True)
                for recipe in QUANTISED
            }
            described["with an imatrix"] = {
                recipe: types for recipe, types in with_one.items() if types != described["types"][recipe]
            }
    RECORDED.write_text(json.dumps(RECORDS, indent=1) + "\n", encoding="utf-8")
