"""The patch for transformers' models, on small random ones of many families."""

import copy

import numpy as np
import pytest
from relative_oracle import relative_attention

from dca_export.errors import InputError
from dca_export.scheme import Scheme

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_families import FAMILIES, LONGROPE, make, tokens  # noqa: E402
from transformers import AttentionInterface, StaticCache  # noqa: E402

from dca_export.reference.hf import patch  # noqa: E402

SCHEME = Scheme(5, 3, 11)
LENGTH = 23  # four chunk borders


@pytest.fixture(params=FAMILIES)
def model(request):
    return make(request.param)


def oracle_logits(model, ids, scheme, attention):
    """The model with the identity for a rotary embedding, and the relative-position oracle for attention.

    A layer with a window beside others keeps it and attends at its ordinary distances.
    """
    rotary = model.model.rotary_emb
    kinds = getattr(model.config, "layer_types", None)
    prefixes = [""] if hasattr(rotary, "inv_freq") else [kind + "_" for kind in set(kinds)]
    turns = {  # before the model runs: some change them with the length
        prefix: (
            getattr(rotary, prefix + "inv_freq").double().numpy(),
            float(getattr(rotary, prefix + "attention_scaling")),
        )
        for prefix in prefixes
    }
    interleaved = model.config.model_type in ("glm", "glm4", "cohere", "cohere2")

    def attend(module, query, key, value, mask, scaling=None, softcap=None, s_aux=None, **others):
        d = query.shape[-1]
        windowed = kinds is not None and kinds[module.layer_idx] == "sliding_attention"
        rotates = windowed if model.config.model_type == "cohere2" else getattr(module, "use_rope", True)
        prefix = "" if "" in turns else kinds[module.layer_idx] + "_"
        frequencies, scale = turns[prefix] if rotates else (np.zeros(1), 1.0)
        result = relative_attention(
            query[0].numpy() * (scaling * d**0.5),
            key[0].numpy(),
            value[0].numpy(),
            scheme,
            "plain" if windowed else attention,
            frequencies,
            "interleaved" if interleaved else "halves",
            scale,
            model.config.sliding_window if windowed else None,
            softcap,
            None if s_aux is None else s_aux.numpy(),
        )
        return torch.from_numpy(result).transpose(0, 1)[None], None

    AttentionInterface.register("relative_oracle", attend)
    earlier = model.config._attn_implementation
    hook = rotary.register_forward_hook(
        lambda module, inputs, output: (torch.ones_like(output[0]), torch.zeros_like(output[1]))
    )
    try:
        model.set_attn_implementation("relative_oracle")
        return model(ids).logits
    finally:
        hook.remove()
        model.set_attn_implementation(earlier)


