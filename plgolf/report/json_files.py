"""Reading JSON that may be another version's, or anybody's."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from plgolf.errors import UserError
from plgolf.regular_files import read_regular

_MAX_JSON_BYTES = 2**25
LARGEST = 1e30
"""Of the numbers that a report takes: a figure of larger ones has no axis in floats."""


def read_json(path: Path) -> Any:
    """Reads a file of a bounded size.

    Raises:
        UserError: it cannot be read or is no JSON; the message starts with the path.
    """
    data = read_regular(path, max_bytes=_MAX_JSON_BYTES)
    try:
        return json.loads(data, parse_float=_bounded)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON: {error}") from error


def _bounded(text: str) -> float:
    value = float(text)
    if abs(value) > LARGEST:
        raise ValueError(f"a number must be at most {LARGEST:g}, got {text:.40}")
    return value


def known_fields(cls: type[Any], values: Any, where: str) -> dict[str, Any]:
    """Returns what a dataclass has fields for; a newer version may have written more.

    Raises:
        UserError: the values are no mapping.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping, got {type(values).__name__}")
    names = {entry.name for entry in fields(cls)}
    return {key: value for key, value in values.items() if key in names}


def located(path: Path, error: UserError) -> UserError:
    """Returns an error whose message starts with the file's path."""
    message = str(error)
    return error if message.startswith(str(path)) else UserError(f"{path}: {message}")
