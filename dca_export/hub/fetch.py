"""Files of a repository on the Hugging Face Hub, through huggingface_hub and its cache."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dca_export.errors import InputError
from dca_export.hub.names import HubName

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Snapshot:
    """A repository at a commit: its files, and where those that were fetched lie."""

    name: HubName
    commit: str
    files: tuple[str, ...]  # all on the Hub; only those in the cache where the Hub was not asked
    directory: Path | None  # of the cache's files, where the Hub was not asked


def look(name: HubName) -> Snapshot:
    """Lists a repository; from the cache where the Hub cannot be reached, or is not to be (HF_HUB_OFFLINE).

    Raises InputError: there is no such repository or revision, it is not for this user, or the Hub cannot be
    reached and the cache does not have it.
    """
    import huggingface_hub

    with _one_line_errors(name):
        try:
            info = huggingface_hub.HfApi().model_info(name.repository, revision=name.revision)
        except Exception as error:
            if not _is_unreachable(error):
                raise
            return _cached(name, error)
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise InputError(f"{name}: the Hub names no commit of it, got {commit[:60]!r}")
    return Snapshot(name, commit, tuple(sibling.rfilename for sibling in info.siblings or ()), None)


def fetch(snapshot: Snapshot, files: list[str]) -> Path:
    """The directory of a snapshot's ``files``, of which those that the cache lacks are fetched.

    An interrupted one goes on where it was. Raises InputError.
    """
    if snapshot.directory is not None:
        return snapshot.directory
    import huggingface_hub

    name, top = snapshot.name, None
    if not sys.stderr.isatty():  # in a pipe only errors, and those are ours
        huggingface_hub.utils.disable_progress_bars()
        huggingface_hub.utils.logging.set_verbosity_error()
    with _one_line_errors(name):
        # The first one by the revision's own name, so that the cache knows it where the Hub is out of reach.
        for number, file in enumerate(files):
            revision = name.revision if number == 0 else snapshot.commit
            top = _downloaded(name, file, revision)
            if top.name != snapshot.commit:  # a branch that has moved meanwhile
                top = _downloaded(name, file, snapshot.commit)
    assert top is not None
    return top


def _downloaded(name: HubName, file: str, revision: str) -> Path:
    """The snapshot's directory in the cache that the file is in."""
    import huggingface_hub

    return Path(huggingface_hub.hf_hub_download(name.repository, file, revision=revision)).parents[
        file.count("/")
    ]


def _cached(name: HubName, error: Exception) -> Snapshot:
    """The snapshot as the cache has it. Raises InputError: it does not."""
    import huggingface_hub
    from huggingface_hub.errors import CacheNotFound

    with contextlib.suppress(CacheNotFound):
        for repository in huggingface_hub.scan_cache_dir().repos:
            if repository.repo_type != "model" or repository.repo_id != name.repository:
                continue
            for revision in repository.revisions:
                if name.revision == revision.commit_hash or name.revision in revision.refs:
                    root = revision.snapshot_path
                    files = tuple(str(file.file_path.relative_to(root)) for file in revision.files)
                    return Snapshot(name, revision.commit_hash, files, root)
    why = "HF_HUB_OFFLINE is set" if _is_offline() else f"the Hub cannot be reached ({_reason(error)})"
    raise InputError(f"{name}: {why}, and the cache has no such model and revision")


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _is_unreachable(error: Exception) -> bool:
    """Whether no answer came, or one that says nothing of the repository (a gateway's, 5xx)."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return True
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(error, ConnectionError | TimeoutError) or _is_transport_error(error)


def _is_transport_error(error: Exception) -> bool:
    """httpx's own (or those of what huggingface_hub has in its place): ConnectError, ReadTimeout, …"""
    return any(kind.__name__ in ("TransportError", "RequestException") for kind in type(error).__mro__)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


@contextlib.contextmanager
def _one_line_errors(name: HubName) -> Iterator[None]:
    """What huggingface_hub raises, as InputError in the words of the command."""
    from huggingface_hub import errors

    says: list[tuple[type[Exception], Callable[[Any], str]]] = [
        (
            errors.GatedRepoError,
            lambda _: (
                f"access is granted on https://huggingface.co/{name.repository}, once you are logged in "
                "there; then: hf auth login (or HF_TOKEN=…)"
            ),
        ),
        (
            errors.RepositoryNotFoundError,
            lambda _: (
                f"there is no model {name.repository} on the Hub, or it is private: "
                "hf auth login (or HF_TOKEN=…)"
            ),
        ),
        (errors.RevisionNotFoundError, lambda _: f"{name.repository} has no revision {name.revision}"),
        (errors.EntryNotFoundError, lambda error: f"a file of it is not there: {_reason(error)}"),
        (errors.HfHubHTTPError, lambda error: f"the Hub answers: {_reason(error)}"),
        (errors.HFValidationError, _reason),
    ]
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        for kind, say in says:
            if isinstance(error, kind):
                raise InputError(f"{name}: {say(error)}") from error
        if _is_transport_error(error) or isinstance(error, ConnectionError | TimeoutError):
            raise InputError(
                f"{name}: the connection broke ({_reason(error)}); what came is kept, try again"
            ) from error
        if isinstance(error, ValueError | OSError) and not isinstance(
            error, PermissionError | FileExistsError
        ):
            if getattr(error, "errno", None) is None:
                raise InputError(f"{name}: {_reason(error)}") from error
        raise


def cache_directory() -> Path:
    """Where models exported for running are kept: $XDG_CACHE_HOME/dca-export, else ~/.cache/dca-export."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "dca-export"
