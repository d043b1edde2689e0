"""Converts trees of dataclasses to plain dicts, and back with strict checks, for artifacts and manifests."""

import dataclasses
import math
import reprlib
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from plgolf.errors import UserError, under

T = TypeVar("T")

Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns the dict of one version of a dataclass into that of the next."""

_VERSION = "version"
_NEWER = "newer"
_INTEGER_BITS = 64
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 100
"""Shows a value in few characters, however large or deep it is."""


def newer(default: Any) -> Any:
    """Adds a field to a dataclass that files of before lack, with its default.

    It is written only if it differs from its default: a file that does without it stays as it was, and
    programs of before can read it.
    """
    return dataclasses.field(default=default, metadata={_NEWER: True})


def version_of(cls: type) -> int:
    """Returns the version of a dataclass: 1, and one more for each entry of its ``migrations``."""
    return 1 + len(getattr(cls, "migrations", ()))


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns a tree of dataclasses as nested dicts of plain values.

    Versions after the first are written, as ``version``.
    """
    version = version_of(type(config))
    values: dict[str, Any] = {_VERSION: version} if version > 1 else {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not (field.metadata.get(_NEWER) and value == field.default):
            values[field.name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def config_from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "config") -> T:
    """Builds a tree of dataclasses from nested dicts, also from those of earlier versions.

    A class attribute ``migrations``, a tuple, brings dicts of version 1, 2 and so on to the next version.

    Args:
        cls: the root dataclass.
        values: its fields and, if it is not 1, its version; missing fields take their defaults.
        where: path of ``values`` in error messages.

    Raises:
        UserError: a key is unknown or missing, or a value has the wrong type or is out of range.

    >>> from plgolf.optim import AdamConfig
    >>> config_from_dict(AdamConfig, {"lr": "fast"}, where="head")
    Traceback (most recent call last):
    plgolf.errors.UserError: head.lr must be of type float, got 'fast'
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping, got {_shown.repr(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if _VERSION not in fields:
        values = _migrated(cls, values, where)
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(f"{where}.{ascii(unknown[0])[1:-1]:.100} is not a setting of {cls.__name__}")
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UserError(f"{where}.{name} is missing")
    hints = get_type_hints(cls)
    checked = {key: _checked(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    with under(where):
        return cls(**checked)


def _migrated(cls: type, values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    newest, migrated = version_of(cls), dict(values)
    version = migrated.pop(_VERSION, 1)
    if type(version) is not int or not 1 <= version <= newest:
        known = f"at most {newest}, the newest that this plgolf knows"
        raise UserError(f"{where}.version must be {known}, got {_shown.repr(version)}")
    try:
        for migrate in getattr(cls, "migrations", ())[version - 1 :]:
            migrated = migrate(migrated)
    except (LookupError, TypeError, AttributeError) as error:  # A file may hold anything.
        raise UserError(f"{where} must be a {cls.__name__} of version {version}: {error}") from error
    return migrated


def _checked(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if get_origin(hint) is UnionType:  # A type or None.
        if value is None:
            return None
        hint = next(option for option in get_args(hint) if option is not NoneType)
    if get_origin(hint) is tuple and isinstance(value, list | tuple) and Ellipsis not in get_args(hint):
        if len(value) != len(get_args(hint)):
            raise UserError(f"{where} must have {len(get_args(hint))} values, got {_shown.repr(value)}")
        items = zip(get_args(hint), value, strict=True)
        return tuple(_checked(part, item, f"{where}.{i}") for i, (part, item) in enumerate(items))
    if get_origin(hint) is list and isinstance(value, list):
        return [_checked(get_args(hint)[0], item, f"{where}.{i}") for i, item in enumerate(value)]
    if get_origin(hint) is dict and isinstance(value, Mapping):
        return {str(key): _checked(get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    return _checked_value(hint, value, where)


def _checked_value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_dict(hint, value, where=where)
    if get_origin(hint) is Literal:
        if not isinstance(value, str) or value not in get_args(hint):
            raise UserError(f"{where} must be one of {get_args(hint)}, got {_shown.repr(value)}")
        return value
    hint = get_origin(hint) or hint
    accepted = (int, float) if hint is float else (hint,)
    # Python's bool is an int; a setting that wants a number must not be true or false.
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where} must be of type {hint.__name__}, got {_shown.repr(value)}")
    if isinstance(value, int) and value.bit_length() >= _INTEGER_BITS:
        raise UserError(f"{where} must fit {_INTEGER_BITS} bits, got {_shown.repr(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} must be finite, got {value}")
    return hint(value)
