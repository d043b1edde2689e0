"""Files and folders that appear whole or not at all."""

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
    """Gives a hidden neighbour of a file that takes its place when the block ends, once it is safely on disk.

    Whoever is interrupted, killed even, leaves ``path`` as it was.

    Args:
        path: the file; its folder is made if need be.

    Yields:
        The neighbour, open for writing and reading.
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
    """Writes a file that appears whole or not at all.

    Args:
        path: the file; its folder is made if need be, and what it held before stays until the end.
        data: its new contents.
    """
    with whole_file(path) as file:
        file.write(data)


def lock_folder(folder: Path) -> int:
    """Locks a folder, which is made if need be, for as long as this process keeps what it gets.

    Returns:
        A file descriptor; closing it, or the end of the process, gives the folder free. -1 on a file system
        without locks.

    Raises:
        BlockingIOError: another process has it.
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
    """A folder holds something and is not to be replaced."""


@contextlib.contextmanager
def folder_in_the_making(path: Path, *, replace: bool) -> Iterator[Path]:
    """Gives a hidden folder beside ``path`` that takes its place, whole, when the block ends.

    Whoever is interrupted, killed even, leaves ``path`` as it was. Another process that makes the same folder
    is waited for.

    Args:
        path: the folder to make; an empty one may be there.
        replace: what ``path`` holds is replaced.

    Yields:
        The hidden folder, empty.

    Raises:
        AlreadyThereError: ``path`` holds something and is not to be replaced, maybe because another process
            that was waited for has made it.
    """
    path = path.resolve()  # What a link points to is made; the link stays.
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
    """Makes a folder that no other process has at the same time. A lock ends with its process."""
    while True:
        path.mkdir(exist_ok=True)
        try:
            folder = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # Whoever had it has just finished.
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
    """Swaps two folders in one step of the file system, where it can; Python has no call for it."""
    library = ctypes.CDLL(None)
    paths = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        swap = 2
        return hasattr(library, "renamex_np") and library.renamex_np(*paths, swap) == 0
    exchange, here = 2, -100
    return hasattr(library, "renameat2") and library.renameat2(here, paths[0], here, paths[1], exchange) == 0
