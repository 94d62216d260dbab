"""dca-bench: its table and its JSON."""

import json

import pytest

from dca_export.cli.bench import main


@pytest.fixture(scope="module")
def path(tiny_gguf):
    return str(tiny_gguf(scheme=(12, 4, 16), context_length=16))


def test_json_is_a_list_of_results(path, capsys):
    arguments = ["-p", "8,16", "-n", "4", "-d", "0,20", "-r", "2", "--json"]
    assert main([path, *arguments, "--attention", "plain", "--attention", "dca"]) == 0
    results = json.loads(capsys.readouterr().out)
    names = ["pp8", "pp16", "tg4", "pp8@d20", "pp16@d20", "tg4@d20"]
    assert [(result["test"], result["attention"]) for result in results] == [
        (name, attention) for attention in ["plain", "dca"] for name in names
    ]
    for result in results:
        assert result["tokens_per_s"] > 0 and result["repeats"] == 2
        figure = "gflop_per_s" if result["test"].startswith("pp") else "gb_per_s"
        assert result[figure] > 0


def test_a_window_counts_the_keys_it_reads(path, capsys):
    """Each of 16 tokens behind 20 others reads 12 keys, under plain attention and STRING all before it."""
    names = ["plain", "string:8/2", "streaming:4/8"]
    options = [word for name in names for word in ("--attention", name)]
    assert main([path, "-p", "16", "-n", "0", "-d", "20", "-r", "1", "--json", *options]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["attention"] for result in results] == names
    plain, string, streaming = (result["gflop_per_s"] / result["tokens_per_s"] for result in results)
    assert string == pytest.approx(plain)
    assert streaming < 0.999 * plain


def test_json_to_a_file_leaves_the_table(path, capsys, tmp_path):
    file = tmp_path / "speed.json"
    assert main([path, "-p", "8", "-n", "0", "-r", "1", "--json", str(file)]) == 0
    assert [result["test"] for result in json.loads(file.read_text())] == ["pp8"]
    assert "pp8" in capsys.readouterr().out


def test_table_names_the_tests(path, capsys):
    assert main([path, "-p", "8", "-n", "4", "-r", "1"]) == 0
    printed = capsys.readouterr()
    assert "pp8" in printed.out and "tg4" in printed.out and path in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["-p", "many"], "--prompt"),
        (["-r", "0"], "--repeats"),
        (["-p", str(2**63)], "--prompt"),
        (["-d", str(2**63)], "--depth"),
        (["--bandwidth", "0"], "-B"),
        (["--attention", "dual"], "--attention"),
        (["--attention", "string:4/9"], "LOCAL is 9, must be at most 4"),
    ],
)
def test_bad_usage_is_one_line_and_2(path, capsys, arguments, says):
    assert main([path, *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and says in errors


def test_many_sequences(path, capsys):
    assert main([path, "-B", "1,3", "-p", "20", "-n", "4", "--bandwidth", "50"]) == 0
    printed = capsys.readouterr().out
    assert "tokens/s of all sequences; the limit is 50 GB/s" in printed
    assert "%" in printed


def test_a_row_is_there_before_the_next_is_measured(path, capsys, monkeypatch):
    """What is cut short still shows what it has measured."""
    from dca_runtime.measuring import bench_batches

    measured = bench_batches.measure_batches

    def cut(*arguments):
        results = measured(*arguments)
        yield next(results)
        (shown,) = capsys.readouterr().out.splitlines()[2:]
        assert shown.split()[:4] == ["2", "20", "4", "dca"]
        yield from results
        assert capsys.readouterr().out.split()[:3] == ["5", "20", "4"]

    monkeypatch.setattr(bench_batches, "measure_batches", cut)
    assert main([path, "-B", "2,5", "-p", "20", "-n", "4"]) == 0


def test_rows_of_many_sequences_fit_a_terminal(path, capsys):
    assert main([path, "-B", "3", "-p", "20", "-n", "4", "--shared-prompt", "--bandwidth", "50"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert "one prompt for all" in title
    assert [len(line) for line in lines] == [79, 79]


def test_many_sequences_as_json(path, capsys):
    assert main([path, "-B", "2,4", "-p", "20,30", "-n", "4", "--shared-prompt", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [(result["sequences"], result["prompt"]) for result in results] == [
        (2, 20),
        (4, 20),
        (2, 30),
        (4, 30),
    ]
    assert all(result["shared_prompt"] and result["decode_tokens_per_s"] > 0 for result in results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shared-prompt"], "give -B"),
        (["--bandwidth", "3"], "give -B"),
        (["-B", "2", "-d", "5"], "-d is for one sequence"),
        (["-B", "2", "-n", "0"], "above 0"),
        (["-B", "0"], "at least 1"),
        (["-B", "2", "--bandwidth", "0"], "above 0"),
    ],
)
def test_options_that_do_not_go_together(path, capsys, arguments, message):
    assert main([path, *arguments]) == 2
    assert message in capsys.readouterr().err
