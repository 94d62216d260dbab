"""Reads what an export wrote, with gguf's reader."""

import gguf


def read(path) -> tuple[dict, dict]:
    """Keys and tensors (as f32) of a file, read by gguf."""
    reader = gguf.GGUFReader(path)
    keys = {key: f.contents() for key, f in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return keys, tensors
