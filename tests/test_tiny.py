"""The maker of small models makes what it says."""

import gguf
import numpy as np
import pytest
from tiny import DTYPES, Tiny, tiny_weights, write_tiny_gguf


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_tensors_read_back(tiny_gguf, dtype):
    fields = dict(dtype=dtype, scheme=(12, 4, 16), tokenizer=True)
    reader = gguf.GGUFReader(tiny_gguf(**fields))
    read = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    wanted = tiny_weights(Tiny(**fields))
    assert read.keys() == wanted.keys()
    for name, values in wanted.items():
        # 4-bit blocks of 32 keep a value to within a sixteenth of the block's range.
        np.testing.assert_allclose(read[name], values, atol=np.ptp(values) / 12)
    assert reader.get_field("llama.attention.dca.chunk_size").contents() == 12
    assert len(reader.get_field("tokenizer.ggml.tokens").contents()) == 320


def test_same_description_same_bytes(tmp_path):
    written = []
    for index, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{index}.gguf"
        write_tiny_gguf(path, Tiny(seed=seed, scheme=(12, 4, 16), tokenizer=True))
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]