@pytest.mark.parametrize("attention", ["dca", "intra", "intra+inter"])
def test_patched_models_run_the_papers_equation(model, attention):
    ids = tokens(LENGTH)
    expected = oracle_logits(model, ids, SCHEME, attention)
    with patch(model, SCHEME, attention):
        found = model(ids).logits
    # The models compute their norms in float32.
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_within_one_chunk_nothing_changes(model):
    ids = tokens(12)
    expected = model(ids).logits
    with patch(model, Scheme(13, 2, 15)):
        assert (model(ids).logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_plain_attention_is_the_models_own(model):
    ids = tokens(16)
    expected = model(ids).logits
    with patch(model, None, "plain", rope_length=16):
        assert (model(ids).logits - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kernel", ["eager", "flash"])
def test_decode_equals_prefill(model, kernel):
    ids = tokens(LENGTH)
    with patch(model, SCHEME, kernel=kernel):
        whole = model(ids).logits
        step, pieces = None, []
        for piece in ids.split([7, 1, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2], dim=1):
            step = model(piece, past_key_values=step and step.past_key_values, use_cache=True)
            pieces.append(step.logits)
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-5 * whole.abs().max()


def test_kernels_agree(model):
    logits = []
    for kernel in ("eager", "flash"):
        with patch(model, SCHEME, kernel=kernel):
            logits.append(model(tokens(LENGTH)).logits)
    assert (logits[0] - logits[1]).abs().max() < 1e-6 * logits[0].abs().max()


def test_restoring_gives_the_model_back(model):
    ids = tokens(LENGTH)
    before, config = model(ids).logits, model.config.to_dict()
    changed = patch(model, SCHEME, ignore_sliding_window=True)
    assert not torch.equal(model(ids).logits, before)
    changed.restore()
    changed.restore()
    assert torch.equal(model(ids).logits, before)
    assert model.config.to_dict() == config
    assert "forward" not in vars(model.model.rotary_emb)


def test_generate_is_greedy_decoding():
    model = make("llama", torch.float32)
    ids = tokens(9)
    with patch(model, SCHEME):
        found = model.generate(ids, max_new_tokens=12, min_new_tokens=12, do_sample=False)
        for length in range(9, 21):
            logits = model(found[:, :length], use_cache=False).logits[0, -1]
            logits[model.config.eos_token_id] = -torch.inf
            assert found[0, length] == logits.argmax()


def test_logit_scale_sharpens_long_sequences():
    model, ids = make("llama"), tokens(LENGTH)
    scheme = Scheme(5, 3, 11, 0.3, 8)
    expected = oracle_logits(model, ids, scheme, "dca")
    for kernel in ("eager", "flash"):
        with patch(model, scheme, kernel=kernel):
            assert (model(ids).logits - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("kernel", ["eager", "flash"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gpt_oss", "olmo3", "cohere2"])
def test_plain_attention_keeps_windows_caps_and_sinks(family, kernel):
    model, ids = make(family), tokens(LENGTH)
    expected = model(ids).logits
    with patch(model, None, "plain", kernel):
        assert (model(ids).logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_layers_with_a_window_are_the_same_under_any_scheme():
    """With windows in every layer but the last, all but the last layer's output is plain attention's."""
    model, ids = make("cohere2"), tokens(LENGTH)
    with patch(model, None, "plain"):
        plain = model.model(ids, output_hidden_states=True).hidden_states
    with patch(model, Scheme(5, 3, 11)):
        chunked = model.model(ids, output_hidden_states=True).hidden_states
    for before, after in zip(plain[:4], chunked[:4], strict=True):
        assert (before - after).abs().max() < 1e-5 * before.abs().max()


@pytest.mark.parametrize("family", ["mistral", "qwen2", "phi3", "qwen3_moe"])
def test_a_sliding_window_is_refused_or_ignored(family):
    window = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}
    windowed, full = make(family, **window), make(family)
    windowed.load_state_dict(full.state_dict())
    with pytest.raises(InputError, match="sliding window of 4 tokens"):
        patch(windowed, SCHEME)
    with patch(full, SCHEME), patch(windowed, SCHEME, ignore_sliding_window=True):
        first, second = (model(tokens(LENGTH), use_cache=True) for model in (full, windowed))
        assert torch.equal(first.logits, second.logits)
        next_token = torch.tensor([[7]])
        first, second = (
            model(next_token, past_key_values=step.past_key_values).logits
            for model, step in ((full, first), (windowed, second))
        )
        assert torch.equal(first, second)
    assert windowed.config.sliding_window == 4


def test_longrope_is_fixed_by_the_largest_position():
    """c decides between the short and the long factors, so that keys and queries of one cache agree."""
    both = make("phi3, longrope")
    alike = make("phi3, longrope", rope_parameters={**LONGROPE, "short_factor": LONGROPE["long_factor"]})
    ids = tokens(40)
    for scheme, same in ((Scheme(5, 3, 11), False), (Scheme(5, 3, 17), True)):
        with patch(both, scheme), patch(alike, scheme):
            assert torch.equal(both(ids).logits, alike(ids).logits) == same


def test_dynamic_ntk_keeps_the_trained_frequencies():
    ids = tokens(40)
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    dynamic, default = make("llama", rope_parameters=rope, max_position_embeddings=16), make("llama")
    with patch(dynamic, SCHEME), patch(default, SCHEME):
        assert torch.equal(dynamic(ids).logits, default(ids).logits)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("opt", "no rotary embedding of known frequencies"),
        ("falcon", "does not use transformers' attention interface"),
    ],
)
def test_models_that_dca_does_not_fit_are_refused(family, message):
    model = make(family, torch.float32)
    before = model.config._attn_implementation
    with pytest.raises(InputError, match=message):
        patch(model, SCHEME)
    assert model.config._attn_implementation == before


def test_calls_it_cannot_serve_are_refused():
    model, ids = make("llama", torch.float32), tokens(LENGTH)
    with patch(model, SCHEME):
        with pytest.raises(InputError, match="one sequence at a time, got a batch of 2"):
            model(ids.repeat(2, 1))
        with pytest.raises(InputError, match="no padding"):
            model(ids, attention_mask=(torch.arange(LENGTH) > 2)[None].long())
        with pytest.raises(InputError, match="a cache that grows"):
            model(ids, past_key_values=StaticCache(model.config, max_cache_len=64))
        with pytest.raises(
            InputError, match="positions that count the cache's tokens, here 0 to 22.*got 4, 5"
        ):
            model(ids, position_ids=torch.arange(4, 4 + LENGTH)[None])
        with pytest.raises(InputError, match="patched already"):
            patch(model, SCHEME)
        assert model(ids, attention_mask=torch.ones(1, LENGTH, dtype=torch.long)).logits.isfinite().all()


@pytest.mark.parametrize(
    "positions",
    [
        [*reversed(range(10)), *range(10, LENGTH)],  # the largest is right
        [*range(10), *[LENGTH - 1] * (LENGTH - 10)],
        [*range(LENGTH - 2), LENGTH - 1, LENGTH - 1],
        [0] * (LENGTH - 1) + [LENGTH - 1],
    ],
)
@pytest.mark.parametrize("family", ["llama", "smollm3, a layer without rotation"])
def test_positions_that_do_not_count_the_tokens_are_refused(positions, family):
    model = make(family, torch.float32)
    with patch(model, SCHEME), pytest.raises(InputError, match="positions that count the cache's tokens"):
        model(tokens(LENGTH), position_ids=torch.tensor([positions]))


def test_a_gap_after_the_cache_is_refused():
    model, ids = make("llama", torch.float32), tokens(LENGTH)
    with patch(model, SCHEME):
        cache = model(ids[:, :10]).past_key_values
        with pytest.raises(InputError, match="here 10 to 11.*got 12, 13"):
            model(ids[:, 10:12], past_key_values=cache, position_ids=torch.tensor([[12, 13]]))


@pytest.mark.parametrize("other", ["eager", "sdpa"])
def test_another_attention_under_the_patch_is_refused(other):
    model, ids = make("llama", torch.float32), tokens(LENGTH)
    expected = model(ids).logits
    with patch(model, SCHEME):
        model.set_attn_implementation(other)
        with pytest.raises(InputError, match=f"switched to {other} afterwards"):
            model(ids)
    assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("switched", [False, True])
def test_a_deep_copy_is_refused_also_after_the_patch_ended(switched):
    model, ids = make("llama", torch.float32), tokens(LENGTH)
    with patch(model, SCHEME):
        twin = copy.deepcopy(model)
        if switched:
            twin.set_attn_implementation("eager")
        with pytest.raises(InputError, match="copy"):
            twin(ids)
        assert model(ids).logits.isfinite().all()
    with pytest.raises(InputError, match="copy"):
        twin(ids)


def test_attention_weights_are_refused():
    model, ids = make("llama", torch.float32), tokens(LENGTH)
    with patch(model, SCHEME):
        with pytest.raises(InputError, match="no attention weights"):
            model(ids, output_attentions=True)
        with pytest.raises(InputError, match="no attention weights"):
            model.model(ids, output_attentions=True)
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    with patch(model, SCHEME), pytest.raises(InputError, match="no attention weights"):
        model(ids)
    assert len(model(ids).attentions) == 2


def test_a_cache_of_other_keys_is_refused():
    model, ids = make("llama", torch.float32), tokens(LENGTH)
    unpatched = model(ids[:, :10]).past_key_values
    with patch(model, SCHEME):
        with pytest.raises(InputError, match="this cache was filled before"):
            model(ids[:, 10:], past_key_values=unpatched)
        cache = model(ids[:, :10]).past_key_values
        whole = model(ids).logits[:, 10:]
        torch.testing.assert_close(model(ids[:, 10:], past_key_values=copy.deepcopy(cache)).logits, whole)
    with patch(model, Scheme(4, 3, 11)), pytest.raises(InputError, match="this cache was filled before"):
        model(ids[:, 10:], past_key_values=cache)


def test_a_wrong_choice_is_refused_before_anything_changes():
    model = make("llama", torch.float32)
    with pytest.raises(ValueError, match="attention is 'sparse'"):
        patch(model, SCHEME, "sparse")
    with pytest.raises(ValueError, match="needs a scheme"):
        patch(model, None, "dca")
    with pytest.raises(ValueError, match="kernel is 'fast'"):
        patch(model, SCHEME, kernel="fast")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_models_run(dtype):
    model, exact = (
        make("llama", dtype, initializer_range=0.1),
        make("llama", torch.float64, initializer_range=0.1),
    )
    exact.load_state_dict(model.state_dict())
    tolerance = 200 * torch.finfo(dtype).eps
    with patch(exact, SCHEME):
        expected = exact(tokens(LENGTH)).logits
    for kernel in ("eager", "flash"):
        with patch(model, SCHEME, kernel=kernel):
            assert (model(tokens(LENGTH)).logits - expected).abs().max() < tolerance * expected.abs().max()
