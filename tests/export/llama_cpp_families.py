"""What llama.cpp makes of the models that test_families exports: its converter's files, and its logits.

    .venv/bin/python tests/export/llama_cpp_families.py TREE LLAMA_PERPLEXITY [CASE ...]

TREE is llama.cpp's source (its converter in Python), LLAMA_PERPLEXITY a program built from it. Writes
llama_cpp_families.json, anew for the cases named or all, which test_families_against_llama_cpp.py and
docs/models.md read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from families_of_others import OTHERS  # noqa: E402
from hf_families import EXPORTED, make  # noqa: E402
from tiny_hf import CORPUS, tiny_tokenizer, write_tokenizer  # noqa: E402
from transformers import AutoConfig  # noqa: E402

import dca_runtime  # noqa: E402
from dca_export.export.plan import ExportOptions  # noqa: E402
from dca_export.export.scheme_choice import SchemeOptions  # noqa: E402
from dca_export.export.write import export_model  # noqa: E402

RECORDED = Path(__file__).with_suffix(".json")

# What llama.cpp has no tensors for (biases), or takes for granted instead of reading it from the file.
WITHOUT_BIASES = {"attention_bias": False}
AS_LLAMA_CPP_HAS_IT = {
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16},
    "smollm3": {"no_rope_layer_interval": 4, "num_hidden_layers": 5, "mlp_bias": False} | WITHOUT_BIASES,
    "olmo2": WITHOUT_BIASES,
    "cohere": {"use_qk_norm": False} | WITHOUT_BIASES,  # it has those norms in models of 64 layers
    "cohere2": WITHOUT_BIASES,
}
# What a config of today's transformers lacks and the converter asks for; published ones have it.
STATED = {"cohere2": {"rotary_pct": 1.0}}
CASES = [*EXPORTED, *OTHERS]
WINDOW = 64
TEXT = " ".join(CORPUS * 20)


def save(case: str, directory: Path) -> None:
    """The model of a case, weights made of its tensors' names, a vocabulary as large as its tokenizer's.

    Its config names only what its class knows: a converter may believe a dense model's count of experts.
    """
    family = case.split(",")[0]
    tokenizer = tiny_tokenizer()
    other = OTHERS.get(case)
    changes = EXPORTED[case] | AS_LLAMA_CPP_HAS_IT.get(case, {}) if other is None else other.changes
    if family == "qwen2":  # whose tokenizer in transformers has a token of its own
        tokenizer.add_special_tokens(["<|endoftext|>"])
    model = make(
        case if other is None else other.family,
        torch.float32,
        vocab_size=tokenizer.get_vocab_size(),
        **changes,
    )
    for name, parameter in model.named_parameters():
        random = np.random.default_rng(zlib.crc32(name.encode()))
        values = 0.3 * random.standard_normal(tuple(parameter.shape), np.float32)
        parameter.copy_(torch.from_numpy(values + ("norm" in name and name.endswith("weight"))))
    model.save_pretrained(directory)
    write_tokenizer(directory, tokenizer, tokenizer_class="PreTrainedTokenizerFast")
    file = directory / "config.json"
    config = json.loads(file.read_text())
    known = {"architectures", "dtype", *AutoConfig.for_model(config["model_type"]).to_dict()}
    if config.get("sliding_window") is None:
        known.discard("sliding_window")
    kept = {key: value for key, value in config.items() if key in known} | STATED.get(case, {})
    file.write_text(json.dumps(kept))
    if other is not None:
        other.rewrite(directory)


def export(directory: Path, output: Path) -> None:
    export_model(directory, output, ExportOptions("f32", SchemeOptions(dca=False)))


def described(path: Path) -> dict[str, Any]:
    """A GGUF file's keys, but for the tokenizer's, and of each tensor type, shape and checksum."""
    reader = gguf.GGUFReader(path)
    keys = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith(("GGUF.", "tokenizer."))
    }
    tensors = {
        tensor.name: f"{tensor.tensor_type.name} {'x'.join(map(str, tensor.shape))} "
        f"{zlib.crc32(np.ascontiguousarray(tensor.data).tobytes()):08x}"
        for tensor in reader.tensors
    }
    return {"keys": keys, "tensors": tensors}


# The tokenizer is a test's: the converter would know none of its kind, nor have the files it looks for.
_CONVERT = """
import sys
tree, *directories = sys.argv[1:]
sys.path.insert(0, tree)
import conversion.base
import convert_hf_to_gguf as converter
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
found = converter.get_model_class
def class_of(name, mmproj=False):
    model_class = found(name, mmproj)
    model_class.set_vocab = lambda self: self._set_vocab_gpt2()
    return model_class
converter.get_model_class = class_of
for directory in directories:
    sys.argv = ["", directory + "/model", "--outfile", directory + "/converted.gguf"]
    sys.argv += ["--outtype", "f32", "--no-lazy"]
    try:
        converter.main()
    except BaseException as error:
        open(directory + "/refused", "w").write(f"{type(error).__name__}: {error}"[:80])
"""


def differences(llama_perplexity: str, file: Path, scratch: Path) -> float:
    """The largest difference between log-probabilities, the runtime's and llama.cpp's, in half a window."""
    text, logits = scratch / "text.txt", scratch / "logits"
    text.write_text(TEXT)
    exact = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]
    command = [llama_perplexity, "-m", file, "-f", text, "--no-escape", "-c", WINDOW, "-b", WINDOW, *exact]
    command += ["-t", 1, "--chunks", 1, "--save-all-logits", logits]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    data = logits.read_bytes()
    n_vocab, n_windows = np.frombuffer(data, "<i4", 2, 12)
    ids = np.frombuffer(data, "<i4", WINDOW * n_windows, 20)
    # A row: a step and the least log-probability in f32, then as many steps above it as each token's is.
    rows, width = WINDOW // 2 - 1, (n_vocab + 1) // 2 * 2 + 4
    stored = np.frombuffer(data, "<u2", rows * width, 20 + ids.nbytes).reshape(rows, width)
    step, least = np.ascontiguousarray(stored[:, :4]).view("<f4").T[..., None].astype(np.float64)
    steps = stored[:, 4 : 4 + n_vocab]
    with dca_runtime.Model(file, device="cpu", context=WINDOW) as model:
        assert model.tokenize(TEXT)[:WINDOW] == ids.tolist()
        found = model.session(cache_type="f32").eval(ids.tolist(), all_logits=True).astype(np.float64)
    found -= np.log(np.exp(found).sum(axis=1, keepdims=True))
    apart = np.abs(found[WINDOW // 2 : -1] - (least + step * steps))
    return float(apart[steps > 0].max())  # what is least may be less


def record(tree: str, llama_perplexity: str, *cases: str) -> dict[str, Any]:
    records: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8")) if cases else {}
    with tempfile.TemporaryDirectory() as scratch:
        places = {case: Path(scratch) / str(index) for index, case in enumerate(cases or CASES)}
        for case, place in places.items():
            save(case, place / "model")
            export(place / "model", place / "out.gguf")
        subprocess.run([sys.executable, "-c", _CONVERT, tree, *map(str, places.values())], check=True)
        for case, place in places.items():
            refused = place / "refused"
            found = (
                {"refused": refused.read_text()} if refused.exists() else described(place / "converted.gguf")
            )
            records[case] = found | {"logits": differences(llama_perplexity, place / "out.gguf", place)}
            print(case, records[case].get("refused", ""), records[case]["logits"], file=sys.stderr)
    return records


if __name__ == "__main__":
    lines = [f" {json.dumps(case)}: {json.dumps(found)}" for case, found in record(*sys.argv[1:]).items()]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
