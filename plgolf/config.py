"""Converts trees of dataclasses to plain dicts, and back with strict checks, for artifacts and manifests."""

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from plgolf.errors import UserError

T = TypeVar("T")

_INTEGER_BITS = 64
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 100
"""Shows a value in few characters, however large or deep it is."""


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns a tree of dataclasses as nested dicts of plain values."""
    return dataclasses.asdict(config)


def config_from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "config") -> T:
    """Builds a tree of dataclasses from nested dicts.

    Args:
        cls: the root dataclass.
        values: its fields; missing ones take their defaults.
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
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"{where}.{ascii(unknown[0])[1:-1]:.100} is not a setting of {cls.__name__}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise UserError(f"{where}.{field.name} is missing")
    return cls(**{key: _checked(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _checked(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if get_origin(hint) is UnionType:  # A type or None.
        if value is None:
            return None
        hint = next(option for option in get_args(hint) if option is not NoneType)
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
