"""Real vLLM on the CPU beside the exact reference in PyTorch: SmolLM2 far beyond one chunk, in float32.

`make test-vllm` sets VLLM_PYTHON, the interpreter of an environment with vLLM and this plug-in, and SMOLLM2,
a Hugging Face directory of SmolLM2-135M-Instruct. The tests themselves run where dca_export is.
"""

import json
import os
import pydoc_data.topics
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from dca_export.reference.load import load_reference
from dca_export.reference.stream import stream_logits
from dca_export.scheme import Scheme

pytestmark = pytest.mark.timeout(3600)  # an engine takes minutes to start

SCHEME = Scheme(192, 64, 256)
PROMPT, GENERATED = 3000, 64
CLOSE = 2e-2  # of log-probabilities; both sides compute in float32, in another order
if "SMOLLM2" not in os.environ:
    pytest.skip("make test-vllm runs these", allow_module_level=True)
MODEL = Path(os.environ["SMOLLM2"])
ENGINE = Path(__file__).with_name("engine.py")


@pytest.fixture(scope="session")
def ids():
    """Token ids of English: what Python's help() says, topic by topic."""
    topics = pydoc_data.topics.topics
    text = "\n".join(topics[name] for name in sorted(topics))
    return Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text[:40_000]).ids[:PROMPT]


@pytest.fixture(scope="session")
def stated(tmp_path_factory):
    """The model's directory with the scheme in config.json, as `dca-export --format hf` states it."""
    directory = tmp_path_factory.mktemp("model") / "stated"
    shutil.copytree(MODEL, directory, copy_function=os.link)
    config = json.loads((MODEL / "config.json").read_text())
    config["dual_chunk_attention_config"] = SCHEME.as_dual_chunk_config()
    (directory / "config.json").unlink()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def reference():
    """Log-probabilities (n - 1,) of all ids but the first, and the likeliest id after each prefix (n,)."""
    models, known = {}, {}

    def run(directory, ids, scheme):
        key = (directory, tuple(ids), scheme)
        if key not in known:
            models[directory] = models.get(directory) or load_reference(directory, torch.float32)
            likeliest, logprobs = [], []
            row = 0
            for block in stream_logits(models[directory], ids, scheme):
                logits = torch.from_numpy(block)
                likeliest.append(logits.argmax(-1))
                following = torch.tensor(ids[row + 1 : row + 1 + len(logits)])
                every = logits[: len(following)].log_softmax(-1)
                logprobs.append(every.gather(1, following[:, None])[:, 0])
                row += len(logits)
            known[key] = torch.cat(logprobs), torch.cat(likeliest)
        return known[key]

    return run


def run(tmp_path, steps, environment=(), **options):
    """What vLLM answers to each of `steps`, (ids, tokens to generate, prompt log-probabilities wanted)."""
    keys = ("ids", "tokens", "prompt")
    settings = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 4096,
        "max_num_batched_tokens": 4096,
        "max_num_seqs": 4,
        **options,
    }
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    request.write_text(
        json.dumps({"options": settings, "steps": [dict(zip(keys, each, strict=True)) for each in steps]})
    )
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    done = subprocess.run(
        [os.environ["VLLM_PYTHON"], ENGINE, request, answer],
        env=os.environ | small | dict(environment),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return json.loads(answer.read_text())


def check(reference, directory, ids, answer, scheme):
    """vLLM's greedy text is the reference's, and so are log-probabilities of the prompt, where given, and the
    text."""
    generated = answer["generated"]
    assert len(generated) == GENERATED
    wanted, likeliest = reference(directory, ids + generated, scheme)
    found = torch.tensor(answer["prompt"] + answer["logprobs"])
    difference = (found - wanted[-len(found) :]).abs().max()
    print(f"\n{len(found)} log-probabilities differ by {difference:.2e} at most")
    assert difference < CLOSE
    assert likeliest[-GENERATED - 1 : -1].tolist() == generated


def test_prefill_in_one_go_and_a_prefix_cache_hit(reference, ids, stated, tmp_path):
    steps = [(ids, GENERATED, True), (ids, GENERATED, False)]
    first, again = run(tmp_path, steps, model=str(stated), enable_prefix_caching=True)
    assert len(first["prompt"]) == PROMPT - 1
    check(reference, MODEL, ids, first, SCHEME)
    assert again["cached"] > PROMPT - 256
    check(reference, MODEL, ids, again, SCHEME)


def test_chunked_prefill_with_the_scheme_asked_for(reference, ids, tmp_path):
    asked = {"dca": {"chunk_size": 192, "local_window": 64, "pretraining_length": 256}}
    [answer] = run(
        tmp_path, [(ids, GENERATED, True)],
        model=str(MODEL), additional_config=asked, max_num_batched_tokens=512,
    )  # fmt: skip
    assert len(answer["prompt"]) == PROMPT - 1
    check(reference, MODEL, ids, answer, SCHEME)


def test_two_ranks_of_a_qwen_model_that_states_its_scheme_as_qwen_does(reference, tmp_path):
    """SmolLM2's 3 key heads do not halve, so this model has random weights; its logits are sharpened."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    stated = {"chunk_size": 255, "local_size": 63, "original_max_position_embeddings": 300}
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1024, hidden_size=256, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.1,
        dual_chunk_attention_config=stated,
    )  # fmt: skip
    directory = tmp_path / "qwen"
    Qwen2ForCausalLM(config).save_pretrained(directory)
    ids = torch.randint(1024, (1500,)).tolist()
    [answer] = run(
        tmp_path, [(ids, GENERATED, True)],
        {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1"},  # a core a rank
        model=str(directory), skip_tokenizer_init=True, tensor_parallel_size=2, max_num_batched_tokens=512,
    )  # fmt: skip
    assert len(answer["prompt"]) == len(ids) - 1
    check(reference, directory, ids, answer, Scheme.from_dual_chunk_config(stated))


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
FAMILIES = {
    "Llama": {"rope_parameters": LLAMA3},
    "Mistral": {"sliding_window": None},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "Qwen2Moe": {**EXPERTS, "shared_expert_intermediate_size": 128},
    "Qwen3": {"rope_parameters": YARN, "head_dim": 64},
    "Qwen3Moe": {**EXPERTS, "head_dim": 64},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_compiled(reference, tmp_path, family):
    """Random weights; the scheme is one that Qwen's arithmetic cannot state."""
    import transformers

    scheme = Scheme(160, 20, 200)
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=1024, hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.1,
        dual_chunk_attention_config=scheme.as_dual_chunk_config(), **FAMILIES[family],
    )  # fmt: skip
    directory = tmp_path / family
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(directory)
    ids = torch.randint(1024, (700,)).tolist()
    [answer] = run(
        tmp_path, [(ids, GENERATED, True)],
        model=str(directory), skip_tokenizer_init=True, enforce_eager=False, max_model_len=1024,
        max_num_batched_tokens=256,
    )  # fmt: skip
    assert len(answer["prompt"]) == len(ids) - 1
    check(reference, directory, ids, answer, scheme)


def test_without_a_scheme_nothing_changes(ids, tmp_path):
    answers = []
    for number, plugins in enumerate(("dca", "none")):
        place = tmp_path / str(number)
        place.mkdir()
        answers += run(place, [(ids[:600], 16, True)], {"VLLM_PLUGINS": plugins}, model=str(MODEL))
    with_plugin, without = answers
    assert with_plugin == without
