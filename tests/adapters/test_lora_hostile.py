"""Adapters of a stranger: what cannot be merged as PEFT would is refused in one line, in time."""

import numpy as np
import pytest
from adapters import factors, pair, write_peft
from hostile.limited import limited
from tiny_hf import write_safetensors, write_tiny_model

from dca_export.adapters.changes import AdapterOption
from dca_export.adapters.peft import read_peft
from dca_export.cli.export import main

MODULE = "model.layers.0.self_attn.q_proj"
KNOWN = (MODULE + ".weight",)


def refused(folder, tensors=None, **config) -> str:
    """What the command says of the adapter; nothing is written."""
    write_tiny_model(folder / "model")
    write_peft(folder / "adapter", tensors or pair(MODULE, *factors(64, 64, 4)), **config)
    output = folder / "out.gguf"
    ended = limited(lambda: main([str(folder / "model"), str(output), "--lora", str(folder / "adapter")]))
    assert ended.code == 2 and not output.exists(), ended
    assert len(ended.errors.splitlines()) == 1
    return ended.errors


@pytest.mark.parametrize(
    "pattern", [r"((\w|\.)+)+!", "(.*.*.*.*.*.*.*.*.*)*x", "a{99999999999999}", "(" * 5000, "("]
)
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_patterns_that_cannot_be_matched_are_refused(tmp_path, key, pattern):
    assert key in refused(tmp_path, **{key: {pattern: 4}})


@pytest.mark.parametrize("pattern", [r".*\.0\.self_attn\.(q|k)_proj", "q_pro[jk]", "^model.layers.0.*"])
def test_patterns_that_are_no_plain_names_count(tmp_path, pattern):
    write_peft(tmp_path, pair(MODULE, *factors(64, 64, 4)), alpha_pattern={"other": 1, pattern: 2})
    (addition,) = read_peft(AdapterOption(tmp_path), KNOWN).additions[KNOWN[0]]
    assert addition.scale == 2 / 4


@pytest.mark.parametrize("alpha", [10**400, float("nan"), float("inf"), True, "8"])
def test_alpha_must_be_a_finite_number(tmp_path, alpha):
    assert "lora_alpha" in refused(tmp_path, lora_alpha=alpha)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq"])
def test_adapters_that_go_with_changed_weights_of_the_model_are_refused(tmp_path, start):
    assert "init_lora_weights" in refused(tmp_path, init_lora_weights=start)


@pytest.mark.parametrize("dtype", ["I32", "U8", "F8_E4M3", "BOOL", "F8_E8M0"])
def test_matrices_of_other_numbers_are_refused(tmp_path, dtype):
    a, b = (np.ones(shape, "<i4" if dtype == "I32" else "u1") for shape in ((4, 64), (64, 4)))
    write_peft(tmp_path / "adapter", {})
    stored = {f"base_model.model.{name}": (dtype, values) for name, values in pair(MODULE, a, b).items()}
    write_safetensors(tmp_path / "adapter" / "adapter_model.safetensors", stored)
    with pytest.raises(Exception, match=rf"{dtype}, expected one of F64, F32, F16, BF16"):
        read_peft(AdapterOption(tmp_path / "adapter"), KNOWN)


def test_a_bias_of_the_first_matrix_is_refused(tmp_path):
    tensors = pair(MODULE, *factors(64, 64, 4)) | {f"{MODULE}.lora_A.bias": np.zeros(4, np.float32)}
    assert "bias of lora_A" in refused(tmp_path, tensors)


def test_a_matrix_stored_twice_is_refused(tmp_path):
    a, b = factors(64, 64, 4)
    tensors = pair(MODULE, a, b) | {f"{MODULE}.lora_A.other.weight": 2 * a}
    assert "one matrix of one module" in refused(tmp_path, tensors)


def test_a_tensor_replaced_twice_is_refused(tmp_path):
    head = np.zeros((320, 64), np.float32)
    assert "both for" in refused(
        tmp_path, {"lm_head.weight": head, "lm_head.modules_to_save.weight": head + 1}
    )
