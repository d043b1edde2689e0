"""Turns exceptions of libraries and of the machine into one line that names the next step."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

from plgolf.errors import RunError, UserError

_FILE_ERRORS = {
    *(errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EROFS),
}
"""Refusals of a file system, for example to a logger."""

_MISSING = re.compile(
    r"Requirement .* not met.*|No module named .*|.* (`?)(?P<name>\w+)\1 is not installed.*"
)
_NEXT_STEPS = (
    (r"No supported gpu backend found!", " Without a GPU add -c configs/hardware/cpu.yaml"),
    (r"You requested gpu: .*your machine only has", "; for one GPU add -c configs/hardware/one_gpu.yaml"),
    (
        r"clock.max_seconds or trainer.max_steps must be set",
        "; plgolf fit -c configs/quickstart.yaml is a first run",
    ),
    (r"`enable_progress_bar=False` but found", " Add --trainer.enable_progress_bar=true"),
)
"""Next steps by the message that they follow."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raises UserError or RunError in place of other exceptions that a user can do something about.

    Raises:
        UserError: something in the settings, files or libraries must change; it names the rank if not rank 0.
        RunError: the device is out of memory.
    """
    try:
        yield
    except (UserError, MisconfigurationException) as error:
        rank = getattr(rank_zero_only, "rank", 0)
        message = " ".join(str(error).split())
        message += next((step for pattern, step in _NEXT_STEPS if re.search(pattern, message)), "")
        raise UserError(f"rank {rank}: {message}" if rank else message) from error
    except (ModuleNotFoundError, ValueError) as error:  # Lightning raises either for a missing library.
        message = _mistake_within(error) or _missing_library(error)
        if not message:
            raise
        raise UserError(message) from error
    except RuntimeError as error:
        failure = _runtime_failure(error)
        if failure is None:
            raise
        raise failure from error
    except OSError as error:
        if error.errno not in _FILE_ERRORS:
            raise
        raise UserError(f"{error.filename or 'a file of the run'}: {error.strerror}") from error


def _runtime_failure(error: RuntimeError) -> RunError | UserError | None:
    """Returns the error to raise for a device without memory or a compiler that fails; else None."""
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, torch.OutOfMemoryError):
        return RunError(
            f"{first:.200} Lower --data.micro_batch_sequences, and "
            "--data.val_batch_sequences if it was a validation: the result stays the same"
        )
    if "BackendCompilerFailed" in {kind.__name__ for kind in type(error).__mro__}:  # It has no public name.
        return UserError(
            f"model.compile failed: {first:.200} (on a CPU it needs g++ or clang++, and Python's headers; "
            "or add --model.compile=false)"
        )
    return None


def _mistake_within(error: BaseException | None) -> str:
    """Returns the message of a UserError that jsonargparse has wrapped; empty if there is none."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return str(error or "")


def _missing_library(error: Exception) -> str:
    """Returns one line about the library that a class of the recipe misses; empty for any other error."""
    found = _MISSING.search(" ".join(str(error).split()))
    if found is None or (getattr(error, "name", None) or "").startswith("plgolf"):
        return ""
    name = found["name"] or getattr(error, "name", None)
    install = f" (pip install {name})" if name else ""
    return f"a class of the configuration needs more: {found[0]:.300}{install}"
