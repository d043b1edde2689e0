"""Documents from records: JSON lines, JSON, CSV and TSV, read in constant memory."""

import csv
import io
import json
from collections.abc import Iterator
from typing import IO, Any

from plgolf.corpus.documents import Document, Flaw, Reading, checked, too_long
from plgolf.errors import UserError

_CHUNK_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN_FIELDS = 8
_RECORD_BYTES = 4
"""Largest size of a record, in units of ``max_document_bytes``: for escapes and other fields."""
_BETWEEN_VALUES = " \t\r\n,[]"


def json_lines(stream: IO[bytes], file: str, reading: Reading) -> Iterator[Document | Flaw]:
    """Reads a document from each line of JSON; blank lines are skipped."""
    limit = _RECORD_BYTES * reading.max_document_bytes
    line = 0
    while data := stream.readline(limit + 1):
        line += 1
        if line == 1:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        if len(data) > limit and not data.endswith(b"\n"):
            while (rest := stream.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield too_long(file, line, limit, f", {_RECORD_BYTES} times that for a line of JSON")
        elif not data.isspace():
            try:
                content = json.loads(data.decode())
            except UnicodeDecodeError as error:
                yield Flaw("malformed UTF-8", f"byte 0x{data[error.start]:02x}", file, line)
            except (ValueError, RecursionError) as error:
                yield Flaw("broken JSON", str(error), file, line)
            else:
                yield _json_document(content, file, line, reading)


def json_values(stream: IO[bytes], file: str, reading: Reading) -> Iterator[Document | Flaw]:
    """Reads a document from each element of a JSON array, or from each of several JSON values.

    Each is an object with the text field, or a string.

    Raises:
        UserError: the file is not valid JSON; what follows such a place cannot be read.
    """
    limit = _RECORD_BYTES * reading.max_document_bytes
    with _text(stream) as text:
        for line, content in _values(text, file, limit):
            record = {reading.text_field: content} if isinstance(content, str) else content
            yield _json_document(record, file, line, reading)


def _values(text: io.TextIOWrapper, file: str, limit: int) -> Iterator[tuple[int, Any]]:
    """Yields the line and the content of each JSON value."""
    buffer, line, depth, decode = "", 1, 0, json.JSONDecoder().raw_decode
    while True:
        rest = buffer.lstrip(_BETWEEN_VALUES)
        skipped = buffer[: len(buffer) - len(rest)]
        line, depth = line + skipped.count("\n"), depth + skipped.count("[") - skipped.count("]")
        try:
            content, end = decode(rest)
            if depth > 1:
                raise ValueError("an array of arrays has no documents")
        except (ValueError, RecursionError) as error:
            more = text.read(max(_CHUNK_BYTES, len(rest))) if len(rest) <= limit else ""
            if not (more or rest or depth):
                return
            if not more:
                hint = f", or more than {limit} bytes (--max_document_bytes)" if len(rest) > limit else ""
                raise UserError(f"{file}:{line}: broken JSON: {error}{hint}") from error
            buffer = rest + more
        else:
            yield line, content
            line, buffer = line + rest.count("\n", 0, end), rest[end:]


def _text(stream: IO[bytes]) -> io.TextIOWrapper:
    # Malformed UTF-8 becomes surrogates, for which the document is refused later.
    return io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")


def _json_document(content: Any, file: str, line: int, reading: Reading) -> Document | Flaw:
    name = reading.text_field
    text = content.get(name) if isinstance(content, dict) else None
    if not isinstance(text, str):
        return Flaw("no text field", _without_text(content, name), file, line)
    return _encoded(text, file, line, reading)


def _encoded(text: str, file: str, line: int, reading: Reading) -> Document | Flaw:
    try:
        num_bytes = len(text.encode())
        if 0 < num_bytes <= reading.max_document_bytes:
            return Document(text, num_bytes, file, line)
        return checked(text.encode(errors="surrogateescape"), file, line, reading)
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        byte = 0xDC80 <= code <= 0xDCFF
        detail = f"byte 0x{code & 0xFF:02x}" if byte else f"half of a surrogate pair, U+{code:04X}"
        return Flaw("malformed UTF-8", detail, file, line)


def _without_text(content: Any, name: str) -> str:
    if not isinstance(content, dict):
        return f"an object with {name!r} is expected, got {type(content).__name__}"
    if name in content:
        return f"{name!r} must be a string, got {type(content[name]).__name__}"
    fields = ", ".join(f"{field!r:.40}" for field in list(content)[:_SHOWN_FIELDS])
    more = ", ..." if len(content) > _SHOWN_FIELDS else ""
    return f"{name!r} is not among {fields or 'no fields'}{more} (--text_field)"


def csv_rows(
    stream: IO[bytes], file: str, reading: Reading, *, delimiter: str = ","
) -> Iterator[Document | Flaw]:
    """Reads a document from a column of each row; the first row names the columns.

    Raises:
        UserError: the file is not valid CSV, or does not have the column.
    """
    limit = _RECORD_BYTES * reading.max_document_bytes
    csv.field_size_limit(limit)
    with _text(stream) as text:
        rows = csv.reader(_bounded_lines(text, limit), delimiter=delimiter, strict=True)
        line = 1
        try:
            names = next(rows, [])
            if reading.text_field not in names:
                raise UserError(f"{file}:1: {_without_text(dict.fromkeys(names), reading.text_field)}")
            column = names.index(reading.text_field)
            line = rows.line_num + 1
            for row in rows:
                if row and len(row) != len(names):
                    detail = f"{len(row)} columns, the first row has {len(names)}"
                    yield Flaw("broken CSV", detail, file, line)
                elif row:
                    yield _encoded(row[column], file, line, reading)
                line = rows.line_num + 1
        except csv.Error as error:
            raise UserError(f"{file}:{line}: broken CSV: {error}") from error


def _bounded_lines(text: io.TextIOWrapper, limit: int) -> Iterator[str]:
    while line := text.readline(limit + 1):
        if len(line) > limit:
            raise csv.Error(f"a line has more than {limit} characters")
        yield line
