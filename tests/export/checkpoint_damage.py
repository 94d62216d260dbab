"""Ways to damage a checkpoint's directory: each makes a function that does it."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_hf import stored_as, tiny_config, tiny_tensors, write_safetensors, write_shards

Damage = Callable[[Path], None]


def config(**changes: Any) -> Damage:
    """config.json with other values; ... removes a key."""

    def damage(directory: Path) -> None:
        values = json.loads((directory / "config.json").read_text()) | changes
        kept = {key: value for key, value in values.items() if value is not ...}
        (directory / "config.json").write_text(json.dumps(kept))

    return damage


def file(name: str, content: bytes | None) -> Damage:
    """A file with other content; None removes it."""

    def damage(directory: Path) -> None:
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content)

    return damage


def directory_called(name: str) -> Damage:
    def damage(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).mkdir()

    return damage


def json_file(name: str, **changes: Any) -> Damage:
    """A JSON file with other values; made if there is none."""

    def damage(directory: Path) -> None:
        path = directory / name
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(values | changes))

    return damage


def weights(change: Callable[[dict[str, tuple[str, np.ndarray]]], None]) -> Damage:
    """model.safetensors written anew from its tensors (dtype, values as stored) after a change."""

    def damage(directory: Path) -> None:
        tensors = tiny_tensors(tiny_config())
        stored = {name: ("F32", stored_as(values, "F32")) for name, values in tensors.items()}
        change(stored)
        write_safetensors(directory / "model.safetensors", stored)

    return damage


def header(**entries: dict[str, Any]) -> Damage:
    """model.safetensors with other entries in its header, its data untouched."""

    def damage(directory: Path) -> None:
        path = directory / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        values = json.loads(content[8 : 8 + length])
        for name, entry in entries.items():
            values[f"model.{name}.weight"] |= entry
        text = json.dumps(values).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return damage


def cut(size: int) -> Damage:
    def damage(directory: Path) -> None:
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return damage


def sharded(then: Damage) -> Damage:
    """The weights in two shards with an index, then damaged."""

    def damage(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        tensors = tiny_tensors(tiny_config())
        write_shards(directory, {name: ("F32", stored_as(v, "F32")) for name, v in tensors.items()}, 2)
        then(directory)

    return damage


INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00002.safetensors"


def second_shard_again(directory: Path) -> None:
    (directory / "model-00001-of-00002.safetensors").write_bytes((directory / SHARD).read_bytes())


def pytorch(content: bytes) -> Damage:
    def damage(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        (directory / "pytorch_model.bin").write_bytes(content)

    return damage


def pytorch_saved(state: Callable[[Any], Any]) -> Damage:
    """Weights that torch.save wrote; state(torch) makes them."""

    def damage(directory: Path) -> None:
        torch = pytest.importorskip("torch")
        (directory / "model.safetensors").unlink()
        torch.save(state(torch), directory / "pytorch_model.bin")

    return damage


class Payload:
    """Pickles as a call: whoever loads it carelessly makes a file."""

    def __reduce__(self):
        return os.mkdir, ("payload-was-run",)


def fp8(scale: list[list[float]]) -> Damage:
    def damage(directory: Path) -> None:
        config(quantization_config={"quant_method": "fp8", "weight_block_size": [32, 32]})(directory)
        name = "model.layers.0.self_attn.q_proj.weight"

        def change(stored: dict[str, tuple[str, np.ndarray]]) -> None:
            stored[name] = "F8_E4M3", np.zeros((64, 64), np.uint8)
            stored[name + "_scale_inv"] = "F32", np.array(scale, np.float32)

        weights(change)(directory)

    return damage


def drop(name: str) -> Damage:
    return weights(lambda stored: stored.pop(name) and None)


def add(name: str, dtype: str, values: np.ndarray) -> Damage:
    return weights(lambda stored: stored.update({name: (dtype, values)}))


def many_bits(stored: dict[str, tuple[str, np.ndarray]]) -> None:
    """Integers of 64 bits in place of numbers."""
    stored["model.norm.weight"] = "I64", np.zeros(64, np.int64)


def nan_weight(stored: dict[str, tuple[str, np.ndarray]]) -> None:
    stored["lm_head.weight"][1][-1, -1] = np.nan
