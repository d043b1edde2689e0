"""Documents: what a text file, JSON lines or a column of bytes hold, cut and checked in constant memory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple

from plgolf.errors import UserError

Format = Literal["txt", "jsonl", "parquet"]

_CHUNK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_BYTES = 1 << 30
_SHOWN_FIELDS = 8
_LINE_BYTES = 4
"""How many bytes a JSON line may have for each byte that a document may have: escapes and other fields."""


class Document(NamedTuple):
    """A text and where it stood.

    Args:
        text: valid Unicode, not empty.
        num_bytes: its UTF-8 bytes.
        file: what it was read from.
        line: line, or row of a Parquet file, that it starts on, from 1.
    """

    text: str
    num_bytes: int
    file: str
    line: int


class Flaw(NamedTuple):
    """A document that cannot be taken.

    Args:
        reason: a few words, the same for every such document.
        detail: what is wrong with this one.
        file: what it was read from.
        line: line, or row of a Parquet file, from 1.
    """

    reason: str
    detail: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}{': ' if self.detail else ''}{self.detail}"


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Args:
        format: how all files are read; null goes by each file's name.
        text_field: field of a JSON line, or Parquet column, that holds the text.
        separator: what stands between the documents of a text file; null takes a file as one document.
        max_document_bytes: bytes of the longest document that is taken; encoding takes some 60 times a text
            in memory.
    """

    format: Format | None = None
    text_field: str = "text"
    separator: str | None = None
    max_document_bytes: int = 4_000_000

    def __post_init__(self) -> None:
        if self.separator == "":
            raise UserError("separator must not be empty")
        if not 1 <= self.max_document_bytes <= _MOST_BYTES:
            raise UserError(
                f"max_document_bytes must be from 1 to {_MOST_BYTES}, got {self.max_document_bytes}"
            )


def checked(data: bytes | memoryview, file: str, line: int, reading: Reading) -> Document | Flaw:
    """Decodes a document.

    Args:
        data: what should be UTF-8.
        file: what it was read from.
        line: where it starts.
        reading: the limits.

    Returns:
        The document, or what is wrong with it.
    """
    if not data:
        return Flaw("empty document", "", file, line)
    if len(data) > reading.max_document_bytes:
        return _too_long(file, line, reading.max_document_bytes, f", got {len(data)}")
    data = bytes(data)
    try:
        return Document(data.decode(), len(data), file, line)
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        return Flaw("malformed UTF-8", f"byte 0x{data[error.start]:02x}", file, line)


def _too_long(file: str, line: int, limit: int, advice: str) -> Flaw:
    return Flaw("too long", f"must be at most {limit} bytes (--max_document_bytes){advice}", file, line)


def json_lines(stream: IO[bytes], file: str, reading: Reading) -> Iterator[Document | Flaw]:
    """Reads a document from a field of each line; blank lines are none."""
    limit = _LINE_BYTES * reading.max_document_bytes
    line = 0
    while data := stream.readline(limit + 1):
        line += 1
        if line == 1:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        if len(data) > limit and not data.endswith(b"\n"):
            while (rest := stream.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield _too_long(file, line, limit, f", {_LINE_BYTES} times that for a line of JSON")
        elif not data.isspace():
            yield _json_document(data, file, line, reading)


def _json_document(data: bytes, file: str, line: int, reading: Reading) -> Document | Flaw:
    name = reading.text_field
    try:
        content = json.loads(data.decode())
        text = content[name]
        num_bytes = len(text.encode())
        if not 0 < num_bytes <= reading.max_document_bytes:
            return checked(text.encode(), file, line, reading)
        return Document(text, num_bytes, file, line)
    except UnicodeDecodeError as error:
        return Flaw("malformed UTF-8", f"byte 0x{data[error.start]:02x}", file, line)
    except UnicodeEncodeError as error:
        detail = f"half of a surrogate pair, U+{ord(text[error.start]):04X}"
        return Flaw("malformed UTF-8", detail, file, line)
    except (ValueError, RecursionError) as error:
        return Flaw("broken JSON", str(error), file, line)
    except (KeyError, TypeError, AttributeError):
        return Flaw("no text field", _without_text(content, name), file, line)


def _without_text(content: Any, name: str) -> str:
    if not isinstance(content, dict):
        return f"an object with {name!r} is expected, got {type(content).__name__}"
    if name in content:
        return f"{name!r} must be a string, got {type(content[name]).__name__}"
    fields = ", ".join(f"{field!r:.40}" for field in list(content)[:_SHOWN_FIELDS])
    more = ", ..." if len(content) > _SHOWN_FIELDS else ""
    return f"{name!r} is not among {fields}{more} (--text_field)"


def plain_text(stream: IO[bytes], file: str, reading: Reading) -> Iterator[Document | Flaw]:
    """Reads a file as one document, or its pieces between separators; pieces of no length are none."""
    limit, separator = reading.max_document_bytes, reading.separator
    if separator is None:
        data = stream.read(limit + 1)
        if len(data) > limit:
            yield _too_long(file, 1, limit, "; a separator would cut the file into documents (--separator)")
        else:
            yield checked(data, file, 1, reading)
        return
    line = 1
    for piece, lines in _pieces(stream, separator.encode(), limit):
        if piece is None:
            yield _too_long(file, line, limit, "")
        elif piece:
            yield checked(piece, file, line, reading)
        line += lines


def _pieces(stream: IO[bytes], separator: bytes, limit: int) -> Iterator[tuple[bytes | None, int]]:
    """Cuts a stream at a separator.

    Yields:
        Each piece, None for one that is too long, and the line breaks in it and the separator after it.
    """
    buffer, dropped_lines, too_long = b"", 0, False
    breaks = separator.count(b"\n")
    while chunk := stream.read(_CHUNK_BYTES):
        *pieces, buffer = (buffer + chunk).split(separator)
        for piece in pieces:
            whole = not too_long and len(piece) <= limit
            yield (piece if whole else None), dropped_lines + piece.count(b"\n") + breaks
            dropped_lines, too_long = 0, False
        # What is kept may end with the beginning of a separator, and only that.
        if len(buffer) >= limit + len(separator):
            cut = len(buffer) - len(separator) + 1
            dropped_lines += buffer.count(b"\n", 0, cut)
            buffer, too_long = buffer[cut:], True
    yield (None if too_long or len(buffer) > limit else buffer), 0
