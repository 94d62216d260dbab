"""Every command that runs a model takes a device of several ranks."""

import json

import pytest

from dca_export.cli import bench, parity, run


@pytest.fixture(scope="module")
def path(tiny_gguf):
    return str(tiny_gguf(tokenizer=True, scheme=(12, 4, 16), context_length=16))


@pytest.mark.parametrize("device", ["cpu/2", "cpu/2=3,1", "cpu/2/layers"])
def test_a_run_prints_what_one_rank_does(path, capsys, device):
    arguments = [path, "-p", "the in the", "-n", "8", "--temp", "0"]
    assert run.main([*arguments, "--device", "cpu"]) == 0
    expected = capsys.readouterr().out
    assert run.main([*arguments, "--device", device]) == 0
    assert capsys.readouterr().out == expected


def test_a_benchmark_names_the_ranks(path, capsys):
    assert bench.main([path, "--device", "cpu/2", "-B", "3", "-p", "20", "-n", "4", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["device"].startswith("cpu/2 (")


@pytest.mark.parametrize("prefill", ["dense", "sparse:0.5:128"])
def test_parity_passes(tiny_gguf, capsys, prefill):
    pytest.importorskip("transformers")
    path = str(tiny_gguf(scheme=(192, 64, 256), context_length=256))
    length = ["--length", "512"] if prefill != "dense" else ["--length", "64"]
    assert parity.main([path, "--device", "cpu/2", *length, "--prefill", prefill]) == 0
    assert "on cpu/2 (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:0,0", "names card 0 twice"),
        ("cpu/99", "must be 1 to 16"),
        ("cpu/2=1,2,3", "3 shares for 2 ranks"),
        ("gpu", "must be cpu, cuda, cuda:N or auto"),
    ],
)
def test_a_device_that_is_none_is_said_in_a_line(path, capsys, device, message):
    assert run.main([path, "-p", "the", "--device", device]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
