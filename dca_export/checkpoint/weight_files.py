"""Which files of a model directory hold its weights: those that transformers would take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dca_export.config import Config, read_json_object
from dca_export.errors import InputError
from dca_export.small_files import is_there

KINDS = (("model", ".safetensors"), ("pytorch_model", ".bin"))
ADAPTER = "adapter_config.json"

_SHARD = re.compile(r".*-(\d+)-of-(\d+)\.[a-z]+")
# What other programs keep weights in, and what to do about it.
_ELSEWHERE = {
    "consolidated*": "the publisher's own format; use the directory in Hugging Face's",
    "*.gguf": "a GGUF file; name it instead of the directory",
    "tf_model.h5": "TensorFlow's format; save the model from PyTorch",
    "flax_model.msgpack": "Flax's format; save the model from PyTorch",
    "*.safetensors": "a name that no loader looks for",
    "*.ckpt": "a trainer's checkpoint; save the model with save_pretrained",
    "*.pt*": "a trainer's checkpoint; save the model with save_pretrained",
}


@dataclass(frozen=True)
class WeightFiles:
    """The files, in order; by the index, where one was used, the file each tensor must be in."""

    files: list[Path]
    promised: Mapping[str, str] = field(default_factory=dict)
    index: Path | None = None
    notes: list[str] = field(default_factory=list)


def find_weights(directory: Path) -> WeightFiles:
    """transformers' order: a whole file, then an index with its shards; safetensors before PyTorch's .bin.

    Shards that have lost their index are taken if they are complete. Raises InputError.
    """
    for stem, suffix in KINDS:
        whole, index = directory / f"{stem}{suffix}", directory / f"{stem}{suffix}.index.json"
        if is_there(whole):
            return WeightFiles([whole], notes=_passed_over(whole, index))
        if is_there(index):
            return _indexed(index, suffix)
    for stem, suffix in KINDS:
        if files := sorted(directory.glob(f"{stem}*{suffix}")):
            _check_complete(files)
            return WeightFiles(files)
    raise _absent(directory)


def adapter_error(directory: Path) -> InputError | None:
    """What to say of a directory that holds an adapter (LoRA) and no model; None if it is another one."""
    path = directory / ADAPTER
    weights = (directory / f"{stem}{suffix}{end}" for stem, suffix in KINDS for end in ("", ".index.json"))
    if not path.is_file() or any(file.exists() for file in weights):
        return None
    config = Config.read(path)
    base = config.values.get("base_model_name_or_path")
    of = f" of {base}" if isinstance(base, str) and base else ""
    return InputError(
        f"{directory}: an adapter{of} ({ADAPTER}), not a model; to merge it into its base model, name that, "
        "and this directory with --lora"
    )


def _passed_over(whole: Path, index: Path) -> list[str]:
    """A note, if shards of another save lie beside the file that is read."""
    if not index.is_file():
        return []
    shards = _shards_of(index, index.name.split(".")[1], strict=False)
    if shards <= {whole.name}:
        return []
    gone = sum(not (index.parent / shard).is_file() for shard in shards)
    state = f", {gone} of them gone" if gone else ""
    return [
        f"{whole.name} is read; {index.name} beside it names {len(shards)} other files{state}: another save, "
        "which transformers passes over too"
    ]


def _shards_of(index: Path, suffix: str, strict: bool) -> set[str]:
    try:
        weight_map = read_json_object(index).get("weight_map")
    except InputError:
        if strict:
            raise
        return {"?"}
    if not strict:
        return {str(shard) for shard in weight_map.values()} if isinstance(weight_map, dict) else {"?"}
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: weight_map is missing or empty")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(suffix):
            raise InputError(f"{index}: weight_map sends {name} to {shard!r}, expected a {suffix} file name")
    return set(weight_map.values())


def _indexed(index: Path, suffix: str) -> WeightFiles:
    shards = sorted(_shards_of(index, suffix, strict=True))
    gone = [shard for shard in shards if not (index.parent / shard).is_file()]
    if gone:
        others = f", and so are {len(gone) - 1} others of its {len(shards)}" if len(gone) > 1 else ""
        raise InputError(
            f"{index.parent / gone[0]}: this shard, named in {index.name}, is missing{others}; "
            "fetch the directory again, or remove the index if it is an older save's"
        )
    return WeightFiles(
        [index.parent / shard for shard in shards], read_json_object(index)["weight_map"], index
    )


def _check_complete(files: list[Path]) -> None:
    """Raises InputError if files are numbered and some numbers, or several counts, are missing or mixed."""
    numbered = {path: match for path in files if (match := _SHARD.fullmatch(path.name))}
    if not numbered:
        return
    counts = {int(match[2]) for match in numbered.values()}
    if len(counts) > 1 or len(numbered) != len(files):
        names = ", ".join(path.name for path in files[:4])
        raise InputError(
            f"{files[0].parent}: {names} are not the shards of one save; "
            "remove those of the other, or add the index"
        )
    (count,) = counts
    missing = sorted(set(range(1, count + 1)) - {int(match[1]) for match in numbered.values()})
    if missing:
        raise InputError(
            f"{files[0].parent}: shard {missing[0]} of {count} is missing beside {files[0].name}, and there "
            "is no index; fetch the directory again"
        )


def _absent(directory: Path) -> InputError:
    expected = "model*.safetensors or pytorch_model*.bin"
    for pattern, reason in _ELSEWHERE.items():
        if found := sorted(directory.glob(pattern)):
            return InputError(f"{directory}: no weights ({expected}); {found[0].name} is there: {reason}")
    return InputError(f"{directory}: no weights ({expected})")
