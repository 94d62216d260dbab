"""The comparison as a whole: with a runtime made up for the purpose, and with the native one."""

import dataclasses
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import dca_runtime as dca
from dca_export.cli.parity import main
from dca_export.errors import InputError
from dca_export.gguf.file import GgufFile
from dca_export.parity.check import check
from dca_export.parity.plan import DECODED_CPU, plan
from dca_export.scheme import Scheme

N_VOCAB = 11
LENGTH = 60


def right_logits(position: int, group: str) -> np.ndarray:
    return np.random.default_rng([position, len(group)]).standard_normal(N_VOCAB).astype(np.float32) * 4


class MadeUpModel:
    """A runtime that knows the right logits and may be told to spoil some.

    spoil(session, position, call) returns what is added to the logits at a position fed in a call of so
    many tokens.
    """

    path = "made-up.gguf"
    metadata: dict = {}

    def __init__(self, scheme=(1000, 100, 1500, 0.0, 0), spoil=None, device="cpu (made up)"):
        self.info = SimpleNamespace(n_vocab=N_VOCAB, device=device, scheme=scheme, border=None)
        self.spoil = spoil or (lambda session, position, call: 0.0)
        self.sessions: list[MadeUpSession] = []

    def session(self, **options):
        self.sessions.append(MadeUpSession(self, options))
        return self.sessions[-1]


class MadeUpSession:
    def __init__(self, model, options):
        self.model, self.options, self.ids = model, options, []
        self.closed = False

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.closed = True

    def append(self, ids):
        assert len(self.ids) + len(ids) <= self.options["context"]
        self.ids += ids

    def eval(self, ids, all_logits):
        assert all_logits
        self.append(ids)
        start = len(self.ids) - len(ids)
        group = "plain" if self.options["attention"] == "plain" else "dca"
        return np.stack(
            [
                right_logits(position, group) + np.float32(self.model.spoil(self, position, len(ids)))
                for position in range(start, len(self.ids))
            ]
        )


class MadeUpReference:
    name, flash = "made up", False

    def __init__(self, flash=False, n_vocab=N_VOCAB):
        self.flash, self.n_vocab, self.open = flash, n_vocab, 0

    def stream(self, ids, group):
        self.open += 1
        try:
            for start in range(0, len(ids), 13):
                rows = range(start, min(start + 13, len(ids)))
                kind = "plain" if group.scheme is None else "dca"
                yield np.stack([np.resize(right_logits(row, kind), self.n_vocab) for row in rows])
        finally:
            self.open -= 1


def parts(report) -> dict:
    return {(part.group, part.fed): part for part in report.parts}


def test_a_right_runtime_passes_every_part():
    report = check(MadeUpModel(), MadeUpReference(), LENGTH, weights="f32")
    assert report.passed
    assert set(parts(report)) == {
        (group, fed)
        for group in ("DCA", "plain")
        for fed in ("whole prefill", "uneven pieces", "token by token")
    }
    assert all(part.agreement.max_difference == 0 for part in report.parts)
    assert all(part.agreement.tokens == LENGTH for part in report.parts)
    json.dumps(report.as_json())


def test_sessions_run_what_the_parts_say():
    model = MadeUpModel()
    check(model, MadeUpReference(), LENGTH, weights="f32")
    options = [session.options for session in model.sessions]
    assert [each["attention"] for each in options] == ["dca"] * 3 + ["plain"] * 3
    assert {each["cache_type"] for each in options} == {"f32"}
    chunk, window, pretraining, *_ = options[0]["scheme"]
    assert 3 * chunk < LENGTH and chunk < pretraining and 0 < window <= pretraining - chunk
    assert all(session.closed for session in model.sessions)


def test_the_files_own_scheme_is_used_where_it_crosses_enough_borders():
    model = MadeUpModel(scheme=(15, 3, 20, 0.0, 0))
    report = check(model, MadeUpReference(), LENGTH, weights="q8_0")
    assert [session.options["attention"] for session in model.sessions[:3]] == ["auto"] * 3
    assert not any(part.scheme_shrunk for part in report.parts)
    assert {part.borders for part in report.parts if part.scheme} == {3}
    assert report.cache_type == "f16"


def test_both_schemes_are_used_where_the_files_crosses_too_few():
    model = MadeUpModel(scheme=(40, 10, 50, 0.0, 0))
    report = check(model, MadeUpReference(), LENGTH, weights="f32")
    assert ("DCA, the file's scheme", "whole prefill") in parts(report)
    assert [session.options["attention"] for session in model.sessions] == ["dca"] * 3 + ["auto"] + [
        "plain"
    ] * 3


def test_a_file_without_a_scheme_is_compared_in_plain_attention():
    report = check(MadeUpModel(scheme=None), MadeUpReference(), LENGTH, weights="f32")
    assert report.passed and {part.group for part in report.parts} == {"plain"}


