"""Files and folders that are written completely or not at all."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a hidden temporary file next to ``path``; on exit it is synced to disk and renamed over it.

    An interrupted or killed process leaves ``path`` as it was.

    Args:
        path: the file; its folder is created if needed.

    Yields:
        The temporary file, open for writing and reading.
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


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file completely or not at all.

    Args:
        path: the file; its folder is created if needed, and its old contents stay until the end.
        data: the new contents.
    """
    with whole_file(path) as file:
        file.write(data)


def lock_folder(folder: Path) -> int:
    """Locks a folder, which is created if needed, until the returned descriptor is closed.

    Returns:
        A file descriptor; closing it, or the end of the process, releases the lock. -1 on a file system
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


class AlreadyThereError(FileExistsError):
    """Raised if a folder is not empty and must not be replaced."""


@contextlib.contextmanager
def staged_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Creates a hidden folder beside ``path`` and, on exit, moves it to ``path`` in one step.

    An interrupted or killed process leaves ``path`` as it was. If another process is making the same folder,
    this one waits for it.

    Args:
        path: the folder to make; it may exist if it is empty.
        replace: replaces the contents of ``path``.

    Yields:
        The hidden folder, empty.

    Raises:
        AlreadyThereError: ``path`` is not empty and ``replace`` is false; another process may just have made
            it.
    """
    path = path.resolve()  # A link stays, and its target is replaced.
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    if partial.is_symlink():
        partial.unlink()
    aside = path.with_name(f".{path.name}.replaced")
    with _locked_folder(partial):
        if aside.exists() and not path.exists():
            aside.rename(path)  # Killed between the two renames of _replace_folder.
        try:
            if not replace and path.exists() and any(path.iterdir()):
                raise AlreadyThereError(path)
            shutil.rmtree(aside, ignore_errors=True)
            _empty(partial)
            yield partial
            _sync_folder(partial)
            _replace_folder(partial, path, aside)
            _sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    """Creates a folder and locks it; the lock ends with the process."""
    while True:
        path.mkdir(exist_ok=True)
        try:
            folder = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # Its last owner has just moved it.
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


def _replace_folder(new: Path, path: Path, aside: Path) -> None:
    if not path.exists():
        new.rename(path)
    elif _exchange(new, path):
        shutil.rmtree(new, ignore_errors=True)
    else:
        path.rename(aside)
        new.rename(path)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders atomically; returns False if the file system cannot."""
    library = ctypes.CDLL(None)
    paths = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        swap = 2
        return hasattr(library, "renamex_np") and library.renamex_np(*paths, swap) == 0
    exchange, here = 2, -100
    return hasattr(library, "renameat2") and library.renameat2(here, paths[0], here, paths[1], exchange) == 0
