"""dca-eval density: quality against how much sparse prefill reads."""

import argparse
from typing import Any

from dca_export.cli.shared import eval_experiments
from dca_export.cli.shared.runtime import opened


def add(experiments: Any) -> None:
    """Adds the subcommand."""
    parser = eval_experiments.add_experiment(
        experiments,
        "density",
        "what does sparse prefill cost, against how much it reads?",
        "--text book.txt --lengths 16384 --plot density.png",
    )
    eval_experiments.add_text(parser)
    eval_experiments.add_methods(parser)
    eval_experiments.add_lengths(parser, [16384])
    eval_experiments.add_tasks(parser, trials=3)
    parser.set_defaults(body=_density, engine="native")


def _density(arguments: argparse.Namespace) -> int:
    from dca_export.evaluate import density, text
    from dca_export.evaluate.tasks import recall

    source = text.Text(arguments.text)
    with opened(arguments) as model:
        if arguments.attention is None:
            own = "dca" if model.scheme is not None else "plain"
            stated = f"{model.info.architecture}.attention.budget.columns" in model.metadata
            prefills = (*density.PREFILLS, *["stated"] * stated)
            arguments.attention = [",".join([own, *(f"{own}@{prefill}" for prefill in prefills)])]
        methods = eval_experiments.methods_of(arguments, model)
        cells = density.plan(methods, arguments.lengths, arguments.tasks, arguments.trials)
        ids = source.ids(model, max(arguments.lengths))
        settings = source.description() | {"seed": arguments.seed, "cache_type": arguments.cache_type}
        runner = density.Runner(model, ids, arguments.cache_type, recall.Prompts(model, arguments.seed))
        return eval_experiments.run_cells(arguments, model, settings, cells, runner.measure)
