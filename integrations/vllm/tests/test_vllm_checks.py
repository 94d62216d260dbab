"""What does not go with a scheme is refused in one line. Runs where vLLM is installed."""

from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="needs vLLM")

from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl  # noqa: E402
from vllm.v1.attention.backends.registry import AttentionBackendEnum  # noqa: E402

from dca_vllm import checks  # noqa: E402
from dca_vllm.backend_cpu import DcaCpuBackend, DcaCpuLayer  # noqa: E402
from dca_vllm.register import register  # noqa: E402


def engine(architecture="LlamaForCausalLM", backend=None, speculative=None, **passes):
    return SimpleNamespace(
        model_config=SimpleNamespace(architecture=architecture),
        speculative_config=speculative,
        attention_config=SimpleNamespace(backend=backend),
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(**passes)),
    )


def on_gpu(monkeypatch):
    monkeypatch.setattr(checks, "current_platform", SimpleNamespace(is_cpu=lambda: False))


def test_an_ordinary_engine_passes():
    checks.check_engine(engine())


def test_an_architecture_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="Gemma3ForCausalLM is not one of LlamaForCausalLM, Mistral"):
        checks.check_engine(engine("Gemma3ForCausalLM"))


def test_speculative_decoding_is_refused():
    with pytest.raises(ValueError, match="speculative decoding does not go with a scheme"):
        checks.check_engine(engine(speculative=object()))


@pytest.mark.parametrize("backend", [None, AttentionBackendEnum.FLASH_ATTN])
def test_a_gpu_needs_our_backend(monkeypatch, backend):
    on_gpu(monkeypatch)
    with pytest.raises(ValueError, match="start vLLM with --attention-backend CUSTOM"):
        checks.check_engine(engine(backend=backend))


def test_a_gpu_with_our_backend_passes(monkeypatch):
    on_gpu(monkeypatch)
    register()
    checks.check_engine(engine(backend=AttentionBackendEnum.CUSTOM))


def test_rotary_fusions_are_switched_off():
    config = engine(enable_qk_norm_rope_fusion=True, fuse_rope_kvcache=None)
    checks.check_engine(config)
    assert config.compilation_config.pass_config.enable_qk_norm_rope_fusion is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sliding_window": 4096}, "sliding window of 4096 tokens .* --hf-overrides"),
        ({"alibi_slopes": [1.0]}, "the model has ALiBi"),
        ({"logits_soft_cap": 50.0}, "the model has soft-capped logits"),
        ({"attn_type": "encoder_only"}, "the model has attention of type encoder_only"),
        ({"kv_sharing_target_layer_name": "a"}, "keys shared between layers"),
        ({"sinks": object()}, "the model has attention sinks"),
    ],
)
def test_attention_that_is_more_than_causal_is_refused(change, message):
    ordinary = {
        "alibi_slopes": None,
        "sliding_window": None,
        "logits_soft_cap": None,
        "attn_type": "decoder",
        "kv_sharing_target_layer_name": None,
        "sinks": None,
    }
    checks.check_layer(**ordinary)
    with pytest.raises(ValueError, match=message):
        checks.check_layer(**ordinary | change)


def test_the_cpu_backend_is_vllms_own_without_a_scheme(monkeypatch):
    monkeypatch.setattr("dca_vllm.backend_cpu.current_scheme", lambda: None)
    assert DcaCpuBackend.get_impl_cls() is CPUAttentionBackendImpl
    assert DcaCpuBackend.get_builder_cls() is CPUAttentionBackend.get_builder_cls()
    monkeypatch.setattr("dca_vllm.backend_cpu.current_scheme", lambda: object())
    assert DcaCpuBackend.get_impl_cls() is DcaCpuLayer


def test_the_entry_point_registers_both_backends():
    register()
    assert AttentionBackendEnum.CUSTOM.get_path() == checks.CUDA_BACKEND
    assert AttentionBackendEnum.CPU_ATTN.get_path() == checks.CPU_BACKEND
    assert AttentionBackendEnum[DcaCpuBackend.get_name()] is AttentionBackendEnum.CPU_ATTN


def test_the_cuda_backend_is_vllms_custom_one():
    backend = pytest.importorskip("dca_vllm.backend_cuda", reason="needs triton", exc_type=ImportError)
    assert AttentionBackendEnum[backend.DcaCudaBackend.get_name()] is AttentionBackendEnum.CUSTOM
