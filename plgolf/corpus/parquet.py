"""Documents from a column of a Parquet file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plgolf.corpus.documents import Document, Flaw, Reading, checked
from plgolf.errors import UserError, extra

_BUFFER_BYTES = 1 << 20


def parquet_rows(
    path: Path, file: str, reading: Reading, *, tick: Callable[[float], None]
) -> Iterator[Document | Flaw]:
    """Reads a document from the text column of each row; calls ``tick`` with the share that has been read.

    Raises:
        UserError: the file is damaged or does not have the column, or a package is missing.
    """
    column, arrow = reading.text_field, extra("pyarrow", f"{file}:")
    try:
        with extra("pyarrow.parquet").ParquetFile(path, buffer_size=_BUFFER_BYTES) as table:
            names = table.schema_arrow.names
            if column not in names:
                has = ", ".join(map(repr, names))
                raise UserError(f"{file}: {column!r} is not among its columns {has} (--text_field)")
            row, rows = 0, max(table.metadata.num_rows, 1)
            for batch in table.iter_batches(batch_size=_batch_rows(table), columns=[column]):
                # As bytes, because pyarrow does not check that a string is UTF-8.
                for value in batch.column(0).cast(arrow.large_binary()):
                    row += 1
                    tick(row / rows)
                    data = value.as_buffer()
                    if data is None:
                        yield Flaw("no text field", f"{column!r} is null", file, row)
                    else:
                        yield checked(memoryview(data), file, row, reading)
    except arrow.ArrowException as error:
        raise UserError(f"{file}: is damaged, or has no text in {column!r}: {error}") from error


def _batch_rows(table: Any) -> int:
    """Returns the number of rows that hold about a megabyte together."""
    groups = [table.metadata.row_group(index) for index in range(table.metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1.0)
    return max(1, min(256, int(_BUFFER_BYTES / max(largest, 1.0))))
