"""Files and folders that are replaced in one step, and files of others that are read within bounds."""

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from plgolf.errors import UserError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a hidden temporary file beside ``path``, which is synced and renamed to it when the block ends.

    Its folder is created if it does not exist. An exception in the block, or the end of the process, leaves
    ``path`` as it was. The file is open for writing and reading.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file by renaming a temporary one; its folder is created if it does not exist."""
    with atomic_file(path) as file:
        file.write(data)


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; refuses pipes and devices, which may block or never end.

    Raises:
        UserError: the file cannot be opened or is not a regular file; the message starts with the path.
    """
    try:
        # Opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: cannot be read: it must be a regular file")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, *, max_bytes: int) -> bytes:
    """Reads a regular file of at most ``max_bytes``, which is checked before anything is read.

    Raises:
        UserError: the file is not a regular file, is too large or cannot be read; the message starts with
            the path.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise UserError(f"{path}: must have at most {max_bytes} bytes, got {size}")
        try:
            return file.read(size)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def lock_folder(folder: Path) -> int:
    """Locks a folder for this process, without waiting; creates it if it does not exist.

    Returns:
        A file descriptor that holds the lock until it is closed or the process ends; -1 on a file system
        without locks.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


class FolderNotEmptyError(FileExistsError):
    """Raised where a folder is not empty and must not be replaced."""


@contextlib.contextmanager
def staged_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Creates a hidden folder beside ``path``, which is renamed to it when the block ends.

    An exception in the block, or the end of the process, leaves ``path`` as it was. After a kill between the
    renames of the old and the new folder, the next call restores the old one. If another process is creating
    the same folder, waits for it.

    Args:
        path: the folder to create; it may exist if it is empty.
        replace: replaces a folder that is not empty.

    Raises:
        FolderNotEmptyError: ``path`` is not empty and ``replace`` is false; another process that was waited
            for may have filled it.
    """
    path = path.resolve()  # A link stays, and the folder it points to is replaced.
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    if partial.is_symlink():
        partial.unlink()
    aside = path.with_name(f".{path.name}.replaced")
    with _locked_folder(partial):
        if aside.exists() and not path.exists():
            aside.rename(path)  # A process was killed between the two renames below.
        try:
            if not replace and path.exists() and any(path.iterdir()):
                raise FolderNotEmptyError(path)
            shutil.rmtree(aside, ignore_errors=True)
            _empty(partial)
            yield partial
            _sync_folder(partial)
            if path.exists():
                path.rename(aside)
            partial.rename(path)
            _sync_folder(path.parent)
            shutil.rmtree(aside, ignore_errors=True)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    """Creates a folder and locks it, waiting for other processes. A lock ends with its process."""
    while True:
        path.mkdir(exist_ok=True)
        try:
            folder = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # The process that held it has just renamed it.
            continue
        try:
            with contextlib.suppress(OSError):  # Some network file systems have no locks.
                fcntl.flock(folder, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(folder), path.stat()):
                yield
                return
        finally:
            os.close(folder)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
