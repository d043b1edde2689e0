"""Reads YAML that cannot hang the reader or fill its memory."""

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from plgolf.errors import UserError
from plgolf.files import read_regular

STDIN = "-"
_MAX_BYTES = 2**18
_MAX_VALUES = 10_000
_MAX_DEPTH = 50
_TOO_DEEP = f"it must be nested at most {_MAX_DEPTH} deep"
_MAX_STRING_CHARACTERS = 4096
_HARMLESS_CHARACTERS = 100
_load_yaml = get_loader("yaml")


class OutOfBoundsError(yaml.YAMLError):
    """A YAML text is too large, too deep, or too large when its aliases are written out."""


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a recipe, YAML that maps names to settings, from a file or for ``-`` from standard input.

    Raises:
        UserError: it cannot be read or is not a recipe; the message starts with the path.
    """
    is_stdin = str(path) == STDIN
    where = "stdin" if is_stdin else str(path)
    data = _read_stdin() if is_stdin else read_regular(path, max_bytes=_MAX_BYTES)
    try:
        loaded = load_bounded_yaml(data.decode())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{where}: not a YAML recipe: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{where}: not a YAML recipe: it must map names to settings")
    return loaded


def load_bounded_yaml(text: str) -> Any:
    """Loads YAML of bounded size, depth and number of values, in which no key occurs twice.

    Raises:
        YAMLError: the text is out of bounds or malformed.
    """
    if len(text) > _MAX_BYTES:
        raise OutOfBoundsError(f"it must have at most {_MAX_BYTES} characters")
    try:
        _check_tree(text)
        return _load_yaml(text)
    except ValueError as error:  # For example !!int x.
        raise yaml.YAMLError(str(error)) from error


def load_text(value: Any) -> Any:
    """Returns the value that a string has as YAML, and anything else as it is."""
    try:
        return load_bounded_yaml(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


def check_text(text: str) -> None:
    """Raises an ``OutOfBoundsError`` for a string that is unsafe to load: jsonargparse loads all as YAML."""
    if len(text) > _MAX_STRING_CHARACTERS:
        raise OutOfBoundsError(f"a string must have at most {_MAX_STRING_CHARACTERS} characters")
    try:
        _check_tree(text)
    except OutOfBoundsError:
        raise
    except yaml.YAMLError:
        pass  # Plain text.


def _check_tree(text: str) -> None:
    # In Python: libyaml's C code overflows the stack on deep nesting.
    try:
        _count_values(yaml.compose(text, Loader=yaml.SafeLoader), text, {}, 1)
    except RecursionError as error:
        raise OutOfBoundsError(_TOO_DEEP) from error


def _count_values(node: yaml.Node | None, text: str, counted: dict[int, int], depth: int) -> int:
    """Returns the number of values of a node with aliases written out, after a check of its keys and strings.

    ``counted`` has results by the id of a node; too many while it is counted, so that it cannot hold itself.
    """
    if depth > _MAX_DEPTH:
        raise OutOfBoundsError(_TOO_DEEP)
    if id(node) in counted:
        return counted[id(node)]
    counted[id(node)], children = _MAX_VALUES, []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
        keys = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key.value:.100} occurs twice, again in line {line}")
            keys.add(key.value)
    elif node is not None and len(node.value) > _HARMLESS_CHARACTERS and node.value != text:
        check_text(node.value)
    total = 1 + sum(_count_values(child, text, counted, depth + 1) for child in children)
    if total > _MAX_VALUES:
        raise OutOfBoundsError(f"it must have at most {_MAX_VALUES} values, aliases written out")
    counted[id(node)] = total
    return total


def _read_stdin() -> bytes:
    """Reads standard input, and leaves it readable again for the processes of further ranks."""
    try:
        if not stat.S_ISREG(os.fstat(0).st_mode):
            with tempfile.TemporaryFile() as copy, open(0, "rb", closefd=False) as pipe:
                copy.write(pipe.read(_MAX_BYTES + 1))
                copy.flush()
                os.dup2(copy.fileno(), 0)
        return os.pread(0, _MAX_BYTES + 1, 0)
    except OSError as error:
        raise UserError(f"stdin: cannot be read: {error.strerror}") from error
