"""A dataset repository on the Hugging Face hub, through the ``huggingface_hub`` package."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plgolf.errors import UserError, extra
from plgolf.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

_REASON_CHARACTERS = 200


@dataclass(frozen=True)
class Repository:
    """A dataset repository at one commit, and the hub's description of each file, by path."""

    api: "HfApi"
    name: str
    commit: str
    files: "dict[str, RepoFile]"

    def check(self, paths: Sequence[str]) -> None:
        """Raises a UserError if the repository lacks a file."""
        if missing := [path for path in paths if path not in self.files]:
            raise UserError(f"{self.name}: has no file {missing[0]} at revision {self.commit}")

    def fetch(self, paths: Sequence[str], folder: Path) -> list[Path]:
        """Downloads the files that the folder lacks, or holds with another hash; returns the local files.

        Raises:
            UserError: the repository lacks a file, or it cannot be fetched or written.
        """
        self.check(paths)
        local = [folder / path for path in paths]
        try:
            self.api.snapshot_download(
                self.name,
                repo_type="dataset",
                revision=self.commit,
                allow_patterns=list(paths),
                local_dir=folder,
            )
            # If the hub stops answering, the library may return the folder as it is.
            if not all(map(Path.is_file, local)):
                raise ConnectionError("no answer")
        except Exception as error:  # The library's own, and those of an HTTP library, without a common base.
            missing = next((path for path in paths if not (folder / path).is_file()), paths[0])
            raise UserError(f"{self.name}: {_explain(error, missing)}") from error
        return local


def open_repository(name: str, revision: str) -> Repository:
    """Returns the repository at the commit of a branch, tag or commit.

    Raises:
        UserError: ``huggingface_hub`` is not installed, the repository or the revision does not exist, or the
            hub does not answer.
    """
    library = extra("huggingface_hub.hf_api", "downloading")
    api = library.HfApi(library_name="plgolf", library_version=__version__)
    what = f"revision {revision}"
    try:
        commit = api.dataset_info(name, revision=revision, expand=["sha"], timeout=30).sha or revision
        what = "its list of files"
        tree = api.list_repo_tree(name, recursive=True, revision=commit, repo_type="dataset")
        files = {file.path: file for file in tree if isinstance(file, library.RepoFile)}
    except Exception as error:
        raise UserError(f"{name}: {_explain(error, what)}") from error
    return Repository(api, name, commit, files)


def _explain(error: BaseException, what: str) -> str:
    """Returns one line about a failure of the library."""
    errors = extra("huggingface_hub.errors")
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # The library only says that nothing is cached; this is the hub's failure.
    known: dict[type[Exception], str] = {
        errors.HFValidationError: "must be the owner and name of a dataset repository on the hub",
        errors.GatedRepoError: "is gated: ask for access on its page and log in with 'hf auth login'",
        errors.RepositoryNotFoundError: "does not exist or is private: check --repo, or see 'hf auth login'",
        errors.RevisionNotFoundError: f"has no {what}",
    }
    if reason := next((reason for kind, reason in known.items() if isinstance(error, kind)), ""):
        return reason
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"this login may not read {what}: see 'hf auth login'"
    if isinstance(error, OSError) and error.errno and error.strerror:
        return f"{what}: {error.filename or 'it'} cannot be written: {error.strerror}"
    reason = str(error).strip().partition("\n")[0][:_REASON_CHARACTERS]
    return (
        f"{what} could not be fetched ({type(error).__name__}: {reason}): "
        "run the command again to continue; complete files are kept"
    )
