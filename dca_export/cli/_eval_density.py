"""dca-eval density: quality against how much sparse prefill reads."""

import argparse
from typing import Any

from dca_export.cli import _eval_shared
from dca_export.cli._runtime import opened


def add(experiments: Any) -> None:
    """Adds the subcommand."""
    parser = _eval_shared.add_experiment(
        experiments,
        "density",
        "what does sparse prefill cost, against how much it reads?",
        "--text book.txt --lengths 16384 --plot density.png",
    )
    _eval_shared.add_text(parser)
    _eval_shared.add_methods(parser)
    _eval_shared.add_lengths(parser, [16384])
    _eval_shared.add_tasks(parser, trials=3)
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
        methods = _eval_shared.methods_of(arguments, model)
        cells = density.plan(methods, arguments.lengths, arguments.tasks, arguments.trials)
        ids = source.ids(model, max(arguments.lengths))
        settings = source.description() | {"seed": arguments.seed, "cache_type": arguments.cache_type}
        runner = density.Runner(model, ids, arguments.cache_type, recall.Prompts(model, arguments.seed))
        return _eval_shared.run_cells(arguments, model, settings, cells, runner.measure)
