"""Describes types, values and texts to a reader."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser

_VALUE_MODULES = ("builtins", "types", "typing", "datetime", "pathlib", "collections")
_CLAUSE_ENDS = (". ", "; ", " (")
_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
    dict: "settings by name",
    Any: "any value",
}
_ROLE = re.compile(r":\w+:`~?(?:[^`]*\.)?([^`]+)`")
_DEFAULT = re.compile(r"\s*(?:If not set, defaults to|Default:?) +`*[^`.]*(?:\.\d)?`*\.(?= |$)")


def union_members(hint: Any) -> Iterator[Any]:
    """Yields the members of a union, or the type itself."""
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            yield from union_members(option)
    else:
        yield hint


def item_types(hint: Any) -> list[Any]:
    """Returns the types of the items of a list, or of each list that is a member of a union."""
    lists = [option for option in union_members(hint) if get_origin(option) in (list, set, Iterable)]
    return [get_args(option)[0] for option in lists]


def is_function(hint: Any) -> bool:
    """Returns True for the type of a function that does not return an object of some class."""
    for option in union_members(hint):
        if Callable in (option, get_origin(option)):
            made = get_args(option)[-1] if get_args(option) else None
            return not inspect.isclass(made) or made in _NAMES
    return False


def class_bases(hint: Any) -> list[type]:
    """Returns the classes of which a type may name a subclass, also as items of a list."""
    found: list[type] = []
    for option in union_members(hint):
        if get_origin(option) is Callable and get_args(option):
            found += class_bases(get_args(option)[-1])
        elif inspect.isclass(option) and option.__module__.split(".")[0] not in _VALUE_MODULES:
            found.append(option)
    return list(dict.fromkeys([*found, *(base for items in item_types(hint) for base in class_bases(items))]))


def describe_type(hint: Any) -> str:
    """Returns the values of a type in words."""
    *others, last = dict.fromkeys(words for option in union_members(hint) for words in _words(option))
    return f"{', '.join(others)} or {last}" if others else last


def _words(option: Any) -> list[str]:
    origin, parts = get_origin(option), get_args(option)
    if origin is Literal:
        return [str(value) for value in parts]
    if origin is Callable and not is_function(option):
        return _words(parts[-1])
    if items := item_types(option):
        many = describe_type(items[0]).replace("a whole number", "whole numbers")
        return [f"a list of {many.replace('a subclass', 'subclasses')}"]
    if origin is tuple:
        return [f"a list of {len(parts)}, each {describe_type(parts[0])}"]
    named = f"a subclass of {option.__name__}" if inspect.isclass(option) else str(option)
    return ["a function" if is_function(option) else _NAMES.get(origin or option, named)]


def allowed_words(hint: Any) -> Iterator[str]:
    """Yields the words that a type allows, also as items of a list."""
    for items in item_types(hint):
        yield from allowed_words(items)
    for option in union_members(hint):
        if get_origin(option) is Literal:
            yield from map(str, get_args(option))
        elif option in (bool, NoneType):
            yield from ("true", "false") if option is bool else ("null",)


def fits(value: Any, hint: Any) -> bool:
    """Returns True if jsonargparse takes a value, or a flag's text, for a type."""
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=hint)
        if isinstance(value, str):
            parser.parse_args([f"--value={value}"])
        else:
            parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def strip_markup(text: str) -> str:
    """Removes reStructuredText and line breaks."""
    text = _ROLE.sub(r"\1", " ".join(text.split()))
    return _DEFAULT.sub("", text).replace("``", "").replace("`", "").strip().rstrip(".")


def shorten(text: str, suffix: str, columns: int) -> str:
    """Drops clauses from the end of a text until it fits a line together with a suffix."""
    while len(f"{text} {suffix}") > columns and (end := max(text.rfind(mark) for mark in _CLAUSE_ENDS)) > 0:
        text = text[:end]
    return f"{text} {suffix}".strip()


def format_value(value: Any) -> str:
    """Writes a value as YAML, and a class as its path."""
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"])
    if isinstance(value, list | tuple):
        return f"[{', '.join(format_value(item) for item in value)}]"
    if value in (None, ""):
        return "null" if value is None else "''"
    return str(value).lower() if isinstance(value, bool) else str(value)
