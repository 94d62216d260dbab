"""A layer of each backend as vLLM drives it: keys stored step by step, then attention over the pages.

Runs where vLLM is installed; the GPU's layer needs triton too, interpreted where there is no card.
"""

import importlib
from types import SimpleNamespace

import oracle
import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM")

from dca_vllm import layer as layers  # noqa: E402
from dca_vllm.rotation import Rotation, table_of  # noqa: E402
from dca_vllm.scheme import Scheme  # noqa: E402

SCHEME = Scheme(12, 3, 16)
HEADS, KV_HEADS, HEAD_SIZE, BLOCK_SIZE = 4, 2, 32, 16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def rotation(monkeypatch):
    frequencies = (10000.0 ** -(torch.arange(16) / 16)).float()
    table = table_of(torch.cat((frequencies.cos(), frequencies.sin())), SCHEME.pretraining_length)
    monkeypatch.setattr(layers, "current_scheme", lambda: SCHEME)
    monkeypatch.setattr(layers, "current_rotation", lambda: Rotation(table.to(DEVICE), True))
    return frequencies, Rotation(table, True)


def cpu_layer():
    backend = importlib.import_module("dca_vllm.backend_cpu")
    return backend.DcaCpuLayer(HEADS, HEAD_SIZE, HEAD_SIZE**-0.5, KV_HEADS), lambda common: SimpleNamespace(
        num_actual_tokens=common.num_actual_tokens,
        block_table=common.block_table_tensor,
        query_start_loc=common.query_start_loc,
        seq_lens=common.seq_lens,
    )


def cuda_layer():
    backend = pytest.importorskip("dca_vllm.backend_cuda", reason="needs triton", exc_type=ImportError)
    builder = backend.DcaMetadataBuilder(None, [], None, DEVICE)
    # As Qwen's classes build it.
    layer = backend.DcaCudaBackend.get_impl_cls()(
        HEADS, HEAD_SIZE, HEAD_SIZE**-0.5, KV_HEADS, layer_idx=0, dual_chunk_attention_config={}
    )
    return layer, lambda common: builder.build(0, common)


@pytest.mark.parametrize("made", [cpu_layer, cuda_layer])
def test_steps_of_a_batch_give_the_attention_of_whole_sequences(made, rotation):
    frequencies, on_cpu = rotation
    layer, metadata_of = made()
    torch.manual_seed(0)
    lengths, pieces = (40, 21), ((17, 20), (22, 0), (1, 1))  # prefill in two pieces, then decode
    query, key, value = (
        [torch.randn(length, heads, HEAD_SIZE) for length in lengths] for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    cache = torch.full((8, KV_HEADS, BLOCK_SIZE, 2 * HEAD_SIZE), torch.nan, device=DEVICE)
    pages = torch.tensor([[5, 2, 7], [0, 3, 1]], dtype=torch.int32)
    found = [[], []]
    done = [0, 0]
    for sizes in pieces:
        ends = [start + size for start, size in zip(done, sizes, strict=True)]
        q, k, v, slots = [], [], [], []
        for sequence, (start, end) in enumerate(zip(done, ends, strict=True)):
            at = torch.arange(start, end)
            q.append(query[sequence][at])
            k.append(on_cpu.rotate(key[sequence][at], at % SCHEME.chunk_size))
            v.append(value[sequence][at])
            slots.append(pages[sequence][at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE)
        padding = torch.full((2, 1), torch.nan)  # rows that pad a batch, without slots
        q, k, v = (
            torch.cat((*each, padding[..., None].expand(2, each[0].shape[1], HEAD_SIZE)))
            for each in (q, k, v)
        )
        slots = torch.cat((*slots, torch.tensor([-1, -1]))).long()
        q, k, v, slots = (each.to(DEVICE) for each in (q, k, v, slots))
        common = SimpleNamespace(
            num_actual_tokens=sum(sizes),
            max_query_len=max(sizes),
            query_start_loc=torch.tensor([0, sizes[0], sum(sizes)], dtype=torch.int32, device=DEVICE),
            seq_lens=torch.tensor(ends, dtype=torch.int32, device=DEVICE),
            block_table_tensor=pages.to(DEVICE),
        )
        output = torch.zeros_like(q)
        layer.do_kv_cache_update(None, k, v, cache, slots)
        layer.forward(None, q, k, v, cache, metadata_of(common), output)
        for sequence, size in enumerate(sizes):
            first = sizes[0] * sequence
            found[sequence].append(output[first : first + size].cpu())
        done = ends
    for sequence in range(2):
        wanted = oracle.attention(
            query[sequence], key[sequence], value[sequence], SCHEME, frequencies, 1.0, HEAD_SIZE**-0.5
        )
        assert (torch.cat(found[sequence]) - wanted).abs().max() < 2e-5


def test_memory_is_measured_without_a_batch(rotation):
    layer, _ = cpu_layer()
    output = torch.full((3, HEADS, HEAD_SIZE), torch.nan)
    assert layer.forward(None, output, None, None, None, None, output).eq(0).all()


def test_the_gpus_backend_without_a_scheme_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(layers, "current_scheme", lambda: None)
    with pytest.raises(ValueError, match="neither config.json nor --additional-config states a scheme"):
        cuda_layer()


def test_eight_bit_caches_are_refused_on_cpus(rotation):
    backend = importlib.import_module("dca_vllm.backend_cpu")
    with pytest.raises(ValueError, match="--kv-cache-dtype fp8 is not for CPUs; use auto"):
        backend.DcaCpuLayer(HEADS, HEAD_SIZE, 0.1, KV_HEADS, kv_cache_dtype="fp8")
