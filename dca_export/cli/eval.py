"""dca-eval: experiments on how far a model can be taken."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dca_export.cli import _common
from dca_export.cli._runtime import add_model_arguments, opened

if TYPE_CHECKING:
    from dca_export.evaluate.methods import Method
    from dca_export.evaluate.results import Cell, Measure, Results
    from dca_runtime import Model

EXAMPLE = """
dca-eval perplexity model.gguf --text book.txt --lengths 4096,8192,16384 --plot perplexity.png
dca-eval passkey model.gguf --lengths 4096,12288 --attention plain,dca,dca:1536/512/2048
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = _common.command_parser("dca-eval", "Measures how far a model can be taken.", EXAMPLE)
    experiments = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    _add_perplexity(experiments)
    _add_passkey(experiments)
    return _common.run(parser, lambda arguments: arguments.body(arguments), argv)


# perplexity


def _add_perplexity(experiments: Any) -> None:
    parser = _add_experiment(
        experiments, "perplexity", "does it still predict text?", "--text book.txt --lengths 4096,8192"
    )
    _add_text(parser)
    _add_methods(parser)
    parser.add_argument(
        "--lengths",
        type=_common.positive_ints,
        default=[4096, 8192, 16384],
        metavar="N,…",
        help="tokens to read (default: 4096,8192,16384)",
    )
    parser.add_argument(
        "--window",
        type=_common.positive_int,
        default=2048,
        metavar="N",
        help="tokens whose perplexity is averaged, of one pass over the text (default: 2048)",
    )
    parser.add_argument(
        "--stride",
        type=_common.count,
        default=0,
        metavar="N",
        help="slide a context of each length over the text by N tokens, as the paper does with 256; "
        "takes far longer (default: 0, one pass)",
    )
    parser.set_defaults(body=_perplexity)


def _perplexity(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import perplexity, text

    source = text.load_text(arguments.text)
    with opened(arguments) as model:
        methods = _methods(arguments, model)
        cells = perplexity.plan(methods, arguments.lengths, arguments.stride)
        ids = text.text_ids(model, source, max(arguments.lengths))
        settings = text.describe_text(arguments.text, source) | {
            "window": arguments.window,
            "stride": arguments.stride,
            "cache_type": arguments.cache_type,
        }
        if arguments.stride:
            settings["tokens"] = len(ids)  # how far the contexts slide

        def measure(cell: "Cell", progress: Callable[[float, float], Any]) -> dict[str, Any]:
            return perplexity.measure(
                model,
                ids,
                cell,
                progress,
                window=arguments.window,
                stride=arguments.stride,
                cache_type=arguments.cache_type,
            )

        return _run(arguments, model, settings, cells, measure)


# passkey


def _add_passkey(experiments: Any) -> None:
    parser = _add_experiment(
        experiments, "passkey", "does it find a number hidden in filler text?", "--lengths 4096,12288"
    )
    _add_methods(parser)
    _add_trials(parser)
    parser.set_defaults(body=_passkey)


def _passkey(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import passkey, retrieval

    with opened(arguments) as model:
        methods = _methods(arguments, model)
        cells = retrieval.plan(methods, arguments.lengths, arguments.depths, arguments.trials)
        settings = {"seed": arguments.seed, "cache_type": arguments.cache_type}
        prompts = passkey.Prompts(model, arguments.seed)
        context = max(arguments.lengths) + passkey.ANSWER_TOKENS
        with retrieval.Answerer(model, context, arguments.cache_type) as answerer:
            return _run(
                arguments,
                model,
                settings,
                cells,
                lambda cell, progress: passkey.measure(prompts, answerer, cell, progress),
            )


# What the experiments share


def _add_experiment(experiments: Any, name: str, question: str, example: str) -> argparse.ArgumentParser:
    parser = experiments.add_parser(
        name,
        help=question,
        description=f"{name}: {question}",
        epilog=f"example:\n  dca-eval {name} model.gguf {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    _common.add_json_argument(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a picture (.png, .svg or .pdf)")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="write down each cell as it is done; run the same command again to go on after an interruption",
    )
    return parser


def _add_methods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attention",
        action="append",
        metavar="METHOD,…",
        help="plain, dca, intra, intra+inter; the last three may name a scheme, CHUNK/WINDOW/LENGTH, as in "
        "dca:3072/1024/4096 (default: plain, and dca if the file has a scheme)",
    )


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="a long text, UTF-8 (default: CPython's documentation)"
    )


def _add_trials(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lengths",
        type=_common.positive_ints,
        default=[4096, 8192, 12288],
        metavar="N,…",
        help="tokens of a prompt (default: 4096,8192,12288)",
    )
    parser.add_argument(
        "--depths",
        type=_common.counts,
        default=[10, 30, 50, 70, 90],
        metavar="N,…",
        help="percent of the text before what is hidden (default: 10,30,50,70,90)",
    )
    parser.add_argument(
        "--trials", type=_common.positive_int, default=2, metavar="N", help="of each (default: 2)"
    )
    parser.add_argument("--seed", type=_common.count, default=0, metavar="N", help="default: 0")


def _methods(arguments: argparse.Namespace, model: "Model") -> list["Method"]:
    from dca_export.evaluate import methods

    names = ",".join(arguments.attention or ["plain" if model.scheme is None else "plain,dca"])
    parsed = [methods.parse(name) for name in dict.fromkeys(names.split(","))]
    methods.check(parsed, model)
    return parsed


def _run(
    arguments: argparse.Namespace,
    model: "Model",
    settings: dict[str, Any],
    cells: Sequence["Cell"],
    measure: "Measure",
) -> int:
    """Measures what is missing, then shows everything."""
    from dca_export.evaluate import results

    if arguments.plot is not None:
        from dca_export.evaluate import plots

        plots.check_name(arguments.plot)
    head = results.header(arguments.experiment, model, settings)
    measured = results.open_results(arguments.results, head)
    with _common.progress_bar(arguments.experiment) as update:
        results.measure_cells(measured, cells, measure, update)
    return _show(arguments, measured)


def _show(arguments: argparse.Namespace, results: "Results") -> int:
    from dca_export.evaluate import experiments

    if arguments.json != "-":
        for table in experiments.of(results).tables(results):
            _common.print_table(table.columns, table.rows, table.title)
    if arguments.json is not None:
        _common.write_json(experiments.summary(results), arguments.json)
    if arguments.plot is not None:
        from dca_export.evaluate import plots

        plots.save(experiments.of(results).draw(results), arguments.plot)
    return _common.EXIT_OK
