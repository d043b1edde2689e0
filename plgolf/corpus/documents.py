"""Documents, and how a text file is cut into them in constant memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple

from plgolf.errors import UserError

Format = Literal["txt", "jsonl", "json", "csv", "tsv", "parquet"]

_CHUNK_BYTES = 1 << 20
_MOST_BYTES = 1 << 30
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Document(NamedTuple):
    """A text that is not empty, the number of its UTF-8 bytes, its file and its first line or row, from 1."""

    text: str
    num_bytes: int
    file: str
    line: int


class Flaw(NamedTuple):
    """A document that is refused: a reason that others share, what is wrong with this one, and its place."""

    reason: str
    detail: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}{': ' if self.detail else ''}{self.detail}"


@dataclass(frozen=True)
class Reading:
    """Settings of reading files.

    Args:
        format: format of all files; null chooses it by the name of each file.
        text_field: JSON field, or CSV or Parquet column, that holds the text.
        separator: text between the documents of a text file; null takes each file as one document.
        max_document_bytes: size of the largest document; encoding takes about 60 times a text in memory.
    """

    format: Format | None = None
    text_field: str = "text"
    separator: str | None = None
    max_document_bytes: int = 4_000_000

    def __post_init__(self) -> None:
        if self.separator == "":
            raise UserError("separator must not be empty")
        if not 1 <= (size := self.max_document_bytes) <= _MOST_BYTES:
            raise UserError(f"max_document_bytes must be from 1 to {_MOST_BYTES}, got {size}")


def checked(data: bytes | memoryview, file: str, line: int, reading: Reading) -> Document | Flaw:
    """Decodes a document from UTF-8 and checks its size; returns a flaw if it is refused."""
    if not data:
        return Flaw("empty document", "", file, line)
    if len(data) > reading.max_document_bytes:
        return too_long(file, line, reading.max_document_bytes, f", got {len(data)}")
    data = bytes(data)
    try:
        return Document(data.decode(), len(data), file, line)
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        hint = ", as in UTF-16: convert the file to UTF-8" if data.startswith(_UTF16_MARKS) else ""
        return Flaw("malformed UTF-8", f"byte 0x{data[error.start]:02x}{hint}", file, line)


def too_long(file: str, line: int, limit: int, advice: str) -> Flaw:
    """Returns the flaw of a document, or a record, of more than ``limit`` bytes."""
    return Flaw("too long", f"must be at most {limit} bytes (--max_document_bytes){advice}", file, line)


def plain_text(
    stream: IO[bytes], file: str, reading: Reading, *, cut_long: bool = False
) -> Iterator[Document | Flaw]:
    """Reads the pieces of a text file between separators; empty pieces are left out.

    A file without separator is one document. If it is too long, ``cut_long`` cuts it instead of refusing it.
    """
    limit, line = reading.max_document_bytes, 1
    if reading.separator is not None:
        pieces = _separated(stream, reading.separator.encode(), limit)
    elif cut_long:
        pieces = _cut(stream, limit)
    else:
        data = stream.read(limit + 1)
        if len(data) > limit:
            yield too_long(file, 1, limit, "; a separator would cut the file into documents (--separator)")
        else:
            yield checked(data, file, 1, reading)
        return
    for piece, lines in pieces:
        if piece is None:
            yield too_long(file, line, limit, "")
        elif piece:
            yield checked(piece, file, line, reading)
        line += lines


def _separated(stream: IO[bytes], separator: bytes, limit: int) -> Iterator[tuple[bytes | None, int]]:
    """Yields each piece, None if it is too long, and the line breaks in it and the separator after it."""
    buffer, dropped_lines, too_long = b"", 0, False
    breaks = separator.count(b"\n")
    while chunk := stream.read(_CHUNK_BYTES):
        *pieces, buffer = (buffer + chunk).split(separator)
        for piece in pieces:
            whole = not too_long and len(piece) <= limit
            yield (piece if whole else None), dropped_lines + piece.count(b"\n") + breaks
            dropped_lines, too_long = 0, False
        # The end of the buffer may be the beginning of a separator; only that part must stay.
        if len(buffer) >= limit + len(separator):
            cut = len(buffer) - len(separator) + 1
            dropped_lines += buffer.count(b"\n", 0, cut)
            buffer, too_long = buffer[cut:], True
    yield (None if too_long or len(buffer) > limit else buffer), 0


def _cut(stream: IO[bytes], limit: int) -> Iterator[tuple[bytes, int]]:
    """Cuts a stream into pieces of at most ``limit`` bytes; yields each with its number of line breaks."""
    buffer = b""
    while len(buffer := buffer + stream.read(limit + 1 - len(buffer))) > limit:
        piece = buffer[: end_of_part(buffer, limit // 2, limit)]
        yield piece, piece.count(b"\n")
        buffer = buffer[len(piece) :]
    yield buffer, 0


def end_of_part(data: bytes, first: int, last: int) -> int:
    r"""Returns the last position from ``first`` to ``last`` for a cut in UTF-8 text.

    It follows a paragraph; else a line; else a space; else it is between two characters, which may be below
    ``first``.

    >>> [end_of_part(text, 1, 5) for text in (b"a.\n\nb\nc", b"a\nb c d", b"abcdefg", b"abcd\xc3\xa9f")]
    [4, 2, 5, 4]
    """
    for marks in ((b"\n\n", b"\n\r\n"), (b"\n",), (b" ",)):
        ends = [data.rfind(mark, first, last) + len(mark) for mark in marks if mark in data[first:last]]
        if ends:
            return max(ends)
    while last and data[last] & 0xC0 == 0x80:
        last -= 1
    return last
