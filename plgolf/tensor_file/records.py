"""Checks the zip around saved tensors: all of its bytes must be as ``torch.save`` writes them."""

import io
import struct
import zipfile
from typing import BinaryIO

from plgolf.errors import UserError

MAX_PICKLE_BYTES = 2**21
"""Bound on the pickle: about 20,000 tensors, as a model of 512 layers and its optimizer have. Unpickling can
take 80 bytes of memory for each of its bytes."""
_MAX_DIRECTORY_BYTES = 2**22
_CHUNK = 2**20
_PICKLE = "data.pkl"
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


def read_records(file: BinaryIO, *, verify: bool) -> tuple[dict[str, int], bytes]:
    """Returns the bytes of the records of a zip by name, without their folder, and the pickle.

    Args:
        file: a zip that ``torch.save`` wrote.
        verify: compares the CRC of every record, not only of the pickle; PyTorch does not compare them.

    Raises:
        UserError: the file is damaged or was not written by ``torch.save``.
    """
    size = file.seek(0, io.SEEK_END)
    _check_end(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            records = _checked_directory(archive, size)
            if _PICKLE not in records:
                raise UserError(f"must hold plain tensors, but has no {_PICKLE}")
            _check_at_most(MAX_PICKLE_BYTES, records[_PICKLE].file_size, _PICKLE)
            for record in records.values() if verify else ():
                with archive.open(record) as content:
                    while content.read(_CHUNK):  # zipfile compares the CRC at the end.
                        pass
            pickled = archive.read(records[_PICKLE])
    except UserError:
        raise
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, struct.error) as error:
        raise UserError(f"is damaged: {str(error) or 'it ends too soon'}") from error
    return {name: record.file_size for name, record in records.items()}, pickled


def _check_end(file: BinaryIO, size: int) -> None:
    """Checks that the directory is where every program finds it; programs search in different ways."""
    length = _END64.size + _LOCATOR.size + _END.size
    file.seek(0)
    start = file.read(4)
    file.seek(max(0, size - length))
    tail = file.read(length)
    if start != b"PK\3\4" or len(tail) != length:
        raise UserError("must be a file of torch.save")
    end64, locator = _END64.unpack_from(tail), _LOCATOR.unpack_from(tail, _END64.size)
    directory_bytes, directory_start = end64[8:]
    if (
        (end64[0], locator[0], tail[-_END.size :][:4]) != (b"PK\6\6", b"PK\6\7", b"PK\5\6")
        or locator[2] != size - length
        or directory_start + directory_bytes != size - length
    ):
        raise UserError("is damaged or cut short: it does not end as torch.save ends it")
    _check_at_most(_MAX_DIRECTORY_BYTES, directory_bytes, "directory")


def _check_at_most(most: int, num_bytes: int, what: str) -> None:
    if num_bytes > most:
        raise UserError(f"its {what} must have at most {most} bytes, got {num_bytes}")


def _checked_directory(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    root = infos[0].filename.partition("/")[0] + "/" if infos else ""
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UserError("its records must be stored, not compressed")
        # Some programs read other extra fields, such as a second size, and others do not.
        plain = not info.extra or info.extra[:4] == struct.pack("<2H", 1, len(info.extra) - 4)
        name = info.orig_filename
        if not (plain and name.isascii() and name.isprintable() and name.startswith(root)):
            raise UserError("is damaged: torch.save does not write such a directory")
    # PyTorch ignores upper and lower case.
    if len({info.filename.lower() for info in infos}) != len(infos):
        raise UserError("its records must have different names")
    total = sum(info.file_size for info in infos)
    if total > size:
        raise UserError(f"its records must fit into its {size} bytes, got {total}")
    return {info.filename.removeprefix(root): info for info in infos}
