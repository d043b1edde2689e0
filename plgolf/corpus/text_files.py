"""Input files: found by names and patterns, and read as streams of documents."""

import codecs
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from glob import escape, glob, has_magic
from pathlib import Path
from typing import IO

from plgolf.corpus.compression import COMPRESSED, decompressed
from plgolf.corpus.documents import Document, Flaw, Format, Reading, plain_text
from plgolf.corpus.parquet import parquet_rows
from plgolf.corpus.records import csv_rows, json_lines, json_values
from plgolf.errors import UserError

STDIN = "-"
_FORMATS: dict[str, Format] = {
    ".txt": "txt",
    ".text": "txt",
    ".md": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_RECORDS: dict[str, Callable[[IO[bytes], str, Reading], Iterator[Document | Flaw]]] = {
    "jsonl": json_lines,
    "json": json_values,
    "csv": csv_rows,
    "tsv": partial(csv_rows, delimiter="\t"),
}
_BUFFER_BYTES = 1 << 20
_CONTROLS = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass
class TextFile:
    """An input file.

    Args:
        path: the file.
        name: its name in messages and the manifest.
        format: its format; None if its name does not tell, which takes it for text unless it is binary.
        cut_long: cuts a text without separator that is too long for one document, instead of refusing it.
    """

    path: Path
    name: str
    format: Format | None
    cut_long: bool = False

    def __post_init__(self) -> None:
        self._position: Callable[[], int] = lambda: 0
        try:
            status = self.path.stat()
        except OSError as error:
            link = f" (it is a link to {os.readlink(self.path)})" if self.path.is_symlink() else ""
            raise UserError(f"{self.name}: cannot be read: {error.strerror}{link}") from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{self.name}: is not a regular file: use standard input (-) for a pipe")
        self.size = status.st_size
        self._modified_ns = status.st_mtime_ns

    @property
    def position(self) -> int:
        """Number of bytes of the file that have been read."""
        return self._position()

    @property
    def is_text(self) -> bool:
        """True if the file is plain text, not records."""
        return self.format in (None, "txt")

    def documents(self, reading: Reading) -> Iterator[Document | Flaw]:
        """Reads documents in order, in constant memory, with a flaw in place of each that is refused.

        Raises:
            UserError: the file cannot be read, is damaged, or has changed since it was found.
        """
        self._position = lambda: 0
        try:
            yield from self._parquet(reading) if self.format == "parquet" else self._stream(reading)
            status = self.path.stat()
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified_ns):
            raise UserError(f"{self.name}: has changed while it was read")
        self._position = lambda: self.size

    def _stream(self, reading: Reading) -> Iterator[Document | Flaw]:
        with self.path.open("rb", _BUFFER_BYTES) as raw, decompressed(raw, str(self.path)) as stream:
            self._position = raw.tell
            if self.format is None and (reason := _binary(stream)):
                yield Flaw("binary file", reason, self.name, 1)
                return
            if self.is_text:
                yield from plain_text(stream, self.name, reading, cut_long=self.cut_long)
            else:
                yield from _RECORDS[self.format or ""](stream, self.name, reading)

    def _parquet(self, reading: Reading) -> Iterator[Document | Flaw]:
        def tick(share: float) -> None:
            self._position = lambda: int(self.size * share)

        return parquet_rows(self.path, self.name, reading, tick=tick)


def _binary(stream: IO[bytes]) -> str:
    """Returns a reason if a file begins like a binary one: with NUL, or with controls and malformed UTF-8."""
    head: bytes = stream.peek(_BUFFER_BYTES)  # type: ignore[attr-defined]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ""  # Decoding explains it.
    if b"\0" in head:
        return f"byte 0x00 at {head.index(0)}, which text does not have"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        if control := _CONTROLS.search(head):
            return f"byte 0x{ord(control[0]):02x} at {control.start()}, malformed UTF-8 at {error.start}"
    return ""


def find_files(
    inputs: Sequence[str], reading: Reading, *, stdin: Path | None = None, leave_out: Path | None = None
) -> list[TextFile]:
    """Finds input files, in order.

    Args:
        inputs: files, folders, patterns (``**`` for any depth), or ``-`` for standard input. The files of a
            folder or a pattern are sorted; hidden ones are left out.
        reading: settings; the format of all files, if it is set.
        stdin: file with the contents of standard input.
        leave_out: folder whose files are left out of folders and patterns.

    Raises:
        UserError: an input matches no file, or a file or folder cannot be read.
    """
    files = []
    for name in inputs:
        if name != STDIN:
            files += [_named(path, reading.format) for path in _paths(name, leave_out)]
        elif stdin is None:
            raise UserError("val_inputs must be files: standard input (-) is read for inputs only")
        else:
            files.append(TextFile(stdin, "stdin", reading.format or "txt"))
    return files


def _named(path: str, chosen: Format | None) -> TextFile:
    plain = Path(path).with_suffix("") if path.lower().endswith(COMPRESSED) else Path(path)
    # The manifest is UTF-8, a name need not be.
    shown = os.fsencode(path).decode(errors="replace")
    return TextFile(Path(path), shown, chosen or _FORMATS.get(plain.suffix.lower()))


def _paths(name: str, leave_out: Path | None) -> list[str]:
    if Path(name).is_dir():
        pattern = str(Path(escape(name), "**", "*"))
    elif has_magic(name) and not os.path.lexists(name):
        pattern = name
    else:
        return [name]
    try:
        _check_folders(pattern)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error
    found = [path for path in glob(pattern, recursive=True) if not Path(path).is_dir()]
    if leave_out is not None:
        found = [path for path in found if leave_out.resolve() not in Path(path).resolve().parents]
    if not found:
        raise UserError(f"{name}: matches no file")
    return sorted(found)


def _check_folders(pattern: str) -> None:
    """Raises an OSError if a folder that a pattern searches cannot be read; ``glob`` would skip it."""
    while has_magic(pattern := str(Path(pattern).parent)):
        for folder in glob(f"{pattern}/", recursive=True):
            os.scandir(folder).close()
