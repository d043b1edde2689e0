"""Files of documents: found, decompressed and read as a stream."""

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Any

from plgolf.corpus.documents import Document, Flaw, Format, Reading, checked, json_lines, plain_text
from plgolf.errors import UserError

STDIN = "-"
_SUFFIXES: dict[str, Format] = {
    ".txt": "txt",
    ".text": "txt",
    ".md": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_COMPRESSED = (".gz", ".zst")
_BUFFER_BYTES = 1 << 20


@dataclass
class TextFile:
    """A file of documents.

    Args:
        path: where it is.
        name: what messages and the manifest call it.
        format: what it holds.
    """

    path: Path
    name: str
    format: Format

    def __post_init__(self) -> None:
        self._taken: Callable[[], int] = lambda: 0
        try:
            status = self.path.stat()
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{self.name}: is no regular file: a pipe is read by way of standard input (-)")
        self.size = status.st_size
        self._stamp = status.st_mtime_ns

    @property
    def position(self) -> int:
        """Bytes of the file that the current reading has taken."""
        return self._taken()

    def track(self, taken: Callable[[], int]) -> None:
        """Lets ``taken`` tell the position from now on."""
        self._taken = taken

    def documents(self, reading: Reading) -> Iterator[Document | Flaw]:
        """Reads the file in constant memory.

        Args:
            reading: how.

        Yields:
            Its documents in order, and what stands where one cannot be read.

        Raises:
            UserError: the file as a whole cannot be read, or has changed since it was found.
        """
        self.track(lambda: 0)
        read = _parquet if self.format == "parquet" else _stream
        try:
            yield from read(self, reading)
            status = self.path.stat()
        except (EOFError, zlib.error) as error:
            raise UserError(f"{self.name}: is no whole gzip file: {error}") from error
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        if (status.st_size, status.st_mtime_ns) != (self.size, self._stamp):
            raise UserError(f"{self.name}: has changed while it was read")
        self.track(lambda: self.size)


def find_files(inputs: Sequence[str], reading: Reading, *, stdin: Path | None = None) -> list[TextFile]:
    """Finds the files that inputs name.

    Args:
        inputs: paths and patterns (``**`` for any depth), a pattern's files in sorted order; ``-`` is stdin.
        reading: what format they are in.
        stdin: where standard input was kept.

    Returns:
        The files in order.

    Raises:
        UserError: an input names no file, a folder, or a file of unknown format.
    """
    files = []
    for name in inputs:
        if name == STDIN:
            if stdin is None:
                raise UserError("standard input (-) cannot be among the val_inputs")
            files.append(TextFile(stdin, "stdin", reading.format or "txt"))
            continue
        literal = not has_magic(name) or Path(name).exists()
        paths = [name] if literal else sorted(p for p in glob(name, recursive=True) if Path(p).is_file())
        if not paths:
            raise UserError(f"{name}: matches no file")
        for path in map(Path, paths):
            if path.is_dir():
                raise UserError(f"{path}: is a folder: name its files, as in '{path}/**/*.txt'")
            # A name that is no UTF-8 could be written into no manifest.
            shown = os.fsencode(path).decode(errors="replace")
            files.append(TextFile(path, shown, reading.format or _format(path)))
    return files


def _format(path: Path) -> Format:
    plain = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    found = _SUFFIXES.get(plain.suffix.lower())
    if found is None:
        raise UserError(
            f"{path}: cannot tell its format by its name: must end in {', '.join(_SUFFIXES)} "
            "(.gz and .zst may follow), or --format must say it"
        )
    return found


def _stream(file: TextFile, reading: Reading) -> Iterator[Document | Flaw]:
    with file.path.open("rb", buffering=_BUFFER_BYTES) as raw, _decompressed(raw, file) as stream:
        file.track(raw.tell)
        parse = json_lines if file.format == "jsonl" else plain_text
        yield from parse(stream, file.name, reading)


def _decompressed(raw: IO[bytes], file: TextFile) -> IO[bytes]:
    suffix = file.path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw))
    if suffix == ".zst":
        # pyarrow's reader notices where a file is cut short; zstandard's takes that for the end.
        return io.BufferedReader(_pyarrow(file).CompressedInputStream(raw, "zstd"))
    return raw


def _pyarrow(file: TextFile) -> Any:
    try:
        import pyarrow  # noqa: PLC0415 (an extra)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise UserError(f"{file.name}: needs the pyarrow package: pip install 'plgolf[text]'") from error
    return pyarrow


def _batch_rows(table: Any) -> int:
    """Returns how many rows are read at once: about as many as have a megabyte together."""
    groups = [table.metadata.row_group(index) for index in range(table.metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1.0)
    return max(1, min(256, int(_BUFFER_BYTES / max(largest, 1.0))))


def _parquet(file: TextFile, reading: Reading) -> Iterator[Document | Flaw]:
    arrow, column = _pyarrow(file), reading.text_field
    try:
        with arrow.parquet.ParquetFile(file.path, buffer_size=_BUFFER_BYTES) as table:
            names = table.schema_arrow.names
            if column not in names:
                has = ", ".join(map(repr, names))
                raise UserError(f"{file.name}: {column!r} is not among its columns {has} (--text_field)")
            row, size, rows = 0, file.size, max(table.metadata.num_rows, 1)
            file.track(lambda: size * row // rows)
            for batch in table.iter_batches(batch_size=_batch_rows(table), columns=[column]):
                # As bytes: pyarrow does not look whether a string is UTF-8.
                for value in batch.column(0).cast(arrow.large_binary()):
                    row += 1
                    data = value.as_buffer()
                    if data is None:
                        yield Flaw("no text field", f"{column!r} is null", file.name, row)
                    else:
                        yield checked(memoryview(data), file.name, row, reading)
    except arrow.ArrowException as error:
        raise UserError(f"{file.name}: is no whole Parquet file with text in {column!r}: {error}") from error
