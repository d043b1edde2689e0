"""Parsing a command line and its YAML files: what is wrong, in one line."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from plgolf.errors import UserError
from plgolf.regular_files import read_regular

_MAX_YAML_BYTES = 2**18
_MAX_YAML_VALUES = 10_000
_MAX_YAML_DEPTH = 50
_MAX_STRING_LETTERS = 4096
_HARMLESS_LETTERS = 100
"""Nothing that grows fits into so few."""
_EventLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_load_yaml = get_loader("yaml")


class _OutOfBoundsError(yaml.YAMLError):
    """A YAML text is too large, too deep or grows too much."""


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a recipe: YAML of a bounded size that holds settings by name.

    Raises:
        UserError: it cannot be read or is something else; the message starts with the path.
    """
    data = read_regular(path, max_bytes=_MAX_YAML_BYTES)
    try:
        loaded = _load_bounded_yaml(data.decode())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is no YAML recipe: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: is no YAML recipe: it must hold settings by name")
    return loaded


class OneLineErrors(ArgumentParser):
    """Says what is wrong in one line instead of after a page of usage."""

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        read_settings(Path(os.fspath(path)))
        parsed: Namespace = super().parse_path(path, *args, **kwargs)
        return parsed

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Namespace:
        word = ""
        try:
            for word in args or ():
                _check_string(word.partition("=")[2] if word.startswith("-") else word)
        except _OutOfBoundsError as error:
            raise UserError(f"{word:.20}...: {error}") from error
        parsed: Namespace = super().parse_args(args, *rest, **kwargs)
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = " ".join(message.split())
        raise UserError(line + self._suggestion(line)) from ex

    def _suggestion(self, line: str) -> str:
        """Finds the setting that a misspelt one in the message was meant to be."""
        known = self._known_settings()
        for word in re.findall(r"(?:--|')([A-Za-z_][\w.]*)", line):
            close = difflib.get_close_matches(word, known, n=1, cutoff=0.8)
            if word not in known and close:
                return f" (did you mean {close[0]}?)"
        return ""

    def _known_settings(self) -> set[str]:
        known = {action.dest for action in self._actions}
        for action in self._actions:
            if isinstance(action.choices, dict):  # The subcommands' parsers.
                known.update(action.choices)
                for parser in action.choices.values():
                    known |= parser._known_settings()
        return known | {key.split(".")[0] for key in known}


def _load_bounded_yaml(text: str) -> Any:
    """Loads YAML whose size, depth and growth by aliases are bounded.

    libyaml overflows the stack on deep nesting, and a walk through aliases of aliases never comes to an end.

    Raises:
        YAMLError: it is not bounded, or malformed.
    """
    if len(text) > _MAX_YAML_BYTES:
        raise _OutOfBoundsError(f"it must have at most {_MAX_YAML_BYTES} letters, got {len(text)}")
    _check_yaml_values(text)
    try:
        return _load_yaml(text)
    except (ValueError, RecursionError) as error:  # Of a text that is said to be a number.
        raise yaml.YAMLError(str(error)) from error


def _check_yaml_values(text: str) -> None:
    counts = [0]  # Values in each collection that is open, aliases written out.
    anchors: list[str | None] = []
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_EventLoader):
        anchor, size = getattr(event, "anchor", None), 0
        if isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            anchors.append(anchor)
            if len(counts) > _MAX_YAML_DEPTH:
                raise _OutOfBoundsError(f"it must be nested at most {_MAX_YAML_DEPTH} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = anchors.pop(), counts.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise _OutOfBoundsError(f"the alias {anchor:.100} is not of a value before it")
            size = sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            _check_string(event.value)
        if anchor:
            sizes[anchor] = size
        counts[-1] += size
        if counts[-1] > _MAX_YAML_VALUES:
            raise _OutOfBoundsError(f"it must have at most {_MAX_YAML_VALUES} values, aliases written out")


def _check_string(text: str) -> None:
    """Checks a string as the YAML that jsonargparse takes every one for, and loads in its own way."""
    if len(text) > _MAX_STRING_LETTERS:
        raise _OutOfBoundsError(f"a string must have at most {_MAX_STRING_LETTERS} letters, got {len(text)}")
    if len(text) > _HARMLESS_LETTERS:
        try:
            _check_yaml_values(text)
        except _OutOfBoundsError:
            raise
        except yaml.YAMLError:
            pass


set_loader("yaml", _load_bounded_yaml, (yaml.YAMLError,))
