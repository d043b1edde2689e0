"""Types, values and texts in a reader's words."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_CLAUSE_ENDS = (". ", "; ", " (")
_SIMPLE = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
}
_ROLE = re.compile(r":\w+:`~?(?:[^`]*\.)?([^`]+)`")
_DEFAULT = re.compile(r"\s*(?:If not set, defaults to|Default:?) +`*[^`.]*(?:\.\d)?`*\.(?= |$)")


def described(hint: Any) -> str:
    """Says in words what values a type has.

    >>> described(int | None)
    'a whole number or null'
    >>> described(list[Literal["zlib", "xz"]])
    'a list of zlib or xz'
    """
    options: list[str] = []
    for option in flat(hint):
        for words in _words(option):
            if words not in options:
                options.append(words)
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} or {options[-1]}"


def plain(text: str) -> str:
    """Strips reStructuredText and line breaks."""
    text = _ROLE.sub(r"\1", " ".join(text.split()))
    return _DEFAULT.sub("", text).replace("``", "").replace("`", "").strip().rstrip(".")


def fitted(text: str, must: str, columns: int) -> str:
    """Drops clauses from the end of a text until it fits a line, or only the first is left."""
    while len(f"{text} {must}") > columns and (end := max(text.rfind(mark) for mark in _CLAUSE_ENDS)) > 0:
        text = text[:end]
    return f"{text} {must}".strip()


def shown(value: Any) -> str:
    """Writes a value as YAML has it, a class as its path."""
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"])
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    if value in (None, ""):
        return "null" if value is None else "''"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(option: Any) -> list[str]:
    origin, parts = get_origin(option), get_args(option)
    if origin is Literal:
        return [str(value) for value in parts]
    if origin is Callable:
        return _words(parts[-1])
    if origin in (list, set, Iterable):
        return [f"a list of {_many(described(parts[0]))}"]
    if origin is tuple:
        return [f"a list of {len(parts)}, each {described(parts[0])}"]
    if dict in (origin, option):
        return ["settings by name"]
    named = f"a subclass of {option.__name__}" if inspect.isclass(option) else str(option)
    return [_SIMPLE.get(option, named)]


def _many(words: str) -> str:
    return words.replace("a whole number", "whole numbers").replace("a subclass", "subclasses")


def flat(hint: Any) -> Iterator[Any]:
    """Yields the types that a union is of, or the type itself."""
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            yield from flat(option)
    else:
        yield hint


def values_of(hint: Any) -> Iterator[str]:
    """Yields the words that a type allows, in a list too."""
    for option in flat(hint):
        if get_origin(option) is Literal:
            yield from map(str, get_args(option))
        elif option is bool:
            yield from ("true", "false")
        elif option is NoneType:
            yield "null"
        elif get_origin(option) is list:
            yield from values_of(get_args(option)[0])
