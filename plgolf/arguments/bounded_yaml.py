"""Reads YAML that cannot hang the reader or fill its memory."""

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from plgolf.errors import UserError
from plgolf.regular_files import read_regular

STDIN = "-"
_MAX_BYTES = 2**18
_MAX_VALUES = 10_000
_MAX_DEPTH = 50
_MAX_STRING_CHARACTERS = 4096
_HARMLESS_CHARACTERS = 100
_load_yaml = get_loader("yaml")


class OutOfBoundsError(yaml.YAMLError):
    """A YAML text is too large, too deep, or too large when its aliases are written out."""


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a recipe: YAML that maps names to settings.

    Args:
        path: the file, or ``-`` for standard input.

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
        _BoundedLoader(text).get_single_node()
        return _load_yaml(text)
    except (ValueError, RecursionError) as error:  # For example !!int x.
        raise yaml.YAMLError(str(error)) from error


def load_text(value: Any) -> Any:
    """Returns the value that a string has as YAML, and anything else as it is."""
    try:
        return load_bounded_yaml(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


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


def check_text(text: str, *, within: str = "") -> None:
    """Checks a string, because jsonargparse loads every string as YAML.

    Args:
        text: the string.
        within: the YAML that it is a value of.

    Raises:
        OutOfBoundsError: loading it could hang or fill the memory.
    """
    if len(text) > _MAX_STRING_CHARACTERS:
        number = len(text)
        raise OutOfBoundsError(
            f"a string must have at most {_MAX_STRING_CHARACTERS} characters, got {number}"
        )
    if len(text) > _HARMLESS_CHARACTERS and text != within:
        try:
            _BoundedLoader(text).get_single_node()
        except OutOfBoundsError:
            raise
        except yaml.YAMLError:
            pass  # Plain text.
        except RecursionError as error:
            raise OutOfBoundsError("strings must not be nested without end") from error


class _BoundedLoader(yaml.SafeLoader):
    """Builds the tree of a YAML text and stops as soon as a bound is passed.

    It is in Python because libyaml's C code overflows the stack on deep nesting.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text
        self._depth = 0
        self._num_values: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise OutOfBoundsError(f"it must be nested at most {_MAX_DEPTH} deep")
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._num_values:
            raise OutOfBoundsError("an alias must not stand inside the value that it repeats")
        if node is not None and not is_alias:
            self._num_values[id(node)] = self._count_values(node)
        return node

    def _count_values(self, node: yaml.Node) -> int:
        """Returns the number of values of a node, with aliases written out."""
        if isinstance(node, yaml.ScalarNode):
            check_text(node.value, within=self._text)
            return 1
        children = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [child for pair in node.value for child in pair]
        total = 1 + sum(self._num_values[id(child)] for child in children)
        if total > _MAX_VALUES:
            raise OutOfBoundsError(f"it must have at most {_MAX_VALUES} values, aliases written out")
        return total


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuses a key that occurs twice: YAML loaders silently take the last one."""
    keys = set[str]()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        if key.value in keys:
            line = key.start_mark.line + 1
            raise yaml.YAMLError(f"the key {key.value:.100} occurs twice, again in line {line}")
        keys.add(key.value)
