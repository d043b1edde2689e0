"""Reading files that others made: regular ones, of a bounded size."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from plgolf.errors import UserError


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading, and nothing that could block or never end, such as a pipe or a device.

    Args:
        path: the file.

    Returns:
        The open file.

    Raises:
        UserError: it is no file or cannot be read; the message starts with the path.
    """
    try:
        # Opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: cannot be read: it is no regular file")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, *, max_bytes: int) -> bytes:
    """Reads a whole file.

    Args:
        path: the file.
        max_bytes: bound on its size, checked before anything is read.

    Returns:
        Its contents.

    Raises:
        UserError: it is no file, too large or cannot be read; the message starts with the path.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise UserError(f"{path}: must have at most {max_bytes} bytes, got {size}")
        try:
            return file.read(size)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
