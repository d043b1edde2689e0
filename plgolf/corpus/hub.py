"""A dataset repository on the Hugging Face hub, by way of the huggingface_hub package."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plgolf.errors import UserError
from plgolf.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PATHS_PER_REQUEST = 500
"""The hub refuses to describe more than 1000 files at once."""
_TIMEOUT_SECONDS = 30
_REASON_LENGTH = 200


@dataclass(frozen=True)
class RemoteFile:
    """What the hub knows about a file.

    Args:
        path: where it is in the repository.
        bytes: its size.
        sha256: its hash; None if it is small enough to be kept in git itself.
    """

    path: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Snapshot:
    """A dataset repository at one commit, so that everything read from it belongs together.

    Args:
        api: the library's client.
        repo: owner and name.
        commit: hash of the commit.
    """

    api: "HfApi"
    repo: str
    commit: str

    def describe(self, paths: Sequence[str]) -> dict[str, RemoteFile]:
        """Asks for sizes and hashes.

        Args:
            paths: files of the repository.

        Returns:
            What the hub knows, by path.

        Raises:
            UserError: a file is missing, or the hub cannot be asked.
        """
        from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415 (an extra)

        found: dict[str, RemoteFile] = {}
        for start in range(0, len(paths), _PATHS_PER_REQUEST):
            some = list(paths[start : start + _PATHS_PER_REQUEST])
            with _one_line_errors(self.repo, self.commit, "its list of files"):
                answer = self.api.get_paths_info(self.repo, some, repo_type="dataset", revision=self.commit)
            for info in answer:
                if isinstance(info, RepoFile):
                    sha256 = info.lfs.sha256 if info.lfs else None
                    found[info.path] = RemoteFile(info.path, info.size, sha256)
        missing = [path for path in paths if path not in found]
        if missing:
            raise UserError(f"{self.repo}: has no file {missing[0]} at revision {self.commit}")
        return found

    def fetch(self, path: str, folder: Path) -> Path:
        """Brings a file, unless the folder has it: whole or not at all.

        A file that the library has no record of is compared with the hub's by hash. After a lost connection
        the library goes on within the file; another process starts the file over.

        Args:
            path: where it is in the repository.
            folder: where to; the file gets the same path there. The library keeps its records in ``.cache``.

        Returns:
            The local file. If the hub does not answer it may be an older one that was there already.

        Raises:
            UserError: it cannot be fetched or written.
        """
        with _one_line_errors(self.repo, self.commit, path):
            local = self.api.hf_hub_download(
                self.repo, path, repo_type="dataset", revision=self.commit, local_dir=folder
            )
        return Path(local)

    def read(self, path: str) -> bytes:
        """Returns the contents of a small file, never an earlier commit's."""
        with tempfile.TemporaryDirectory() as folder:
            return self.fetch(path, Path(folder)).read_bytes()


def forget(path: str, folder: Path) -> None:
    """Removes a fetched file, and the library's record that it was whole."""
    (folder / path).unlink(missing_ok=True)
    (folder / ".cache" / "huggingface" / "download" / f"{path}.metadata").unlink(missing_ok=True)


@contextlib.contextmanager
def open_snapshot(repo: str, revision: str) -> Iterator[Snapshot]:
    """Looks up which commit a revision is.

    Args:
        repo: owner and name of a dataset repository.
        revision: branch, tag or commit.

    Yields:
        The repository at that commit. The library prints nothing meanwhile.

    Raises:
        UserError: the library is not installed, or the hub does not know the repository or does not answer.
    """
    try:
        from huggingface_hub import HfApi  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise UserError("downloading needs the huggingface_hub package: pip install 'plgolf[hub]'") from error
    api = HfApi(library_name="plgolf", library_version=__version__)
    with _quiet():
        with _one_line_errors(repo, revision, f"revision {revision}"):
            info = api.dataset_info(repo, revision=revision, expand=["sha"], timeout=_TIMEOUT_SECONDS)
        yield Snapshot(api, repo, info.sha or revision)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's bars and warnings off the console, which gets a line for each file or an error."""
    from huggingface_hub.utils.tqdm import (  # noqa: PLC0415 (an extra)
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    log = logging.getLogger("huggingface_hub")
    level, had_bars = log.level, not are_progress_bars_disabled()
    log.setLevel(logging.ERROR)
    if had_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if had_bars:
            enable_progress_bars()


@contextlib.contextmanager
def _one_line_errors(repo: str, revision: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Its own, of two HTTP libraries and of a C extension, with no common base.
        raise UserError(f"{repo}: {_explain(error, revision, what)}") from error


def _explain(error: BaseException, revision: str, what: str) -> str:
    from huggingface_hub import errors  # noqa: PLC0415 (an extra)

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # "Cannot find the requested files in the cache": because of this.
    known: dict[type[Exception], str] = {
        errors.HFValidationError: "must be the owner and name of a dataset repository on the hub",
        errors.GatedRepoError: "is gated: ask for access on its page and log in with 'hf auth login'",
        errors.RepositoryNotFoundError: "is no dataset repository, or a private one: see 'hf auth login'",
        errors.RevisionNotFoundError: f"has no revision {revision}",
        errors.EntryNotFoundError: f"has no file {what} at revision {revision}",
    }
    for kind, reason in known.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{what} may not be read with this login: see 'hf auth login'"
    if isinstance(error, OSError) and error.errno and error.strerror:
        return f"{what}: {error.filename or 'it'} cannot be written: {error.strerror}"
    reason = (str(error).strip().splitlines() or [""])[0][:_REASON_LENGTH]
    return (
        f"{what} could not be fetched ({type(error).__name__}: {reason}): "
        "what is whole is kept, running again goes on from there"
    )
