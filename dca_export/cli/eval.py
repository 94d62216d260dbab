"""dca-eval: experiments on how far a model can be taken."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dca_export.cli.shared import argument_types, command, display, eval_density, eval_experiments, outputs
from dca_export.cli.shared.runtime import opened
from dca_export.errors import InputError
from dca_export.export.output_file import check_output, write_file

if TYPE_CHECKING:
    from dca_export.evaluate.combined import Runner
    from dca_export.evaluate.methods import Method
    from dca_runtime import Model

EXAMPLE = """
dca-eval perplexity model.gguf --text book.txt --lengths 4096,8192,16384 --plot perplexity.png
dca-eval passkey model.gguf --lengths 4096,12288 --attention plain,dca,dca:1536/512/2048
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = command.command_parser("dca-eval", "Measures how far a model can be taken.", EXAMPLE)
    parser.set_defaults(command=["dca-eval", *(sys.argv[1:] if argv is None else argv)])
    experiments = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    for add in (
        _add_perplexity,
        _add_passkey,
        _add_needle,
        _add_recall,
        eval_density.add,
        _add_ablation,
        _add_efficiency,
        _add_sweep,
        _add_report,
    ):
        add(experiments)
    return command.run(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.experiment != "report":
        eval_experiments.check_outputs(arguments)
    return arguments.body(arguments)


def _add_perplexity(experiments: Any) -> None:
    parser = eval_experiments.add_experiment(
        experiments, "perplexity", "does it still predict text?", "--text book.txt --lengths 4096,8192"
    )
    eval_experiments.add_text(parser)
    eval_experiments.add_methods(parser)
    eval_experiments.add_lengths(parser, [4096, 8192, 16384])
    eval_experiments.add_window(parser)
    parser.add_argument(
        "--stride",
        type=argument_types.count,
        default=0,
        metavar="N",
        help="slide a context of each length over the text by N tokens, as the paper does with 256; "
        "takes far longer (default: 0, one pass)",
    )
    eval_experiments.add_engine(parser)
    parser.set_defaults(body=_perplexity)


def _perplexity(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import perplexity, text

    source = text.Text(arguments.text)
    with eval_experiments.engine(arguments) as model:
        methods = eval_experiments.methods_of(arguments, model)
        cells = perplexity.plan(methods, arguments.lengths, arguments.stride)
        ids = source.ids(model, max(arguments.lengths))
        options = {name: getattr(arguments, name) for name in ("window", "stride", "cache_type")}
        settings = source.description() | options
        if arguments.stride:
            settings["tokens"] = len(ids)  # how far the contexts slide
        measure = partial(perplexity.measure, model, ids, **options)
        return eval_experiments.run_cells(arguments, model, settings, cells, measure)


def _add_passkey(experiments: Any) -> None:
    parser = eval_experiments.add_experiment(
        experiments, "passkey", "does it find a number hidden in filler text?", "--lengths 4096,12288"
    )
    eval_experiments.add_methods(parser)
    eval_experiments.add_lengths(parser, [4096, 8192, 12288])
    eval_experiments.add_trials(parser, depths=[10, 30, 50, 70, 90], trials=2)
    eval_experiments.add_engine(parser)
    parser.set_defaults(body=_passkey)


def _passkey(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import retrieval
    from dca_export.evaluate.tasks import passkey

    with eval_experiments.engine(arguments) as model:
        methods = eval_experiments.methods_of(arguments, model)
        cells = retrieval.plan(methods, arguments.lengths, arguments.depths, arguments.trials)
        settings = {"seed": arguments.seed, "cache_type": arguments.cache_type}
        prompts = passkey.Prompts(model, arguments.seed)
        context = max(arguments.lengths) + passkey.ANSWER_TOKENS
        with retrieval.Answerer(model, context, arguments.cache_type) as answerer:
            measure = partial(passkey.measure, prompts, answerer)
            return eval_experiments.run_cells(arguments, model, settings, cells, measure)


def _add_needle(experiments: Any) -> None:
    from dca_export.evaluate.tasks import needle

    parser = eval_experiments.add_experiment(
        experiments, "needle", "does it find a sentence hidden in your own text?", "--text book.txt"
    )
    eval_experiments.add_text(parser)
    eval_experiments.add_methods(parser)
    eval_experiments.add_lengths(parser, [4096, 8192, 12288])
    eval_experiments.add_trials(parser, depths=[10, 30, 50, 70, 90], trials=1)
    parser.add_argument(
        "--needle",
        default=needle.NEEDLE,
        metavar="TEXT",
        help="the sentence to hide; with a --question and a --keyword of its own",
    )
    parser.add_argument("--question", default=needle.QUESTION, metavar="TEXT", help="asks for it")
    parser.add_argument(
        "--keyword",
        action="append",
        metavar="TEXT",
        help="what the answer must contain; may be given several times "
        f"(default: {' and '.join(needle.KEYWORDS)})",
    )
    eval_experiments.add_engine(parser)
    parser.set_defaults(body=_needle)


def _check_needle(arguments: argparse.Namespace) -> None:
    """Raises InputError for what every answer would have, and for what no answer could."""
    from dca_export.evaluate.tasks import needle
    from dca_export.evaluate.text import printable

    texts = [("--needle", arguments.needle), ("--question", arguments.question)]
    for name, text in [*texts, *(("--keyword", keyword) for keyword in arguments.keyword or [])]:
        if not text.strip():
            raise InputError(f"{name} is empty; expected a text")
        if text != printable(text):
            raise InputError(f"{name} is not UTF-8 text")
    if arguments.needle != needle.NEEDLE:
        if arguments.question == needle.QUESTION or arguments.keyword is None:
            missing = "--keyword" if arguments.keyword is None else "--question"
            raise InputError(
                f"--needle needs a {missing} of its own: the default one is about another sentence"
            )


def _needle(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import retrieval, text
    from dca_export.evaluate.tasks import needle

    _check_needle(arguments)
    source = text.Text(arguments.text)
    keywords = arguments.keyword or list(needle.KEYWORDS)
    with eval_experiments.engine(arguments) as model:
        methods = eval_experiments.methods_of(arguments, model)
        cells = needle.plan(methods, arguments.lengths, arguments.depths, arguments.trials)
        settings = source.description() | {
            "needle": arguments.needle,
            "question": arguments.question,
            "keywords": keywords,
            "seed": arguments.seed,
            "cache_type": arguments.cache_type,
        }
        hay = needle.haystack(source, max(arguments.lengths))
        prompts = needle.Prompts(model, hay, arguments.needle, arguments.question, arguments.seed)
        context = max(arguments.lengths) + needle.ANSWER_TOKENS
        with retrieval.Answerer(model, context, arguments.cache_type) as answerer:
            measure = partial(needle.measure, prompts, keywords, answerer)
            return eval_experiments.run_cells(arguments, model, settings, cells, measure)


def _add_recall(experiments: Any) -> None:
    parser = eval_experiments.add_experiment(
        experiments,
        "recall",
        "does it find one key of several, follow a chain, count?",
        "--lengths 4096,16384",
    )
    eval_experiments.add_methods(parser)
    eval_experiments.add_lengths(parser, [4096, 8192, 16384])
    eval_experiments.add_tasks(parser, trials=5)
    eval_experiments.add_engine(parser)
    parser.set_defaults(body=_recall)


def _recall(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import retrieval
    from dca_export.evaluate.tasks import recall

    with eval_experiments.engine(arguments) as model:
        methods = eval_experiments.methods_of(arguments, model)
        cells = recall.plan(methods, arguments.lengths, arguments.tasks, arguments.trials)
        settings = {"seed": arguments.seed, "cache_type": arguments.cache_type}
        prompts = recall.Prompts(model, arguments.seed)
        context = max(arguments.lengths) + recall.ANSWER_TOKENS
        with retrieval.Answerer(model, context, arguments.cache_type) as answerer:
            measure = partial(recall.measure, prompts, answerer)
            return eval_experiments.run_cells(arguments, model, settings, cells, measure)


def _add_ablation(experiments: Any) -> None:
    parser = eval_experiments.add_experiment(
        experiments,
        "ablation",
        "what is each of the three mechanisms for?",
        "--scheme 1536/512/2048 --lengths 12288",
    )
    parser.add_argument(
        "--scheme", metavar="CHUNK/WINDOW/LENGTH", help="to use instead of the file's own scheme"
    )
    _add_combined(parser, lengths=[4096, 8192, 12288], depths=[10, 30, 50, 70, 90], trials=2)
    eval_experiments.add_engine(parser)
    parser.set_defaults(body=_ablation)


def _ablation(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import ablation, methods

    scheme = None
    if arguments.scheme is not None:
        named = methods.parse(f"dca:{arguments.scheme}")
        if named != methods.Method("dca", named.scheme):
            raise InputError(
                f"--scheme {arguments.scheme}: expected CHUNK/WINDOW/LENGTH and nothing behind it"
            )
        scheme = named.scheme
    with eval_experiments.engine(arguments) as model:
        compared = eval_experiments.prefilled(arguments, ablation.methods(scheme))
        methods.check(compared, model, reference=arguments.engine == "reference")
        return _run_combined(arguments, model, compared)


def _add_efficiency(experiments: Any) -> None:
    parser = eval_experiments.add_experiment(
        experiments,
        "efficiency",
        "what do time and memory cost as prompts grow?",
        "--lengths 1024,8192,32768",
    )
    eval_experiments.add_methods(parser)
    eval_experiments.add_lengths(parser, [1024, 2048, 4096, 8192, 16384])
    parser.add_argument(
        "--decode",
        type=argument_types.positive_int,
        default=16,
        metavar="N",
        help="tokens to decode after each prompt (default: 16)",
    )
    parser.add_argument(
        "--repeats", type=argument_types.times, default=1, metavar="N", help="of each; medians (default: 1)"
    )
    parser.set_defaults(body=_efficiency, engine="native")


def _efficiency(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import efficiency

    with opened(arguments) as model:
        methods = eval_experiments.methods_of(arguments, model)
        cells = efficiency.plan(methods, arguments.lengths, arguments.repeats)
        options = {"decode": arguments.decode, "cache_type": arguments.cache_type}
        settings = options | {"device": model.info.device}  # figures of another machine do not continue
        measure = partial(efficiency.measure, model, **options)
        return eval_experiments.run_cells(arguments, model, settings, cells, measure)


def _add_sweep(experiments: Any) -> None:
    parser = eval_experiments.add_experiment(
        experiments, "sweep", "which scheme suits this model and text?", "--text book.txt --lengths 12288"
    )
    parser.add_argument(
        "--pretraining-lengths",
        type=argument_types.positive_ints,
        metavar="C,…",
        help="to try (default: what the model was trained on, a half, a quarter and an eighth of it)",
    )
    parser.add_argument(
        "--chunk-shares",
        type=_shares,
        default=[0.5, 0.75],
        metavar="X,…",
        help="chunk sizes to try, as shares of the pretraining length (default: 0.5,0.75)",
    )
    parser.add_argument(
        "--window-shares",
        type=_shares,
        default=[1.0],
        metavar="X,…",
        help="local windows to try, as shares of what the chunk leaves (default: 1)",
    )
    _add_combined(parser, lengths=[12288], depths=[10, 50, 90], trials=2)
    eval_experiments.add_engine(parser)
    parser.set_defaults(body=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import methods, sweep

    with eval_experiments.engine(arguments) as model:
        trained = model.info.context_length
        lengths = arguments.pretraining_lengths or [trained // share for share in (1, 2, 4, 8)]
        tried = sweep.methods(lengths, arguments.chunk_shares, arguments.window_shares)
        tried = eval_experiments.prefilled(arguments, tried)
        methods.check(tried, model, reference=arguments.engine == "reference")
        return _run_combined(arguments, model, tried)


def _add_report(experiments: Any) -> None:
    parser = eval_experiments.add_command(
        experiments,
        "report",
        "makes one HTML page of results files",
        "perplexity.jsonl passkey.jsonl -o report.html",
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="files that --results wrote")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html"
    )
    parser.add_argument("--force", action="store_true", help="replace the page if it exists")
    parser.set_defaults(body=_report)


def _report(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import results
    from dca_export.evaluate.output import report

    inputs = {f"RESULTS {path}": path for path in arguments.results}
    outputs.check_outputs({"--output": arguments.output}, inputs)
    check_output(arguments.output, arguments.force)
    if arguments.output.exists() and report.is_results(arguments.output):
        raise InputError(f"{arguments.output}: holds results, not a page; name another file")
    page = report.page([results.read_results(path) for path in arguments.results])
    write_file(arguments.output, page.encode())
    display.note(f"wrote {arguments.output}")
    return command.EXIT_OK


# Perplexity and passkeys of the same methods: ablation and sweep.


def _add_combined(
    parser: argparse.ArgumentParser, lengths: list[int], depths: list[int], trials: int
) -> None:
    eval_experiments.add_text(parser)
    eval_experiments.add_lengths(parser, lengths)
    eval_experiments.add_window(parser)
    parser.add_argument(
        "--passkey-lengths",
        type=argument_types.positive_ints,
        metavar="N,…",
        help="default: those of --lengths",
    )
    eval_experiments.add_trials(parser, depths, trials)


def _run_combined(arguments: argparse.Namespace, model: "Model", methods: "list[Method]") -> int:
    from dca_export.evaluate import combined, text

    source = text.Text(arguments.text)
    settings = source.description() | {
        name: getattr(arguments, name) for name in ("window", "seed", "cache_type")
    }
    key_lengths = arguments.passkey_lengths or arguments.lengths
    cells = combined.plan(methods, arguments.lengths, key_lengths, arguments.depths, arguments.trials)
    ids = source.ids(model, max(arguments.lengths))
    with _runner(arguments, model, ids, key_lengths) as runner:
        return eval_experiments.run_cells(arguments, model, settings, cells, runner.measure)


@contextlib.contextmanager
def _runner(
    arguments: argparse.Namespace, model: "Model", ids: Any, key_lengths: list[int]
) -> "Iterator[Runner]":
    from dca_export.evaluate import retrieval
    from dca_export.evaluate.combined import Runner
    from dca_export.evaluate.tasks import passkey

    context = max(key_lengths) + passkey.ANSWER_TOKENS
    with retrieval.Answerer(model, context, arguments.cache_type) as answerer:
        prompts = passkey.Prompts(model, arguments.seed)
        yield Runner(model, ids, arguments.window, arguments.cache_type, prompts, answerer)


def _shares(text: str) -> list[float]:
    shares = [argument_types.finite_float(part) for part in text.split(",")]
    if not all(share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"expected shares from 0 to 1, got {text!r}")
    return shares
