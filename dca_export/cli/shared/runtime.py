"""What the commands that run a model share: its arguments, and loading it."""

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dca_export.cli.shared.argument_types import count
from dca_export.cli.shared.display import note, progress_bar
from dca_export.cli.shared.sources import HUB_HELP, model_file
from dca_runtime.options import CACHE_TYPES

if TYPE_CHECKING:
    from dca_runtime import Model, Session


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model's file, --device, --threads, --no-repack and --cache-type."""
    parser.add_argument("model", metavar="MODEL.gguf", help=f"the model: a file, {HUB_HELP}")
    add_machine_arguments(parser)
    parser.add_argument(
        "--cache-type",
        choices=CACHE_TYPES,
        default="f16",
        help="what keys and values are kept in (default: f16)",
    )
    parser.add_argument(
        "--prefill",
        type=prefill,
        default="dense",
        metavar="MODE",
        help="how the tokens of a prompt attend: dense, or sparse or sparse:ALPHA, to the pages of "
        "keys that matter; a larger ALPHA (0 to 1) reads fewer; stated, each head to as many columns and "
        "diagonals as the file states for it (default: dense)",
    )


def attention(text: str) -> str:
    """An argument that ``Model.session`` takes as attention."""
    from dca_runtime.attention import parse
    from dca_runtime.errors import DcaError

    try:
        return parse(text).name
    except DcaError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def prefill(text: str) -> str:
    """An argument that ``Model.session`` takes as prefill."""
    from dca_runtime.errors import DcaError
    from dca_runtime.prefill import parse

    try:
        return parse(text).name
    except DcaError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def density_note(session: "Session") -> None:
    """Says on a terminal how much sparse prefill has read, where there was any."""
    density = session.info.density
    known = [value for layer in density or () for value in layer if value == value]
    if known:
        note(
            f"prefill {session.prefill}: {sum(known) / len(known):.1%} of all pairs of query and key computed"
        )


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --device, --threads and --no-repack: where and how ``opened`` loads the model."""
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:N, several cards that share the model (cuda:0,1), or auto: cuda if it can be "
        "had (default: auto)",
    )
    parser.add_argument(
        "--threads", type=count, default=0, metavar="N", help="CPU threads (default: the physical cores)"
    )
    parser.add_argument(
        "--no-repack",
        dest="repack",
        action="store_false",
        help="CPU: read the weights from the file as they are, without a copy in memory; slower",
    )


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> Iterator["Model"]:
    """The model that the arguments name, closed at the end of the block; a progress bar while it loads.

    Puts the file in the place of a name on the Hub (``arguments.model``).
    """
    from dca_runtime import Model

    arguments.model = model_file(arguments.model)

    with progress_bar("loading") as update:
        model = Model(
            arguments.model,
            device=arguments.device,
            threads=arguments.threads,
            progress=update,
            repack=arguments.repack,
        )
    with model:
        yield model


def note_active(model: "Model", session: "Session") -> None:
    """Says on a terminal which attention, scheme and context a session has."""
    info, trained = session.info, model.info.context_length
    if info.border is not None:
        attention = f"attention {info.border}"
    elif info.scheme is None:
        attention = "plain attention"
    else:
        s, w, c, *_ = info.scheme
        kind = {"intra": "only inside chunks", "intra+inter": "without successive chunks"}
        attention = (
            f"Dual Chunk Attention{', ' + kind[session.attention] if session.attention in kind else ''}: "
            f"chunk_size {s:,}, local_window {w:,}, pretraining_length {c:,}"
        )
    note(f"{attention}; context {info.context:,} tokens, trained on {trained:,}")
