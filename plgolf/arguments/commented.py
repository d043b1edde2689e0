"""Writes settings as a recipe with a comment at each one."""

import pydoc
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from plgolf.arguments.bounded_yaml import load_text
from plgolf.arguments.settings import ListingParser, Setting
from plgolf.arguments.wording import shorten

_COLUMNS = 110
_MIN_COMMENT = 20


def to_commented_yaml(values: Mapping[str, Any], parser: ListingParser) -> str:
    """Writes nested settings of a command as YAML that gives the same settings when it is read.

    The comment at a setting says what it does, its unit, and its default in brackets.
    """
    header = (
        f"# {parser.program}: the settings that differ from the defaults, which are in brackets.\n"
        f"# {parser.program} --print_config=full prints all settings.\n"
    )
    return header + ("".join(f"{line}\n" for line in _lines(values, parser.settings, "")) or "{}\n")


def _lines(values: Mapping[str, Any], known: Mapping[str, Setting], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        setting = known.get(key)
        group = value if isinstance(value, Mapping) else {}
        nested = group and (setting is None or "class_path" in group or len(_written(group)) > _COLUMNS)
        line = f"{_written(name)}:" if nested else f"{_written(name)}: {_written(value)}"
        comment = ""
        if setting is not None:
            default, room = setting.bracketed_default, max(_COLUMNS - len(line) - 6, _MIN_COMMENT)
            text = shorten(setting.text, default, room)
            if len(text) > room > len(default) + 4:  # One long clause of a library.
                text = f"{textwrap.shorten(setting.text, room - len(default), placeholder=' ...')} {default}"
            comment = "  # " + "".join(each if each.isprintable() else "?" for each in text)
        yield f"{line}{comment}"
        if nested:
            inner = dict(known)
            if setting is not None and "class_path" in value:
                arguments = setting.settings_of_class(pydoc.locate(value["class_path"]))
                inner = {each.replace(key, f"{key}.init_args", 1): arguments[each] for each in arguments}
            yield from (f"  {line}" for line in _lines(value, inner, f"{key}."))


def _written(value: Any) -> str:
    """Writes a value on one line, quoted if it would be read as another one."""
    text = ""
    for style in (None, '"'):
        text = yaml.safe_dump(
            value, default_flow_style=True, default_style=style, width=2**30, allow_unicode=True
        )
        text = text.removesuffix("\n").removesuffix("\n...")
        if "\n" not in text and load_text(text) == value:
            break
    return text
