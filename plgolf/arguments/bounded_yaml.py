"""YAML that cannot hang or fill the memory of whoever loads it."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from plgolf.errors import UserError
from plgolf.files import read_regular

MAX_YAML_BYTES = 2**18
_MAX_YAML_VALUES = 10_000
_MAX_YAML_DEPTH = 50
_MAX_STRING_LETTERS = 4096
_HARMLESS_LETTERS = 100
"""Nothing that grows fits into so few."""
_EventLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_load_yaml = get_loader("yaml")


class OutOfBoundsError(yaml.YAMLError):
    """A YAML text is too large, too deep or grows too much."""


def load_bounded_yaml(text: str) -> Any:
    """Loads YAML whose size, depth and growth by aliases are bounded.

    libyaml overflows the stack on deep nesting, and a walk through aliases of aliases never comes to an end.

    Raises:
        YAMLError: it is not bounded, or malformed.
    """
    if len(text) > MAX_YAML_BYTES:
        raise OutOfBoundsError(f"it must have at most {MAX_YAML_BYTES} letters, got {len(text)}")
    _check_yaml_values(text)
    try:
        _check_keys(yaml.compose(text, Loader=_EventLoader))
        return _load_yaml(text)
    except (ValueError, RecursionError) as error:  # Of a text that is said to be a number.
        raise yaml.YAMLError(str(error)) from error


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a recipe: YAML of a bounded size that holds settings by name.

    Raises:
        UserError: it cannot be read or is something else; the message starts with the path.
    """
    data = read_regular(path, max_bytes=MAX_YAML_BYTES)
    try:
        loaded = load_bounded_yaml(data.decode())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is no YAML recipe: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: is no YAML recipe: it must hold settings by name")
    return loaded


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
                raise OutOfBoundsError(f"it must be nested at most {_MAX_YAML_DEPTH} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = anchors.pop(), counts.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise OutOfBoundsError(f"the alias {anchor:.100} is not of a value before it")
            size = sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            check_string(event.value, within=text)
        if anchor:
            sizes[anchor] = size
        counts[-1] += size
        if counts[-1] > _MAX_YAML_VALUES:
            raise OutOfBoundsError(f"it must have at most {_MAX_YAML_VALUES} values, aliases written out")


def _check_keys(root: yaml.Node | None) -> None:
    """Refuses a key that a mapping has twice: YAML's loader would take the last, and say nothing."""
    nodes, seen = [root], set[int]()
    while nodes:
        node = nodes.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        keys = set[str]()
        for key, value in node.value:
            nodes.append(value)
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {key.value:.100} occurs twice, again in line {line}")
                keys.add(key.value)


def check_string(text: str, *, within: str | None = None) -> None:
    """Checks a string as the YAML that jsonargparse takes every one for, and loads in its own way.

    Args:
        text: the string.
        within: the YAML that it is a value of. A path, for one, is its own only value.

    Raises:
        OutOfBoundsError: it is not bounded.
    """
    if len(text) > _MAX_STRING_LETTERS:
        raise OutOfBoundsError(f"a string must have at most {_MAX_STRING_LETTERS} letters, got {len(text)}")
    if len(text) > _HARMLESS_LETTERS and text != within:
        try:
            _check_yaml_values(text)
        except OutOfBoundsError:
            raise
        except yaml.YAMLError:
            pass
        except RecursionError as error:
            raise OutOfBoundsError("a string must not hold strings without end") from error


set_loader("yaml", load_bounded_yaml, (yaml.YAMLError,))