@pytest.mark.parametrize("error", [0.01, np.nan])
@pytest.mark.parametrize(
    ("wrong", "failing"),
    [
        (lambda position, call: call == 1 and position == 50, {"token by token"}),
        (lambda position, call: call == LENGTH, {"whole prefill"}),
        (lambda position, call: call < LENGTH and position == 0, {"uneven pieces", "token by token"}),
        (lambda position, call: position == 59, {"whole prefill", "uneven pieces", "token by token"}),
    ],
)
def test_an_error_shows_in_the_parts_it_is_in(wrong, failing, error):
    def spoil(session, position, call):
        return np.arange(N_VOCAB) * (error if wrong(position, call) else 0)

    report = check(MadeUpModel(spoil=spoil), MadeUpReference(), LENGTH, weights="f32")
    assert not report.passed
    assert {part.fed for part in report.parts if part.failures} == failing


def test_nan_everywhere_fails():
    for weights in ("f32", "f16", "q4_0"):
        spoil = MadeUpModel(spoil=lambda session, position, call: np.nan)
        report = check(spoil, MadeUpReference(), LENGTH, weights=weights)
        assert all(part.failures for part in report.parts)


def test_a_reference_of_another_vocabulary_is_refused_and_closed():
    reference, model = MadeUpReference(n_vocab=N_VOCAB + 1), MadeUpModel()
    with pytest.raises(InputError, match="vocabulary of 12 tokens, made-up.gguf one of 11"):
        check(model, reference, LENGTH, weights="f32")
    assert reference.open == 0
    assert all(session.closed for session in model.sessions)


def test_too_short_a_length_is_refused():
    with pytest.raises(InputError, match="--length is 17, must be at least 18"):
        check(MadeUpModel(), MadeUpReference(), 17, weights="f32")


def test_on_a_gpu_the_flash_reference_takes_the_whole_length():
    scheme = Scheme(3072, 1024, 4096)
    groups = plan(12_288, scheme, 50_000, gpu=True, flash=True)
    assert [(group.title, group.length, group.precision) for group in groups] == [
        ("DCA, flash reference", 12_288, "flash"),
        ("DCA", 1024, "exact"),
        ("plain", 1024, "exact"),
    ]
    assert groups[0].scheme == scheme and not groups[0].override
    assert all(piece.tokens == 1 for piece in groups[0].feeds["token by token"])
    on_cpu = plan(12_288, scheme, 50_000, gpu=False, flash=False)[0]
    alone = [piece for piece in on_cpu.feeds["token by token"] if piece.compared]
    assert 0 < len(alone) <= DECODED_CPU


class RoundingReference(MadeUpReference):
    """Its flash form adds noise of this size to the right logits."""

    def __init__(self, noise: float):
        super().__init__(flash=True)
        self.noise = noise

    def stream(self, ids, group):
        noise = np.random.default_rng(1)
        for rows in super().stream(ids, group):
            error = noise.standard_normal(rows.shape) * self.noise * (group.precision == "flash")
            yield (rows + error).astype(np.float32)


def wrong_from(position: int, noise: float):
    random = np.random.default_rng(2)
    return lambda session, at, call: random.standard_normal(N_VOCAB) * noise * (at >= position)


def test_what_the_flash_reference_rounds_is_no_fault_of_the_runtime():
    """A mean KL of about 3e-4 is three times what a runtime in f16 may have."""
    model = MadeUpModel(device="cuda (made up)", spoil=wrong_from(0, 0.01))
    report = check(model, RoundingReference(0.03), LENGTH, weights="f16")
    flash = parts(report)["DCA, flash reference", "whole prefill"]
    assert flash.agreement.mean_kl > 1e-4
    assert report.passed, [part.failures for part in report.parts]


def test_what_is_more_than_the_flash_reference_rounds_fails():
    model = MadeUpModel(device="cuda (made up)", spoil=wrong_from(30, 0.3))
    report = check(model, RoundingReference(0.03), LENGTH, weights="f16")
    assert all(part.failures for part in report.parts)


def test_a_flash_reference_that_is_wrong_itself_excuses_nothing():
    report = check(MadeUpModel(device="cuda (made up)"), RoundingReference(1.0), LENGTH, weights="f16")
    failed = {part.group for part in report.parts if part.failures}
    assert failed == {"DCA, flash reference"}


