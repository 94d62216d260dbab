"""What the experiments of dca-eval share: arguments, running the cells, showing results."""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dca_export.cli.shared import argument_types, command, display, outputs
from dca_export.cli.shared.runtime import add_model_arguments, opened

if TYPE_CHECKING:
    from dca_export.evaluate.methods import Method
    from dca_export.evaluate.results import Cell, Measure, Results
    from dca_runtime import Model


def add_command(experiments: Any, name: str, question: str, example: str) -> argparse.ArgumentParser:
    """A subcommand's parser, empty."""
    return experiments.add_parser(
        name,
        help=question,
        description=question[0].upper() + question[1:],
        epilog=f"example:\n  dca-eval {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_experiment(experiments: Any, name: str, question: str, example: str) -> argparse.ArgumentParser:
    """A subcommand's parser, with the arguments that every experiment takes."""
    parser = add_command(experiments, name, question, f"model.gguf {example}")
    add_model_arguments(parser)
    outputs.add_json_argument(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a picture (.png, .svg or .pdf)")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="write down each cell as it is done; run the same command again to go on after an interruption",
    )
    return parser


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Adds --engine, which ``engine`` reads."""
    parser.add_argument(
        "--engine",
        choices=("native", "reference"),
        default="native",
        help="reference: PyTorch and transformers (the extra `reference`) in place of the library; slower, "
        "runs every method, on the CPU in float32, on a card in the type of --cache-type (default: native)",
    )


@contextlib.contextmanager
def engine(arguments: argparse.Namespace) -> "Iterator[Any]":
    """What runs the model: the library's Model, or what the reference has of it."""
    if arguments.engine == "native":
        with opened(arguments) as model:
            yield model
        return
    from dca_export.evaluate.reference_engine import ReferenceModel

    with ReferenceModel(arguments.model, arguments.device, arguments.cache_type) as reference:
        yield reference


def add_methods(parser: argparse.ArgumentParser) -> None:
    """Adds --attention, which ``methods_of`` reads."""
    parser.add_argument(
        "--attention",
        action="append",
        metavar="METHOD,…",
        help="plain, dca, intra, intra+inter; the last three may name a scheme, CHUNK/WINDOW/LENGTH, as in "
        "dca:3072/1024/4096; string:BORDER/LOCAL, streaming:SINKS/WINDOW, lm-infinite:SINKS/WINDOW, whose "
        "border moves with the query; @linear:F, @ntk:F, @yarn:F or @dynamic:F (dynamic NTK, by each length "
        "measured) behind any of them replaces the model's RoPE scaling, as in plain@yarn:4; @sparse:ALPHA "
        "or @stated prefills sparsely, and @q4, @q8, … names the cache, as in dca@sparse:0.1@q4. With "
        "--engine reference also rerope:WINDOW and self-extend:GROUP/WINDOW (default: plain, and what the "
        "file states, dca or string)",
    )


def add_text(parser: argparse.ArgumentParser) -> None:
    """Adds --text."""
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="a long text, UTF-8 (default: CPython's documentation)"
    )


def add_window(parser: argparse.ArgumentParser) -> None:
    """Adds --window."""
    parser.add_argument(
        "--window",
        type=argument_types.positive_int,
        default=2048,
        metavar="N",
        help="tokens whose perplexity is averaged, of one pass over the text (default: 2048)",
    )


def add_lengths(parser: argparse.ArgumentParser, default: list[int]) -> None:
    """Adds --lengths."""
    parser.add_argument(
        "--lengths",
        type=argument_types.positive_ints,
        default=default,
        metavar="N,…",
        help=f"tokens (default: {','.join(map(str, default))})",
    )


def add_trials(parser: argparse.ArgumentParser, depths: list[int], trials: int) -> None:
    """Adds --depths, --trials and --seed."""
    parser.add_argument(
        "--depths",
        type=argument_types.counts,
        default=depths,
        metavar="N,…",
        help=f"percent of the text that comes before what is hidden (default: {','.join(map(str, depths))})",
    )
    parser.add_argument(
        "--trials",
        type=argument_types.times,
        default=trials,
        metavar="N",
        help=f"of each length and depth (default: {trials})",
    )
    parser.add_argument("--seed", type=argument_types.seed, default=0, metavar="N", help="default: 0")


def add_tasks(parser: argparse.ArgumentParser, trials: int) -> None:
    """Adds --tasks, --trials and --seed, of recall's prompts."""
    parser.add_argument(
        "--tasks",
        type=lambda text: text.split(","),
        default=["keys", "value", "chain", "count"],
        metavar="TASK,…",
        help="of keys (one of several hidden ones), value (one of as many as fit), chain (variables assigned "
        "to each other), count (the commonest words) (default: all)",
    )
    parser.add_argument(
        "--trials",
        type=argument_types.times,
        default=trials,
        metavar="N",
        help=f"of each task and length (default: {trials})",
    )
    parser.add_argument("--seed", type=argument_types.seed, default=0, metavar="N", help="default: 0")


def methods_of(arguments: argparse.Namespace, model: "Model") -> list["Method"]:
    """The methods that --attention names. Raises InputError."""
    from dca_export.evaluate import methods

    own = "dca" if model.scheme is not None else model.info.border
    names = ",".join(arguments.attention or ["plain" if own is None else f"plain,{own}"])
    parsed = [methods.parse(name) for name in dict.fromkeys(names.split(","))]
    parsed = list(dict.fromkeys(prefilled(arguments, parsed)))  # the same may have been named in two ways
    methods.check(parsed, model, reference=arguments.engine == "reference")
    return parsed


def prefilled(arguments: argparse.Namespace, methods: Sequence["Method"]) -> list["Method"]:
    """The methods, those that say nothing of prefill with that of --prefill."""
    if arguments.prefill == "dense":
        return list(methods)
    return [
        method if method.prefill is not None else dataclasses.replace(method, prefill=arguments.prefill)
        for method in methods
    ]


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raises InputError where the results, figures or picture could not be written: before hours of work."""
    names = ("json", "plot", "results")
    written = {f"--{name}": getattr(arguments, name, None) for name in names}
    inputs = {"MODEL.gguf": arguments.model, "--text": getattr(arguments, "text", None)}
    outputs.check_outputs(written, inputs)
    if arguments.plot is not None:
        from dca_export.evaluate.output import plots

        plots.check_name(arguments.plot)


def run_cells(
    arguments: argparse.Namespace,
    model: "Model",
    settings: dict[str, Any],
    cells: Sequence["Cell"],
    measure: "Measure",
) -> int:
    """Measures what is missing, then shows everything; gives the exit code."""
    from dca_export.evaluate import results

    if arguments.engine != "native":
        settings = settings | {"engine": arguments.engine}
    head = results.header(arguments.experiment, model, settings, arguments.command)
    measured = results.open_results(arguments.results, head)
    with display.progress_bar(arguments.experiment) as update:
        results.measure_cells(measured, cells, measure, update)
    return _show(arguments, measured)


def _show(arguments: argparse.Namespace, results: "Results") -> int:
    from dca_export.evaluate import experiments
    from dca_export.evaluate.results import intelligible

    with intelligible(results):
        shown = experiments.of(results).tables(results)
        summary = experiments.summary(results)
    if arguments.json != "-":
        for table in shown:
            display.print_table(table.columns, table.rows, table.title)
    if arguments.json is not None:
        outputs.write_json(summary, arguments.json)
    if arguments.plot is not None:
        from dca_export.evaluate.output import plots

        plots.save(experiments.of(results).draw(results), arguments.plot)
    return command.EXIT_OK
