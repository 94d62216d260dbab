"""The prompt store as the commands that run a model use it."""

import argparse
import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dca_export.cli.shared.argument_types import disk_size
from dca_export.cli.shared.display import note
from dca_runtime.options import PAGE_TOKENS

if TYPE_CHECKING:
    from dca_runtime import Model, PromptStore, Session
    from dca_runtime.prompt_store import Prompts


def _warn(line: str) -> None:
    from dca_runtime.errors import DcaWarning

    warnings.warn(line, DcaWarning, stacklevel=2)


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --cache-dir, --cache-disk and --no-cache."""
    group = parser.add_argument_group(
        "store", "What was read is kept on disk and not read again (dca-cache shows and removes it)."
    )
    add_directory_argument(group)
    group.add_argument(
        "--cache-disk",
        type=disk_size,
        metavar="SIZE",
        help="the most it may take from now on, like 20G (default: as before, or a tenth of what is free)",
    )
    group.add_argument("--no-cache", action="store_true", help="neither use it nor add to it")


def add_directory_argument(parser: argparse._ActionsContainer) -> None:
    """Adds --cache-dir."""
    parser.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where it is (default: $DCA_CACHE_DIR, else dca-export/prompts in the user's cache folder)",
    )


def chosen_store(
    arguments: argparse.Namespace, tell: Callable[[str], None], warn: Callable[[str], None] = _warn
) -> "PromptStore | None":
    """The store; None: --no-cache, or none can be where nobody asked for one, of which ``warn`` takes a line.

    tell: takes a line when the store is made.

    Raises DcaError: no store can be in --cache-dir.
    """
    from dca_runtime import DcaError, PromptStore

    if arguments.no_cache:
        return None
    try:
        return PromptStore(arguments.cache_dir, arguments.cache_disk, tell, warn)
    except DcaError as error:
        if arguments.cache_dir is not None:
            raise
        warn(f"{error}; going on without one")
        return None


@contextlib.contextmanager
def opened_store(
    arguments: argparse.Namespace, model: "Model", session: "Session", tokens: int
) -> Iterator["Prompts | None"]:
    """The prompts of the session's setup; None: --no-cache, prompts of ``tokens`` tokens are shorter than a
    page, or no store can be where nobody asked for one, of which the user is warned.

    Raises DcaError: no store can be in --cache-dir.
    """
    store = None if tokens <= PAGE_TOKENS else chosen_store(arguments, tell=note)
    if store is None:
        yield None
        return
    with store.prompts(session, Path(model.path).name) as prompts:
        yield prompts