# The native runtime against PyTorch.


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "f32", "scheme": (20, 6, 30)},
        {"dtype": "f32", "scheme": (7, 3, 12, 0.2, 16), "tied": True, "kv_heads": 4},
        {"dtype": "f32", "scheme": (1500, 400, 2000)},
        {"dtype": "f32"},
        {"dtype": "f16", "scheme": (20, 6, 30), "tokenizer": True},
        {"dtype": "bf16", "scheme": (20, 6, 30)},
        {"dtype": "q8_0", "scheme": (20, 6, 30)},
        {"dtype": "q4_0", "scheme": (20, 6, 30)},
        {"dtype": "q4_1", "scheme": (20, 6, 30)},
    ],
)
def test_the_native_runtime_is_right(tiny_gguf, fields, tmp_path, capsys):
    code = run(tiny_gguf(**fields), "--length", 150, "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 0, capsys.readouterr().out
    assert report["passed"] and report["weights"] == fields["dtype"]
    dca = [part for part in report["parts"] if part["scheme"]]
    assert bool(dca) == ("scheme" in fields)
    assert all(part["borders"] >= 3 for part in dca)
    assert report["parts"][0]["agreement"]["tokens"] == 150


METHODS = "string:40/8,streaming:4/33,lm-infinite:5/40,plain@dynamic:2,string:60/0@yarn:2,dca@dynamic:1.5"


@pytest.mark.parametrize("cache_type", ["f32", "q8"])
def test_methods_that_are_named_are_right(tiny_gguf, cache_type, tmp_path, capsys):
    path = tiny_gguf(dtype="f16", scheme=(20, 6, 30), context_length=64)
    options = ["--length", 150, "--cache-type", cache_type, "--json", tmp_path / "report.json"]
    code = run(path, "--attention", METHODS, *options)
    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 0, capsys.readouterr().out
    assert list(dict.fromkeys(part["group"] for part in report["parts"])) == METHODS.split(",")
    assert all(part["agreement"]["tokens"] == 150 for part in report["parts"])


@pytest.mark.parametrize("border", [(40, 8), (1000, 100)])
def test_a_files_string_is_checked(tiny_gguf, border, tmp_path, capsys):
    code = run(tiny_gguf(border=border), "--length", 150, "--json", tmp_path / "report.json")
    assert code == 0, capsys.readouterr().out
    groups = {part["group"] for part in json.loads((tmp_path / "report.json").read_text())["parts"]}
    assert groups == {"string:40/8" if border == (40, 8) else "string:50/5", "plain"}


def test_another_method_fails(tiny_gguf, monkeypatch, capsys):
    """The reference sees one distance less beyond the border."""
    from dca_export.reference.borders import String

    monkeypatch.setattr(String, "far_query", lambda rule, indices: indices - rule.border + rule.local - 1)
    assert run(tiny_gguf(), "--length", 150, "--attention", "string:40/8") == 1
    assert "FAILED string:40/8, whole prefill" in capsys.readouterr().out


def test_another_model_for_a_reference_fails(tiny_gguf, capsys):
    model, other = tiny_gguf(scheme=(20, 6, 30)), tiny_gguf(scheme=(20, 6, 30), seed=1)
    assert run(model, "--length", 60, "--reference", other) == 1
    output = capsys.readouterr().out
    assert "FAILED DCA, whole prefill, f32 cache: largest difference" in output
    assert output.endswith("FAILED\n")


@pytest.mark.parametrize(
    ("device", "cache_type", "caches"),
    [
        ("cpu (made up)", None, ["f32", "f16"]),
        ("cpu (made up)", "q8", ["f32", "q8"]),
        ("cpu (made up)", "f32", ["f32"]),
        ("cuda:0 (made up)", "q8", ["q8"]),
    ],
)
def test_a_cpu_runs_with_a_cache_in_f32_too(device, cache_type, caches):
    model = MadeUpModel(device=device)
    report = check(model, MadeUpReference(), LENGTH, weights="f16", cache_type=cache_type)
    assert list(dict.fromkeys(session.options["cache_type"] for session in model.sessions)) == caches
    assert list(dict.fromkeys(part.cache_type for part in report.parts)) == caches
    assert list(report.as_json()["demanded"]) == caches


def test_what_only_a_cache_in_f32_shows_fails():
    """A hundredth of the logits' spread at one position: an f16 cache does as much."""
    spoil = MadeUpModel(spoil=lambda session, position, call: np.eye(N_VOCAB)[3] * 0.04 * (position == 40))
    report = check(spoil, MadeUpReference(), LENGTH, weights="f16")
    assert {part.cache_type for part in report.parts if part.failures} == {"f32"}


def test_damage_that_averages_hide_fails():
    """A tenth of the limit of the mean, at one of 60 positions: a column 5 off, in each type's limits."""
    for weights in ("f16", "bf16", "q8_0", "q4_0", "q2_k"):
        spoil = MadeUpModel(spoil=lambda session, position, call: np.eye(N_VOCAB)[3] * 5 * (position == 40))
        report = check(spoil, MadeUpReference(), LENGTH, weights=weights)
        assert all("standard deviations" in part.failures[0] for part in report.parts)


def test_a_row_of_zeros_in_the_file_fails_against_the_checkpoint_only(tiny_gguf, tmp_path, capsys):
    source, damaged = tiny_gguf(dtype="f16", scheme=(20, 6, 30)), tmp_path / "damaged.gguf"
    shutil.copyfile(source, damaged)
    info = next(t for t in GgufFile(damaged).tensors if t.name == "blk.0.attn_q.weight")
    with damaged.open("r+b") as file:
        file.seek(info.start)
        file.write(bytes(info.nbytes // info.shape[0]))
    assert run(damaged, "--length", 60) == 0
    assert run(damaged, "--length", 60, "--reference", source) == 1


def test_facts_are_the_checkpoints(tiny_gguf, capsys):
    same = tiny_gguf(dtype="f16", scheme=(20, 6, 30), tokenizer=True)
    other = tiny_gguf(dtype="f16", scheme=(10, 6, 30), tokenizer=True, rope_base=20000.0)
    assert run(same, "--length", 60, "--reference", same) == 0
    assert "60 token ids are those of the checkpoint's tokenizer" in capsys.readouterr().out
    assert run(same, "--length", 60, "--reference", other) == 1
    output = capsys.readouterr().out
    assert "FAILED rotary base is 10000.0 in the file, 20000.0 in the checkpoint" in output
    assert "FAILED scheme is Scheme(" in output


def test_an_original_checkpoint_serves_as_reference(tiny_gguf, tmp_path, capfd):
    from dca_export.reference.load import load_reference

    path = tiny_gguf(scheme=(20, 6, 30))
    load_reference(path).save_pretrained(tmp_path)
    capfd.readouterr()
    assert run(path, "--length", 60, "--reference", tmp_path) == 0
    assert capfd.readouterr().err == ""  # silent where it is not a terminal


def test_the_texts_tokens_are_used(tiny_gguf, tmp_path, capsys):
    (tmp_path / "text").write_text("the cat in the hat " * 30)
    path = tiny_gguf(tokenizer=True, scheme=(20, 6, 30))
    assert run(path, "--length", 60, "--text", tmp_path / "text") == 0
    assert f"tokens from {tmp_path / 'text'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--length", "9"], "--length is 9, must be at least 18"),
        (["{model}", "--text", "{dir}/short"], "has 1 tokens, --length asks for 1024"),
        (["{model}", "--text", "{dir}/binary"], "is not UTF-8 text"),
        (["{model}", "--reference", "{dir}"], "has no config.json"),
        (["{model}", "--reference", "{dir}/none"], "no such file or directory"),
        (["{dir}/none.gguf"], "none.gguf"),
        (["{model}", "--attention", "string:40/41"], "--attention 'string:40/41': the local window is 41"),
        (["{model}", "--attention", "rerope:40"], "rerope:40"),
        (["{model}", "--attention", "string:1024/8"], "--length is 1024, must be above 1024"),
        (["{model}", "--attention", "dca"], "the file has no scheme"),
        (["{model}", "--attention", "plain@linear"], "plain@linear"),
        (["{model}", "--attention", "plain", "--prefill", "sparse"], "leave --prefill out"),
        (["{model}", "--attention", "plain", "--reference", "{dir}"], "leave one of them out"),
        (["{plain}", "--text", "{dir}/short"], "has no tokenizer for --text"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tiny_gguf, tmp_path, capsys):
    (tmp_path / "short").write_text("a")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    names = {"model": tiny_gguf(tokenizer=True), "plain": tiny_gguf(), "dir": tmp_path}
    assert run(*(each.format(**names) for each in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("description", "wanted"),
    [
        ("cpu (AVX2, 2 threads)", "cpu"),
        ("cuda:1 (NVIDIA H100)", "cuda:1"),
        ("cuda:2,0 (2 x NVIDIA H100)", "cuda:2"),
        ("cpu/2 (AVX2, 1 thread)", "cpu"),
    ],
)
def test_the_reference_runs_where_the_model_came_to_run(description, wanted, tiny_gguf, monkeypatch):
    asked = []

    def reference(path, device, weights):
        asked.append(device)
        raise InputError("enough")

    class Placed(dca.Model):
        def __init__(self, path, device, **options):
            assert device == "auto"
            super().__init__(path, "cpu", **options)
            self.info = dataclasses.replace(self.info, device=description)

    monkeypatch.setattr("dca_export.parity.torch_reference.TorchReference", reference)
    monkeypatch.setattr("dca_runtime.Model", Placed)
    assert run(tiny_gguf(tokenizer=True)) == 2
    assert asked == [wanted]


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from dca_export.cli.parity import main; main(['--help']); print('torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "dca-parity model.gguf" in output and output.endswith("False\n")


def test_a_real_model_passes(smollm2_gguf):
    assert run(smollm2_gguf, "--length", 40) == 0
