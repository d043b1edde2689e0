"""The settings that differ from the defaults as a recipe, each with what it is."""

import pydoc
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from plgolf.arguments.bounded_yaml import load_bounded_yaml
from plgolf.arguments.settings import Setting, bracketed, groups_of, settings_of_class
from plgolf.arguments.wording import fitted

if TYPE_CHECKING:
    from plgolf.arguments.parsing import OneLineErrors

_COLUMNS = 110
_LEAST_ROOM = 20
_ENDLESS = 2**30


def commented(values: Mapping[str, Any], parser: "OneLineErrors") -> str:
    """Writes a recipe that gives the same configuration again.

    Args:
        values: the complete configuration, as plain values by name.
        parser: of the command that it is for.

    Returns:
        YAML, a comment beside each setting: what it does, its unit, and in brackets its default.
    """
    known = {setting.key: setting for group in groups_of(parser) for setting in group.settings}
    header = (
        f"# {parser.program}: the settings that differ from the defaults, which are in brackets.\n"
        f"# {parser.program} --print_config=full prints all of them.\n"
    )
    differing = _differing(values, known, "")
    # As the help has them.
    differing = dict(sorted(differing.items(), key=lambda item: item[0] in parser.brief))
    return header + ("".join(f"{line}\n" for line in _lines(differing, known, "", "")) or "{}\n")


def _differing(values: Mapping[str, Any], known: Mapping[str, Setting], prefix: str) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        setting = known.get(f"{prefix}{name}")
        if setting is not None:
            reduced = _without_defaults(value, setting)
            if reduced != _without_defaults(_plain(setting.default), setting):
                found[name] = reduced
        elif isinstance(value, Mapping):
            inner = _differing(value, known, f"{prefix}{name}.")
            if inner:
                found[name] = inner
        else:
            found[name] = value
    return found


def _without_defaults(value: Any, setting: Setting) -> Any:
    """Leaves out of a class's arguments, or of each in a list, what is so by itself."""
    if isinstance(value, list):
        return [_without_defaults(item, setting) for item in value]
    if not (isinstance(value, dict) and "class_path" in value):
        return value
    rest = {name: each for name, each in value.items() if name != "init_args"}
    arguments = _differing(value.get("init_args") or {}, _class_settings(value, setting), f"{setting.key}.")
    return {**rest, "init_args": arguments} if arguments else rest


def _class_settings(value: Mapping[str, Any], setting: Setting) -> dict[str, Setting]:
    named = pydoc.locate(value["class_path"])
    groups = settings_of_class(named, setting) if isinstance(named, type) else []
    return {each.key: each for group in groups for each in group.settings}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _lines(
    values: Mapping[str, Any], known: Mapping[str, Setting], prefix: str, indent: str
) -> Iterator[str]:
    for name, value in values.items():
        setting = known.get(f"{prefix}{name}")
        begin = f"{indent}{_written(name)}:"
        if setting is None and isinstance(value, Mapping) and value:
            yield begin
            yield from _lines(value, known, f"{prefix}{name}.", f"{indent}  ")
        elif setting is not None and isinstance(value, Mapping) and "class_path" in value:
            yield _with_comment(begin, setting)
            for part, held in value.items():
                if part == "init_args":
                    yield f"{indent}  init_args:"
                    inner = _class_settings(value, setting)
                    yield from _lines(held, inner, f"{setting.key}.", f"{indent}    ")
                else:
                    yield f"{indent}  {part}: {_written(held)}"
        else:
            yield _with_comment(f"{begin} {_written(value)}", setting)


def _with_comment(line: str, setting: Setting | None) -> str:
    if setting is None:
        return line
    default, room = bracketed(setting), _COLUMNS - len(line) - 4
    text = fitted(setting.text, default, room)
    if len(text) > room > _LEAST_ROOM + len(default):  # One long clause of someone else's.
        text = f"{textwrap.shorten(setting.text, room - len(default) - 1, placeholder=' ...')} {default}"
    return f"{line}  # {''.join(letter if letter.isprintable() else '?' for letter in text)}"


def _written(value: Any) -> str:
    """Writes a value on one line, so that it is read back as the same."""
    for style in (None, '"'):
        text = yaml.safe_dump(
            value, default_flow_style=True, default_style=style, width=_ENDLESS, allow_unicode=True
        )
        text = text.removesuffix("\n").removesuffix("\n...")
        if "\n" not in text and _read(text) == value:
            return text
    raise AssertionError(text)


def _read(text: str) -> Any:
    try:
        return load_bounded_yaml(text)
    except yaml.YAMLError:
        return None
